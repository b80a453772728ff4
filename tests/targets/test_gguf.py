"""GGUF folders: inserted layers that no quantiser touches, and nothing written where something is wrong.

llama.cpp's programs have stand-ins here; the tests at the end run llama.cpp itself where llama-cpp-python is installed.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from manifests import stock_manifest
from test_cli import refused
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM

from exporter import pipeline
from exporter.digests import digest_of_file
from exporter.errors import CompileError, VerificationError
from exporter.targets.gguf import export, precisions, runner, stock, tools
from exporter.targets.gguf.quantize import pattern
from exporter.targets.gguf.target import GgufOptions as Options
from exporter.targets.gguf.tensors import check_layers

STAND_IN = Path(__file__).with_name("llama_cpp_stand_in")
LAYERS, BLOCKS = (1, 3), 4
PROMPT = [5, 77, 130, 9, 201, 33]
ENDS = (257,)


def write_stock(folder: Path) -> None:
    """A random Llama with a byte-level tokenizer, as a stock checkpoint."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: place for place, token in enumerate([*alphabet, "<s>", "</s>", "he", "er"])}
    core = Tokenizer(models.BPE(vocabulary, [("h", "e"), ("e", "r")]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([AddedToken("<s>", special=True), AddedToken("</s>", special=True)])
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=BLOCKS,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        bos_token_id=256,
        eos_token_id=257,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    core.save(str(folder / "tokenizer.json"))
    (folder / "LICENSE").write_text("Apache License\n")
    sign(folder)


def sign(folder: Path, **changes: Any) -> None:
    """Writes stock.json over what lies there."""
    files = {path.name: digest_of_file(path) for path in folder.iterdir() if path.name != stock.STOCK_JSON}
    manifest = {**stock_manifest(LAYERS, files), **changes}
    (folder / stock.STOCK_JSON).write_text(json.dumps(manifest))


def rewrite(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def program(path: Path, body: str) -> Path:
    path.write_text(f"#!{sys.executable}\n{body}")
    path.chmod(0o755)
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "tiny"
    write_stock(folder)
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy of the stock checkpoint that a test may spoil."""
    return Path(shutil.copytree(made, tmp_path / "tiny"))


@pytest.fixture
def llama_cpp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the stand-ins for llama.cpp's programs, on a machine that has no other of them."""
    here = tmp_path / "llama.cpp"
    here.mkdir()
    shutil.copyfile(STAND_IN / tools.CONVERTER, here / tools.CONVERTER)
    program(here / tools.QUANTISER, (STAND_IN / "quantize.py").read_text())
    alone(monkeypatch)
    return here


def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine without llama.cpp."""
    monkeypatch.delenv(tools.VARIABLE, raising=False)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(tools, "has_runtime", lambda: False)
    monkeypatch.setattr(export, "has_runtime", lambda: False)


def types_of(path: Path) -> dict[str, str]:
    gguf = pytest.importorskip("gguf")
    return {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(path).tensors}


def test_inserted_layers_stay_f16_where_the_others_are_quantised(
    folder: Path, llama_cpp: Path, tmp_path: Path
) -> None:
    out = pipeline.export(
        "gguf", folder, tmp_path / "out", Options(types=("Q8_0", "f32"), llama_cpp=llama_cpp, name="mine")
    )
    assert {path.name for path in out.iterdir()} == {
        "mine-Q8_0.gguf",
        "mine-f32.gguf",
        "gguf.json",
        "LICENSE",
    }
    told = json.loads((out / "gguf.json").read_text())
    assert told["format"] == "steerbake-gguf/1" and told["stock"]["layers"] == list(LAYERS)
    assert told["stock"]["sha256"] == digest_of_file(folder / stock.STOCK_JSON)
    entry = told["files"]["mine-Q8_0.gguf"]
    path = out / "mine-Q8_0.gguf"
    assert (entry["type"], entry["bytes"]) == ("Q8_0", path.stat().st_size)
    assert entry["sha256"] == digest_of_file(path) and entry["probe"] is None
    types = types_of(path)
    inserted = {name: kind for name, kind in types.items() if name.startswith(("blk.1.", "blk.3."))}
    assert entry["inserted"] == inserted and len(inserted) == 18
    assert {kind for name, kind in inserted.items() if "norm" not in name} == {"F16"}
    assert types["blk.0.attn_q.weight"] == types["blk.2.ffn_up.weight"] == "Q8_0"
    assert set(told["files"]["mine-f32.gguf"]["inserted"].values()) == {"F32"}


def test_a_quantiser_that_takes_the_steering_leaves_nothing_behind(
    folder: Path, llama_cpp: Path, tmp_path: Path
) -> None:
    deaf = (STAND_IN / "quantize.py").read_text().replace('option.rpartition("=")[0]', '"nothing"')
    program(llama_cpp / tools.QUANTISER, deaf)
    before = set(tmp_path.iterdir())
    with pytest.raises(VerificationError, match=r"blk\.1\..* Q8_0"):
        pipeline.export("gguf", folder, tmp_path / "out", Options(types=("q8_0",), llama_cpp=llama_cpp))
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize("scale", [1e8, 1e-8])
def test_figures_that_f16_cannot_hold_are_refused(
    scale: float, folder: Path, llama_cpp: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = LlamaForCausalLM.from_pretrained(folder)
    model.model.layers[3].mlp.down_proj.weight.data *= scale
    model.save_pretrained(folder)
    sign(folder)
    with pytest.raises(CompileError, match=r"layers\.3\.mlp\.down_proj.* f16 .*--type f32"):
        pipeline.export("gguf", folder, tmp_path / "out", Options(types=("f16", "f32"), llama_cpp=llama_cpp))
    assert pipeline.export(
        "gguf", folder, tmp_path / "out", Options(types=("f32",), llama_cpp=llama_cpp)
    ).is_dir()
    if scale > 1:
        monkeypatch.setattr(export, "check_half", lambda stock: None)
        with pytest.raises(VerificationError, match=r"blk\.3\.ffn_down.* F16; .*--type f32"):
            pipeline.export("gguf", folder, tmp_path / "again", Options(types=("f16",), llama_cpp=llama_cpp))


def test_a_file_with_other_layers_is_refused(folder: Path, llama_cpp: Path, tmp_path: Path) -> None:
    out = pipeline.export("gguf", folder, tmp_path / "out", Options(types=("f16",), llama_cpp=llama_cpp))
    path = out / "tiny-f16.gguf"
    with pytest.raises(VerificationError, match=r"has 4 layers .* 5"):
        check_layers(path, LAYERS, 5)
    with pytest.raises(VerificationError, match=r"blk\.7"):
        check_layers(path, (7,), BLOCKS)
    path.write_bytes(b"not this")
    with pytest.raises(VerificationError, match="GGUF"):
        check_layers(path, LAYERS, BLOCKS)


def spoil_steered(folder: Path) -> None:
    (folder / stock.STOCK_JSON).unlink()
    rewrite(folder / "config.json", model_type="steered_llama", steering={})


def spoil_sees(folder: Path) -> None:
    rewrite(folder / "config.json", model_type="llava", vision_config={})
    sign(folder)


SPOILT: dict[str, tuple[Callable[[Path], Any], str]] = {
    "steered": (spoil_steered, "run `steerbake export stock .*` first"),
    "foreign": (lambda folder: (folder / stock.STOCK_JSON).unlink(), "has no stock.json"),
    "sees images": (spoil_sees, "llava.*images"),
    "changed": (
        lambda folder: rewrite(folder / "config.json", rms_norm_eps=0.5),
        "config.json differs",
    ),
    "missing": (lambda folder: (folder / "LICENSE").unlink(), "LICENSE is missing"),
    "added": (lambda folder: (folder / "tokenizer.model").write_text("x"), "contains tokenizer.model"),
    "layers": (lambda folder: sign(folder, layers=[4]), r"layers \[4\] .* 4 layers"),
    "no layers": (lambda folder: sign(folder, layers=[]), r"layers \[\]"),
    "format": (lambda folder: sign(folder, format="steerbake-stock/9"), "steerbake-stock/9"),
    "damaged": (lambda folder: sign(folder, files=None), "files: .*received 'None'"),
    "no JSON": (lambda folder: (folder / stock.STOCK_JSON).write_text("{"), "the file: invalid json"),
    "no folder": (shutil.rmtree, "not a folder"),
}


@pytest.mark.parametrize("what", SPOILT)
def test_what_is_no_stock_checkpoint_is_refused(
    what: str, folder: Path, llama_cpp: Path, tmp_path: Path
) -> None:
    spoil, message = SPOILT[what]
    spoil(folder)
    with pytest.raises(CompileError, match=message):
        pipeline.export("gguf", folder, tmp_path / "out", Options(types=("f16",), llama_cpp=llama_cpp))
    assert not (tmp_path / "out").exists()


def test_tools_are_found_where_they_are_named(
    made: Path, llama_cpp: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(CompileError, match="--llama-cpp DIR"):
        tools.find_converter(None)
    with pytest.raises(CompileError, match="convert_hf_to_gguf"):
        tools.find_converter(tmp_path)
    (llama_cpp / "build" / "bin").mkdir(parents=True)
    (llama_cpp / tools.QUANTISER).rename(llama_cpp / "build" / "bin" / tools.QUANTISER)
    found = llama_cpp / "build" / "bin" / tools.QUANTISER
    assert tools.find_quantiser(llama_cpp) == found
    with pytest.raises(CompileError, match="pip install llama-cpp-python"):
        tools.find_quantiser(None)
    monkeypatch.setenv(tools.VARIABLE, str(llama_cpp))
    assert tools.find_converter(None) == llama_cpp / tools.CONVERTER and tools.find_quantiser(None) == found
    monkeypatch.delenv(tools.VARIABLE)
    monkeypatch.setenv("PATH", f"{llama_cpp}:{found.parent}")
    (llama_cpp / tools.CONVERTER).chmod(0o755)
    assert tools.find_converter(None) == llama_cpp / tools.CONVERTER and tools.find_quantiser(None) == found
    message = refused(
        "export", "gguf", made, tmp_path / "out", "--llama-cpp", tmp_path / "made", "--type", "f16"
    )
    assert f"{tmp_path / 'made'} has no convert_hf_to_gguf.py" in message


def test_a_converter_that_fails_says_why(folder: Path, llama_cpp: Path, tmp_path: Path) -> None:
    unknown = "raise NotImplementedError('BPE pre-tokenizer was not recognized - update it')\n"
    for body, message in ((unknown, "tokenizer"), ("", "did not write")):
        program(llama_cpp / tools.CONVERTER, body)
        with pytest.raises(CompileError, match=message):
            pipeline.export("gguf", folder, tmp_path / "out", Options(types=("f16",), llama_cpp=llama_cpp))
    program(llama_cpp / tools.CONVERTER, "import no_such_package\n")
    assert r"pip install 'steerbake[gguf]'" in refused(
        "export", "gguf", folder, tmp_path / "out", "--llama-cpp", llama_cpp, "--type", "f16", "--quiet"
    )
    assert not (tmp_path / "out").exists()


def test_choices_that_there_are_not_are_refused(folder: Path, llama_cpp: Path, tmp_path: Path) -> None:
    for types in ((), ("f16", "F16"), ("q2",), ("bf16",)):
        with pytest.raises(CompileError, match="f16, "):
            precisions.choose(types)
    with pytest.raises(CompileError, match="--name"):
        pipeline.export("gguf", folder, tmp_path / "out", Options(name="a/b", llama_cpp=llama_cpp))
    with pytest.raises(CompileError, match="already exists"):
        pipeline.export("gguf", folder, folder, Options(llama_cpp=llama_cpp))
    assert pattern((30, 31)) == r"^blk\.(30|31)\."


def test_the_runner_says_what_it_needs(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    with pytest.raises(CompileError, match="pip install llama-cpp-python"):
        runner.generate(tmp_path / "any.gguf", [[1]], 1)


@pytest.fixture(scope="module")
def real(made: Path, tmp_path_factory) -> Path:
    """Files that llama.cpp quantised and tried; only the converter is the stand-in."""
    pytest.importorskip("llama_cpp")
    out = tmp_path_factory.mktemp("real") / "out"
    return pipeline.export(
        "gguf", made, out, Options(types=("f32", "f16", "q8_0", "q4_k_m"), llama_cpp=STAND_IN)
    )


def test_llama_cpp_quantises_all_but_the_inserted_layers(real: Path) -> None:
    told = json.loads((real / "gguf.json").read_text())["files"]
    assert len(told) == 4 and all(entry["probe"]["blocks"] == BLOCKS for entry in told.values())
    for label in ("Q8_0", "Q4_K_M"):
        types = types_of(real / f"tiny-{label}.gguf")
        matrices = {
            name: kind for name, kind in types.items() if name.startswith("blk.") and "norm" not in name
        }
        kept = {name for name, kind in matrices.items() if kind == "F16"}
        assert kept == {name for name in matrices if name.startswith(("blk.1.", "blk.3."))}


def test_llama_cpp_computes_what_transformers_does(real: Path, made: Path) -> None:
    model = LlamaForCausalLM.from_pretrained(made).eval()
    ids = torch.tensor([PROMPT])
    with torch.no_grad():
        wanted = model(ids).logits[0].numpy()
        reply = model.generate(ids, max_new_tokens=12, do_sample=False, pad_token_id=0)[0, len(PROMPT) :]
    exact, half = (real / f"tiny-{kind}.gguf" for kind in ("f32", "f16"))
    (found,) = runner.logits(exact, [PROMPT], cache="f32")
    assert found.shape == wanted.shape and np.abs(found - wanted).max() < 1e-4
    twice = [runner.logits(half, [PROMPT[:3], PROMPT])[1] for _ in range(2)]
    assert np.array_equal(*twice) and np.abs(twice[0] - wanted).max() < 1e-2
    replies = runner.generate(exact, [PROMPT[:2], PROMPT], 12, ENDS, cache="f32")
    assert replies[1] == reply.tolist()
    assert runner.generate(exact, [PROMPT], 12, [replies[1][2]], cache="f32")[0] == replies[1][:3]


def test_a_file_that_cuts_text_otherwise_is_refused(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp")
    path = folder / "tokenizer.json"
    told = json.loads(path.read_text())
    told["pre_tokenizer"]["add_prefix_space"] = True
    path.write_text(json.dumps(told))
    sign(folder)
    with pytest.raises(VerificationError, match=r"\.gguf tokenises"):
        pipeline.export("gguf", folder, tmp_path / "out", Options(types=("f16",), llama_cpp=STAND_IN))
    assert not (tmp_path / "out").exists()


def test_a_file_that_llama_cpp_cannot_load_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp")
    (tmp_path / "x.gguf").write_bytes(b"GGUF and nothing else")
    with pytest.raises(VerificationError, match="cannot load"):
        runner.logits(tmp_path / "x.gguf", [[1]])
