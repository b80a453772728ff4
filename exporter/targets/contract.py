"""The contract of a steered checkpoint, tried on one tiny model: what tests/families asks of every family."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from torch import Tensor

from exporter.errors import CompileError
from exporter.targets.twin_pictures import pictured
from steer_modules.attach import steered
from steer_modules.ops import unit
from steer_modules.program import BaseModelRef, Edit, Gate, SteeringProgram
from steer_modules.proof import HEADER, TOLERANCE, WORDS, LawBroken
from steer_modules.registration import steered_classes
from steer_modules.steered_model import decoder_blocks
from steer_modules.template import stock_classes
from steer_modules.twin import VOCABULARY

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LAWS: Mapping[str, str] = {
    "base": "the stock class gives the same replies for rows that are padded on the left",
    "off": "with its gates off it is the base, to the bit",
    "on": "an edit of any block changes its output",
    "cache": "with mixed gates, replies are equal with a cache and without",
    "padding": "rows with mixed gates, padded on the left or the right, have the same replies as each row alone",
    "pictures": "the same with an image in each row",
    "strict": "a saved model loads completely with its own classes only; a stock class finds no weights in it",
    "columns": "logits and gates at a column depend only on it and on earlier columns, however a sequence is cut (docs/format.md)",
}
"""What a twin is tried for, by name."""
Inputs = dict[str, Tensor]
Writer = Callable[[Path, SteeringProgram, Path], object]
_NEW = 6
_LONGEST = 300
"""Letters of a fault that are told; Transformers lists tensors by the hundred."""
_PLACE = re.compile(r"\S*steerbake-proof-\S+")


class Contract:
    """One twin, unsteered, with two prompts: at one a gate is to fire, at the other it is not."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.architecture, self.model_type = type(model).__name__, model.config.model_type
        self.width = int(model.config.get_text_config(decoder=True).hidden_size)
        self.fires, self.stays = prompt(9, 1), prompt(12, 2)
        self.seen = self._answered(pictured(model))

    def check(self, write: Writer) -> tuple[str, ...]:
        """Tries every law that can be tried.

        Args:
            write: compiles a program for a base into a folder, without a proof.

        Returns:
            Names in :data:`LAWS`; without ``pictures`` where the model takes none, or none in a form that is known.

        Raises:
            CompileError: naming the law that broke, and how.
        """
        law = "blocks"
        try:
            self.blocks = len(decoder_blocks(self.model))
            for law, tried in self._laws(write).items():
                fault = tried()
                if fault is not None:
                    raise self._broken(law, fault)
            return tuple(name for name in LAWS if name == "columns" or name in self._laws(write))
        except CompileError:
            raise
        except LawBroken as error:
            raise self._broken("columns", error.fault) from error
        except Exception as error:
            raise self._broken(law, f"{type(error).__name__}: {error}") from error

    def _laws(self, write: Writer) -> dict[str, Callable[[], str | None]]:
        tried = {
            "base": self._base,
            "off": self._off,
            "on": self._on,
            "cache": self._cache,
            "padding": self._padding,
        }
        if self.seen is not None:
            tried["pictures"] = self._pictures
        return {**tried, "strict": lambda: self._strict(write)}

    def _broken(self, law: str, fault: str) -> CompileError:
        said = LAWS.get(law, "its decoder is a list of blocks")
        fault = _PLACE.sub("the twin", " ".join(fault.split()))[:_LONGEST]
        return CompileError(
            f"models of type {self.model_type!r} cannot be steered: a tiny {self.architecture} breaks the law '{law}' ({said}) under "
            f"Transformers {transformers.__version__}: {fault}"
        )

    def _base(self) -> str | None:
        self._says(_batch([self.fires, self.stays], "left"))
        return None

    def _off(self) -> str | None:
        base, said = self.model(**self.fires).logits, self._says(self.fires)
        gate = _gate(torch.zeros(self.width), torch.tensor([-1.0]))
        with steered(self.model, self._program([gate], range(self.blocks))):
            same = torch.equal(self.model(**self.fires).logits, base) and torch.equal(
                self._says(self.fires), said
            )
        if not same or not torch.equal(self.model(**self.fires).logits, base):
            return "its logits differ from the base's"
        return None

    def _on(self) -> str | None:
        base = self.model(**self.fires).logits
        for block in range(self.blocks):
            with steered(self.model, self._program([], [block])):
                logits = self.model(**self.fires).logits
            if _apart(logits, base) < 10 * TOLERANCE:
                return f"an edit of block {block} of {self.blocks} changes nothing"
        return None

    def _cache(self) -> str | None:
        alone = self._says(self.stays)
        with steered(self.model, self._mixed()):
            for prompt in (self.fires, self.stays):
                if not torch.equal(self._says(prompt), self._says(prompt, use_cache=False)):
                    return "its reply differs without a cache"
            if not torch.equal(self._says(self.stays), alone):
                return "the reply to a prompt at which no gate fires differs from the base's"
        return None

    def _padding(self) -> str | None:
        with steered(self.model, self._mixed()):
            alone = torch.cat([self._says(self.fires), self._says(self.stays)])
            if not torch.equal(self._says(_batch([self.fires, self.stays], "left")), alone):
                return "rows padded on the left have other replies than each row alone"
            right, single = self.model(**_batch([self.fires, self.stays], "right")), self.model(**self.fires)
            length = self.fires["input_ids"].shape[1]
            if right.steering_gate[:, -1].tolist() != [[1.0], [0.0]]:
                return "gates of rows padded on the right differ from those of each row alone"
            if _apart(right.logits[:1, :length], single.logits) > TOLERANCE:
                return "the logits of a row padded on the right differ from those of the row alone"
        return None

    def _pictures(self) -> str | None:
        plain = self.fires, self.stays
        assert self.seen is not None
        self.fires, self.stays = self.seen
        try:
            faults = (tried() for tried in (self._off, self._cache, self._padding))
            return next((fault for fault in faults if fault is not None), None)
        finally:
            self.fires, self.stays = plain

    def _answered(self, pair: tuple[Inputs, Inputs] | None) -> tuple[Inputs, Inputs] | None:
        """The prompts, where the stock class itself answers them alike with a cache and without, alone and together."""
        if pair is None:
            return None
        try:
            alone = torch.cat([self._says(one) for one in pair])
            ways = [self._says(_batch(list(pair), "left"), use_cache=cached) for cached in (True, False)]
        except (RuntimeError, ValueError, TypeError, IndexError, KeyError, AttributeError):
            return None
        return pair if all(torch.equal(way, alone) for way in ways) else None

    def _strict(self, write: Writer) -> str | None:
        """Saved, compiled, loaded with the steered classes (which prove the law of columns), saved again."""
        stock, program = stock_classes(self.model_type, self.architecture), self._mixed()
        batch = _batch([self.fires, self.stays], "left")
        with steered(self.model, program):
            said, wanted = self._says(batch), self.model(**batch)
        with tempfile.TemporaryDirectory(prefix="steerbake-proof-") as home:
            base, made, again = (Path(home) / name for name in ("base", "made", "again"))
            self.model.save_pretrained(base)
            write(base, program, made)
            inner, task = steered_classes(stock)
            loaded = task.from_pretrained(made, dtype=torch.float32)
            loaded.generation_config = self.model.generation_config
            loaded.save_pretrained(again)
            states = inner.from_pretrained(made, dtype=torch.float32)
            gates = [one(**batch).steering_gate for one in (loaded, states, task.from_pretrained(again))]
            if any(not torch.equal(gate, wanted.steering_gate) for gate in gates):
                return "the gates differ after saving and loading"
            if not torch.equal(self._says(batch, model=loaded), said):
                return "the replies differ after saving and loading"
            if stock.config_class != f"{type(self.model.config).__name__}" or _finds_weights(
                type(self.model), made
            ):
                return "a stock class loads the steered weights, without their steering"
        return None

    def _says(self, inputs: Mapping[str, Tensor], model: Any = None, **options: object) -> Tensor:
        arguments = {
            "max_new_tokens": _NEW,
            "min_new_tokens": _NEW,
            "do_sample": False,
            "num_beams": 1,
            **options,
        }
        placeholders = list(range(WORDS, VOCABULARY))  # a picture that was said would be looked for
        said: Tensor = (model or self.model).generate(**inputs, suppress_tokens=placeholders, **arguments)
        return said[:, -_NEW:]

    def _mixed(self) -> SteeringProgram:
        """A gate between the two prompts' states behind the first block; every block is edited."""
        found: list[Tensor] = []
        hook = decoder_blocks(self.model)[0].register_forward_hook(
            lambda _block, _args, out: found.append(
                (out if isinstance(out, Tensor) else out[0])[0, -1].float()
            )
        )
        try:
            for prompt in (self.fires, self.stays):
                self.model(**prompt)
        finally:
            hook.remove()
        weight = unit(found[0] - found[1])
        gate = _gate(weight, -(weight @ (found[0] + found[1]) / 2).reshape(1))
        return self._program([gate], range(self.blocks))

    def _program(self, gates: list[Gate], edited: Any) -> SteeringProgram:
        name = gates[0].name if gates else None
        edits = tuple(_turn(layer, name, self.width) for layer in edited)
        base = BaseModelRef(self.architecture, self.model_type)
        return SteeringProgram(
            "proof", self.width, self.blocks, base, tuple(gates), edits, (HEADER,) if gates else ()
        )


def prompt(length: int, seed: int) -> dict[str, Tensor]:
    """Random tokens [1, T] that end in a generation header."""
    ids = torch.randint(7, WORDS, (1, length), generator=torch.Generator().manual_seed(seed))
    ids[:, -len(HEADER) :] = torch.tensor(HEADER)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def _batch(prompts: list[dict[str, Tensor]], side: str) -> dict[str, Tensor]:
    """Prompts of any lengths as one padded batch."""
    width = max(prompt["input_ids"].shape[1] for prompt in prompts)
    gaps = [width - prompt["input_ids"].shape[1] for prompt in prompts]
    return {
        key: torch.cat(
            [
                torch.nn.functional.pad(one[key], (gap, 0) if side == "left" else (0, gap))
                if one[key].shape == one["input_ids"].shape
                else one[key]
                for one, gap in zip(prompts, gaps, strict=True)
            ]
        )
        for key in prompts[0]
    }


def _gate(weight: Tensor, bias: Tensor) -> Gate:
    return Gate("topic", 0, "prompt_end", "linear", 0.0, "above", {"weight": weight, "bias": bias})


def _turn(layer: int, gate: str | None, width: int) -> Edit:
    """A rotation to the nearest of three random prototypes, whatever the size of the states."""
    rows = torch.randn(3, width, generator=torch.Generator().manual_seed(layer))
    return Edit(
        layer=layer,
        gate=gate,
        op="rotate",
        tensors={"prototypes": rows},
        positions="all" if gate is None else "from_gate",
        strength=1.0,
        target="nearest",
        angle="fraction",
        protect="none",
    )


def _apart(a: Tensor, b: Tensor) -> float:
    """The largest difference, as a share of the largest logit."""
    return float((a - b).abs().max()) / max(float(b.abs().max()), 1e-6)


def _finds_weights(stock: type[PreTrainedModel], folder: Path) -> bool:
    try:
        stock.from_pretrained(folder)
    except (OSError, ValueError, RuntimeError):
        return False
    return True
