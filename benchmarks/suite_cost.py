"""`python -m benchmarks.suite_cost OUT.json [pytest's arguments]`: CPU seconds of every test file without its slow tests, and of every slow test.

Wall clock says little on a machine that others use too. What is written counts the CPU time of the process that runs a test and of the
processes that it started and waited for, with the fixtures that it was the first to need. What was measured before and does not run keeps
its figures, so that the suite can be measured in parts (`-m "not slow"`, then `-m slow`).
"""

from __future__ import annotations

import json
import os
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

CPU = "cpu_seconds"


def cpu_seconds() -> float:
    """User and system time of this process and of its children that have ended."""
    return sum(os.times()[:4])


class Meter:
    """Writes into each report what was used since the report before it (a worker), and sums the reports (the controller)."""

    def __init__(self, out: Path) -> None:
        self._out = out
        self._before = cpu_seconds()
        self._tests: dict[str, float] = defaultdict(float)
        self._slow: set[str] = set()

    def pytest_collection_finish(self) -> None:
        self._before = cpu_seconds()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self) -> Any:
        report = yield
        now = cpu_seconds()
        report.user_properties.append((CPU, now - self._before))
        self._before = now
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._tests[report.nodeid] += dict(report.user_properties).get(CPU, 0.0)
        if "slow" in report.keywords:
            self._slow.add(report.nodeid)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self._tests and not hasattr(session.config, "workerinput"):
            earlier = json.loads(self._out.read_text()) if self._out.is_file() else {}
            text = json.dumps(summed(self._tests, self._slow, earlier), indent=1)
            self._out.write_text(text + "\n", encoding="utf-8")


def summed(tests: dict[str, float], slow: set[str], earlier: dict[str, Any]) -> dict[str, Any]:
    """What the file holds: seconds and counts of the tests of a file that are not slow, costliest first; every slow test; the whole.

    Files and slow tests of `earlier` that did not run stay.
    """
    files: dict[str, dict[str, float]] = {}
    for name in tests.keys() - slow:
        entry = files.setdefault(name.partition("::")[0], {"tests": 0, CPU: 0.0})
        entry["tests"] += 1
        entry[CPU] += tests[name]
    files = earlier.get("files", {}) | {
        name: {**entry, CPU: round(entry[CPU], 1)} for name, entry in files.items()
    }
    slowest = earlier.get("slow", {}) | {name: round(tests[name], 1) for name in slow}
    fast_seconds, slow_seconds = sum(entry[CPU] for entry in files.values()), sum(slowest.values())
    return {
        CPU: round(fast_seconds + slow_seconds, 1),
        "slow_cpu_seconds": round(slow_seconds, 1),
        "tests": sum(entry["tests"] for entry in files.values()) + len(slowest),
        "slow": dict(sorted(slowest.items(), key=lambda one: -one[1])),
        "files": dict(sorted(files.items(), key=lambda one: -one[1][CPU])),
    }


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--suite-cost", default=None, help="where to write the CPU seconds of every test file")


def pytest_configure(config: pytest.Config) -> None:
    if out := config.getoption("suite_cost"):
        config.pluginmanager.register(Meter(Path(out)))


if __name__ == "__main__":
    out = str(Path(sys.argv[1]).resolve())
    sys.exit(pytest.main(["-p", "benchmarks.suite_cost", f"--suite-cost={out}", *sys.argv[2:]]))
