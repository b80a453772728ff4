"""Programs of format ``steerbake/1`` as ``steerbake/2``, where the law can be kept. Not part of checkpoints, which have format 2."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from .checks import ProgramError
from .program import SteeringProgram, program_sha256
from .schema import FORMAT

OLD_FORMAT = "steerbake/1"
_OLD_POSITIONS = {"from_prompt_end": "from_gate"}


def is_old(section: Any) -> bool:
    """Whether a section is of the format before this one."""
    return isinstance(section, dict) and section.get("format") == OLD_FORMAT


def upgraded(
    section: Mapping[str, Any], tensors: Mapping[str, Tensor], headers: Sequence[Sequence[int]]
) -> SteeringProgram:
    """A signed ``steerbake/1`` section and its tensors as a program of this format.

    Gates that were read once, at the prompt's end, are read at the last token of every generation header, and stay on. The mean over
    a prompt becomes the mean over the sequence up to there.

    Args:
        headers: token ids of the generation headers of the base's chat template.

    Raises:
        ProgramError: the section was changed after it was signed; an edit needs to know its gate before the gate's own column;
            or what results breaks the format.
    """
    if not is_old(section) or section.get("sha256") != program_sha256(section, tensors):
        raise ProgramError(
            [f"not a valid {OLD_FORMAT} program: its sha256 does not match, or it has another format"]
        )
    new = copy.deepcopy(dict(section))
    problems = []
    for index, edit in enumerate(new.get("edits") or ()):
        gate, positions = edit.get("gate"), edit.get("positions")
        if gate is None and positions == "all":
            continue
        if gate is None or positions not in _OLD_POSITIONS:
            problems.append(
                f"edits[{index}] has positions {positions!r} with gate {gate!r}: it edits columns before the column at which a gate "
                f"decides, which {FORMAT} does not allow, because the output would depend on how a prompt is cut. Fit it again"
            )
        else:
            edit["positions"] = _OLD_POSITIONS[positions]
    if problems:
        raise ProgramError(problems)
    new |= {"format": FORMAT, "headers": [list(header) for header in headers]}
    new["sha256"] = program_sha256(new, tensors)
    return SteeringProgram.parse(new, tensors)
