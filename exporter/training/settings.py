"""How a weight edit is trained; every objective has these, beside parameters of its own."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from exporter.fitting.space import Among, Between, Fixed
from exporter.training.examples import Responses
from exporter.training.precision import Precision


class TrainingSettings(BaseModel):
    """Parameters of a training."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rank: Annotated[int, Among((4, 8, 16, 32))] = Field(default=16, gt=0, le=512)
    """Rank of the LoRA adapter; vLLM serves up to 512."""
    alpha: int = Field(default=32, gt=0)
    """Scaling of the adapter: alpha / rank."""
    vision: Annotated[bool, Fixed()] = False
    """Whether linear layers outside the decoder (vision tower, projector) are edited too."""
    learning_rate: Annotated[
        Annotated[float, Field(gt=0)] | Literal["search"], Between(1e-5, 3e-3, log=True)
    ] = "search"
    """Of AdamW, falling linearly to 0; `search` trains with each of `rates` and keeps what does best on the calibration rows."""
    rates: tuple[Annotated[float, Field(gt=0)], ...] = Field(default=(1e-4, 3e-4, 1e-3), min_length=1)
    """Learning rates that `search` tries."""
    trial_rows: int = Field(default=48, gt=0)
    """Calibration rows of the forget set, and as many to keep, on which `search` judges."""
    epochs: Annotated[int, Among((2, 5, 10))] = Field(default=5, gt=0)
    """How often each forget conversation is seen."""
    batch_size: int = Field(default=8, gt=0)
    """Conversations of each side per step and process."""
    accumulation: int = Field(default=1, gt=0)
    """Batches per step of the optimizer."""
    warmup: int = Field(default=0, ge=0)
    """Steps in which the learning rate rises to its value."""
    clip: float = Field(default=1.0, gt=0)
    """Largest norm of a gradient."""
    precision: Annotated[Precision, Fixed()] = "auto"
    """Arithmetic of the passes: `bfloat16`, `float32`, or what the device computes at speed."""
    responses: Annotated[Responses, Fixed()] = "own"
    """What is unlearned and retained: the base's `own` replies to the rows, or the answers of the `rows`, as in the papers."""
    save_steps: int = Field(default=50, gt=0)
    """Steps between checkpoints, from which a training that was stopped goes on."""
    log_steps: int = Field(default=10, gt=0)
    """Steps between the losses that the report's record has."""

    @property
    def tried(self) -> tuple[float, ...]:
        """The learning rates to train with."""
        return self.rates if self.learning_rate == "search" else (self.learning_rate,)
