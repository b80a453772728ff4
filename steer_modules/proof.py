"""The proof at load: a tiny twin of a model keeps the law under the installed Transformers, or nothing is loaded.

The twin has the same classes and the same kind of config with few and random weights, and steering by the same code. What
Transformers renames or calls in another way shows in it, before the real model answers.
"""

from __future__ import annotations

import inspect
from contextvars import ContextVar
from typing import Any, NamedTuple, TypeVar

import torch
import transformers
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel
from transformers.cache_utils import Cache

from .fingerprint import remember
from .positions import NOTE, note_owner
from .schema import FORMAT, Section
from .state import find_cache
from .twin import VOCABULARY, twin_config

M = TypeVar("M", bound=PreTrainedModel)


class Traits(NamedTuple):
    """What a stock class does and does not by itself, as its twin shows.

    Attributes:
        packs: sequences separated by positions that restart do not attend to each other.
        places: positions of a padded row are counted from its first real column.
    """

    packs: bool
    places: bool


class LawBroken(RuntimeError):
    """A class that does not keep the law under the installed Transformers.

    Attributes:
        fault: what breaks it, without a name or a version.
    """

    def __init__(self, model_class: type[PreTrainedModel], fault: str) -> None:
        self.fault = fault
        super().__init__(
            f"{model_class.__name__} does not steer reliably under Transformers {transformers.__version__}: {fault}. Nothing is "
            f"loaded. It was tested with Transformers {', '.join(TESTED)}; install one of these"
        )


TESTED = ("5.22.0", "5.23.0", "5.24.0")
"""Versions of Transformers under which the whole table of callers is tested (benchmarks/callers)."""

_PROVEN: dict[tuple[type, str], Traits] = {}
_PROVING: ContextVar[bool] = ContextVar("steerbake_proving", default=False)
HEADER = (5, 6)
_LENGTH, _NEW, _SHARED = 11, 3, 6
WORDS = VOCABULARY - 4  # the tokens above stand for pictures
_MARKS = ("token_type_ids", "mm_token_type_ids")
TOLERANCE = 1e-3


@torch.compiler.disable  # type: ignore[untyped-decorator]
def check_law(model_class: type[PreTrainedModel], config: PretrainedConfig) -> Traits:
    """Runs the law on a tiny twin of a steered class; once for each class and kind of config.

    Returns:
        What of the law the stock class keeps by itself, and what therefore has to be refused or seen to.

    Raises:
        LawBroken: logits or gates depend on how a sequence was cut into passes or on later columns, or a gate that is on changes nothing.
    """
    if _PROVING.get():
        return Traits(packs=True, places=True)
    small = _steered_twin(config)
    known = (model_class, f"{small._attn_implementation}{small.to_json_string(use_diff=False)}")
    if known in _PROVEN:
        return _PROVEN[known]
    token = _PROVING.set(True)
    try:
        with (
            torch.random.fork_rng(devices=[]),
            torch.no_grad(),
            torch.device("cpu"),
            torch.autocast("cpu", enabled=False),
        ):
            twin = _twin(model_class, small)
            fault = _unsteered(twin) or _leak(twin) or _fault(twin)
            traits = None if fault is not None else Traits(_packs(twin), _places(twin))
    except Exception as error:
        raise LawBroken(model_class, f"{type(error).__name__}: {error}") from error
    finally:
        _PROVING.reset(token)
    if traits is None:
        raise LawBroken(model_class, str(fault))
    _PROVEN[known] = traits
    return traits


def _steered_twin(config: PretrainedConfig) -> PretrainedConfig:
    """A twin's config with a program of its own."""
    small = twin_config(config)
    text = small.get_text_config(decoder=True)
    small.steering, small.steering_shapes = _program(int(text.hidden_size), int(text.num_hidden_layers))
    return small


def _program(hidden: int, layers: int) -> tuple[Section, dict[str, list[int]]]:
    """A gate that fires at every generation header, and one that fires at a token by its state; both edit the states."""
    base = {"architecture": "twin", "model_type": "twin", "fingerprint": "sha256:" + "0" * 64}
    gate = {"score": "linear", "threshold": 0.0, "fires": "above"}
    edit = {"op": "add", "positions": "from_gate", "strength": 1}
    section = {
        "format": FORMAT,
        "method": "proof",
        "hidden_size": hidden,
        "num_layers": layers,
        "base": base,
        "headers": [list(HEADER)],
        "gates": [
            {"name": "header", "layer": 0, "pool": "prompt_end", **gate},
            {"name": "content", "layer": 0, "pool": "token", **gate},
        ],
        "edits": [{"layer": 1, "gate": ["header", "content"], **edit}],
        "sha256": "0" * 64,
    }
    shapes = {
        f"steering.gates.{name}.{leaf}": size
        for name in ("header", "content")
        for leaf, size in (("weight", [hidden]), ("bias", [1]))
    }
    return section, {**shapes, "steering.layers.1.vector": [hidden]}


def random_twin(model_class: type[M], small: PretrainedConfig) -> M:
    """A model of a twin's config with random weights, the same each time, in float32 and eval mode."""
    torch.default_generator.manual_seed(0)
    twin = model_class(small)
    twin.float().eval()  # type: ignore[no-untyped-call]
    with torch.no_grad():
        for parameter in twin.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.2)
    return twin


def _twin(model_class: type[PreTrainedModel], small: PretrainedConfig) -> Any:
    twin: Any = random_twin(model_class, small)
    steering = twin.steering
    steering.gates["header"].bias.fill_(1.0)
    steering.gates["content"].bias.fill_(-1.0)
    steering.layers["1"].vector.normal_(std=4.0)
    steering.hold()
    remember(twin)  # random on purpose
    return twin


def _fault(twin: Any) -> str | None:
    """What breaks the law, or None. Rows: a header early, a header cut by a chunk, none."""
    ids = torch.randint(7, WORDS, (3, _LENGTH))
    ids[0, 2:4] = torch.tensor(HEADER)
    ids[1, 5:7] = torch.tensor(HEADER)
    whole, gates = _whole(twin, ids)
    expected = torch.zeros(3, _LENGTH)
    expected[0, 3:], expected[1, 6:] = 1.0, 1.0
    if not torch.equal(gates[..., 0], expected) or bool(gates[..., 1].any()):
        return "gates in a single pass are not at the expected columns"
    off, _ = _whole(twin, ids, 0.0)
    on, _ = _whole(twin, ids, 1.0)
    if _apart(on, off).min() < 10 * TOLERANCE or _apart(whole, off)[expected > 0].min() < 10 * TOLERANCE:
        return "a gate that is on changes nothing"
    if _apart(whole, off)[expected == 0].max() > TOLERANCE:
        return "a gate that is off changes something"
    for cuts in ([6, _LENGTH], list(range(1, _LENGTH + 1))):
        logits, found = _cut(twin, ids, cuts)
        if not torch.equal(found, gates):
            return f"gates differ when a sequence is given in passes up to {cuts}"
        if _apart(logits, whole).max() > TOLERANCE:
            return f"logits differ when a sequence is given in passes up to {cuts}"
    return _generated(twin, ids[:, :7]) if hasattr(twin, "generate") else None


def _unsteered(twin: Any) -> str | None:
    """Why blocks cannot be steered at all, or None."""
    try:
        twin(input_ids=torch.full((1, 2), WORDS - 1), use_cache=False)
    except RuntimeError as error:
        if "own forward" not in str(error):
            raise
        return "its blocks do not receive the keyword arguments of the forward pass, which carry the gates"
    return None


def _leak(twin: Any) -> str | None:
    """Information that reaches a column other than from its own earlier columns, or None: later columns, other conversations, other cache layers."""
    ids = torch.randint(7, WORDS, (2, _LENGTH))
    ids[1, :_SHARED] = ids[0, :_SHARED]
    marks = {
        name: torch.zeros_like(ids) for name in _MARKS if name in inspect.signature(twin.forward).parameters
    }
    for given in ({}, marks):
        off = torch.zeros(2, 2)
        both = _logits(twin(input_ids=ids, use_cache=False, steering_gate=off, **given))[:, :_SHARED]
        if _apart(both[:1], both[1:]).max() > TOLERANCE:
            return "a column attends to later ones" + (
                f" where {', '.join(given)} marks text" if given else ""
            )
    return _held(twin, ids)


def _held(twin: Any, ids: Tensor) -> str | None:
    """State of a conversation outside the columns of its cache, or None: then rows can be moved and columns cropped."""
    if any(hasattr(one, NOTE) for one in twin.modules() if one is not note_owner(twin)):
        return f"it stores {NOTE} on an unexpected module"
    whole, _ = _whole(twin, ids)
    name, rest = cache_argument(type(twin)), ids[:, _SHARED:]
    cache = find_cache(dict(twin(input_ids=ids[:, :_SHARED], use_cache=True)))
    if cache is None:
        return "a pass with use_cache=True returns no cache"
    states = [type(layer).__name__ for layer in cache.layers if hasattr(layer, "recurrent_states")]
    states += [] if type(cache).__module__ == Cache.__module__ else [type(cache).__name__]
    if states:
        return f"its cache contains a state that is not split by column ({states[0]})"
    twin(input_ids=ids[:1, _SHARED:], use_cache=True)
    cache.batch_select_indices(torch.tensor([1, 0]))
    logits = _logits(twin(input_ids=rest.flip(0), use_cache=True, **{name: cache}))
    if _apart(logits.flip(0), whole[:, _SHARED:]).max() > TOLERANCE:
        return "the output of a conversation depends on other conversations, or on its row in the batch"
    if not getattr(cache, "is_croppable", False) or any(cache.is_sliding):
        return None
    cache.crop(_SHARED - _LENGTH)
    logits = _logits(twin(input_ids=rest.flip(0), use_cache=True, **{name: cache}))
    if _apart(logits.flip(0), whole[:, _SHARED:]).max() > TOLERANCE:
        return "the output of a conversation depends on columns that were cropped from the cache"
    return None


def _apart(a: Tensor, b: Tensor) -> Tensor:
    """Largest difference at each column, as a share of all logits' largest."""
    return (a - b).abs().amax(-1) / max(float(b.abs().max()), 1e-6)


def _whole(twin: Any, ids: Tensor, forced: float = -1.0) -> tuple[Tensor, Tensor]:
    out = twin(input_ids=ids, steering_gate=torch.full((len(ids), 2), forced))
    return _logits(out), out.steering_gate


def _cut(twin: Any, ids: Tensor, cuts: list[int]) -> tuple[Tensor, Tensor]:
    """Logits and gates of a sequence given in passes that end before the columns ``cuts``, through the cache."""
    name = cache_argument(type(twin))
    cache, start = None, 0
    parts = []
    for stop in cuts:
        out = twin(input_ids=ids[:, start:stop], use_cache=True, **({} if cache is None else {name: cache}))
        cache = find_cache(dict(out))
        if cache is None:
            raise ValueError("a pass with use_cache=True returns no cache")
        parts.append((_logits(out), out.steering_gate))
        start = stop
    return torch.cat([one for one, _ in parts], dim=1), torch.cat([one for _, one in parts], dim=1)


def _packs(twin: Any) -> bool:
    """Whether two sequences in one row, separated by their positions, give the same result as each alone."""
    ids = torch.randint(7, WORDS, (1, _LENGTH))
    cut = _LENGTH // 2
    positions = torch.cat([torch.arange(cut), torch.arange(_LENGTH - cut)]).unsqueeze(0)
    try:
        both = twin(input_ids=ids, position_ids=positions, use_cache=False)
        alone = twin(input_ids=ids[:, cut:], use_cache=False)
    except (ValueError, RuntimeError, TypeError, IndexError):
        return False
    return bool(_apart(_logits(both)[:, cut:], _logits(alone)).max() <= TOLERANCE)


def _places(twin: Any) -> bool:
    """Whether a row that is padded on the left gives what it gives alone, without positions from the caller."""
    ids = torch.randint(7, WORDS, (1, _LENGTH))
    mask = torch.ones_like(ids)
    mask[:, :3] = 0
    padded = twin(input_ids=ids, attention_mask=mask, use_cache=False)
    alone = twin(input_ids=ids[:, 3:], use_cache=False)
    return bool(_apart(_logits(padded)[:, 3:], _logits(alone)).max() <= TOLERANCE)


def _logits(out: Any) -> Tensor:
    """Logits, or the last hidden states of a class without a head: [B, T, V or d]."""
    return out[0] if getattr(out, "logits", None) is None else out.logits


def cache_argument(model_class: type[PreTrainedModel]) -> str:
    """What a class calls the cache that its forward takes; it has been renamed once."""
    known = inspect.signature(model_class.forward).parameters
    for name in ("cache", "past_key_values"):
        if name in known:
            return name
    raise ValueError(f"the forward of {model_class.__name__} has no known cache argument: {', '.join(known)}")


def _generated(twin: Any, ids: Tensor) -> str | None:
    out = twin.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=_NEW,
        min_new_tokens=_NEW,
        do_sample=False,
        num_beams=1,
        return_dict_in_generate=True,
        output_logits=True,
    )
    whole, _ = _whole(twin, out.sequences)
    said = torch.stack(out.logits, dim=1)
    wanted = whole[:, ids.shape[1] - 1 : -1]
    return (
        "logits of generate differ from those of a single pass"
        if _apart(said, wanted).max() > TOLERANCE
        else None
    )
