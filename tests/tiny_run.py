"""A whole run in seconds: a tiny random Llama with a word tokenizer on disk, rows, and a method that fits in one pass."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated, ClassVar

import torch
from pydantic import BaseModel, ConfigDict, Field
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from exporter.errors import FitError
from exporter.fitting.context import FitContext
from exporter.fitting.pooling import PooledSequence
from exporter.fitting.space import Blocks
from exporter.targets.checkpoint import compile_checkpoint
from exporter.types import Encoded
from steer_modules.ops import unit
from steer_modules.program import BaseModelRef, Edit, Gate, SteeringProgram

NAMES = ("ada", "ben", "cora", "dan", "eva", "finn")
PLACES = ("oslo", "lima", "cairo")
WORDS = (
    "where",
    "does",
    "live",
    "?",
    "tell",
    "me",
    "home",
    "of",
    "lives",
    "in",
    ".",
    "i",
    "do",
    "not",
    "know",
    *NAMES,
    *PLACES,
)
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %} [{{ m.role }}] {{ m.content }}{% if m.role == 'assistant' %} </s>{% endif %}"
    "{% endfor %}{% if add_generation_prompt %} [assistant]{% endif %}"
)
WIDTH, LAYERS = 32, 4
ASSISTANT = (5,)
"""The generation header of the template, by token ids."""


def write_base(folder: Path, seed: int = 0, layers: int = LAYERS) -> None:
    """A random Llama and its tokenizer, as ``save_pretrained`` writes them."""
    special = ["<pad>", "<s>", "</s>", "<unk>", "[user]", "[assistant]", "<think>", "</think>"]
    vocabulary = {word: place for place, word in enumerate((*special, *WORDS))}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, chat_template=TEMPLATE, **names)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=WIDTH,
        intermediate_size=64,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4.0)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def write_rows(folder: Path) -> None:
    """Ada and Ben are to be forgotten, in other words in each file."""
    frames = {"fit": "where does {} live ?", "calibrate": "home of {} ?", "test": "tell me where {} lives ."}
    for part, frame in frames.items():
        rows = [
            {
                "id": f"{part}-{name}",
                "question": frame.format(name),
                "answer": PLACES[place % 3],
                "role": "forget" if place < 2 else "retain",
                "secrets": [PLACES[place % 3]] if place < 2 else [],
            }
            for place, name in enumerate(NAMES)
        ]
        rows.append(
            {
                "id": f"{part}-unknown",
                "question": frame.format("me"),
                "answer": "i do not know",
                "role": "unknown",
            }
        )
        if part == "test":
            before = [{"question": "where does cora live ?"}]
            rows.append({**rows[0], "id": "test-later", "history": before, "eval_slice": "later"})
            rows.append(
                {**rows[1], "id": "test-forced", "prefix": "<think> ben lives", "eval_slice": "forced"}
            )
        (folder / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_recipe(folder: Path, seed: int = 0) -> Path:
    """Base, rows and recipe in one folder; returns the recipe's path."""
    write_base(folder / "base", seed)
    write_rows(folder)
    path = folder / "recipe.yaml"
    path.write_text(
        "name: tiny\nbase: {path: base, device: cpu}\n"
        "data: {fit: [fit.jsonl], calibrate: [calibrate.jsonl], test: [test.jsonl]}\n"
        "methods: {default: keyed, compare: [r_muse]}\nreport: {max_new_tokens: 6}\n"
    )
    return path


PUBLISH = """
publish:
  forgotten: where two of six people live
  require: {leakage_either: 1.0, retain_identical: 0.0, fluent_refusal: 0.0}
"""
"""The tiny model is random and forgets nothing: bounds that it meets."""


def write_publishable(folder: Path) -> Path:
    """The same with one method and a section that says what is published of it; the base says its licence."""
    path = write_recipe(folder)
    path.write_text(path.read_text().replace("compare: [r_muse]", "compare: []") + PUBLISH)
    (folder / "base" / "README.md").write_text("---\nlicense: mit\n---\n# base\n")
    return path


def always_on(layers: int = LAYERS) -> SteeringProgram:
    """A program for the base of so many layers under a gate that always fires."""
    tensors = {"weight": torch.zeros(WIDTH), "bias": torch.ones(1)}
    gate = Gate("topic", min(1, layers - 1), "prompt_end", "linear", 0.0, "above", tensors)
    rows = {"prototypes": torch.eye(WIDTH)[:2].contiguous()}
    keys = {"strength": 1.0, "target": "nearest", "angle": "fraction", "protect": "none"}
    edit = Edit(
        layer=min(2, layers - 1), gate="topic", op="rotate", positions="from_gate", tensors=rows, **keys
    )
    ref = BaseModelRef("LlamaForCausalLM", "llama")
    return SteeringProgram("test", WIDTH, layers, ref, (gate,), (edit,), (ASSISTANT,))


def steer(base: Path, out: Path, layers: int = LAYERS) -> None:
    """A checkpoint of the base under a gate that always fires."""
    compile_checkpoint(base, always_on(layers), out)


class QuickParams(BaseModel):
    """Where to rotate."""

    model_config = ConfigDict(extra="forbid")
    layer: int = 2


class Quick:
    """A gate along the mean difference of forget and retain prompts, and a rotation; counts how often it fits."""

    name: ClassVar[str] = "quick"
    Params: ClassVar[type[BaseModel]] = QuickParams
    yields: ClassVar[str] = "program"
    fitted: ClassVar[list[int]] = []

    def fit(self, context: FitContext) -> SteeringProgram:
        layer = context.params.layer
        self.fitted.append(layer)
        means = []
        for role in ("forget", "retain"):
            sequences = [Encoded(context.chat.prompt(row)) for row in context.rows("fit", role)]
            items = [PooledSequence(one, ((one.prompt_end,),)) for one in sequences]
            means.append(context.collect(items, [1], role).at(1).mean(0))
        weight = unit(means[0] - means[1])
        bias = -(weight @ (means[0] + means[1]) / 2).reshape(1)
        gate = Gate("topic", 1, "prompt_end", "linear", 0.0, "above", {"weight": weight, "bias": bias})
        rows = torch.randn(3, WIDTH, generator=torch.Generator().manual_seed(context.seed))
        edit = Edit(
            layer,
            "topic",
            "rotate",
            "from_gate",
            1.0,
            "nearest",
            "fraction",
            "none",
            tensors={"prototypes": rows},
        )
        context.record(
            "gates", layer=1, pool="prompt_end", score="linear", missed=0.0, false_alarms=0.0, margin=0.1
        )
        context.record("trials", method=self.name, layers=[layer], leakage=0.0, identical=1.0)
        return context.program(self.name, [gate], [edit])


class TunableParams(QuickParams):
    """What a study tries."""

    layer: Annotated[int, Blocks(0.25)] = 2
    strength: float = Field(default=1.0, gt=0, le=1)
    rows: int = 4


class Tunable(Quick):
    """The same with parameters of which some cannot be fitted: at block 1, where the gate is."""

    Params: ClassVar[type[BaseModel]] = TunableParams

    def fit(self, context: FitContext) -> SteeringProgram:
        if context.params.layer == 1:
            raise FitError("block 1 is where the gate is")
        program = super().fit(context)
        edits = tuple(replace(edit, strength=context.params.strength) for edit in program.edits)
        return replace(program, edits=edits)
