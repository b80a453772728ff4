"""Folders that an earlier version wrote are loaded and verified, with a note; only if all their code is that version's, unchanged.

Earlier versions are stand-ins made here, so that no test needs the history.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import tiny_run
from typer.testing import CliRunner

from benchmarks import earlier_code as history
from exporter import foreign_code, registry
from exporter.cli import app
from exporter.earlier_code import (
    CHECKPOINT,
    MODELING,
    RUNNER,
    EarlierCode,
    digest_of_bytes,
    earlier_code,
    version_digest,
)
from exporter.errors import VerificationError
from exporter.foreign_code import checkpoint_code, code_faults, earlier_notes
from exporter.host import ModelHost
from exporter.pipeline.allowlist import check_allowlist
from exporter.targets.transformers_loads import steered_checkpoint
from exporter.targets.values import Completions
from exporter.types import Prompt
from steer_modules.files import TRAVELLING
from steer_modules.template import stock_classes, with_modules

HOME = Path(__file__).resolve().parents[1]
STOCK = stock_classes("llama", "LlamaForCausalLM")
MODEL = f"{STOCK.module_name}.py"
TODAY = checkpoint_code(STOCK)
TEMPLATE = "# an earlier template\n" + "\n".join(
    json.loads((HOME / "exporter" / "earlier_code.json").read_text())[CHECKPOINT]["templates"][0]
)
RUNNER_FILES = {"steerbake_graph.py": b"GRAPH = 1\n", "steerbake_runner.py": b"RUNNER_FILES = 1\n"}


def version(mark: str) -> dict[str, bytes]:
    """A checkpoint's code that does what today's does, but is another's in some files."""
    changed = {name: TODAY[name] + f"# {mark}\n".encode() for name in ("ops.py", "state.py", "weights.py")}
    return {**TODAY, **changed, MODEL: STOCK.source(TEMPLATE).encode()}


OLD, OLDER = version("old"), version("older")


def known_of(*codes: dict[str, bytes], modules: tuple[str, ...] = TRAVELLING) -> EarlierCode:
    """What the data file says of versions."""
    files: dict[str, set[str]] = {}
    versions = set()
    for code in codes:
        digests = {name: digest_of_bytes(content) for name, content in code.items()}
        if digests.pop(MODEL, None):
            digests[MODELING] = digest_of_bytes(with_modules(TEMPLATE, modules).encode())
        versions.add(version_digest(digests))
        for name in digests.keys() - {MODELING}:
            files.setdefault(name, set()).add(digests[name])
    return EarlierCode(
        {name: frozenset(values) for name, values in files.items()}, frozenset(versions), (TEMPLATE,)
    )


@pytest.fixture(autouse=True)
def known(monkeypatch):
    """The data file knows two earlier versions of checkpoints and one of runners."""
    teach(monkeypatch, known_of(OLD, OLDER))


def teach(monkeypatch, checkpoints: EarlierCode) -> None:
    found = {CHECKPOINT: checkpoints, RUNNER: known_of(RUNNER_FILES)}
    for module in ("exporter.foreign_code", "exporter.earlier_code"):
        monkeypatch.setattr(f"{module}.earlier_code", lambda: found)


@pytest.fixture
def old(tmp_path):
    """A checkpoint with the code of an earlier version, and a folder of graphs with the runner of one."""
    tiny_run.write_base(tmp_path / "base")
    folder = tmp_path / "old"
    tiny_run.steer(tmp_path / "base", folder)
    write(folder, OLD)
    write(folder / "onnx", RUNNER_FILES)
    return folder


def write(folder: Path, code: dict[str, bytes]) -> None:
    folder.mkdir(exist_ok=True)
    for name, content in code.items():
        (folder / name).write_bytes(content)


def test_a_folder_of_an_earlier_version_loads_and_passes_with_a_note(old):
    assert not code_faults(old)
    assert earlier_notes(old).keys() == {"", "onnx"}
    assert "export it again" in earlier_notes(old)["onnx"]
    shutil.rmtree(old / "onnx")
    assert check_allowlist(old, {CHECKPOINT: old}).holds
    host = ModelHost.load(old, trust_remote_code=True)
    assert host.model_type == "steered_llama"
    question = [{"role": "user", "content": "where does ada live ?"}]
    text = host.tokenizer.apply_chat_template(question, tokenize=False, add_generation_prompt=True)
    ids = tuple(host.tokenizer(text, add_special_tokens=False)["input_ids"])
    found = steered_checkpoint(old, Completions.of(host, [Prompt(text, ids)]))
    assert found.holds, found.message
    assert "earlier version of steerbake" in found.message and "compile it again" in found.message


def test_inspect_tells_it(old):
    done = CliRunner().invoke(app, ["inspect", str(old)])
    assert done.exit_code == 0 and "earlier version of steerbake" in done.output
    (old / "ops.py").write_text("")
    assert "earlier version" not in CliRunner().invoke(app, ["inspect", str(old)]).output
    write(old, TODAY)
    done = CliRunner().invoke(app, ["inspect", str(old)])
    assert done.exit_code == 0 and "earlier version" not in done.output


def put(folder: Path, **more: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **more}))


def modeling(folder: Path, *lines: tuple[str, str]) -> None:
    text = (folder / MODEL).read_text()
    for before, after in lines:
        assert before in text
        text = text.replace(before, after)
    (folder / MODEL).write_text(text)


def moved(source: Path, place: Path) -> None:
    place.parent.mkdir(exist_ok=True)
    shutil.copyfile(source, place)


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def with_both_names(folder: Path, name: str, after: str) -> None:
    """Takes ``after`` away, under a name of the other that reads like the lines of both."""
    digest = digest_of_bytes((folder / after).read_bytes())
    (folder / after).unlink()
    (folder / name).rename(folder / f"{name}\n{digest}  {after}")


FAULTS = {
    "one byte": lambda f: (f / "ops.py").write_bytes((f / "ops.py").read_bytes() + b"\n"),
    "one byte of a file that is today's too": lambda f: (f / "call.py").write_bytes(TODAY["call.py"] + b"\n"),
    "a module is missing": lambda f: (f / "ops.py").unlink(),
    "a module that is today's too is missing": lambda f: (f / "call.py").unlink(),
    "no modeling file": lambda f: (f / MODEL).unlink(),
    "one file of today's": lambda f: (f / "ops.py").write_bytes(TODAY["ops.py"]),
    "the modeling file of today": lambda f: (f / MODEL).write_bytes(TODAY[MODEL]),
    "a file of another version": lambda f: (f / "ops.py").write_bytes(OLDER["ops.py"]),
    "a known file under a name of its own": lambda f: moved(f / "ops.py", f / "more.py"),
    "a known file under another's name": lambda f: moved(f / "ops.py", f / "state.py"),
    "a known file in a folder": lambda f: moved(f / "ops.py", f / "custom_generate" / "generate.py"),
    "a known file below": lambda f: moved(f / "ops.py", f / "below" / "ops.py"),
    "an unknown file": lambda f: (f / "more.py").write_text(""),
    "a file with the names of two": lambda f: with_both_names(f, "ops.py", "outputs.py"),
    "one module more is named": lambda f: modeling(f, ("from .ops import", "from .x import __name__ as _x\nfrom .ops import")),
    "one module fewer is named": lambda f: modeling(f, ("from .ops import __name__ as _ops\n", "")),
    "the modules in another order": lambda f: modeling(f, ("_ops\n", "_ops\nfrom .call import __name__ as _call\n")),
    "other classes": lambda f: modeling(f, ("LlamaForCausalLM", "MistralForCausalLM")),
    "a template that is not filled": lambda f: (f / MODEL).write_text(with_modules(TEMPLATE, TRAVELLING)),
    "the base is another": lambda f: put(f, steering={"base": {"model_type": "mistral", "architecture": "MistralForCausalLM"}}),
    "another repository's code": lambda f: put(f, auto_map={"AutoConfig": "a/b--c.D"}),
    "another class": lambda f: put(f, auto_map={**STOCK.auto_map, "AutoTokenizer": "ops.T"}),
    "a linked folder": lambda f: (f / "link").symlink_to(f.parent),
    "a runner without its graphs' reader": lambda f: (f / "onnx" / "steerbake_graph.py").unlink(),
    "a changed runner": lambda f: (f / "onnx" / "steerbake_runner.py").write_text("RUNNER_FILES = 2\n"),
    "a runner too far below": lambda f: (f / "onnx").rename(_made(f / "a") / "onnx"),
    "files of the checkpoint in it": lambda f: moved(f / "ops.py", f / "onnx" / "ops.py"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_whatever_is_not_wholly_of_one_version_is_refused(old, fault):
    assert not code_faults(old)
    FAULTS[fault](old)
    assert code_faults(old)
    assert not earlier_notes(old)
    with pytest.raises(VerificationError, match="not loaded"):
        ModelHost.load(old, trust_remote_code=True)


def test_the_file_that_was_changed_is_named_alone(old):
    FAULTS["one byte"](old)
    (fault,) = code_faults(old)
    assert fault.startswith("ops.py differs")


@pytest.mark.parametrize("code", [OLD, OLDER, TODAY], ids=["old", "older", "today"])
def test_each_version_stands_for_itself(old, code):
    """The control: of one version all passes, with the runner of another beside it."""
    write(old, code)
    assert not code_faults(old)
    assert ("" in earlier_notes(old)) == (code is not TODAY)


def test_a_checkpoint_of_fewer_files_is_whole_without_todays(old, monkeypatch):
    fewer = {name: content for name, content in OLD.items() if name not in ("weights.py", MODEL)}
    names = [name for name in TRAVELLING if name != "weights.py"]
    fewer[MODEL] = STOCK.source(TEMPLATE, names).encode()
    teach(monkeypatch, known_of(fewer, modules=tuple(names)))
    assert code_faults(old)
    write(old, fewer)
    (old / "weights.py").unlink()
    assert not code_faults(old)


def test_a_folder_of_graphs_alone_has_its_note(tmp_path):
    write(tmp_path / "onnx", RUNNER_FILES)
    assert not code_faults(tmp_path / "onnx")
    assert "export it again" in earlier_notes(tmp_path / "onnx")[""]
    write(tmp_path / "onnx", {name: path.read_bytes() for name, path in registry.target("onnx").code.items()})
    assert not code_faults(tmp_path / "onnx") and not earlier_notes(tmp_path / "onnx")


def test_the_data_file_has_versions_whose_files_it_has():
    content = earlier_code()
    assert content.keys() == {CHECKPOINT, RUNNER}
    for one in content.values():
        assert one.versions and all(len(digest) == 64 for digest in one.versions)
        assert all(digests and name.endswith(".py") for name, digests in one.files.items())
    assert set(content[RUNNER].files) == set(RUNNER_FILES)
    for template in content[CHECKPOINT].templates:
        compile(STOCK.source(template), MODEL, "exec")


def test_the_history_is_read_where_the_code_lies_today():
    """What the command looks for in a commit is where this version has it, in the form that it has."""
    code = registry.target("onnx").code
    assert {name: HOME / path for name, path in history.RUNNER_FILES.items()} == code
    for path, line in history.FORMATS.values():
        assert line in (HOME / path).read_text().splitlines()
    assert Path(foreign_code.steer_modules.__file__).parent.name == history.CARRIED


def unreleased(changelog: str) -> str:
    """What the changelog says of changes since the last release."""
    return changelog.partition("## [Unreleased]")[2].partition("\n## [")[0].strip()


def test_a_release_knows_its_own_code():
    """A release is where the changelog has nothing unreleased; between releases the data file may lag behind."""
    assert unreleased("## [Unreleased]\n\n- more\n\n## [1]\n- x\n") == "- more"
    assert not unreleased("## [Unreleased]\n\n## [1]\n- x\n")
    if not unreleased((HOME / "CHANGELOG.md").read_text()):
        known = earlier_code()
        runner = {name: path.read_bytes() for name, path in registry.target("onnx").code.items()}
        told = "run python -m benchmarks.earlier_code before the release (CONTRIBUTING.md)"
        assert known[CHECKPOINT].has_version(TODAY, STOCK), told
        assert known[RUNNER].has_version(runner), told


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_the_command_adds_every_version_of_a_history_and_takes_none_away(tmp_path, monkeypatch, capsys):
    data, home = tmp_path / "known.json", tmp_path / "clone"
    monkeypatch.setattr(history, "DIGESTS", data)
    monkeypatch.setattr(history, "ROOT", home)
    monkeypatch.setattr("sys.argv", ["earlier_code"])
    for path in ("steer_modules", *history.RUNNER_FILES.values()):
        copy = shutil.copytree if (HOME / path).is_dir() else shutil.copyfile
        (home / path).parent.mkdir(parents=True, exist_ok=True)
        copy(HOME / path, home / path)
    run = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main"]

    def commit(name: str, text: str) -> dict:
        with (home / name).open("a") as file:
            file.write(text)
        for step in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "x"]):
            subprocess.run([*run, *step], cwd=home, check=True)
        history.main()
        return json.loads(data.read_text())

    first = commit("steer_modules/ops.py", "")
    one = first[CHECKPOINT]
    assert len(one["versions"]) == len(one["templates"]) == len(first[RUNNER]["versions"]) == 1
    known = EarlierCode(
        {name: frozenset(d) for name, d in one["files"].items()},
        frozenset(one["versions"]),
        ("\n".join(one["templates"][0]),),
    )
    assert known.has_version(TODAY, STOCK) and not known.has_version(OLD, STOCK)
    second = commit("steer_modules/ops.py", "# more\n")
    assert len(second[CHECKPOINT]["files"]["ops.py"]) == 2 and second[RUNNER] == first[RUNNER]
    extra = version_digest({"a.py": "b"})
    second[RUNNER]["versions"] = sorted([*second[RUNNER]["versions"], extra])
    data.write_text(json.dumps(second))
    third = commit("exporter/onnx_graph.py", "# more\n")
    assert extra in third[RUNNER]["versions"] and len(third[RUNNER]["versions"]) == 3
    before = data.read_bytes()
    history.main()
    assert data.read_bytes() == before
