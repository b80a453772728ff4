"""Runs code as a stranger would: a fresh process in which neither of our packages nor the network exists."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

_PRELUDE = """
import importlib.abc, json, socket, sys

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("exporter", "steer_modules"):
            raise ModuleNotFoundError(name)

def no_network(*args, **kwargs):
    raise OSError("no network here")

sys.meta_path.insert(0, Absent())
socket.socket.connect = no_network
import torch
torch.set_num_threads(1)
"""


def run(code: str, *arguments: Any, folder: Path) -> Any:
    """Runs ``code`` with ``sys.argv[1:] = arguments``; returns what it printed last, as JSON.

    Args:
        folder: an empty place for the process's caches and working directory.

    Raises:
        AssertionError: the process failed; the message is its output.
    """
    script = folder / "stranger.py"
    script.write_text(_PRELUDE + code, encoding="utf-8")
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
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
