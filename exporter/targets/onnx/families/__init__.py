"""How the model of each family is cut into graphs: what its decoder reads, and its vision encoder."""

from __future__ import annotations

from exporter.errors import CompileError
from exporter.targets.onnx.families.base import Family, VisionGraph, own_forward
from exporter.targets.onnx.families.qwen_vl import Qwen3Vl, Qwen25Vl
from exporter.targets.onnx.families.whole_images import Gemma3, InternVl, Llava, SmolVlm

__all__ = ["FAMILIES", "Family", "VisionGraph", "family_of", "own_forward"]

FAMILIES: dict[str, Family] = {
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "gemma3_text", "gpt2"), Family()),
    "llava": Llava(),
    "internvl": InternVl(),
    "smolvlm": SmolVlm(),
    "gemma3": Gemma3(),
    "qwen2_5_vl": Qwen25Vl(),
    "qwen3_vl": Qwen3Vl(),
}


def family_of(model_type: str) -> Family:
    """The family of a stock model type; raises CompileError where its graphs are not tested."""
    if model_type not in FAMILIES:
        raise CompileError(
            f"models of type {model_type!r} cannot be exported to ONNX; supported types: {', '.join(FAMILIES)}"
        )
    return FAMILIES[model_type]
