"""Each target says by a config alone that it cannot be written for a base."""

from __future__ import annotations

import pytest
import tiny

from exporter.targets.families import why_no_target

TARGETS = ("checkpoint", "onnx", "stock", "gguf")
CAN = {
    "llama": TARGETS,
    "qwen3": TARGETS,
    "llava": ("checkpoint", "onnx", "stock"),
    "gemma3": ("checkpoint", "onnx"),
    "gpt2": ("checkpoint", "onnx"),
}


@pytest.mark.parametrize("family", CAN)
@pytest.mark.parametrize("target", TARGETS)
def test_a_target_knows_its_families(family, target):
    reason = why_no_target(target, {"model_type": family, **tiny.CONFIGS[family][1]})
    assert (reason is None) == (target in CAN[family]), reason
    assert reason is None or family in reason


@pytest.mark.parametrize(("family", "targets"), [("olmo2", ("checkpoint",)), ("bloom", ()), ("t5", ())])
def test_what_a_proof_compiles_is_not_thereby_exported(family, targets):
    found = {target for target in TARGETS if why_no_target(target, {"model_type": family}) is None}
    assert found == set(targets)
