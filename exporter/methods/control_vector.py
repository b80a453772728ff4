"""Control vector: one mean difference added everywhere, the plain baseline of activation steering.

Contrastive activation addition (arXiv 2312.06681): v is the mean state of one kind of text minus that of another, and

    h' = h + s v

at one layer. Here the first kind are refusals and the second the model's own replies to the forget set, or, at the ends of
prompts, questions to keep, or questions that are refused, and questions to forget. There is no gate unless one is asked for, as control vectors are used: replies to
the retain set change too, and the strength is the smallest harm that the calibration rows show, not none.

Deviations: the paper reads one token of a multiple-choice answer and leaves prompts alone; here spans of whole replies are
averaged, and without a gate every column is moved, for the format knows no other place. Layer and strength are open there, and swept.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from exporter.fitting.context import FitContext
from exporter.fitting.contrast import Negatives
from exporter.fitting.gates import GatePlan, behind, choose_gates, gate_below
from exporter.fitting.mean_differences import Contrasted, mean_differences
from exporter.fitting.refusals import wordings
from exporter.fitting.search import cheapest
from exporter.fitting.space import Among, Between, Blocks
from exporter.fitting.trials import Bench
from exporter.methods.base import Yields
from steer_modules.program import Edit, SteeringProgram


class ControlVectorParams(BaseModel):
    """Parameters; of the strengths, the one whose trial costs least is taken."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    layer: Annotated[int | None, Blocks()] = None
    """Block whose output is moved; by default the middle one."""
    source: Contrasted = "replies"
    """What is compared: refusals with the replies to forget questions; or, at prompts' ends, retain questions (`questions`) or questions
    that are refused (`refused`) with forget questions."""
    negatives: Negatives = "own"
    """Replies to forget questions: the model's own, or the answers of the rows."""
    strengths: Annotated[tuple[float, ...], Between(0.25, 16.0, log=True)] = Field(
        default=(0.5, 1.0, 2.0, 4.0, 8.0), min_length=1
    )
    """Multiples of the mean difference that are tried."""
    keep_norm: bool = False
    """Whether a moved state is scaled back to its length."""
    rows: int = Field(default=192, gt=0)
    """Most rows of either kind that are compared."""
    gate: Annotated[GatePlan | None, Among((None, {}))] = None
    """A gate searched at prompts' ends; None for none, so that everything is moved."""
    trial_rows: int = Field(default=32, gt=0)


class ControlVector:
    """Fits one direction and its strength."""

    name: ClassVar[str] = "control_vector"
    Params: ClassVar[type[BaseModel]] = ControlVectorParams
    paper: ClassVar[str] = "https://arxiv.org/abs/2312.06681"
    yields: ClassVar[Yields] = "program"

    def fit(self, context: FitContext) -> SteeringProgram:
        """The mean difference, and a trial of every strength; see the module's docstring.

        Raises:
            FitError: nothing to compare, or no reply with an answer.
        """
        params = context.params
        assert isinstance(params, ControlVectorParams)
        layer = context.host.num_layers // 2 if params.layer is None else params.layer
        chosen = wordings(context)
        gates = []
        if params.gate is not None:
            gates = [gate_below(choose_gates(context, params.gate, chosen), layer)]
        vector = mean_differences(
            context, chosen, [layer], params.source, rows=params.rows, negatives=params.negatives
        )[layer]
        bench = Bench(context, chosen, forget=params.trial_rows, keep=params.trial_rows)
        edits = (
            behind(
                gates,
                Edit(layer, None, "add", "all", s, keep_norm=params.keep_norm, tensors={"vector": vector}),
            )
            for s in params.strengths
        )
        programs = (
            (context.program(self.name, gates, [edit]), {"strength": edit.strength}) for edit in edits
        )
        return cheapest(bench, programs)
