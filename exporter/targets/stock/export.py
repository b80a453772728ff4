"""Target ``stock``: writes an unlearned checkpoint of the base's own architecture, one or two decoder layers deeper.

calibration states -> gate classifier -> layers -> checks -> shards -> the written model held against base, twin and exact program.
Nothing is left behind where a check fails.
"""

from __future__ import annotations

import gc
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from pydantic import JsonValue
from torch import Tensor

from exporter.atomic import refuse_existing, whole_folder, write_json
from exporter.digests import digest_of_file
from exporter.errors import CompileError, VerificationError
from exporter.host import ModelHost
from exporter.inspection import examine
from exporter.reader import loaded_config
from exporter.targets.answers import Answers, answer
from exporter.targets.base_weights import BaseWeights
from exporter.targets.companions import copy_companions, without_places
from exporter.targets.edited_base import settings_in
from exporter.targets.stock.calibration import Calibration, Positions, calibrate, steered_behind
from exporter.targets.stock.checks import (
    LEAST_IDENTICAL,
    LEAST_RECALL,
    MORE_ROWS,
    Check,
    held_out_estimate,
    preflight,
)
from exporter.targets.stock.control import Comparison, compare
from exporter.targets.stock.decoder import check_rotation, read_decoder
from exporter.targets.stock.gate_classifier import Found, find_gate_classifier, layers_between, thinned
from exporter.targets.stock.layers import Construction, Mark, construct, marking
from exporter.targets.stock.manifest import (
    STOCK_JSON,
    Bound,
    Compared,
    EditShown,
    GateShown,
    Held,
    Source,
    StockManifest,
)
from exporter.targets.stock.shards import insert_layers, places
from exporter.targets.stock.target import refuse
from exporter.targets.values import CalibrationSet
from steer_modules.program import STEERING_TENSORS, SteeringProgram
from steer_modules.schema import CONFIG_KEYS

LOG = logging.getLogger(__name__)
MOST_OTHERS = 60_000
MOST_COMPARED = 48


def export_stock(checkpoint: Path, out: Path, base: ModelHost, calibration_set: CalibrationSet) -> Path:
    """Write ``out``, a stock checkpoint that does what the steered ``checkpoint`` does, whole or not at all.

    Args:
        checkpoint: a steered checkpoint; its base shards are copied byte for byte.
        base: the unsteered base of it, in float32.
        calibration_set: from the rows that it was fitted on.

    Returns:
        ``out``, with ``stock.json``: what was inserted, every check and what it measured.

    Raises:
        CompileError: ``out`` exists, the program or the family cannot be expressed, or a check fails, each with its value.
        VerificationError: the written model is not what was computed.
    """
    refuse_existing(out)
    program, section = _program(checkpoint)
    config = _base_config(checkpoint, program)
    weights = BaseWeights.read(checkpoint, steered=True)
    shape = read_decoder(config, weights)
    rotation = check_rotation(base, 2)
    edit = program.edits[0]
    LOG.info("generate replies of the steered checkpoint")
    answers = [_answered(base, program, calibration_set, split) for split in ("fit", "held")]
    LOG.info("collect states along these replies")
    layers = layers_between(max(gate.layer for gate in program.gates), edit.layer)
    fit, held = (calibrate(base, some, layers, batch_size=calibration_set.batch_size) for some in answers)
    LOG.info("solve for the inserted layers")
    found = find_gate_classifier(_thin(fit), _thin(held), edit.layer, shape.eps)
    checks = held_out_estimate(found.held)
    _refuse(checks)
    both = {layer: fit[layer].joined(held[layer]) for layer in {found.layer, edit.layer}}
    mark = marking(found, edit.layer, both, shape.eps)
    behind = _behind(base, answers, edit.layer, mark, shape.eps, calibration_set.batch_size)
    made = construct(edit, both[edit.layer], found.classifier, mark, behind, shape)
    checks += preflight(made, both, edit.layer, shape.eps, rotation)
    _refuse(checks)
    added = made.tensors(edit.layer, shape)
    LOG.info("write, load and compare")
    with whole_folder(out) as folder:
        shards = [shard for shard in weights.shards if shard != STEERING_TENSORS]
        insert_layers(weights, shards, shape.prefix, added, folder)
        write_json(folder / "config.json", _deeper(config, added), indent=2, finite=False)
        copy_companions(checkpoint, folder)
        compared = _held_against(base, folder, program, places(added), calibration_set)
        checks += _compared_checks(compared)
        _refuse(checks)
        settings = settings_in(checkpoint)
        manifest = _manifest(folder, section, settings, places(added), made, found, checks, compared)
        manifest.save(folder / STOCK_JSON)
    return out


def _program(checkpoint: Path) -> tuple[SteeringProgram, dict[str, object]]:
    found = examine(checkpoint)
    if found.kind != "checkpoint":
        raise CompileError(
            f"{checkpoint} is a {found.kind}; give a checkpoint that `steerbake compile` wrote"
        )
    program = found.program
    refuse(program)
    return program, found.section


def _base_config(checkpoint: Path, program: SteeringProgram) -> dict[str, object]:
    """The config of the base, out of the steered one."""
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    for key in (*CONFIG_KEYS, "auto_map"):
        config.pop(key, None)
    return {
        **without_places(config),
        "model_type": program.base.model_type,
        "architectures": [program.base.architecture],
    }


def _answered(
    base: ModelHost, program: SteeringProgram, calibration_set: CalibrationSet, split: str
) -> Answers:
    return answer(
        base,
        program,
        getattr(calibration_set, split),
        max_new_tokens=calibration_set.max_new_tokens,
        batch_size=calibration_set.batch_size,
        kept=calibration_set.kept.get(split),
    )


def _behind(
    base: ModelHost, answers: Sequence[Answers], edited: int, mark: Mark | None, eps: float, batch_size: int
) -> tuple[Positions, Positions]:
    """``steered`` and ``on`` of all conversations behind the edited layer, once prompt ends are marked."""
    at = edited if mark is None else mark.layer

    def change(states: Tensor) -> Tensor:
        return states if mark is None else mark.of(states, eps)

    fit, held = (steered_behind(base, some, edited, at, change, batch_size=batch_size) for some in answers)
    count = len(answers[0].conversations)
    return fit[0].joined(held[0], count), fit[1].joined(held[1], count)


def _deeper(config: dict[str, Any], added: Mapping[int, Sequence[object]]) -> dict[str, object]:
    """The config of the deeper model; nothing but the number of layers, and their kinds, is another."""
    deeper = json.loads(json.dumps(config))
    text = deeper.get("text_config") or deeper
    inserted = places(added)
    text["num_hidden_layers"] = loaded_config(config).get_text_config().num_hidden_layers + len(inserted)
    if text.get("layer_types"):
        for place in inserted:
            text["layer_types"].insert(place, "full_attention")
    return dict(deeper)


def _held_against(
    base: ModelHost,
    folder: Path,
    program: SteeringProgram,
    inserted: Sequence[int],
    calibration_set: CalibrationSet,
) -> Comparison:
    """The model as anybody loads it, on conversations of the held split."""
    stock = ModelHost.load(folder, dtype=base.dtype, device=str(base.device), processor=base.processor)
    if stock.num_layers != base.num_layers + len(inserted):
        raise VerificationError(f"the written model has {stock.num_layers} layers")
    ordinary = [one for one in calibration_set.held if one.kind != "begun"]
    roles = [[one for one in ordinary if (one.role == "forget") is about] for about in (True, False)]
    chosen = [
        role[i * len(role) // n] for role in roles for n in [min(len(role), MOST_COMPARED)] for i in range(n)
    ]
    found = compare(base, stock, program, inserted, chosen, max_new_tokens=calibration_set.max_new_tokens)
    del stock
    gc.collect()
    return found


def _compared_checks(found: Comparison) -> list[Check]:
    return [
        Check("share of replies for which the model with zeroed layers equals the base to the bit", found.twin_identical, 1.0, True,
              "the inserted layers are computed differently from the base's; please report this"),
        Check("share of retain replies whose logits equal the base's to the bit", found.logits_identical, LEAST_IDENTICAL, True,
              MORE_ROWS),
        Check("share of forget replies for which the written model steers", found.steered, LEAST_RECALL, True, MORE_ROWS),
    ]  # fmt: skip


def _refuse(checks: Sequence[Check]) -> None:
    wrong = [check.sentence() for check in checks if not check.holds]
    if wrong:
        raise CompileError("no stock checkpoint was written: " + "; ".join(wrong))


def _manifest(
    folder: Path,
    section: dict[str, Any],
    settings: dict[str, JsonValue],
    inserted: Sequence[int],
    made: Construction,
    found: Found,
    checks: Sequence[Check],
    compared: Comparison,
) -> StockManifest:
    units = made.steer.units
    return StockManifest(
        layers=list(inserted),
        checkpoint=Source(
            sha256=section["sha256"],
            fingerprint=section["base"]["fingerprint"],
            method=section["method"],
            settings=settings,
        ),
        gate=GateShown(
            layer=found.layer, half_spaces=len(found.classifier.weights), held=Held(**asdict(found.held))
        ),
        edit=EditShown(error=units.error, row_found=units.agreement, norm_ratio=list(units.norm_ratio)),
        checks=[Bound(**asdict(check), holds=check.holds) for check in checks],
        compared=Compared(**asdict(compared)),
        files={path.name: digest_of_file(path) for path in sorted(folder.iterdir()) if path.is_file()},
    )


def _thin(found: Mapping[int, Calibration]) -> dict[int, Calibration]:
    return {layer: replace(some, others=thinned(some.others, MOST_OTHERS)) for layer, some in found.items()}
