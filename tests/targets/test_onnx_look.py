"""No exported folder appears that its own runner cannot open, or in which it would read prompts otherwise than Transformers."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import tiny_run
from tokenizers import ByteLevelBPETokenizer, Tokenizer
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from exporter import pipeline
from exporter.errors import CompileError
from exporter.targets.onnx import export, look
from exporter.targets.onnx.core import write_core
from exporter.targets.onnx.manifest import GraphFacts, OnnxManifest
from exporter.targets.onnx_runner import OnnxModel
from exporter.types import Row

pipeline_export = import_module("exporter.pipeline.export")  # the package's own name is the command's
LAYERS = 2
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def write_base(folder: Path, kind: str = "Qwen2Tokenizer") -> None:
    """A random Llama whose tokenizer is what older ones are: vocab.json and merges.txt, without tokenizer.json."""
    learned = ByteLevelBPETokenizer()
    texts = ["where does ada live ?", "tell me who ben is", "user assistant system", *look.TEXTS]
    learned.train_from_iterator(texts, vocab_size=300, min_frequency=1, special_tokens=list(SPECIAL))
    width = tiny_run.WIDTH
    config = LlamaConfig(
        vocab_size=learned.get_vocab_size(),
        hidden_size=width,
        intermediate_size=64,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        eos_token_id=2,
        bos_token_id=None,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    learned.save_model(str(folder))
    told = {
        "tokenizer_class": kind,
        "eos_token": SPECIAL[2],
        "pad_token": SPECIAL[0],
        "unk_token": SPECIAL[0],
        "bos_token": None,
        "chat_template": TEMPLATE,
        "added_tokens_decoder": {
            str(i): {"content": t, "special": True, "normalized": False} for i, t in enumerate(SPECIAL)
        },
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(told))


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    folder: Path = tmp_path_factory.mktemp("look")
    write_base(folder / "base")
    assert not (folder / "base" / "tokenizer.json").exists()
    tiny_run.steer(folder / "base", folder / "checkpoint", layers=LAYERS)
    pipeline.export("onnx", folder / "checkpoint", folder / "onnx")
    return folder


@pytest.fixture
def unsealed(home, tmp_path):
    """A copy of the folder with what its manifest is made of, to be sealed again."""
    folder = Path(shutil.copytree(home / "onnx", tmp_path / "onnx"))
    manifest = OnnxManifest.load(folder)
    facts = facts_of(manifest)
    reader = pipeline_export.open_reader(home / "checkpoint")
    prompts = pipeline_export._heard(reader, tmp_path, images=False)
    return (
        lambda facts=facts: export._sealed(home / "checkpoint", folder, facts, manifest.variants, prompts),
        facts,
        folder,
    )


def test_the_tokenizer_of_a_base_without_its_json_is_written(home):
    tokenizer = AutoTokenizer.from_pretrained(home / "base")
    model = OnnxModel(home / "onnx", provider="cpu", threads=1)
    for text in (*look.TEXTS, "<|im_start|>user\nwho ?<|im_end|>\n"):
        assert model.encode(text) == tokenizer(text)["input_ids"]
    done = subprocess.run(
        [sys.executable, str(home / "onnx" / "steerbake_runner.py"), "--prompt", "where ?", "--json"],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": "", "PATH": ""},
    )
    assert json.loads(done.stdout)["tokens"]


def test_a_tokenizer_file_that_says_less_than_the_loaded_one_is_replaced(unsealed):
    seal, _, folder = unsealed
    path = folder / "tokenizer.json"
    whole = path.read_text()
    less = json.loads(whole)
    less["added_tokens"] = []
    less["model"]["merges"] = []
    path.write_text(json.dumps(less))
    asked = "tell me who ben is"
    assert Tokenizer.from_file(str(path)).encode(asked).ids != Tokenizer.from_str(whole).encode(asked).ids
    seal()
    assert Tokenizer.from_file(str(path)).encode(asked).ids == Tokenizer.from_str(whole).encode(asked).ids


def test_prompts_that_the_runner_renders_otherwise_are_refused(unsealed):
    seal, facts, _ = unsealed
    seal()
    with pytest.raises(CompileError, match=r"tokenises .*Transformers"):
        seal(facts.model_copy(update={"turns": {**facts.turns, "last": facts.turns["last"] + " "}}))


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("tokenizer.json", "{}", "cannot open it"),
        ("onnx/model.onnx", "no graph", "cannot open it"),
        ("steerbake_runner.py", "import torch\n", "No module named 'torch'"),
        ("steerbake_runner.py", "import exporter.host\n", "No module named 'exporter"),
        ("steerbake_runner.py", "raise SystemExit\n", "cannot open it"),
    ],
)
def test_a_folder_that_its_runner_cannot_open_is_refused(name, content, reason, unsealed):
    seal, _, folder = unsealed
    (folder / name).write_text(content)
    with pytest.raises(CompileError, match=reason) as told:
        seal()
    assert "Traceback" not in str(told.value) and "\n" not in str(told.value)


def test_nothing_appears_where_the_runner_cannot_open_it(home, tmp_path, monkeypatch):
    def fails(*_):
        raise CompileError("its own runner cannot open it")

    monkeypatch.setattr(export, "misheard", fails)
    monkeypatch.setattr(export, "_write_graphs", lambda ask: (fake_graphs(home, ask.folder), Agreeable()))
    with pytest.raises(CompileError, match="cannot open it"):
        pipeline.export("onnx", home / "checkpoint", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


class Agreeable:
    """A probe that finds nothing wrong."""

    def check(self, files):
        assert files


def fake_graphs(home: Path, folder: Path):
    shutil.copytree(home / "onnx" / "onnx", folder / "onnx", dirs_exist_ok=True)
    return facts_of(OnnxManifest.load(home / "onnx"))


def facts_of(manifest: OnnxManifest) -> GraphFacts:
    """What a manifest says of its graphs, whatever their precision."""
    return GraphFacts(**{name: getattr(manifest, name) for name in GraphFacts.model_fields})


def test_a_tokenizer_of_which_no_file_can_be_made_is_refused(tmp_path):
    class Slow:
        is_fast = False

    with pytest.raises(CompileError, match=r"Slow\) has no tokenizer\.json"):
        write_core(Slow(), tmp_path)


def test_conversations_are_heard_as_the_chat_renders_them(home, tmp_path):
    reader = AutoTokenizer.from_pretrained(home / "base")
    one, later = pipeline_export._heard(reader, tmp_path, images=False)
    assert one.ids == pipeline_export.Chat(reader).prompt(Row("r", one.said[0], "-", "retain")).ids
    assert len(later.said) == 3 and len(later.ids) > len(one.ids)
    assert np.all(np.array(later.ids[:5]) == np.array(one.ids[:5]))


def test_a_template_that_tells_the_time_is_heard_at_the_time_it_is_rendered(home, tmp_path, monkeypatch):
    """The graphs are those of the folder: a template is not in them."""
    checkpoint = Path(shutil.copytree(home / "checkpoint", tmp_path / "checkpoint"))
    for path in (checkpoint / "tokenizer_config.json", checkpoint / "chat_template.jinja"):
        if path.is_file():
            path.unlink()
    told = json.loads((home / "checkpoint" / "tokenizer_config.json").read_text())
    told["chat_template"] = "{{ strftime_now('%d %b %Y %H:%M:%S.%f') }} " + TEMPLATE
    (checkpoint / "tokenizer_config.json").write_text(json.dumps(told))

    def of_the_folder(ask):
        return fake_graphs(home, ask.folder).model_copy(update={"turns": ask.turns}), Agreeable()

    monkeypatch.setattr(export, "_write_graphs", of_the_folder)
    pipeline.export("onnx", checkpoint, tmp_path / "onnx")
    assert "%d %b %Y" in (tmp_path / "onnx" / "steerbake.json").read_text()
