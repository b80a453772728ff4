"""A local server that speaks the Hub's endpoints over HTTP, as huggingface_hub calls them, with faults to order.

It knows create, preupload, the LFS batch with uploads in one piece and in parts, commit, pull requests, tags, branches,
repository info, trees, refs and resolve. Xet it does not speak: clients set HF_HUB_DISABLE_XET=1.

    python tests/hub_server.py [--port 8080]    # prints what to export, then serves until interrupted
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import secrets
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from hub_endpoints import ROUTES, Answer, Call
from hub_store import Refusal, Repository, Store

TOKEN = "hf_" + "aB3" * 12
"""What tests log in with."""
PAGE = 1000
"""Files of a tree that the Hub lists in one answer."""


@dataclass
class Fault:
    """What goes wrong with requests whose ``METHOD /path`` matches a pattern.

    Args:
        matches: a regular expression, searched for.
        times: how often; the request is served as ever afterwards.
        after: how many such requests are served first.
        status: answer this, with ``message`` and ``headers``, instead of serving.
        drop_after: read so many bytes of the body, then break the connection.
        lose_answer: serve, then break the connection instead of answering.
        meanwhile: called when the head of the request is there, before its body is read.
    """

    matches: str
    times: int = 1
    after: int = 0
    status: int | None = None
    message: str = "ordered by the test"
    headers: dict[str, str] = field(default_factory=dict)
    drop_after: int | None = None
    lose_answer: bool = False
    meanwhile: Callable[[], object] | None = None


class HubServer:
    """A server in threads of this process; a context manager.

    Args:
        tokens: user of each token.
        multipart: blobs larger than this many bytes are sent in parts of that size.
        port: 0 takes any free one.
    """

    def __init__(self, tokens: dict[str, str], multipart: int = 1 << 20, port: int = 0) -> None:
        self.tokens, self.multipart, self.page = tokens, multipart, PAGE
        self.store = Store()
        self.parts: dict[str, dict[int, bytes]] = {}
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, int]] = []
        self._lock = threading.Lock()
        self._http = ThreadingHTTPServer(("127.0.0.1", port), _handler(self))
        self._http.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._http.server_address[1]}"

    def __enter__(self) -> HubServer:  # noqa: PYI034 - Self is of Python 3.11
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()

    def repository(self, name: str) -> Repository:
        return self.store.repositories[name]

    def seen(self, pattern: str) -> list[tuple[str, int]]:
        """Requests served whose ``METHOD /path`` matches, with the status each got (0: connection broken)."""
        return [one for one in self.requests if re.search(pattern, one[0])]

    def fault(self, what: str) -> Fault | None:
        """The fault that is due for a request."""
        with self._lock:
            for fault in self.faults:
                if fault.times and re.search(fault.matches, what):
                    if fault.after:
                        fault.after -= 1
                        continue
                    fault.times -= 1
                    return fault
        return None


class _Broken(Exception):
    """The connection is to be cut."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize, disable_nagle_algorithm = -1, True  # head and body in one packet, or each answer waits 40 ms
    server_of: HubServer

    def handle_one(self) -> None:
        what = f"{self.command} {self.path}"
        fault = self.server_of.fault(what)
        try:
            status, content, headers = self._served(fault)
            if fault is not None and fault.lose_answer:
                raise _Broken
        except Refusal as refusal:
            status, headers = refusal.status, {"X-Error-Message": refusal.message}
            content = {"error": refusal.message}
            if refusal.code:
                headers["X-Error-Code"] = refusal.code
        except _Broken:
            self.server_of.requests.append((what, 0))
            self._cut()
            return
        self.server_of.requests.append((what, status))
        self._answer(status, content, headers)

    def _served(self, fault: Fault | None) -> Answer:
        if fault is not None and fault.meanwhile is not None:
            fault.meanwhile()
        if fault is not None and fault.drop_after is not None:
            self.rfile.read(min(fault.drop_after, int(self.headers.get("Content-Length") or 0)))
            raise _Broken
        body = self._body()
        if fault is not None and fault.status is not None:
            return fault.status, {"error": fault.message}, {"X-Error-Message": fault.message, **fault.headers}
        asked = urlsplit(self.path)
        for method, pattern, action in ROUTES:
            match = re.fullmatch(pattern, asked.path)
            if match and method == self.command:
                found = {key: unquote(value) for key, value in match.groupdict().items() if value is not None}
                return action(
                    Call(self.server_of, self._user(), parse_qs(asked.query), body, self.headers, found)
                )
        raise Refusal(404, f"no endpoint {self.command} {asked.path}")

    def _user(self) -> str | None:
        given = self.headers.get("Authorization")
        if given is None:
            return None
        user = self.server_of.tokens.get(given.removeprefix("Bearer "))
        if user is None:
            raise Refusal(401, "Invalid credentials in Authorization header")
        return user

    def _body(self) -> bytes:
        if "chunked" not in (self.headers.get("Transfer-Encoding") or ""):
            wanted = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(wanted)
            if len(body) != wanted:
                raise _Broken
            return body
        pieces = []
        while size := int(self.rfile.readline().strip() or b"0", 16):
            pieces.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(pieces)

    def _answer(self, status: int, content: Any, headers: dict[str, str]) -> None:
        raw = isinstance(content, bytes)
        body = content if raw else b"" if content is None else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/octet-stream" if raw else "application/json")
        self.send_header("Content-Length", str(len(body)))
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _cut(self) -> None:
        """Breaks the connection as a network does: no farewell, the other side reads a reset."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_one  # noqa: N815 - names that http.server asks for

    def handle(self) -> None:
        try:
            super().handle()
        except (OSError, ValueError):
            self.close_connection = True  # the client went away

    def finish(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            super().finish()

    def log_message(self, *_: object) -> None:
        pass


def _handler(server: HubServer) -> type[_Handler]:
    return type("Handler", (_Handler,), {"server_of": server})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--user", default="user")
    options = parser.parse_args()
    token = f"hf_{secrets.token_hex(16)}"
    with HubServer({token: options.user}, port=options.port) as server:
        print(f"export HF_ENDPOINT={server.endpoint} HF_TOKEN={token} HF_HUB_DISABLE_XET=1", flush=True)
        try:
            while True:
                time.sleep(3600)
        except KeyboardInterrupt:
            pass


if __name__ == "__main__":
    main()
