"""A stage is done again where, and only where, what it is made from or what it made has changed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from exporter.atomic import write_text
from exporter.digests import digest_of, digest_of_file
from exporter.errors import CompileError
from exporter.ledger import Ledger
from exporter.types import Row, Turn
from exporter.workspace import Workspace


class Stage:
    """Writes a folder of two files and counts how often."""

    def __init__(self, folder: Path) -> None:
        self.ledger, self.output, self.times = Ledger(folder / "stages"), folder / "result", 0

    def run(self, *, breaks: bool = False, **inputs: object) -> bool:
        def action() -> None:
            assert not self.output.exists(), "an older output must be gone before the action"
            self.times += 1
            write_text(self.output / "sub" / "a.txt", f"{inputs}")
            if breaks:
                raise KeyboardInterrupt
            write_text(self.output / "b.txt", "b")

        return self.ledger.run("stage", inputs, self.output, action)


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


def test_done_once_for_equal_inputs_and_again_for_others(stage: Stage) -> None:
    assert stage.run(rows="abc", seed=1)
    assert not stage.run(seed=1, rows="abc")
    assert stage.run(rows="abc", seed=2)
    assert stage.times == 2
    assert "2" in (stage.output / "sub" / "a.txt").read_text()


def test_a_new_process_resumes(stage: Stage, tmp_path: Path) -> None:
    stage.run(seed=1)
    assert not Stage(tmp_path).run(seed=1)


def test_an_interrupted_stage_is_done_again(stage: Stage) -> None:
    with pytest.raises(KeyboardInterrupt):
        stage.run(seed=1, breaks=True)
    assert (stage.output / "sub" / "a.txt").exists()
    assert stage.run(seed=1)
    assert not stage.run(seed=1)


def test_an_interrupted_redo_does_not_pass_for_the_old_result(stage: Stage) -> None:
    stage.run(seed=1)
    with pytest.raises(KeyboardInterrupt):
        stage.run(seed=2, breaks=True)
    assert stage.run(seed=1)


@pytest.mark.parametrize("change", ["longer", "same size", "removed", "added", "all gone", "record broken"])
def test_a_changed_output_is_made_again(stage: Stage, change: str) -> None:
    stage.run(seed=1)
    file = stage.output / "b.txt"
    if change == "longer":
        file.write_text("bb")
    elif change == "same size":
        file.write_text("c")
    elif change == "removed":
        file.unlink()
    elif change == "added":
        (stage.output / "c.txt").write_text("")
    elif change == "record broken":
        (stage.ledger.folder / "stage.json").write_text('{"inputs": ')
    else:
        stage.ledger.folder.joinpath("stage.json").touch()
        for path in (file, stage.output / "sub" / "a.txt"):
            path.unlink()
    assert stage.run(seed=1)
    assert file.read_text() == "b"
    assert not (stage.output / "c.txt").exists()


def test_digests_ignore_the_order_of_keys_and_see_every_byte(tmp_path: Path) -> None:
    assert digest_of({"a": 1, "b": [2]}) == digest_of({"b": [2], "a": 1}) != digest_of({"a": 1, "b": [3]})
    file = tmp_path / "x"
    file.write_bytes(b"abc")
    before = digest_of_file(file)
    file.write_bytes(b"abd")
    assert digest_of_file(file) != before


def test_an_output_that_changed_in_its_middle_is_made_again(tmp_path: Path) -> None:
    """Weights are as long as before, and begin and end as before."""
    ledger, out, size = Ledger(tmp_path / "ledger"), tmp_path / "weights", 66 << 20

    def make() -> None:
        out.write_bytes(bytes(size))

    assert ledger.run("compile", {"seed": 1}, out, make)
    assert not ledger.run("compile", {"seed": 1}, out, make)
    with out.open("r+b") as file:
        file.seek(size // 2)
        file.write(b"\1")
    assert ledger.run("compile", {"seed": 1}, out, make)


def test_a_workspace_belongs_to_one_recipe(tmp_path: Path) -> None:
    out = tmp_path / "runs" / "a"
    Workspace.claim(out, "one")
    (out / "report.json").write_text("{}")
    assert Workspace.claim(out, "one").out == out.resolve()
    with pytest.raises(CompileError, match="'one', not of 'two'"):
        Workspace.claim(out, "two")


def test_a_workspace_does_not_move_in_with_strangers(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(CompileError, match=re.escape(str(tmp_path))):
        Workspace.claim(tmp_path, "one")
    with pytest.raises(CompileError, match=re.escape(str(tmp_path))):
        Workspace.claim(tmp_path / "thesis.tex", "one")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_workspace_survives_a_kill_while_it_was_claimed(tmp_path: Path) -> None:
    (tmp_path / ".work").mkdir()
    (tmp_path / ".work" / ".run.json.partial").write_text('{"rec')
    Workspace.claim(tmp_path, "one")
    for broken in ("[]", "{", '{"recipe": 3}'):
        (tmp_path / ".work" / "run.json").write_text(broken)
        with pytest.raises(CompileError, match="another folder with --out"):
            Workspace.claim(tmp_path, "one")


def test_images_of_one_name_do_not_overwrite_each_other(tmp_path: Path) -> None:
    paths = [tmp_path / folder / "face.png" for folder in ("a", "b", "c")]
    for path, content in zip(paths, (b"1", b"2", b"1"), strict=True):
        path.parent.mkdir()
        path.write_bytes(content)
    rows = [Row(str(i), "who?", "x", "forget", image=path) for i, path in enumerate(paths)]
    rows.append(Row("t", "and?", "x", "retain", history=(Turn("who?", image=paths[1]),)))
    space = Workspace.claim(tmp_path / "out", "one")
    for _ in range(2):
        copied = space.with_images(rows)
        images = [row.image for row in copied[:3]]
        assert [image.read_bytes() for image in images if image] == [b"1", b"2", b"1"]
        assert images[0] == images[2]
        assert copied[3].history[0].image == images[1]
        assert len(list((space.out / "images").iterdir())) == 2
