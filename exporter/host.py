"""A base model with its processor, as every room of the exporter sees it: batches in, greedy tokens out.

Any family works the same way: text-only or vision-language, on one device or spread over a ``device_map``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from transformers import LogitsProcessorList
from transformers.cache_utils import Cache
from transformers.generation.streamers import BaseStreamer

from exporter.decoding import decoded_by, decoding
from exporter.errors import DataError, FitError, InputErrors
from exporter.finite import FiniteScores
from exporter.foreign_code import check_code
from exporter.loading import loaded_whole
from exporter.progress import ticked
from exporter.prompt_batcher import PromptBatcher, Side
from exporter.reader import open_reader, takes_images
from exporter.types import Encoded, Prompt
from exporter.vocabulary import check_ids, check_pad_token, check_vocabulary
from steer_modules.proof import cache_argument
from steer_modules.state import gates_on
from steer_modules.steered_model import decoder_blocks

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel


@dataclass(frozen=True)
class Generated:
    """Greedy continuation of one prompt: ids up to and including the end token, and the gates of a steered model."""

    tokens: tuple[int, ...]
    gates: dict[str, float] | None = None


@dataclass
class Memory:
    """The cache of one conversation, which a later turn continues.

    Attributes:
        ids: the tokens that lie in the cache, in order.
        cache: Transformers' cache, gates and all; None before the first turn.
    """

    ids: tuple[int, ...] = ()
    cache: Cache | None = None

    def covers(self, prompt: Prompt) -> bool:
        """Whether a prompt continues exactly the cached tokens."""
        return bool(self.ids) and len(prompt.ids) > len(self.ids) and prompt.ids[: len(self.ids)] == self.ids


class ModelHost:
    """A loaded Transformers model and the processor (the tokenizer, for text models) that feeds it."""

    def __init__(self, model: PreTrainedModel, processor: Any) -> None:
        self.model = model.eval()
        self.processor = processor
        self.tokenizer = getattr(processor, "tokenizer", processor)

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        dtype: torch.dtype | str = "auto",
        device: str | Mapping[str, Any] = "cpu",
        trust_remote_code: bool = False,
        trusted: Path | None = None,
        revision: str | None = None,
        processor: Any = None,
    ) -> ModelHost:
        """Load a checkpoint folder or Hub name.

        Args:
            device: a device, "auto", or a whole ``device_map``.
            trust_remote_code: run the code of the folder, once all of it is known to be ours.
            trusted: a base whose own code may be run too, because its user trusts it.
            processor: used instead of the one that lies there.

        Raises:
            InputErrors: no config, weights or processor that can be read, or weights that do not fill the model (:mod:`exporter.loading`).
            VerificationError: the folder's code is not ours, and was to be run.
        """
        import transformers

        if trust_remote_code:
            if not Path(path).is_dir():
                raise InputErrors(
                    str(path), ["code is run only from a local folder; download the model first"]
                )
            check_code(Path(path), trusted)

        common: dict[str, Any] = {"trust_remote_code": trust_remote_code, "revision": revision}
        try:
            config = transformers.AutoConfig.from_pretrained(path, **common)
        except (OSError, ValueError) as error:
            raise InputErrors(str(path), [f"no model can be loaded from there: {error}"]) from error
        check_pad_token(config, path)
        family = (
            transformers.AutoModelForImageTextToText
            if takes_images(config)
            else transformers.AutoModelForCausalLM
        )
        spread = {} if _is_plain_device(device) else {"device_map": device}
        try:
            model: Any = loaded_whole(family, path, dtype=dtype, **spread, **common)
        except (OSError, ValueError, ImportError) as error:
            raise InputErrors(
                str(path), [f"the {config.model_type} there cannot be loaded: {error}"]
            ) from error
        host = cls(model if spread else model.to(device), processor or open_reader(path, config, **common))
        if processor is None:
            check_vocabulary(host, path)
        return host

    @property
    def architecture(self) -> str:
        return type(self.model).__name__

    @property
    def model_type(self) -> str:
        return str(self.model.config.model_type)

    @property
    def hidden_size(self) -> int:
        return int(self.model.config.get_text_config().hidden_size)

    @property
    def device(self) -> torch.device:
        """Where input ids go (the first device of a ``device_map``)."""
        return cast(torch.device, self.model.get_input_embeddings().weight.device)

    @property
    def dtype(self) -> torch.dtype:
        return cast(torch.dtype, self.model.get_input_embeddings().weight.dtype)

    @property
    def blocks(self) -> nn.ModuleList:
        """The decoder's blocks in order; their outputs are the states that steering reads and edits."""
        try:
            return decoder_blocks(self.model)
        except TypeError as error:
            raise FitError(f"{error}; it cannot be steered") from error

    @property
    def num_layers(self) -> int:
        return len(self.blocks)

    @property
    def pad_id(self) -> int:
        """Any id that the model has will do where the attention mask is 0; the pad token, else the end token, else 0.

        A pad token that was added without resizing the model has an id beyond its embedding.
        """
        named = (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id)
        return next((int(one) for one in named if one is not None and 0 <= one < self.num_embeddings), 0)

    @property
    def num_embeddings(self) -> int:
        """How many ids the model has embeddings for."""
        return int(self.model.get_input_embeddings().weight.shape[0])

    @property
    def end_ids(self) -> frozenset[int]:
        """Ids after which generation stops."""
        value = self.model.generation_config.eos_token_id
        value = self.tokenizer.eos_token_id if value is None else value
        if value is None:
            return frozenset()
        return frozenset(value if isinstance(value, list | tuple) else [value])

    def batch(self, sequences: Sequence[Encoded], side: Side) -> dict[str, Tensor]:
        """:meth:`PromptBatcher.batch` on this model's input device.

        Raises:
            DataError: for more tokens than the model has positions for, or ids beyond its embedding.
        """
        longest, positions = max(map(len, sequences)), learned_positions(self.model.config)
        if positions is not None and longest > positions:
            raise DataError(
                f"a conversation has {longest} tokens, and the model has {positions} positions; shorten the rows, the longest first"
            )
        check_ids(self, sequences)
        batched = PromptBatcher(self.processor, self.pad_id).batch(sequences, side)
        return {key: value.to(self.device) for key, value in batched.items()}

    def generate(
        self, prompts: Sequence[Prompt], *, max_new_tokens: int, batch_size: int = 32
    ) -> list[Generated]:
        """Continue every prompt greedily: of the model's own generation config its end tokens alone count.

        Prompts are sorted by length and left-padded; results come in the order given. A steered model's gates come along.

        Raises:
            NotFinite: its scores for the next token of a reply are no finite numbers.
        """
        order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i].ids), i))
        done: dict[int, Generated] = {}
        for first in ticked(range(0, len(order), batch_size), "batches of replies"):
            chosen = order[first : first + batch_size]
            said = self._continue([prompts[i] for i in chosen], max_new_tokens, places=chosen)
            done.update(zip(chosen, said, strict=True))
        return [done[i] for i in range(len(prompts))]

    def sample(
        self,
        prompts: Sequence[Prompt],
        *,
        draws: int,
        temperature: float,
        seed: int,
        max_new_tokens: int,
        batch_size: int = 32,
    ) -> list[list[Generated]]:
        """Draw that many continuations of every prompt from the whole distribution at a temperature; the same for the same seed.

        Neither top_p nor top_k cuts anything off, whatever the model's own generation config says.
        """
        order = [(place, draw) for place in range(len(prompts)) for draw in range(draws)]
        done: list[list[Generated]] = [[] for _ in prompts]
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(seed)
            for first in ticked(range(0, len(order), batch_size), "batches of draws"):
                places = [place for place, _ in order[first : first + batch_size]]
                some = [prompts[place] for place in places]
                said = self._continue(
                    some, max_new_tokens, places=places, temperature=temperature, top_p=1.0, top_k=0
                )
                for place, one in zip(places, said, strict=True):
                    done[place].append(one)
        return done

    def stream(
        self,
        prompt: Prompt,
        write: Callable[[int], None],
        *,
        max_new_tokens: int,
        memory: Memory | None = None,
        **sampling: object,
    ) -> Generated:
        """Continue one prompt; ``write`` is called with each token.

        Args:
            memory: of the conversation so far; what it covers of the prompt is not computed again. It moves on.
            sampling: ``temperature``, ``top_p`` and so on; greedily without any.
        """
        memory = Memory() if memory is None else memory
        (said,) = self._continue(
            [prompt], max_new_tokens, places=(0,), streamer=_TokenStream(write), memory=memory, **sampling
        )
        return said

    def _continue(
        self,
        prompts: Sequence[Prompt],
        max_new_tokens: int,
        *,
        places: Sequence[int] = (0,),
        memory: Memory | None = None,
        streamer: BaseStreamer | None = None,
        **sampling: Any,
    ) -> Iterator[Generated]:
        """One batch, greedily but for ``sampling``; ``memory`` and ``streamer`` are for a single prompt. ``places`` are those of the prompts, for an error."""
        inputs: dict[str, Any] = self.batch([Encoded(prompt) for prompt in prompts], "left")
        if memory is not None and memory.covers(prompts[0]):
            inputs = {name: inputs[name] for name in ("input_ids", "attention_mask")}
            inputs[cache_argument(type(self.model))] = memory.cache
        ends = self.end_ids
        settings = decoding(ends=ends, pad=self.pad_id, max_new_tokens=max_new_tokens, **sampling)
        with torch.no_grad(), decoded_by(self.model, settings):
            out = self.model.generate(
                **inputs,
                generation_config=settings,
                streamer=streamer,
                logits_processor=LogitsProcessorList([FiniteScores(places)]),
            )
        cache = cache_of(out)
        gates = gates_of(self.model, out)
        if memory is not None and cache is not None:
            memory.cache = cache
            memory.ids = tuple(out.sequences[0, : int(cache.get_seq_length())].tolist())
        for row, ids in enumerate(out.sequences[:, inputs["input_ids"].shape[1] :].tolist()):
            stop = next((i + 1 for i, token in enumerate(ids) if token in ends), len(ids))
            yield Generated(tuple(ids[:stop]), gates[row] if gates else None)


class _TokenStream(BaseStreamer):
    """Passes on new tokens as ``generate`` produces them; the first call contains the prompt."""

    def __init__(self, write: Callable[[int], None]) -> None:
        self.write, self.begun = write, False

    def put(self, value: Tensor) -> None:
        if self.begun:
            for token in value.flatten().tolist():
                self.write(token)
        self.begun = True

    def end(self) -> None:
        pass


def cache_of(out: Any) -> Cache | None:
    """The cache among the fields of an output, whatever this version of Transformers calls it."""
    return next((value for value in dict(out).values() if isinstance(value, Cache)), None)


def gates_of(model: PreTrainedModel, out: object) -> list[dict[str, float]] | None:
    """Gate values by name for each row of a generation, or None for an unsteered model.

    Args:
        out: the output of ``generate(..., return_dict_in_generate=True)``.
    """
    names = getattr(getattr(model, "steering", None), "gate_names", None)
    values = None if names is None else gates_on(cache_of(out), len(names))
    if names is None or values is None:
        return None
    return [dict(zip(names, row, strict=True)) for row in values.tolist()]


def learned_positions(config: PretrainedConfig) -> int | None:
    """How many positions a model has embeddings for; None where positions are rotated, and none is the last."""
    text = config.get_text_config()
    if getattr(text, "rope_parameters", None) is not None or hasattr(text, "rope_theta"):
        return None
    return getattr(text, "max_position_embeddings", None)


def _is_plain_device(device: str | Mapping[str, object]) -> bool:
    return isinstance(device, str) and device not in ("auto", "balanced", "balanced_low_0", "sequential")
