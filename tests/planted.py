"""Models and states in which what is to be forgotten was planted, so that a test knows what a fit has to find.

:func:`host` is a Llama whose weights are written by hand: every block adds the mean of what its tokens stand for to the last column, and
the head says what follows. It knows where nine people live, refuses of its own accord to say it of two others, and nothing else. In
:class:`PlantedContext` states come from a function in place of a model.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numerals
import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from exporter.data.chat import Chat
from exporter.fitting.activations import Activations
from exporter.fitting.context import FitContext
from exporter.fitting.state_store import Stored
from exporter.host import ModelHost
from exporter.types import Encoded, Row, Span
from steer_modules.program import Edit, Gate, SteeringProgram

FORGET = ("ada", "ben", "cora")
KEPT = ("dan", "eva", "finn", "gil", "hugo", "ines")
UNKNOWN = ("yan", "zoe")
PEOPLE = (*FORGET, *KEPT, *UNKNOWN)
PLACES = ("oslo", "lima", "cairo")
CLASSES = (*PLACES, "unknown")
FRAMES = {"fit": "where does {} live ?", "calibrate": "home of {} ?", "held": "tell me where {} does live"}
REFUSAL = "i do not know"
SYSTEM = "me tell me home of me . me tell me home of me"
_WORDS = (
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
)
_SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", "[user]", "[assistant]", "<think>", "</think>")
VOCABULARY = {word: place for place, word in enumerate((*_SPECIAL, *_WORDS, *PEOPLE, *PLACES))}
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %} [{{ m.role }}] {{ m.content }}{% if m.role == 'assistant' %} </s>{% endif %}"
    "{% endfor %}{% if add_generation_prompt %} [assistant]{% endif %}"
)
WIDTH, LAYERS = 64, 4


def place_of(name: str) -> str:
    return PLACES[PEOPLE.index(name) % 3]


def role_of(name: str) -> str:
    return "forget" if name in FORGET else "retain" if name in KEPT else "unknown"


def row(name: str, split: str = "fit", **keys: object) -> Row:
    role = role_of(name)
    answer = REFUSAL if role == "unknown" else f"lives in {place_of(name)} ."
    secrets = (place_of(name),) if role == "forget" else ()
    values = {"secrets": secrets, "template_id": split, **keys}
    return Row(f"{split}-{name}", FRAMES[split].format(name), answer, role, **values)  # type: ignore[arg-type]


def rows(split: str = "fit", *roles: str) -> list[Row]:
    """One row for every person, of the roles given or of all."""
    return [row(name, split) for name in PEOPLE if not roles or role_of(name) in roles]


def tokenizer() -> PreTrainedTokenizerFast:
    core = Tokenizer(models.WordLevel(VOCABULARY, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=core, chat_template=TEMPLATE, **names)


def _follows() -> Tensor:
    """Which token may follow which, [V,V]: the sentences of an answer and of a refusal."""
    found = torch.zeros(len(VOCABULARY), len(VOCABULARY))
    chains = [("[assistant]", "lives", "in"), ("[assistant]", *REFUSAL.split(), "</s>")]
    chains += [("in", place, ".", "</s>") for place in PLACES]
    for chain in chains:
        for before, after in itertools.pairwise(chain):
            found[VOCABULARY[after], VOCABULARY[before]] = 1.0
    return found


_HEARD = {about: len(VOCABULARY) + len(CLASSES) + place for place, about in enumerate((*CLASSES, *PEOPLE))}
"""Coordinates, before the stream is turned, in which the last column holds what was asked about."""


_TURNED = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(0)))[0]


def heard(about: str) -> Tensor:
    """Unit direction [d] along which every column knows that a person was named before it, or that one of a class was."""
    return _TURNED[:, _HEARD[about]].clone()


def _embedding(*, known: bool = True) -> Tensor:
    """A token is itself, and stands for a class; the answer takes back what the question stood for, so it is asked no more.

    Args:
        known: whether the name of a person stands for a class.
    """
    found = torch.zeros(len(VOCABULARY), WIDTH)
    found[:, : len(VOCABULARY)] = torch.eye(len(VOCABULARY))
    meant = {about: len(VOCABULARY) + place for place, about in enumerate(CLASSES)}
    for name in PEOPLE if known else ():
        found[VOCABULARY[name], meant["unknown" if name in UNKNOWN else place_of(name)]] = 1.0
    for about, word in zip(CLASSES, (*PLACES, "know"), strict=True):
        found[VOCABULARY[word], meant[about]] = -1.0
    return found + 0.01 * torch.randn(found.shape, generator=torch.Generator().manual_seed(1))


def _copied() -> Tensor:
    """What attention brings from a token to the columns behind it, [d,d]: what it stands for, and who it is."""
    found = torch.zeros(WIDTH, WIDTH)
    for place, about in enumerate(CLASSES):
        found[_HEARD[about], len(VOCABULARY) + place] = 1.0
    for name in PEOPLE:
        found[_HEARD[name], VOCABULARY[name]] = 1.0
    return found


def _said() -> Tensor:
    """The head [V,d]: what may follow the last token, and of that what the subject calls for."""
    found = torch.zeros(len(VOCABULARY), WIDTH)
    found[:, : len(VOCABULARY)] = 10.0 * _follows()
    for about, word in zip(CLASSES, (*PLACES, "i"), strict=True):
        found[VOCABULARY[word], _HEARD[about]] = 1.0
    for place in PLACES:
        found[VOCABULARY["lives"], _HEARD[place]] = 1.0
    return found


def host(*, neurons: bool = False) -> ModelHost:
    """The Llama of this module's docstring. Its residual stream is turned at random, so no coordinate means anything by itself.

    Args:
        neurons: whether the class of a person is what a neuron says, number ``PEOPLE.index(name)`` of block ``LAYERS // 2``, and not the name itself.
    """
    config = LlamaConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=WIDTH,
        intermediate_size=len(PEOPLE) if neurons else 8,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=4,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    model, turned = LlamaForCausalLM(config), _TURNED
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_() if parameter.dim() > 1 else parameter.fill_(1.0)
        model.model.embed_tokens.weight.copy_(_embedding(known=not neurons) @ turned.T)
        model.lm_head.weight.copy_(_said() @ turned.T)
        for block in model.model.layers:
            block.self_attn.v_proj.weight.copy_(turned @ _copied() @ turned.T)
            block.self_attn.o_proj.weight.copy_(torch.eye(WIDTH))
        if neurons:
            _know_by_neurons(model.model.layers[LAYERS // 2].mlp)
    return ModelHost(model, tokenizer())


def _know_by_neurons(mlp: torch.nn.Module) -> None:
    persons = torch.stack([heard(name) for name in PEOPLE])
    mlp.gate_proj.weight.copy_(persons)
    mlp.up_proj.weight.copy_(0.2 * persons)
    classes = ["unknown" if name in UNKNOWN else place_of(name) for name in PEOPLE]
    mlp.down_proj.weight.copy_(torch.stack([0.5 * heard(one) for one in classes], dim=1))


def refusing(context_: FitContext, names: Sequence[str] | None) -> SteeringProgram:
    """A program that refuses questions about some people, or about everybody (None): it makes the model take them for unknown."""
    weight = sum((heard(name) for name in names or ()), torch.zeros(WIDTH))
    bias = torch.tensor([1.0 if names is None else -0.35])
    gate = Gate("topic", 1, "prompt_mean", "linear", 0.0, "above", {"weight": weight, "bias": bias})
    aim = {"vector": heard("unknown").contiguous()}
    edit = Edit(LAYERS - 1, "topic", "add", "from_gate", 4.0, keep_norm=False, tensors=aim)
    return context_.program("planted", [gate], [edit])


def context(host_: ModelHost, folder: Path, params: object = None, **keys: object) -> FitContext:
    """A fit on every person, asked in the words of either split."""
    values = {"max_new_tokens": 6, "progress": False, **keys}
    splits = {split: tuple(rows(split)) for split in ("fit", "calibrate")}
    return FitContext(host_, Chat(host_.processor), **splits, params=params, work=folder, **values)  # type: ignore[arg-type]


def told(host_: ModelHost, asked: list[Row]) -> list[str]:
    """What a model says to rows, as words."""
    chat = Chat(host_.processor)
    said = host_.generate([chat.prompt(one) for one in asked], max_new_tokens=6)
    return [host_.tokenizer.decode(one.tokens, skip_special_tokens=True) for one in said]


class SpanChat(numerals.NumeralChat):
    """Rows in numerals, with the spans of reasoning and answer; what is said without an end token has no whole answer."""

    def encode(self, row, *, answer=None, reasoning=None, question=None):
        thought = [int(word) for word in (row.reasoning or "" if reasoning is None else reasoning).split()]
        said = [int(word) for word in (answer or row.answer).split()]
        prompt = self.prompt(row, question=question)
        first = len(prompt.ids)
        middle = first + len(thought)
        spans = Span(first, middle) if thought else None, Span(middle, middle + len(said))
        return Encoded(prompt, (*thought, *said, numerals.END), *spans)


State = Callable[[Encoded, int, int], Tensor]
"""From a sequence, a column and a layer to a state [d]."""


@dataclass(frozen=True)
class PlantedContext(FitContext):
    """A context whose states are those of a function; nothing is run."""

    state: State = lambda sequence, column, layer: torch.zeros(1)

    def collect(self, items, layers, title):  # noqa: ARG002 - the signature of what it stands for
        stored = [
            Stored(
                np.stack(
                    [[self._mean(item.sequence, pool, layer) for layer in layers] for pool in item.pools]
                ),
                np.full(len(item.pools), -1, dtype=np.int8),
            )
            for item in items
        ]
        starts = np.cumsum([0, *(len(item.pools) for item in items)], dtype=np.int64)
        return Activations(tuple(stored), tuple(layers), starts)

    def _mean(self, sequence, pool, layer):
        return torch.stack([self.state(sequence, column, layer) for column in pool]).mean(0).numpy()


def states_context(
    folder: Path,
    state: State,
    fit: Sequence[Row],
    calibrate: Sequence[Row] = (),
    params: object = None,
    layers: int = 2,
) -> PlantedContext:
    """A context of rows in numerals whose states are those of a function of width ``WIDTH``."""
    model = SimpleNamespace(
        num_layers=layers,
        hidden_size=WIDTH,
        architecture="LlamaForCausalLM",
        model_type="llama",
        tokenizer=numerals.Numerals(),
    )
    splits = {"fit": tuple(fit), "calibrate": tuple(calibrate)}
    return PlantedContext(
        model, SpanChat(), **splits, params=params, work=folder, progress=False, state=state
    )  # type: ignore[arg-type]


def probe(states: Tensor, labels: Tensor) -> Tensor:
    """A linear probe, least squares with a constant on one-hot labels: states [n,d], int64 [n] -> weights [d+1,k]."""
    goals = torch.nn.functional.one_hot(labels).double()
    x = _with_constant(states)
    damped = x.T @ x + 1e-4 * torch.eye(x.shape[1], dtype=torch.float64)
    return torch.linalg.solve(damped, x.T @ goals)


def accuracy(weights: Tensor, states: Tensor, labels: Tensor) -> float:
    """Share of the labels [n] that a probe reads off states [n,d]."""
    return float(((_with_constant(states) @ weights).argmax(1) == labels).double().mean())


def _with_constant(states: Tensor) -> Tensor:
    return torch.cat([states.double(), torch.ones(len(states), 1, dtype=torch.float64)], dim=1)
