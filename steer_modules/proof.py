"""The proof at load: a tiny twin of a model keeps the law under the installed Transformers, or nothing is loaded.

The twin has the same classes and the same kind of config with few and random weights, and steering by the same code. What
Transformers renames or calls in another way shows in it, before the real model answers.
"""

from __future__ import annotations

import copy
import inspect
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
import transformers
from torch import Tensor

from .schema import FORMAT
from .state import find_cache


class Traits(NamedTuple):
    """What a stock class does and does not by itself, as its twin shows.

    Attributes:
        packs: sequences told apart by positions that begin anew do not see each other.
        places: positions of a padded row are counted from its first real column.
    """

    packs: bool
    places: bool


TESTED = ("5.22.0", "5.23.0", "5.24.0")
"""Versions of Transformers under which the whole table of callers is tested (benchmarks/callers)."""

_PROVEN: dict[tuple[type, str], Traits] = {}
_PROVING: ContextVar[bool] = ContextVar("steerbake_proving", default=False)
_HEADER = (5, 6)
_LENGTH, _NEW = 11, 3
_VOCABULARY, _LAYERS, _WINDOW = 32, 3, 5
_TOLERANCE = 1e-3


@torch.compiler.disable  # type: ignore[untyped-decorator]
def check_law(model_class: Any, config: Any) -> Traits:
    """Runs the law on a tiny twin of a steered class; once for each class and kind of config.

    Returns:
        What of the law the stock class keeps by itself, and what therefore has to be refused or seen to.

    Raises:
        RuntimeError: logits or gates depend on how a sequence was cut into passes, or a gate that is on changes nothing.
    """
    if _PROVING.get():
        return Traits(packs=True, places=True)
    small = twin_config(config)
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
            fault = _fault(twin)
            traits = Traits(_packs(twin), _places(twin))
    except Exception as error:
        raise _refused(model_class, f"{type(error).__name__}: {error}") from error
    finally:
        _PROVING.reset(token)
    if fault is not None:
        raise _refused(model_class, fault)
    _PROVEN[known] = traits
    return traits


def _refused(model_class: Any, fault: str) -> RuntimeError:
    return RuntimeError(
        f"{model_class.__name__} does not steer reliably under Transformers {transformers.__version__}: {fault}. Nothing is "
        f"loaded. It was tested with Transformers {', '.join(TESTED)}; install one of these"
    )


def twin_config(config: Any) -> Any:
    """A config of the same kind for a model of some ten thousand weights, with a program of its own."""
    small = copy.deepcopy(config)
    small.steering = small.steering_shapes = None
    text = small.get_text_config(decoder=True)
    heads = int(text.num_attention_heads)
    head = int(getattr(text, "head_dim", None) or text.hidden_size // heads)
    few = 1 if int(getattr(text, "num_key_value_heads", None) or heads) < heads else 2
    kinds = list(dict.fromkeys(getattr(text, "layer_types", None) or ()))
    sizes: dict[str, Any] = {
        "num_hidden_layers": _LAYERS,
        "hidden_size": 2 * head,
        "intermediate_size": 2 * head,
        "num_attention_heads": 2,
        "num_key_value_heads": few,
        "head_dim": head,
        "vocab_size": _VOCABULARY,
        "sliding_window": _WINDOW,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": None,
    }
    if kinds:
        sizes["layer_types"] = [kinds[index % len(kinds)] for index in range(_LAYERS)]
    _set_existing(text, sizes)
    if text is not small:
        _set_existing(small, {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": None})
    for name in ("vision_config", "audio_config"):
        tower = getattr(small, name, None)
        if tower is not None:
            _set_existing(
                tower,
                {
                    "num_hidden_layers": 1,
                    "depth": 1,
                    "hidden_size": 32,
                    "intermediate_size": 32,
                    "head_dim": 16,
                }
                | {"num_attention_heads": 2, "num_heads": 2},
            )
    if str(getattr(small, "_attn_implementation", None)) not in ("eager", "sdpa", "None"):
        small._attn_implementation = "sdpa"  # others need a device of their own
    small.steering, small.steering_shapes = _program(2 * head)
    return small


def _set_existing(config: Any, values: dict[str, Any]) -> None:
    """Sets what a config has; names that it maps to its own are understood."""
    for name, value in values.items():
        if getattr(config, name, None) is not None or name.endswith("_token_id"):
            setattr(config, name, value)


def _program(hidden: int) -> tuple[dict[str, Any], dict[str, list[int]]]:
    """A gate that fires at every generation header, and one that fires at a token by its state; both edit the states."""
    base = {"architecture": "twin", "model_type": "twin", "fingerprint": "sha256:" + "0" * 64}
    gate = {"score": "linear", "threshold": 0.0, "fires": "above"}
    edit = {"op": "add", "positions": "from_gate", "strength": 1}
    section = {
        "format": FORMAT,
        "method": "proof",
        "hidden_size": hidden,
        "num_layers": _LAYERS,
        "base": base,
        "headers": [list(_HEADER)],
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


def _twin(model_class: Any, small: Any) -> Any:
    torch.default_generator.manual_seed(0)
    twin = model_class(small).float().eval()
    for parameter in twin.parameters():
        if parameter.dim() > 1:
            parameter.normal_(std=0.2)
    steering = twin.steering
    steering.gates["header"].bias.fill_(1.0)
    steering.gates["content"].bias.fill_(-1.0)
    steering.layers["1"].vector.normal_(std=4.0)
    steering.verified = True
    return twin


def _fault(twin: Any) -> str | None:
    """What breaks the law, or None. Rows: a header early, a header cut by a chunk, none."""
    ids = torch.randint(7, _VOCABULARY, (3, _LENGTH))
    ids[0, 2:4] = torch.tensor(_HEADER)
    ids[1, 5:7] = torch.tensor(_HEADER)
    whole, gates = _whole(twin, ids)
    expected = torch.zeros(3, _LENGTH)
    expected[0, 3:], expected[1, 6:] = 1.0, 1.0
    if not torch.equal(gates[..., 0], expected) or bool(gates[..., 1].any()):
        return "gates of a whole pass stand elsewhere than their columns say"
    off, _ = _whole(twin, ids, 0.0)
    on, _ = _whole(twin, ids, 1.0)
    if _apart(on, off).min() < 10 * _TOLERANCE or _apart(whole, off)[expected > 0].min() < 10 * _TOLERANCE:
        return "a gate that is on changes nothing"
    if _apart(whole, off)[expected == 0].max() > _TOLERANCE:
        return "a gate that is off changes something"
    for cuts in ([6, _LENGTH], list(range(1, _LENGTH + 1))):
        logits, found = _cut(twin, ids, cuts)
        if not torch.equal(found, gates):
            return f"gates differ when a sequence is given in passes up to {cuts}"
        if _apart(logits, whole).max() > _TOLERANCE:
            return f"logits differ when a sequence is given in passes up to {cuts}"
    return _generated(twin, ids[:, :7]) if hasattr(twin, "generate") else None


def _apart(a: Tensor, b: Tensor) -> Tensor:
    """Largest difference at each column, as a share of all logits' largest."""
    return (a - b).abs().amax(-1) / max(float(b.abs().max()), 1.0)


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
            raise ValueError("a pass with use_cache=True gives no cache back")
        parts.append((_logits(out), out.steering_gate))
        start = stop
    return torch.cat([one for one, _ in parts], dim=1), torch.cat([one for _, one in parts], dim=1)


def _packs(twin: Any) -> bool:
    """Whether two sequences in one row, told apart by their positions, give what each gives alone."""
    ids = torch.randint(7, _VOCABULARY, (1, _LENGTH))
    cut = _LENGTH // 2
    positions = torch.cat([torch.arange(cut), torch.arange(_LENGTH - cut)]).unsqueeze(0)
    try:
        both = twin(input_ids=ids, position_ids=positions, use_cache=False)
        alone = twin(input_ids=ids[:, cut:], use_cache=False)
    except (ValueError, RuntimeError, TypeError, IndexError):
        return False
    return bool(_apart(_logits(both)[:, cut:], _logits(alone)).max() <= _TOLERANCE)


def _places(twin: Any) -> bool:
    """Whether a row that is padded on the left gives what it gives alone, without positions from the caller."""
    ids = torch.randint(7, _VOCABULARY, (1, _LENGTH))
    mask = torch.ones_like(ids)
    mask[:, :3] = 0
    padded = twin(input_ids=ids, attention_mask=mask, use_cache=False)
    alone = twin(input_ids=ids[:, 3:], use_cache=False)
    return bool(_apart(_logits(padded)[:, 3:], _logits(alone)).max() <= _TOLERANCE)


def _logits(out: Any) -> Tensor:
    """Logits, or the last hidden states of a class without a head: [B, T, V or d]."""
    return out[0] if getattr(out, "logits", None) is None else out.logits


def cache_argument(model_class: Any) -> str:
    """What a class calls the cache that its forward takes; it has been renamed once."""
    known = inspect.signature(model_class.forward).parameters
    for name in ("cache", "past_key_values"):
        if name in known:
            return name
    raise ValueError(
        f"the forward of {model_class.__name__} takes no cache that is known: {', '.join(known)}"
    )


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
    return "generate says other logits than a whole pass" if _apart(said, wanted).max() > _TOLERANCE else None
