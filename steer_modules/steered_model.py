"""SteeredModelMixin: put before a stock Transformers class, it makes a model that cannot run unsteered.

``class SteeredLlavaModel(SteeredModelMixin, LlavaModel)`` builds the base, hangs the steering of ``config.steering``
on its decoder blocks, follows the gates through every forward pass, and loads and saves strictly.
"""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel
from transformers.conversion_mapping import (
    get_checkpoint_conversion_mapping,
    register_checkpoint_conversion_mapping,
)
from transformers.utils import logging

from .canary import check_canary
from .checks import ProgramError
from .files import (
    VARIANT,
    check_has_code,
    check_weight_files,
    clear_for_saving,
    named_weights,
    remove_stale,
    save_code,
)
from .fingerprint import changed_tensor, check_base, check_memory, remember, sign_saved
from .model_checks import check_fits, check_loading, check_section
from .outputs import with_gate
from .positions import note_owner, reach_of, read_note, restore_note
from .proof import check_law
from .resolve import resolve_call
from .schema import Section
from .sealing import seal_inner
from .settings import changed_setting
from .state import Carried, find_cache, record, recorded
from .steering_layer import CALL, Steering, install_hooks

logger = logging.get_logger(__name__)

_SWITCHING: ContextVar[bool] = ContextVar("steerbake_switching", default=False)
OWN_ARGUMENTS = ("steering_gate", "steering_mask")


def decoder_blocks(model: PreTrainedModel) -> torch.nn.ModuleList:
    """The decoder's list of blocks, by whatever name; raises TypeError where the model has none that can be steered."""
    decoder = model.get_decoder()
    for name in ("layers", "h", "blocks"):
        blocks = getattr(decoder, name, None)
        if isinstance(blocks, torch.nn.ModuleList):
            return blocks
    count = getattr(model.config.get_text_config(decoder=True), "num_hidden_layers", None)
    lists = [
        part for part in decoder.modules() if isinstance(part, torch.nn.ModuleList) and len(part) == count
    ]
    if len(lists) == 1:
        return lists[0]
    raise TypeError(
        f"{type(model).__name__} has a decoder of type {type(decoder).__name__} without a known list of blocks"
    )


def steered_forward(stock: Callable[..., Any]) -> Callable[..., Any]:
    """The forward of a steered class around the ``stock`` one.

    Further arguments: ``steering_gate`` float32 [B, G], 1 forces a gate on from the first column of this pass, 0 holds it
    off, -1 lets it decide (default); ``steering_mask`` [B, P + T], the 2-D padding mask where ``attention_mask`` is not 2-D.
    The output has the further field ``steering_gate`` float32 [B, T, G], the gates at every column of the pass.
    """
    signature = inspect.signature(stock)

    @functools.wraps(stock)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        self.check_steering()
        own = {name: kwargs.pop(name, None) for name in OWN_ARGUMENTS}
        if args:
            named = signature.bind_partial(self, *args).arguments
            kwargs = {**{k: v for k, v in named.items() if k != "self"}, **kwargs}
        return_dict = kwargs.pop("return_dict", None)
        given = find_cache(kwargs)
        call = resolve_call(
            self.steering, kwargs, self.get_input_embeddings(), reach=self.steering.reach, **own
        )
        if not call.columns.past:
            check_memory(self)  # once a conversation, not once a token
            self.steering.check_unchanged()
        notes = self.steering.notes
        if notes and (call.columns.past or kwargs.get("position_ids") is None):
            restore_note(self, call.carried.shift if call.columns.past else None)
        outputs = stock(self, **kwargs, return_dict=True, **{CALL: call})
        call.shift = read_note(self, call.carried.shift, call.columns.length) if notes else None
        unseen = set(self.steering.steered_blocks) - call.visited
        if unseen:
            raise RuntimeError(f"decoder blocks {sorted(unseen)} ran without steering; no output is returned")
        gates = call.gates(call.carried.gates.device)
        cache = find_cache(dict(outputs)) or given
        if cache is not None:
            record(cache, call.features(self.steering.features, gates))
        outputs = with_gate(outputs, gates)
        if return_dict is None:
            return_dict = getattr(self.config, "return_dict", True)
        return outputs if return_dict else outputs.to_tuple()

    own_parameters = [
        inspect.Parameter(n, inspect.Parameter.KEYWORD_ONLY, default=None) for n in OWN_ARGUMENTS
    ]
    stock_parameters = list(signature.parameters.values())
    split = next(
        (i for i, p in enumerate(stock_parameters) if p.kind is p.VAR_KEYWORD), len(stock_parameters)
    )
    parameters = [*stock_parameters[:split], *own_parameters, *stock_parameters[split:]]
    forward.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return forward


class SteeredModelMixin:
    """Steering, gate state and strict loading for any Transformers decoder model; see the module's docstring.

    Raises:
        ProgramError: config.steering is missing, not understood, or made for another model.
    """

    steering: Steering
    config: Any
    _can_compile_fullgraph = False
    _supports_attention_backend = False

    @classmethod
    def is_backend_compatible(cls) -> bool:
        """False: servers that put several requests into one row keep no gates. Serve what 'steerbake export stock' writes."""
        return False

    @classmethod
    def _can_set_attn_implementation(cls) -> bool:
        """False to a server, which would put its own attention in (vLLM 0.32 asks this too); the stock answer to this class itself."""
        return _SWITCHING.get() and bool(super()._can_set_attn_implementation())  # type: ignore[misc]

    def set_attn_implementation(self, *args: Any, **kwargs: Any) -> None:
        """Switches between the attentions of Transformers, as the base does; the law is proven again with the new one."""
        token = _SWITCHING.set(True)
        try:
            super().set_attn_implementation(*args, **kwargs)  # type: ignore[misc]
        finally:
            _SWITCHING.reset(token)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        stock = next(
            (
                base
                for base in cls.__mro__[1:]
                if not issubclass(base, SteeredModelMixin) and "forward" in vars(base)
            ),
            None,
        )
        if stock is not None:
            cls.forward = steered_forward(vars(stock)["forward"])  # type: ignore[attr-defined]
            strict = getattr(stock, "_keep_in_fp32_modules_strict", None) or ()
            cls._keep_in_fp32_modules_strict = {*strict, "steering"}  # type: ignore[attr-defined]

    def __init__(self, config: PretrainedConfig, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)  # type: ignore[call-arg]
        section, shapes = getattr(config, "steering", None), getattr(config, "steering_shapes", None)
        if not section or not shapes:
            raise ProgramError(
                [
                    f"the config of this {type(self).__name__} has no 'steering' and 'steering_shapes': it would run unsteered"
                ]
            )
        self.install_steering(section, shapes)

    def install_steering(self, section: Section, shapes: dict[str, list[int]]) -> None:
        """Builds the steering modules and hangs them on the decoder blocks."""
        assert isinstance(self, PreTrainedModel)
        blocks = decoder_blocks(self)
        check_fits(section, shapes, self, len(blocks))
        self.steering = Steering(section, shapes)
        self._steering_handles = install_hooks(self.steering, blocks)
        self._sealed = seal_inner(self, blocks)

    def check_steering(self) -> None:
        """Before a model answers: its tensors are those that were signed, and its classes keep the law (docs/format.md).

        Raises:
            ProgramError: a tensor is not the one that was signed.
            RuntimeError: a tensor is not in memory, or the installed Transformers calls these classes in a way that this
                code does not follow.
        """
        if not self.steering.verified:
            self.steering.verify()
        asked = (type(self), getattr(self.config, "_attn_implementation", None))
        if self.steering.proven_for != asked:
            self.steering.traits = check_law(type(self), self.config)
            self.steering.reach = reach_of(self.config)
            self.steering.notes = note_owner(self) is not None
            self.steering.proven_for = asked

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str] | None, *args: Any, **kwargs: Any
    ) -> Any:
        """Loads like any Transformers model, but raises an error where Transformers would warn and run unsteered.

        Args:
            allow_changed_base: accept weights that are not those the steering was made for (fine-tuned, quantised), if the
                program's canary still holds.

        Raises:
            RuntimeError: a tensor is missing or of another shape, weights lie there under a name that a stock class would
                load, the weights are not the base's, or these classes do not keep the law under the installed Transformers.
            ProgramError: the steering tensors or the section are not the ones that were signed.
        """
        changed = bool(kwargs.pop("allow_changed_base", False))
        wants_info = kwargs.pop("output_loading_info", False)
        check_weight_files(pretrained_model_name_or_path, kwargs)
        model, info = super().from_pretrained(  # type: ignore[misc]
            pretrained_model_name_or_path, *args, output_loading_info=True, **{**kwargs, "variant": VARIANT}
        )
        check_loading(pretrained_model_name_or_path, info)
        model.check_steering()
        if changed:
            model.accept_changed_base()
        else:
            check_base(model, pretrained_model_name_or_path, kwargs)
        return (model, info) if wants_info else model

    def load_adapter(self, *args: Any, allow_changed_base: bool = False, **kwargs: Any) -> Any:
        """Loads an adapter with the steering, only with allow_changed_base, and only if the canary still holds.

        Raises:
            RuntimeError: ``allow_changed_base`` is not given, or the canary fails with the adapter.
        """
        if not allow_changed_base:
            raise RuntimeError(
                "an adapter changes the states that gates read, so gates may not fire. If this is intended, pass allow_changed_base=True: "
                "the program's canary is then tested"
            )
        loaded = super().load_adapter(*args, **kwargs)  # type: ignore[misc]
        self.accept_changed_base()
        return loaded

    def accept_changed_base(self) -> None:
        """Lets a model answer whose weights were changed on purpose since they were loaded (trained, merged, with an adapter).

        Raises:
            RuntimeError: the program has no canary, or it fails now.
        """
        assert isinstance(self, PreTrainedModel)
        self._asking_canary = True
        try:
            check_canary(self)
        finally:
            self._asking_canary = False
        self._changed_base = True
        remember(self)

    def save_pretrained(self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """Saves weights, config and the code that steers them, so that the folder stands alone again.

        Weights that were changed since they were loaded are saved under the fingerprint of those the steering was made for,
        so that loading them asks for ``allow_changed_base``.
        """
        assert isinstance(self, PreTrainedModel)
        check_has_code(type(self))
        self.steering.verify()
        check_section(self.config, self.steering)
        # By name, whichever way they were given: weights handed in by position are others than those in memory all the same.
        asked = inspect.signature(super().save_pretrained).bind(save_directory, *args, **kwargs)  # type: ignore[misc]
        options = {**asked.arguments, **asked.arguments.get("kwargs", {}), "variant": VARIANT}
        options.pop("kwargs", None)
        main, folder = bool(options.get("is_main_process", True)), Path(save_directory)
        checked = "_loaded_weights" in self.__dict__ and not self.__dict__.get("_changed_base", False)
        same = (
            checked
            and changed_setting(self) is None
            and options.get("state_dict") is None
            and changed_tensor(self) is None
        )
        same = same and not any(
            part._state_dict_hooks or part._state_dict_pre_hooks for part in self.modules()
        )
        before = clear_for_saving(folder) if main else set()
        super().save_pretrained(**options)  # type: ignore[misc]
        if not main:
            return
        save_code(type(self), self.config, save_directory)
        if not named_weights(folder):  # an adapter alone was saved
            return
        remove_stale(folder, before)
        if same:
            sign_saved(save_directory, self.steering.tensors())
        else:
            logger.warning(
                "the weights or the config changed since they were loaded; the saved model loads only with allow_changed_base=True"
            )


class SteeredGenerationMixin(SteeredModelMixin):
    """Passes to ``generate`` what the gates need beyond the cache."""

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """Generates like the base. Early exit is refused: it takes blocks out, and with them their steering."""
        config = kwargs.get("generation_config")
        if kwargs.get("assistant_early_exit") or getattr(config, "assistant_early_exit", None):
            raise NotImplementedError(
                "assistant_early_exit skips blocks that steer; generate without it, or with an assistant_model"
            )
        return super().generate(*args, **kwargs)  # type: ignore[misc]

    def _prepare_position_ids_for_generation(self, inputs_tensor: Any, model_kwargs: Any) -> Any:
        cache = find_cache(model_kwargs)
        keys = None if cache is None else recorded(cache, self.steering.features)
        if keys is not None:
            restore_note(self, Carried.read(self.steering.features, keys).shift)
        return super()._prepare_position_ids_for_generation(inputs_tensor, model_kwargs)  # type: ignore[misc]

    def generate_batch(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError(
            "continuous batching packs several prompts into one row, where their gates cannot be separated; use generate"
        )

    init_continuous_batching = generate_batch
    continuous_batching_context_manager = generate_batch

    def prepare_inputs_for_generation(
        self, input_ids: Any, *args: Any, inputs_embeds: Any = None, **kwargs: Any
    ) -> Any:
        """Like the base's; ``inputs_embeds`` is named because ``generate`` looks for it among the parameters."""
        mask = kwargs.get("attention_mask")
        if inputs_embeds is not None:
            kwargs["inputs_embeds"] = inputs_embeds
        inputs = super().prepare_inputs_for_generation(input_ids, *args, **kwargs)  # type: ignore[misc]
        if isinstance(mask, Tensor) and mask.dim() == 2:
            inputs["steering_mask"] = mask
        elif mask is None and not _is_flat(inputs.get("attention_mask")):
            inputs["steering_mask"] = _all_columns(inputs)  # generate leaves a mask without padding out
        if kwargs.get("steering_gate") is not None:
            inputs["steering_gate"] = kwargs["steering_gate"]
        return inputs

    def _get_candidate_generator(self, *args: Any, **kwargs: Any) -> Any:
        if "model_kwargs" in kwargs:  # the assistant is another model, with no gate or with its own
            kwargs["model_kwargs"] = {
                k: v for k, v in kwargs["model_kwargs"].items() if k not in OWN_ARGUMENTS
            }
        return super()._get_candidate_generator(*args, **kwargs)  # type: ignore[misc]


def _is_flat(mask: object) -> bool:
    return mask is None or (isinstance(mask, Tensor) and mask.dim() == 2)


def _all_columns(inputs: dict[str, Any]) -> Tensor:
    """A mask [B, P + T] without padding over the cache and the columns of the inputs to a pass."""
    ids = inputs.get("input_ids")
    tokens = inputs["inputs_embeds"] if ids is None else ids
    cache = find_cache(inputs)
    past = 0 if cache is None else int(cache.get_seq_length())
    return torch.ones(tokens.shape[0], past + tokens.shape[1], dtype=torch.long, device=tokens.device)


def adopt_weight_renames(renames: dict[str, str]) -> None:
    """Gives steered model types and classes the weight renames of their stock counterparts.

    Transformers skips them for custom code, which would leave renamed weights (lm_head among them) random.
    """
    for stock, steered in renames.items():
        mapping = get_checkpoint_conversion_mapping(stock)
        if mapping is not None:
            register_checkpoint_conversion_mapping(steered, mapping, overwrite=True)
