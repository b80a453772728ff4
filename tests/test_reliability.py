"""The benchmark that kills commands must itself tell whole from half."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from benchmarks.reliability.__main__ import measured, table
from benchmarks.reliability.killing import in_child
from benchmarks.reliability.trials import FolderTrial
from exporter.atomic import whole_folder

FILES = 8


class Careless(FolderTrial):
    """Writes one file after the other into place."""

    name = "careless"

    def work(self) -> None:
        self.out.mkdir(parents=True)
        self._write(self.out)

    def _write(self, folder: Path) -> None:
        for number in range(FILES):
            (folder / str(number)).write_text("x")
            time.sleep(0.01)

    def is_whole(self) -> bool:
        return len(list(self.out.iterdir())) == FILES


class Careful(Careless):
    """The same behind a rename."""

    name = "careful"

    def work(self) -> None:
        with whole_folder(self.out) as folder:
            self._write(folder)


@pytest.mark.parametrize("trial", [Careless, Careful])
def test_half_a_folder_is_seen(tmp_path: Path, trial: type[Careless]) -> None:
    (tmp_path / "source").mkdir()
    row = measured(
        lambda number: trial(tmp_path / "source", tmp_path / str(number) / "out"), 12, random.Random(0)
    )
    assert row["at work"] and row["unchanged"] + row["whole"] + row["half"] == 12
    if trial is Careless:
        assert row["half"] and row["failed"] >= row["half"]
    else:
        assert row["half"] == 0 and row["succeeded"] >= row["unchanged"]
    assert f"| `{trial.name}` |" in table([row])


def test_children_end_as_they_ended() -> None:
    def exits() -> None:
        raise SystemExit(2)

    assert in_child(lambda: [1]).said == [1]
    assert in_child(exits).code == 2
    failed = in_child(lambda: 1 // 0)
    assert failed.code == 1 and "ZeroDivisionError" in failed.said
    assert in_child(lambda: time.sleep(60), kill_after=0.05).killed
