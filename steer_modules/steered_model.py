"""SteeredModelMixin: put before a stock Transformers class, it makes a model that cannot run unsteered.

``class SteeredLlavaModel(SteeredModelMixin, LlavaModel)`` builds the base, hangs the steering of ``config.steering``
on its decoder blocks, resolves the gates of every forward pass, and loads and saves strictly.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers.conversion_mapping import (
    get_checkpoint_conversion_mapping,
    register_checkpoint_conversion_mapping,
)

from .checks import ProgramError, check_program
from .files import check_weight_files, save_code
from .outputs import with_gate
from .resolve import remember, resolve_call
from .steering_layer import CALL, Steering, install_hooks

OWN_ARGUMENTS = ("steering_gate", "steering_prompt_end", "steering_mask")


def decoder_blocks(model: Any) -> Any:
    """The decoder's list of blocks; raises TypeError where the model has none that can be steered."""
    decoder = model.get_decoder()
    for name in ("layers", "h"):
        blocks = getattr(decoder, name, None)
        if blocks is not None:
            return blocks
    raise TypeError(
        f"{type(model).__name__} has a decoder of type {type(decoder).__name__} without a list of blocks"
    )


def steered_forward(stock: Callable[..., Any]) -> Callable[..., Any]:
    """The forward of a steered class around the ``stock`` one.

    Further arguments: ``steering_gate`` float32 [B, G], the gates that are not pooled per token, 1 or 0, -1 to decide
    now (default: what the cache bears, else decide); ``steering_prompt_end`` int [B], column of the prompt's last
    token; ``steering_mask`` [B, T_total], the 2-D padding mask where ``attention_mask`` is not 2-D.
    The output has the further field ``steering_gate``.
    """
    signature = inspect.signature(stock)

    @functools.wraps(stock)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not self.steering.verified:
            self.steering.verify()
        own = {name: kwargs.pop(name, None) for name in OWN_ARGUMENTS}
        if args:
            named = signature.bind_partial(self, *args).arguments
            kwargs = {**{k: v for k, v in named.items() if k != "self"}, **kwargs}
        return_dict = kwargs.pop("return_dict", None)
        call = resolve_call(self.steering, kwargs, **own)
        outputs = stock(self, **kwargs, return_dict=True, **{CALL: call})
        unseen = set(self.steering.steered_blocks) - call.visited
        if unseen:
            raise RuntimeError(
                f"decoder blocks {sorted(unseen)} ran without their steering; nothing is returned unsteered"
            )
        gate = call.gates(call.end.device)
        gate = remember(getattr(outputs, "past_key_values", None), call, gate)
        outputs = with_gate(outputs, gate)
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

    def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)  # type: ignore[call-arg]
        section, shapes = getattr(config, "steering", None), getattr(config, "steering_shapes", None)
        if not section or not shapes:
            raise ProgramError(
                [
                    f"the config of this {type(self).__name__} has no 'steering' and 'steering_shapes': it would run unsteered"
                ]
            )
        self.install_steering(section, shapes)

    def install_steering(self, section: dict[str, Any], shapes: dict[str, Any]) -> None:
        """Builds the steering modules and hangs them on the decoder blocks."""
        blocks = decoder_blocks(self)
        check_fits(section, shapes, self, len(blocks))
        self.steering = Steering(section, shapes)
        self._steering_handles = install_hooks(self.steering, blocks)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Loads like any Transformers model, but raises where Transformers would warn and go on unsteered.

        Raises:
            RuntimeError: a tensor is missing or of another shape, or both a single weight file and an index exist.
            ProgramError: the steering tensors or the section are not the ones that were signed.
        """
        check_weight_files(pretrained_model_name_or_path, kwargs)
        wants_info = kwargs.pop("output_loading_info", False)
        model, info = super().from_pretrained(  # type: ignore[misc]
            pretrained_model_name_or_path, *args, output_loading_info=True, **kwargs
        )
        check_loading(pretrained_model_name_or_path, info)
        model.steering.verify()
        return (model, info) if wants_info else model

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """Saves weights, config and the code that steers them, so that the folder stands alone again."""
        self.steering.verify()
        super().save_pretrained(save_directory, *args, **kwargs)  # type: ignore[misc]
        if kwargs.get("is_main_process", True):
            save_code(type(self), self.config, save_directory)


class SteeredGenerationMixin(SteeredModelMixin):
    """Carries the gates through ``generate``: decided at the prompt's end, then kept to the end of the answer."""

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """Generates like the base; accepts ``steering_gate`` and ``steering_prompt_end`` too."""
        if kwargs.get("steering_prompt_end") is None:
            kwargs["steering_prompt_end"] = _prompt_end(args, kwargs)
        return super().generate(*args, **kwargs)  # type: ignore[misc]

    def generate_batch(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError(
            "continuous batching packs several prompts into one row, where a steered model cannot tell their gates apart; use generate"
        )

    init_continuous_batching = generate_batch
    continuous_batching_context_manager = generate_batch

    def prepare_inputs_for_generation(self, input_ids: Any, *args: Any, **kwargs: Any) -> Any:
        first = kwargs.get("is_first_iteration", False)
        mask = kwargs.get("attention_mask")
        inputs = super().prepare_inputs_for_generation(input_ids, *args, **kwargs)  # type: ignore[misc]
        if isinstance(mask, Tensor) and mask.dim() == 2:
            inputs["steering_mask"] = mask
        if first and kwargs.get("steering_gate") is None:
            width = len(self.steering.pooled_gates)
            inputs["steering_gate"] = torch.full((input_ids.shape[0], width), -1.0, device=input_ids.device)
        for name in ("steering_gate", "steering_prompt_end"):
            if kwargs.get(name) is not None:
                inputs[name] = kwargs[name]
        return inputs

    def _update_model_kwargs_for_generation(
        self, outputs: Any, model_kwargs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> dict[str, Any]:
        updated: dict[str, Any] = super()._update_model_kwargs_for_generation(  # type: ignore[misc]
            outputs, model_kwargs, *args, **kwargs
        )
        updated["steering_gate"] = outputs.steering_gate
        return updated

    def _prefill(
        self, input_ids: Any, generation_config: Any, model_kwargs: Any, *args: Any, **kwargs: Any
    ) -> Any:
        if generation_config.prefill_chunk_size is not None and self.steering.pooled_gates:
            raise ValueError(
                "prefill_chunk_size would make the gate judge in the middle of the prompt; leave it unset for a steered model"
            )
        return super()._prefill(input_ids, generation_config, model_kwargs, *args, **kwargs)  # type: ignore[misc]

    def _get_candidate_generator(self, *args: Any, **kwargs: Any) -> Any:
        if "model_kwargs" in kwargs:  # the assistant is another model, with no gate or with its own
            kwargs["model_kwargs"] = {
                k: v for k, v in kwargs["model_kwargs"].items() if k not in OWN_ARGUMENTS
            }
        return super()._get_candidate_generator(*args, **kwargs)  # type: ignore[misc]


def _prompt_end(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """Absolute column [B] of the last prompt token of a ``generate`` call; None where it has no prompt (BOS only)."""
    mask = kwargs.get("attention_mask")
    if isinstance(mask, Tensor) and mask.dim() == 2:
        columns = torch.arange(mask.shape[1], device=mask.device)
        return (columns * mask.bool()).amax(-1)
    inputs = (
        args[0]
        if args
        else next(
            (kwargs[k] for k in ("inputs", "input_ids", "inputs_embeds") if kwargs.get(k) is not None), None
        )
    )
    if not isinstance(inputs, Tensor):
        return None
    total = inputs.shape[1]
    cache = kwargs.get("past_key_values")
    past = int(cache.get_seq_length()) if cache is not None else 0
    if total <= past:  # only the new tokens were given
        total += past
    return torch.full((inputs.shape[0],), total - 1, dtype=torch.long, device=inputs.device)


def check_fits(section: dict[str, Any], shapes: dict[str, Any], model: Any, blocks: int) -> None:
    """Raises ProgramError where a section is not understood or was made for a decoder of another size."""
    check_program(
        section,
        {name: torch.empty(shape, dtype=torch.float32, device="meta") for name, shape in shapes.items()},
        signed=True,
    )
    hidden = model.config.get_text_config(decoder=True).hidden_size
    found = {"hidden_size": hidden, "num_layers": blocks}
    wrong = [
        f"{key} is {section[key]}, but the model has {found[key]}"
        for key in found
        if section[key] != found[key]
    ]
    if wrong:
        raise ProgramError(wrong)


def check_loading(source: Any, info: dict[str, Any]) -> None:
    """Raises RuntimeError where a checkpoint did not fill the model."""
    missing = sorted(info.get("missing_keys") or ())
    mismatched = sorted(str(key) for key in info.get("mismatched_keys") or ())
    unused = sorted(key for key in info.get("unexpected_keys") or () if key.startswith("steering."))
    faults = [
        *(f"missing: {k}" for k in missing),
        *(f"other shape: {k}" for k in mismatched),
        *(f"not in config: {k}" for k in unused),
    ]
    faults += [str(error) for error in info.get("error_msgs") or ()]
    if faults:
        shown = "\n".join(f"  - {fault}" for fault in faults[:20])
        raise RuntimeError(f"{source} does not hold the whole steered model, so it is not loaded:\n{shown}")


def adopt_weight_renames(renames: dict[str, str]) -> None:
    """Gives steered model types and classes the weight renames of their stock counterparts.

    Transformers skips them for custom code, which would leave renamed weights (lm_head among them) random.
    """
    for stock, steered in renames.items():
        mapping = get_checkpoint_conversion_mapping(stock)
        if mapping is not None:
            register_checkpoint_conversion_mapping(steered, mapping, overwrite=True)
