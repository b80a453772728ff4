"""A loaded base under what a method has found, for the length of a block."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from exporter.training.lora import edited
from exporter.weight_edit import WeightEdit
from steer_modules.attach import steered

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from exporter.fitted import Fitted


@contextmanager
def applied(model: PreTrainedModel, found: Fitted) -> Iterator[None]:
    """The model is steered by a program, or has an edit beside its weights; it is the base again afterwards."""
    with edited(model, found) if isinstance(found, WeightEdit) else steered(model, found):
        yield
