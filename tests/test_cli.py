"""The command line from outside: bad input ends with one message and status 2, never with a traceback."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from manifests import run_report
from rich.console import Console
from tiny_run import always_on, write_base
from typer.testing import CliRunner

from exporter import display
from exporter.cli import app
from exporter.errors import DataError

HOME = Path(__file__).resolve().parent.parent
PUBLISHING = ("verify", "publish", "push", "check", "pack", "unpack")


def steerbake(*arguments: object) -> tuple[int, str, str]:
    """(exit status, stdout, stderr) of a command that nothing stands around."""
    result = CliRunner().invoke(app, [str(one) for one in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def refused(*arguments: object) -> str:
    """The one message of a command that must fail with status 2."""
    status, out, message = steerbake(*arguments)
    assert (status, out) == (2, ""), (status, out, message)
    assert "Traceback" not in message and message.startswith("error: "), message
    return message


def recipe(folder: Path, **changes: Any) -> Path:
    (folder / "model").mkdir(exist_ok=True)
    (folder / "rows.jsonl").write_text("{}\n")
    rows = {"fit": ["rows.jsonl"], "calibrate": ["rows.jsonl"], "test": ["rows.jsonl"]}
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({"name": "one", "base": {"path": "model"}, "data": rows, **changes}))
    return path


@pytest.mark.parametrize(
    "command",
    [
        "",
        "run",
        "fit",
        "evaluate",
        "check-recipe",
        "compile",
        "inspect",
        "demo",
        "export",
        "chat",
        *PUBLISHING,
    ],
)
def test_help_is_there_for_every_command(command: str) -> None:
    status, out, _ = steerbake(*([command] if command else []), "--help")
    assert status == 0 and "Usage" in out


def test_help_and_version_load_no_heavy_library() -> None:
    program = (
        "import sys; from exporter.cli import app\n"
        "try: app(sys.argv[1:])\n"
        "except SystemExit as end: code = end.code\n"
        "heavy = {'torch', 'transformers', 'datasets', 'matplotlib'} & set(sys.modules)\n"
        "sys.exit(f'loaded {heavy}' if heavy else code)\n"
    )
    for argument in ("--help", "--version"):
        done = subprocess.run(
            [sys.executable, "-c", program, argument], cwd=HOME, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert "steerbake" in done.stdout or "Usage" in done.stdout


def test_inspect_loads_neither_transformers_nor_the_rooms(tmp_path: Path) -> None:
    (tmp_path / "steering").mkdir()
    always_on().save(tmp_path / "steering")
    program = (
        "import sys; from exporter.cli import app\n"
        "try: app(sys.argv[1:])\n"
        "except SystemExit as end: code = end.code\n"
        "heavy = {'transformers', 'datasets', 'onnxruntime', 'exporter.pipeline', 'exporter.fitting'} & set(sys.modules)\n"
        "sys.exit(f'loaded {heavy}' if heavy else code)\n"
    )
    asked = [sys.executable, "-c", program, "inspect", str(tmp_path / "steering")]
    done = subprocess.run(asked, cwd=HOME, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_real_process_exits_with_2_and_one_message(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "exporter.cli", "run", str(tmp_path / "absent.yaml")],
        cwd=HOME,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ") and "absent.yaml" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["run", "fit"])
def test_a_bad_recipe_is_one_message_with_every_key(tmp_path: Path, command: str) -> None:
    path = recipe(tmp_path, seed=-1, speed="fast", methods={"default": "wish"})
    message = refused(command, path, "--out", tmp_path / "out")
    assert message.count("error:") == 1
    assert "line 1: answer" in message  # what is sound of a recipe is looked at all the same
    for start in ("seed: ", "speed: unknown key", "methods.default: "):
        assert f"\n  - {start}" in message
    assert not (tmp_path / "out").exists()


def test_an_unknown_method_names_the_known_ones(tmp_path: Path) -> None:
    message = refused(
        "run", recipe(tmp_path), "--set", "methods.compare=[r_moose]", "--out", tmp_path / "out"
    )
    assert "methods.compare.0: " in message and "'r_moose'" in message and "r_muse_calibrated" in message


def test_a_bad_set_is_named(tmp_path: Path) -> None:
    assert "max_new_tokens" in refused(
        "run", recipe(tmp_path), "--set", "report.tokens=1", "--out", tmp_path / "out"
    )


def test_a_folder_that_is_no_run_is_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.tex").write_text("x")
    message = refused("run", recipe(tmp_path), "--out", out)
    assert str(out) in message and "--out" in message
    assert [path.name for path in out.iterdir()] == ["thesis.tex"]


def test_a_base_without_a_config_is_named(tmp_path: Path) -> None:
    assert "no config.json" in refused("run", recipe(tmp_path), "--out", tmp_path / "out")


def test_bad_rows_are_listed_by_line(tmp_path: Path) -> None:
    path = recipe(tmp_path)
    write_base(tmp_path / "model")
    (tmp_path / "rows.jsonl").write_text('{"id": "a"}\nno json\n')
    message = refused("fit", path, "--out", tmp_path / "out")
    assert "line 1" in message and "line 2" in message


def test_compile_refuses_what_is_missing_and_what_exists(tmp_path: Path) -> None:
    import torch

    from steer_modules.program import BaseModelRef, Edit, SteeringProgram

    steering = tmp_path / "steering"
    steering.mkdir()
    edit = Edit(0, None, "add", "all", tensors={"vector": torch.ones(4)})
    program = SteeringProgram("test", 4, 2, BaseModelRef("LlamaForCausalLM", "llama"), (), (edit,))
    program.save(steering)
    (tmp_path / "base").mkdir()
    assert "steering.json" in refused("compile", tmp_path / "base", tmp_path / "absent", tmp_path / "new")
    assert "base" in refused("compile", tmp_path / "base", steering, tmp_path / "new")
    assert not (tmp_path / "new").exists()
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "mine").write_text("x")
    assert str(tmp_path / "there") in refused("compile", tmp_path / "base", steering, tmp_path / "there")
    assert (tmp_path / "there" / "mine").read_text() == "x"


def test_inspect_shows_a_steering_folder_and_refuses_a_changed_one(tmp_path: Path) -> None:
    import torch

    from steer_modules.program import BaseModelRef, Edit, SteeringProgram

    edit = Edit(1, None, "add", "all", tensors={"vector": torch.ones(4)})
    program = SteeringProgram("test", 4, 2, BaseModelRef("LlamaForCausalLM", "llama"), (), (edit,))
    (tmp_path / "steering").mkdir()
    program.save(tmp_path / "steering")
    status, out, _ = steerbake("inspect", tmp_path / "steering")
    assert status == 0
    for shown in (program.sha256, "verified", "add", "always on", "LlamaForCausalLM", "steering.safetensors"):
        assert shown in out
    file = tmp_path / "steering" / "steering.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    refused("inspect", tmp_path / "steering")
    assert str(tmp_path / "absent") in refused("inspect", tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    assert "no steering section found" in refused("inspect", tmp_path / "empty")


def test_what_the_data_lack_is_a_message_and_what_we_broke_is_a_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(error: BaseException) -> None:
        def run(*_: object, **__: object) -> None:
            raise error

        monkeypatch.setattr("exporter.pipeline.demo", run)

    fails(DataError("no row of role forget"))
    assert refused("demo", "--out", tmp_path / "out") == "error: no row of role forget\n"
    fails(FileNotFoundError(2, "No such file or directory", "shard.safetensors"))
    assert (
        refused("demo", "--out", tmp_path / "out") == "error: shard.safetensors: No such file or directory\n"
    )
    fails(KeyboardInterrupt())
    status, _, message = steerbake("demo", "--out", tmp_path / "out")
    assert status == 130 and "resumes" in message
    for ours in (ValueError("shapes differ"), KeyError("gate"), AssertionError("broken")):
        fails(ours)
        status, out, message = steerbake("demo", "--out", tmp_path / "out")
        assert (status, out) == (1, "") and "Traceback" not in message
        assert type(ours).__name__ in message and str(ours.args[0]) in message and "--debug" in message
        for arguments in (("--debug", "demo"), ("demo", "--debug")):
            with pytest.raises(type(ours)):
                steerbake(*arguments, "--out", tmp_path / "out")
        assert steerbake("demo", "--out", tmp_path / "out")[0] == 1  # asked for once, not for ever


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (ModuleNotFoundError("No module named 'llama_cpp'", name="llama_cpp"), 1, "pip install llama-cpp-python"),
        (ImportError("cannot load libfoo", name="onnxruntime"), 1, "pip install --upgrade onnxruntime"),
        (ModuleNotFoundError("No module named 'exporter.gone'", name="exporter.gone"), 1, "report it"),
        (MemoryError(), 1, "memory"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), 1, "report.batch_size"),
        (OSError(28, "No space left on device", "/x/shard"), 1, "the disk is full (/x/shard)"),
        (BrokenPipeError(), 141, ""),
    ],
)  # fmt: skip
def test_what_is_missing_has_a_sentence_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, status: int, words: str
) -> None:
    def run(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("exporter.pipeline.demo", run)
    found, out, message = steerbake("demo", "--out", tmp_path / "out")
    assert (found, out) == (status, "") and "Traceback" not in message
    assert words in message if words else message == ""
    assert message.count("\n") <= 1


def test_the_result_as_json_is_all_of_stdout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = {"models": {}, "recipe": {"name": "one"}}

    def run(*_: object, **__: object) -> dict[str, Any]:
        print("a library says something")
        display.note("left out of the base's files: a.json")
        return report

    monkeypatch.setattr("exporter.pipeline.demo", run)
    status, out, message = steerbake("demo", "--json", "--out", tmp_path / "out")
    assert status == 0 and json.loads(out)["report"] == report
    assert json.loads(out)["checkpoint"] == str(tmp_path / "out" / "checkpoint")
    assert "a library says something" in message and "left out" in message
    assert "left out" not in steerbake("demo", "--json", "--quiet", "--out", tmp_path / "out")[2]


def test_check_recipe_says_what_is_wrong_in_json_too(tmp_path: Path) -> None:
    status, out, message = steerbake("check-recipe", recipe(tmp_path), "--json")
    assert status == 2 and message.startswith("error: ")
    assert json.loads(out)["problems"]


def test_progress_is_a_line_now_and_then(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from exporter import progress

    clock = iter([0.0, 5.0, 11.0, 12.0, 25.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with caplog.at_level("INFO", logger="exporter"):
        assert list(progress.ticked(["a", "b", "c", "d"], "letters")) == ["a", "b", "c", "d"]
    assert [one.message for one in caplog.records] == ["letters: 2 of 4"]


def measure(value: float, n: int) -> dict[str, float]:
    return {"value": value, "n": n}


def test_progress_goes_to_the_stderr_of_the_command_that_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    log = logging.getLogger("exporter")
    for number in range(2):  # one process may run several commands; the first one's stderr is closed by then
        heard = io.StringIO()
        monkeypatch.setattr(sys, "stderr", heard)
        display.show_stages()
        log.info("stage %d", number)
        assert heard.getvalue().endswith(f"stage {number}\n")
        heard.close()


def test_the_table_of_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("leakage_either", "fluent_refusal", "retain_accuracy")
    values = {name: measure(0.25, 80) for name in names}
    group = {name: measure(0.5, 4) for name in names}
    model = {
        **values,
        "gate_true_positive": measure(0.0, 0),
        "eval_slices": {"two_turn": group, "forced_prefix": group},
    }
    keyed = {**model, "gate_true_positive": measure(1.0, 80)}
    report = {
        **run_report(),
        "models": {"base": model, "keyed": keyed},
        "recipe": {"name": "one"},
        "extraction": {},
        "stand_in": "A [toy].",
        "too_few_rows": ["two_turn: leakage_either: 2 of 4 rows are too few to tell"],
    }
    console = Console(width=120, record=True)
    monkeypatch.setattr(display, "Console", lambda **_: console)
    display.print_results(json.loads(json.dumps(report)), tmp_path)
    text = console.export_text()
    lines = text.splitlines()

    def line(label: str) -> list[str]:
        found = next(one for one in lines if label in one)
        return found.replace("\u2502", " ").replace("|", " ").split()

    assert "keyed (default)" in text and "A [toy]." in text
    quarter = ["0.250", "[0.168,", "0.355]"]
    assert line("leakage_either")[-7:] == [*quarter, *quarter, "80"]
    assert line("gate_true_positive")[-5:] == ["-", "1.000", "[0.954,", "1.000]", "80"]
    assert line("two_turn: leakage_either")[-5:] == ["too", "few", "too", "few", "4"], "no bare 0.500 of 4"
    assert "- two_turn: leakage_either: 2 of 4 rows are too few to tell" in lines
    assert any("forced_prefix: fluent_refusal" in one for one in lines)
    for name in ("checkpoint", "report.md", "report.json", "generations.jsonl"):
        assert str(tmp_path / name) in text


def test_onnx_commands_say_what_is_wrong(tmp_path: Path) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    assert "no steering section found" in refused("export", "onnx", folder, tmp_path / "out")
    assert str(tmp_path / "none") in refused("export", "onnx", tmp_path / "none", tmp_path / "out")
    assert "'maybe'; valid values: io and kv" in refused(
        "export", "onnx", folder, tmp_path / "out", "--gate-state", "maybe"
    )
    assert "no steerbake.json" in refused("verify", folder, "--against", folder)
    assert str(folder) in refused("chat", folder, "--prompt", "hi")
    (folder / "config.json").write_text('{"model_type": "llama"}')
    assert "steered checkpoint" in refused("chat", folder, "--prompt", "hi")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--dtype", "fp32", "--dtype", "q4"], True),
        (["--dtype", "fp16"], False),
        (["--dtype", "q4", "--unsteered"], False),
    ],
)
def test_an_export_of_quantised_variants_says_how_to_count_their_leaks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], told: bool
) -> None:
    monkeypatch.setattr("exporter.pipeline.export", lambda name, source, out, *_, **__: out)
    result = CliRunner().invoke(app, ["export", "onnx", str(tmp_path), str(tmp_path / "out"), *arguments])
    assert result.exit_code == 0 and ("verify CHECKPOINT --against OUT --recipe" in result.stderr) is told
