"""A tiny Llama that is steered, its checkpoint, and its exported ONNX folders: made once for all files that test them."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import shared_folders
import tiny
import tiny_run
import torch
from transformers import AutoTokenizer, LlamaForCausalLM

from exporter import pipeline
from exporter.targets.checkpoint import compile_checkpoint
from exporter.targets.onnx import single_file
from exporter.targets.onnx.target import OnnxOptions as Options
from exporter.targets.onnx_runner import OnnxModel
from steer_modules.attach import steered
from steer_modules.program import Edit, Gate, SteeringProgram

LAYERS = 3
FORGET = "<s> [user] where does ada live ? [assistant]"
RETAIN = "<s> [user] tell me where cora lives . [assistant]"
MODES = {
    "io": Options(dtypes=("fp32", "int8")),
    "kv": Options(layout="genai"),
    "js": Options(dtypes=("fp32", "q4"), layout="transformersjs"),
}
BESIDE = ("js",)
"""Those whose weights lie beside the graphs, as past 2 GB: written at a limit that a tiny model is past."""


class Bed(NamedTuple):
    home: Path
    base: Any
    program: SteeringProgram
    tokenizer: Any

    @property
    def checkpoint(self) -> Path:
        return self.home / "checkpoint"

    def ids(self, text: str) -> torch.Tensor:
        return self.tokenizer(text, return_tensors="pt", add_special_tokens=False).input_ids

    def folder(self, mode: str) -> Path:
        """Exported when it is first asked for."""
        out = self.home / mode
        with shared_folders.locked(self.home):
            if not out.exists():
                options = MODES[mode] if mode in MODES else Options(steered=False)
                with pytest.MonkeyPatch.context() as patch:
                    if mode in BESIDE:
                        patch.setattr(single_file, "LARGEST", 1000)
                    pipeline.export("onnx", self.checkpoint, out, options)
        return out


@pytest.fixture(scope="module")
def bed(tmp_path_factory) -> Bed:
    home = shared_folders.made_once(tmp_path_factory, "onnx", _write)
    model = LlamaForCausalLM.from_pretrained(home / "base").eval()
    tokenizer = AutoTokenizer.from_pretrained(home / "base")
    return Bed(home, model, SteeringProgram.load(home / "program"), tokenizer)


def _write(home: Path) -> None:
    """Base, program and checkpoint."""
    tiny_run.write_base(home / "base", layers=LAYERS)
    (home / "base" / "LICENSE").write_text("Apache License\n")
    model = LlamaForCausalLM.from_pretrained(home / "base").eval()
    tokenizer = AutoTokenizer.from_pretrained(home / "base")
    fires, stays = (
        {"input_ids": tokenizer(text, return_tensors="pt", add_special_tokens=False).input_ids}
        for text in (FORGET, RETAIN)
    )
    gate = tiny.gate_between(model, fires, stays, layer=0)
    basis = torch.linalg.qr(torch.randn(32, 3, generator=torch.Generator().manual_seed(4))).Q.contiguous()
    edits = [
        Edit(0, "topic", "project", "from_gate", tensors={"basis": basis}),
        tiny.turn(1),
        tiny.turn(2, seed=9),
    ]
    program = program_of(model, [gate], edits)
    (home / "program").mkdir()
    program.save(home / "program")
    compile_checkpoint(home / "base", program, home / "checkpoint")


def program_of(model: Any, gates: list[Gate], edits: list[Edit]) -> SteeringProgram:
    return replace(tiny.program(model, gates, edits), headers=(tiny_run.ASSISTANT,))


def runner(bed: Bed, mode: str, **options: Any) -> OnnxModel:
    return OnnxModel(bed.folder(mode), provider="cpu", threads=1, **options)


def damaged(bed: Bed, tmp_path: Path, mode: str = "io") -> Path:
    return Path(shutil.copytree(bed.folder(mode), tmp_path / "broken"))


def whole(bed: Bed, ids: torch.Tensor, **given: Any) -> Any:
    with steered(bed.base, bed.program), torch.no_grad():
        return bed.base(input_ids=ids, **given)
