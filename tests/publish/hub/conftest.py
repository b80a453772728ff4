"""A release to push, and no waiting between attempts."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import huggingface_hub.utils._http as transport
import pytest

from exporter.publish import hub_errors


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_errors, "WAITS", (0.01,) * 5)
    monkeypatch.setattr(transport, "time", SimpleNamespace(sleep=lambda _: None))


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """A folder laid out like a release: text for git, blobs in one piece and in parts, an empty file."""
    folder = tmp_path / "release"
    for path, content in {
        "README.md": b"---\nlicense: mit\n---\nA model.\n",
        "config.json": b"{}",
        "empty.txt": b"",
        ".eval_results/forget.yaml": b"- value: 0.0\n",
        "model-00001-of-00001.safetensors": bytes(range(256)) * 1200,
        "steering.safetensors": b"\0steering",
        "onnx/onnx/model.onnx": b"\0graph" * 100,
        "plots/leak.png": b"\x89PNG\0",
    }.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    return folder
