"""Whether a section, a config and a loaded model belong together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from transformers import PretrainedConfig, PreTrainedModel

from .checks import ProgramError, check_program
from .schema import Section
from .steering_layer import Steering


def check_fits(section: Section, shapes: dict[str, list[int]], model: PreTrainedModel, blocks: int) -> None:
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


def check_section(config: PretrainedConfig, steering: Steering) -> None:
    """Raises ProgramError where the config, which is saved, no longer holds the section that steers in memory."""
    shapes = {name: list(tensor.shape) for name, tensor in steering.tensors().items()}
    held = getattr(config, "steering", None), getattr(config, "steering_shapes", None)
    if held != (steering.section, shapes):
        problem = (
            "config.steering or config.steering_shapes is not what this model was loaded with, so what would be saved is not what steers here; leave it "
            "as it was loaded, and compile another program to steer otherwise"
        )
        raise ProgramError([problem])


def check_loading(source: object, info: Mapping[str, Sequence[str]]) -> None:
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
        raise RuntimeError(
            f"{source} does not contain the complete steered model, so it is not loaded:\n{shown}"
        )
