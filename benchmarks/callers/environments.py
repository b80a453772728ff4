"""One folder for each version of Transformers, put first on the path of a process of its own."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.callers.observed import OPEN, RAISES

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache" / "callers"


def environment(version: str) -> dict[str, str]:
    """What a process needs to run on that version; installs it where it is neither here nor in the cache."""
    path = [str(ROOT)]
    if version != importlib.metadata.version("transformers"):
        folder = CACHE / f"transformers-{version}"
        if not (folder / "transformers").is_dir():
            command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target"]
            subprocess.run([*command, str(folder), f"transformers=={version}"], check=True)
        path.insert(0, str(folder))
    quiet = {
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "PYTHONWARNINGS": "ignore",
    }
    return {**os.environ, **quiet, "PYTHONPATH": os.pathsep.join(path)}


class Workers:
    """Processes that run the callers of one checkpoint on one version; a new one where one died or was stopped.

    Args:
        subject: file of the questions.
        limit: seconds that a cell may take.
    """

    def __init__(self, version: str, subject: Path, limit: float) -> None:
        self.subject, self.limit = subject, limit
        self.environment = environment(version)
        self.versions: dict[str, str] = {}

    def cells(self, names: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Each caller's cell, in the order of the names."""
        left = list(names)
        while left:
            for cell in self._until_it_ends(left):
                left.remove(cell["caller"])
                yield cell

    def _until_it_ends(self, names: Sequence[str]) -> Iterator[dict[str, Any]]:
        """The cells of one process; the one at which it ended is not answered for."""
        command = [sys.executable, "-m", "benchmarks.callers.worker", str(self.subject), *names]
        with tempfile.TemporaryDirectory(prefix="callers-hub-") as home, tempfile.TemporaryFile("w+") as said:
            running = {**self.environment, "HF_HOME": home, "HF_MODULES_CACHE": str(Path(home) / "modules")}
            process = subprocess.Popen(
                command, env=running, stdout=subprocess.PIPE, stderr=said, text=True, cwd=ROOT
            )
            begun, why, refused = names[0], "the process died", ""
            assert process.stdout is not None
            while True:
                watch = threading.Timer(self.limit, process.kill)
                watch.start()
                line = process.stdout.readline()
                if not watch.is_alive():
                    why = f"no answer in {self.limit:.0f} s"
                watch.cancel()
                if not line:
                    break
                cell = json.loads(line)
                if "caller" in cell:
                    begun = ""
                    yield cell
                elif "begins" in cell:
                    begun, refused = cell["begins"], ""
                elif "refused" in cell:
                    refused = cell["why"]
                else:
                    self.versions = cell
            process.wait()
            if begun:
                said.seek(0)
                last = " ".join(said.read().split())[-200:]
                word, because = (RAISES, refused) if refused else (OPEN, f"{why}: {last}")
                yield {"caller": begun, "word": word, "why": because, "control": f"{why}: {last}"}
