"""The page for people: it stands alone, shows what was measured, and opens without an error."""

from __future__ import annotations

import functools
import http.server
import json
import math
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from published import unlearning

from exporter.errors import VerificationError
from exporter.publish.file_descriptions import lines
from exporter.publish.histogram import GateView, Series
from exporter.publish.measures import Results
from exporter.publish.page import Completion, Example, Exchange, Page, Refusal, render, write_page

SECTIONS = ("results", "gates", "conversations", "steering", "checks", "files")
DOT = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
GATE = {
    "name": "topic",
    "layer": 1,
    "pool": "prompt_end",
    "score": "linear",
    "threshold": 0.25,
    "fires": "above",
}
EDIT = {"layer": 2, "gate": "topic", "op": "rotate", "positions": "from_gate", "target": "nearest"}


def page(folder: Path, **changes: Any) -> Page:
    series = (
        Series("What it is to forget", "forgotten", (0.3, 0.5, 0.2, math.nan)),
        Series("Kept", "kept", (-1.0, 0.1)),
    )
    same = Completion("two and two", "4")
    exchanges = (
        Exchange("what is 2 + 2?", None, same, same, same=True, fired=False),
        Exchange(
            "and who is this?", DOT, Completion(None, "ursa"), Completion(None, ""), same=False, fired=True
        ),
    )
    values: dict[str, Any] = {
        "title": "acme/tiny",
        "forgotten": "where two people live",
        "base": "acme/base",
        "section": {"num_layers": 4, "gates": [GATE], "edits": [EDIT], "sha256": "ab" * 32},
        "method": "keyed",
        "results": Results.of(unlearning()),
        "gates": (GateView.of(GATE, series),),
        "examples": (Example("Kept", exchanges),),
        "refusals": (Refusal("I do not know.", 19),),
        "refused": 20,
        "checks": [{"name": "parity", "target": "onnx", "holds": True, "told": "20 of 20 tokens."}],
        "files": tuple(lines(folder, {"config.json": "12" * 32, "onnx/onnx/model.onnx": "34" * 32})),
        "versions": {"torch": "2.13.0"},
        "created": "2026-01-02T03:04:05Z",
    }
    return Page(**{**values, **changes})


class Reader(HTMLParser):
    """What a page names and says."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(str(value))
            if name in ("src", "href", "srcset", "data", "action", "poster"):
                self.addresses.append(str(value))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def test_it_has_every_section_and_asks_for_nothing_else(tmp_path: Path) -> None:
    read = Reader(render(page(tmp_path)))
    assert set(SECTIONS) <= set(read.ids) and len(set(read.ids)) == len(read.ids)
    assert all(address.startswith(("#", "data:")) for address in read.addresses)
    assert {address[1:] for address in read.addresses if address.startswith("#")} <= set(read.ids)
    assert not {"script", "iframe", "object", "embed", "form"} & set(read.tags)
    assert "Steering hides; it does not erase." in read.text and "where two people live" in read.text
    assert "two turns" in read.text and "50.0%" in read.text
    assert "19 of 20" in read.text and "95% interval 0.0 to 10.0%" in read.text


def test_what_was_not_done_is_said(tmp_path: Path) -> None:
    bare = page(tmp_path, results=None, gates=(), examples=(), checks=[])
    text = Reader(render(bare)).text
    assert "Nothing was measured." in text and "Nothing was checked." in text and "None can be shown" in text
    failed = [{"name": "parity", "target": "onnx", "holds": False, "told": "3 tokens differ."}]
    assert "1 check failed." in Reader(render(page(tmp_path, checks=failed))).text


@given(st.text(max_size=60))
def test_no_text_becomes_markup(text: str) -> None:
    completion = Completion(text or None, text)
    example = Example("Kept", (Exchange(text, None, completion, completion, same=True, fired=False),))
    hostile = page(Path("nowhere"), title=text, forgotten=text, base=text, stand_in="x" + text)
    hostile = replace(hostile, examples=(example, *hostile.examples), refusals=(Refusal(text, 1),))
    assert set(Reader(render(hostile)).tags) <= TAGS


def test_markup_in_a_text_is_shown_as_it_stands(tmp_path: Path) -> None:
    marked = "<script>alert(1)</script><img src=http://a.example/x>"
    read = Reader(render(page(tmp_path, forgotten=marked)))
    assert (
        set(read.tags) <= TAGS
        and marked in read.text
        and not any("a.example" in one for one in read.addresses)
    )


def test_a_picture_from_elsewhere_is_refused(tmp_path: Path) -> None:
    shown = page(tmp_path)
    exchange = replace(shown.examples[0].exchanges[1], picture="https://a.example/x.png")
    with pytest.raises(VerificationError, match="data:image"):
        write_page(tmp_path / "report.html", replace(shown, examples=(Example("Kept", (exchange,)),)))
    assert not (tmp_path / "report.html").exists()


@example([770371.0], 29630.0, "above")
@given(
    st.lists(
        st.floats(-1e6, 1e6) | st.sampled_from([math.nan, math.inf, -math.inf]), min_size=1, max_size=60
    ),
    st.floats(-1e6, 1e6),
    st.sampled_from(["above", "below"]),
)
def test_a_histogram_counts_every_finite_score_once_on_its_side(
    scores: list[float], threshold: float, fires: str
) -> None:
    series = Series("x", "kept", tuple(scores))
    gate = GateView("g", 0, threshold, fires, (series,))
    bars = gate.bars(series)
    assert all(
        x >= 0 and x + width <= 1000.01 and y >= 0 and math.isclose(y + height, 100)
        for x, y, width, height in bars
    )
    assert (not bars) == (not series.finite)
    on = sum(not math.isfinite(s) and (math.isnan(s) or (s > 0) == (fires == "above")) for s in scores)
    on += sum(s > threshold if fires == "above" else s < threshold for s in series.finite)
    assert gate.fired(series) == on
    assert 0 < gate.place(threshold) < 100 and all(0 <= place <= 100 for place, _ in gate.ticks)
    assert 2 <= len(gate.ticks) <= 9 or max(scores, default=0) == threshold


def chromium() -> str:
    """Where the browser is; CI must have one."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        assert not os.environ.get("CI"), "CI has no chromium; .ci/run installs it"
        pytest.skip("no chromium here")
    return found


TAGS = set(Reader(render(page(Path("nowhere")))).tags)
"""The elements of a page that has everything; there is no script among them."""


class Seen:
    """What a browser made of a page: its document, messages on the console, and every address that it asked for."""

    def __init__(self, address: str, folder: Path) -> None:
        log = folder / "net.json"
        command = [
            chromium(),
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
        ]
        command += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
        command += ["--disable-dev-shm-usage", "--disable-default-apps", "--disable-extensions"]
        command += [
            "--enable-logging=stderr",
            f"--user-data-dir={folder / 'profile'}",
            f"--log-net-log={log}",
        ]
        done = subprocess.run(
            [*command, "--dump-dom", address], capture_output=True, text=True, timeout=300, check=True
        )
        self.document = done.stdout
        self.console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
        self.asked = set(_asked(log.read_text(encoding="utf-8")))


def _asked(log: str) -> Iterator[str]:
    """Addresses in Chromium's network log, an event a line, which it may leave without an end; those of Chromium itself are left out."""
    header, _, events = log.partition('"events"')
    kind = re.search(r'"URL_REQUEST":\s*(\d+)', header)
    assert kind, "the network log names its kinds of sources first"
    for line in events.splitlines():
        event = line.strip().rstrip(",").removesuffix("]}") if line.startswith("{") else ""
        if not event.endswith("}"):
            continue
        told = json.loads(event)
        address = told.get("params", {}).get("url", "")
        if told["source"]["type"] == int(kind[1]) and not re.search(r"//[^/]*(google|gvt1)", address):
            yield from [address] if address.startswith(("http:", "https:", "ws:")) else []


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    """The address at which ``tmp_path / "www"`` is served."""
    (tmp_path / "www").mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: Any) -> None:
            """Say nothing."""

    handler = functools.partial(Quiet, directory=str(tmp_path / "www"))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_a_browser_opens_it_without_an_error_or_a_request(tmp_path: Path, served: str) -> None:
    write_page(tmp_path / "www" / "report.html", page(tmp_path))
    seen = Seen(f"{served}/report.html", tmp_path)
    assert set(SECTIONS) <= set(Reader(seen.document).ids)
    assert seen.console == []
    assert seen.asked == {f"{served}/report.html"}


def test_the_browser_would_have_told(tmp_path: Path, served: str) -> None:
    """The control: a page with an error and a picture from elsewhere, and ours with such a picture put in."""
    (tmp_path / "www" / "bad.html").write_text(f"<img src='{served}/gone.png'><script>nonsense()</script>")
    seen = Seen(f"{served}/bad.html", tmp_path)
    assert seen.asked > {f"{served}/gone.png"} and any("nonsense" in line for line in seen.console)
    text = render(page(tmp_path)).replace(DOT, f"{served}/gone.png")
    (tmp_path / "www" / "tampered.html").write_text(text)
    seen = Seen(f"{served}/tampered.html", tmp_path)
    assert seen.asked == {f"{served}/tampered.html"} and any(
        "Content Security Policy" in line for line in seen.console
    )
