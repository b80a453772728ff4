"""No code that somebody else wrote is run or copied, unless the recipe trusts it; and all code of a folder is compared before it is run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny
import tiny_run
from transformers import AutoTokenizer
from typer.testing import CliRunner

from exporter import pipeline
from exporter.cli import app
from exporter.errors import CompileError, InputErrors, VerificationError
from exporter.foreign_code import asked_code, check_code, code_faults, refuse_code
from exporter.host import ModelHost
from exporter.provenance import fetched
from exporter.recipe import BaseModelSource, Recipe
from exporter.targets.checkpoint import compile_checkpoint
from exporter.targets.transformers_loads import steered_checkpoint
from exporter.targets.values import Completions
from steer_modules.program import SteeringProgram

EVIL = "from pathlib import Path\nPath(__file__).with_name('x')\nPath({place!r}).write_text('ran')\n"


@pytest.fixture
def base(tmp_path):
    tiny_run.write_base(tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def checkpoint(base, tmp_path):
    tiny_run.steer(base, tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def put(folder: Path, name: str, **more) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({**(json.loads(path.read_text()) if path.is_file() else {}), **more})
    path.write_text(text.replace("\\u0000", "\\u005f"))


OWN = {"AutoTokenizer": [None, "own.Tokenizer"]}
ASKED = {
    "tokenizer": ("tokenizer_config.json", {"auto_map": OWN}),
    "processor": ("processor_config.json", {"auto_map": {"AutoProcessor": "own.Processor"}}),
    "image processor": ("preprocessor_config.json", {"auto_map": {"AutoImageProcessor": "own.Images"}}),
    "video processor": ("video_preprocessor_config.json", {"auto_map": {"AutoVideoProcessor": "o.V"}}),
    "generation": ("generation_config.json", {"auto_map": {"AutoModel": "own.Model"}}),
    "another repository": ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": "who/ever--own.Tokenizer"}}),
    "a text": ("tokenizer_config.json", {"auto_map": "own.Tokenizer"}),
    "nested": ("processor_config.json", {"image_processor": {"auto_map": {"AutoImageProcessor": "own.I"}}}),
    "in a list": ("processor_config.json", {"parts": [1, {"auto_map": {"AutoImageProcessor": "own.I"}}]}),
    "pipelines": ("config.json", {"custom_pipelines": {"x": {"impl": "own.Pipeline"}}}),
    "generate": ("generation_config.json", {"custom_generate": "who/ever"}),
    "kernel": ("config.json", {"attn_implementation": "who/ever:attention"}),
    "kernel of a part": ("config.json", {"text_config": {"_attn_implementation": {"": "who/ever@main"}}}),
    "the model": ("config.json", {"auto_map": {"AutoModelForCausalLM": "own.Model"}}),
    "spelled by numbers": ("tokenizer_config.json", {"auto\x00map": OWN}),
    "a file of any name": ("extra/other.json", {"a": {"auto_map": OWN}}),
}  # fmt: skip


@pytest.mark.parametrize("case", ASKED)
def test_a_base_that_asks_for_code_is_refused_by_file_and_key(base, tmp_path, case):
    name, more = ASKED[case]
    program = SteeringProgram.load(_steering(base, tmp_path))
    put(base, name, **more)
    with pytest.raises(CompileError, match=rf"{name} .*(auto_map|custom_|attn_)"):
        compile_checkpoint(base, program, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def _steering(base: Path, home: Path) -> Path:
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(base)
    (home / "steering").mkdir()
    tiny.program(model, [tiny.fixed_gate(True)], [tiny.turn(2)]).save(home / "steering")
    return home / "steering"


def test_words_that_only_look_like_it_are_not_code(base):
    """The control: a token of that name, an empty mapping, an ordinary attention, a file that is no JSON."""
    put(base, "vocab.json", auto_map=7, custom_generate=8)
    put(base, "generation_config.json", auto_map={}, custom_pipelines=None)
    put(base, "config.json", attn_implementation="flash_attention_2", note="auto_map")
    (base / "broken.json").write_text('{"auto_map": {"a": ')
    assert list(asked_code(base)) == []
    refuse_code(base, trusted=False)


@pytest.mark.parametrize("command", ["run", "fit", "publish"])
def test_every_command_refuses_before_anything_is_loaded(base, tmp_path, command, monkeypatch):
    monkeypatch.setattr(ModelHost, "load", lambda *a, **k: pytest.fail("a model was loaded"))
    put(base, "tokenizer_config.json", auto_map=OWN)
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"id": "a", "question": "q", "answer": "a", "role": "retain"}) + "\n")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "name: x\nbase: {path: base, device: cpu}\ndata: {fit: [rows.jsonl], test: [rows.jsonl]}\n"
        "publish: {forgotten: something, targets: []}\n"
    )
    more = ["--dry-run"] if command == "publish" else []
    done = CliRunner().invoke(app, [command, str(recipe), "--out", str(tmp_path / "out"), *more])
    assert done.exit_code == 2
    assert "tokenizer_config.json" in done.output and "auto_map" in done.output


def test_what_is_downloaded_is_held_to_the_same(base, monkeypatch):
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *a, **k: str(base))
    source = BaseModelSource(repo="who/ever")
    recipe = Recipe.model_construct(name="x", base=source)
    assert fetched(recipe) == base
    put(base, "tokenizer_config.json", auto_map=OWN)
    with pytest.raises(CompileError, match=r"tokenizer_config\.json .*auto_map"):
        fetched(recipe)
    trusting = source.model_copy(update={"trust_remote_code": True})
    assert fetched(Recipe.model_construct(name="x", base=trusting)) == base


def test_a_trusted_tokenizer_goes_along_and_a_trusted_model_does_not(base, tmp_path):
    steering = _steering(base, tmp_path)
    put(base, "tokenizer_config.json", auto_map=OWN)
    put(base, "config.json", auto_map={"AutoTokenizer": OWN["AutoTokenizer"]})
    (base / "own.py").write_text("class Tokenizer: ...\n")
    arguments = ["compile", str(base), str(steering), str(tmp_path / "out")]
    assert CliRunner().invoke(app, arguments).exit_code == 2
    done = CliRunner().invoke(app, [*arguments, "--trust-remote-code"])
    assert done.exit_code == 0, done.output
    out = tmp_path / "out"
    assert (out / "own.py").read_bytes() == (base / "own.py").read_bytes()
    assert json.loads((out / "tokenizer_config.json").read_text())["auto_map"] == OWN
    assert set(OWN) < set(json.loads((out / "config.json").read_text())["auto_map"])
    with pytest.raises(VerificationError, match=r"own\.py .*this version"):
        check_code(out)
    check_code(out, trusted=base)
    (out / "own.py").write_text("class Tokenizer: pass\n")
    with pytest.raises(VerificationError, match=r"own\.py"):
        check_code(out, trusted=base)
    put(base, "config.json", auto_map={"AutoModel": "own.Model"})
    with pytest.raises(CompileError, match="auto_map"):
        refuse_code(base, trusted=True)


def test_code_beside_a_base_is_left_where_it_is(base, tmp_path):
    (base / "own.py").write_text("raise SystemExit\n")
    (base / "custom_generate").mkdir()
    (base / "custom_generate" / "generate.py").write_text("raise SystemExit\n")
    tiny_run.steer(base, tmp_path / "checkpoint")
    check_code(tmp_path / "checkpoint")
    assert not (tmp_path / "checkpoint" / "own.py").exists()
    assert not (tmp_path / "checkpoint" / "custom_generate").exists()


FAULTS = {
    "a changed file": lambda f, evil: (f / "ops.py").write_text(evil + (f / "ops.py").read_text()),
    "a changed modeling file": lambda f, evil: next(f.glob("modeling_*.py")).write_text(evil),
    "a missing file": lambda f, evil: (f / "ops.py").unlink(),
    "one more file": lambda f, evil: (f / "more.py").write_text(evil),
    "a file in a folder": lambda f, evil: _mkdir(f / "custom_generate").joinpath("generate.py").write_text(evil),
    "a linked folder": lambda f, evil: (f / "custom_generate").symlink_to(f.parent),
    "a tokenizer's": lambda f, evil: put(f, "tokenizer_config.json", auto_map={"AutoTokenizer": "a/b--c.D"}),
    "another repository's": lambda f, evil: put(f, "config.json", auto_map={"AutoConfig": "a/b--c.D"}),
    "one more class": lambda f, evil: put(
        f, "config.json", auto_map={**json.loads((f / "config.json").read_text())["auto_map"], "AutoTokenizer": "ops.T"}
    ),
    "a kernel": lambda f, evil: put(f, "config.json", attn_implementation="who/ever"),
    "another base": lambda f, evil: put(f, "config.json", steering={"base": {"model_type": "x", "architecture": "y"}}),
    "no section": lambda f, evil: put(f, "config.json", steering=None),
    "a section that is none": lambda f, evil: put(f, "config.json", steering=[1]),
    "a runner that is not ours": lambda f, evil: _mkdir(f / "onnx").joinpath("steerbake_runner.py").write_text(evil),
}  # fmt: skip


def _mkdir(path: Path) -> Path:
    path.mkdir()
    return path


@pytest.mark.parametrize("fault", FAULTS)
def test_no_folder_with_other_code_is_loaded(checkpoint, tmp_path, fault):
    place = tmp_path / "ran"
    check_code(checkpoint)
    FAULTS[fault](checkpoint, EVIL.format(place=str(place)))
    assert code_faults(checkpoint)
    with pytest.raises(VerificationError, match="not loaded"):
        ModelHost.load(checkpoint, trust_remote_code=True)
    with pytest.raises(VerificationError, match="not loaded"):
        steered_checkpoint(checkpoint, Completions((), ()))
    assert not place.exists()


def test_the_control_runs_what_it_is_given(checkpoint, tmp_path):
    """Without the check the same change is code that runs."""
    from transformers import AutoConfig

    place = tmp_path / "ran"
    FAULTS["a changed modeling file"](checkpoint, EVIL.format(place=str(place)))
    with pytest.raises(Exception):  # noqa: B017
        AutoConfig.from_pretrained(checkpoint, trust_remote_code=True)
    assert place.exists()


def test_our_own_code_runs(checkpoint):
    host = ModelHost.load(checkpoint, trust_remote_code=True)
    assert host.model_type == "steered_llama"
    with pytest.raises(InputErrors, match="local folder"):
        ModelHost.load("who/ever", trust_remote_code=True)


def test_code_of_another_version_is_told_in_a_few_sentences(checkpoint):
    """All of it differs then; the files are counted, and a fault of another kind is still named."""
    code = sorted(checkpoint.glob("*.py"))
    for path in code:
        path.write_text(path.read_text() + "# of another version\n")
    (checkpoint / "weights.py").unlink()
    faults = code_faults(checkpoint)
    assert len(faults) == 5 and faults[0] == "weights.py is missing"
    assert str(len(code) - 4) in faults[-1]


def test_a_chat_does_not_ask_whether_to_run_code(base, checkpoint):
    put(
        checkpoint,
        "tokenizer_config.json",
        auto_map={"AutoTokenizer": ["own.T", "own.T"]},
        tokenizer_class="Own",
    )
    (checkpoint / "own.py").write_text("raise SystemExit(3)\n")
    try:
        pipeline.talk(checkpoint, say=lambda _: None)
    except InputErrors:
        return
    assert AutoTokenizer.from_pretrained(checkpoint, trust_remote_code=False) is not None
