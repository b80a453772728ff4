"""Loads a folder in a clean environment; run as a script, in a process that knows neither of our packages nor the network.

Reads one JSON object from stdin and prints one as its last line; :mod:`exporter.targets.clean_environment` writes and reads them.
How the folder is loaded is said by the script of its target.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import json
import os
import socket
import sys
from pathlib import Path
from typing import Any, NoReturn

OURS = ("exporter", "steer_modules", "export_configs")


class Absent(importlib.abc.MetaPathFinder):
    """Our packages do not exist here, wherever they are installed."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        del path, target
        if name.partition(".")[0] in OURS:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def no_network(*_: object, **__: object) -> NoReturn:
    """Stands for every connection."""
    raise OSError("there is no network in a clean environment")


def main() -> None:
    """One folder, and whatever of its damaged copies must not load."""
    sys.path[:] = [
        path for path in sys.path if Path(path or ".").resolve() != Path(__file__).resolve().parent
    ]
    sys.meta_path.insert(0, Absent())
    socket.socket.connect = no_network  # type: ignore[method-assign]
    asked = json.load(sys.stdin)
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what is loaded may print what it likes
    observed = loader(asked["loader"]).find(asked)
    observed["ours"] = sorted(name for name in sys.modules if name.partition(".")[0] in OURS)
    answer.write(json.dumps(observed))
    answer.close()


def loader(file: str) -> Any:
    """A target's own script, imported by its place."""
    spec = importlib.util.spec_from_file_location("loader", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    main()
