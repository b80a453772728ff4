"""An OpenAI-compatible endpoint on this machine, for the tests of judges."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from exporter.evaluation.judges.endpoint import EndpointJudge


class Server:
    """An endpoint that says what a function makes of the request; an integer is a status, and bytes are the whole body."""

    def __init__(self) -> None:
        self.says: Callable[[dict[str, Any], int], str | int | bytes] = lambda _, __: '{"verdict": 1}'
        self.requests: list[dict[str, Any]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.requests.append({**asked, "key": self.headers["Authorization"], "path": self.path})
                said = outer.says(asked, len(outer.requests))
                status, text = (said, "no") if isinstance(said, int) else (200, str(said))
                reply = {"id": "x", "object": "chat.completion", "created": 0, "model": asked["model"]}
                reply["choices"] = [
                    {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
                ]
                content = said if isinstance(said, bytes) else json.dumps(reply).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def environment(self) -> dict[str, str]:
        address = f"http://127.0.0.1:{self.server.server_address[1]}/v1"
        names = {"BASE_URL": address, "MODEL": "grader", "API_KEY": "secret"}
        return {f"STEERBAKE_JUDGE_{name}": one for name, one in names.items()}

    def judge(self) -> EndpointJudge:
        judge = EndpointJudge.from_environment(self.environment())
        judge.client = judge.client.with_options(max_retries=0)
        return judge


@pytest.fixture(name="server")
def running_server() -> Iterator[Server]:
    pytest.importorskip("openai")
    one = Server()
    yield one
    one.server.shutdown()
    one.server.server_close()
