"""Runs code in a clean environment: a fresh process in which neither of our packages nor the network exists."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

_PRELUDE = """
import importlib.abc, json, socket, sys

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("exporter", "steer_modules"):
            raise ModuleNotFoundError(name)

connect, reachable = socket.socket.connect, json.loads(REACHABLE)

def only_there(self, address):
    if list(address) != reachable:
        raise OSError(f"no network here, nothing at {address}")
    return connect(self, address)

sys.meta_path.insert(0, Absent())
socket.socket.connect = only_there
import torch
torch.set_num_threads(1)
"""


def run(code: str, *arguments: Any, folder: Path, hub: str | None = None) -> Any:
    """Runs ``code`` with ``sys.argv[1:] = arguments``; returns what it printed last, as JSON.

    Args:
        folder: an empty place for the process's caches and working directory.
        hub: endpoint of a Hub on this machine, the only thing that can be reached then.

    Raises:
        AssertionError: the process failed; the message is its output.
    """
    script = folder / "clean_environment.py"
    where = urlsplit(hub or "")
    reachable = json.dumps([where.hostname, where.port] if hub else None)
    script.write_text(f"REACHABLE = {reachable!r}\n{_PRELUDE}{code}", encoding="utf-8")
    environment = {
        **{key: value for key, value in os.environ.items() if key != "HF_TOKEN"},
        "HF_HUB_OFFLINE": "0" if hub else "1",
        **({"HF_ENDPOINT": hub, "HF_HUB_DISABLE_XET": "1"} if hub else {}),
        "HF_HOME": str(folder / "hf"),
        "HF_MODULES_CACHE": str(folder / "modules"),
        "PYTHONPATH": "",
    }
    done = subprocess.run(
        [sys.executable, str(script), *map(str, arguments)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return json.loads(done.stdout.strip().splitlines()[-1])
