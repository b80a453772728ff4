"""Compiled checkpoints of tiny models of many families, and what a clean environment that loads them must find."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import clean_environment
import tiny
import torch
from torch import Tensor

from exporter.targets.checkpoint import compile_checkpoint
from steer_modules.attach import steered

NEW = 6


def answer(model: Any, inputs: dict[str, Tensor], **options: Any) -> Tensor:
    return model.generate(**inputs, max_new_tokens=NEW, do_sample=False, **options)[:, -NEW:]


def ship(home: Path, family: str, fires: dict[str, Tensor], stays: dict[str, Tensor]) -> None:
    """Writes base, checkpoint, and a file of inputs and the answers expected."""
    model = tiny.build(family)
    gate = tiny.gate_between(model, fires, stays)
    program = tiny.program(model, [gate], [tiny.turn(2), tiny.turn(3, seed=9)])
    model.save_pretrained(home / f"{family}-base")
    compile_checkpoint(home / f"{family}-base", program, home / family)
    batch = tiny.batch([fires, stays], "left")
    with steered(model, program), torch.no_grad():
        told = {"inputs": batch, "answer": answer(model, batch), "logits": model(**batch).logits}
        told["gate"] = model(**batch).steering_gate
    torch.save(told, home / f"{family}.pt")


def found_in_a_clean_environment(home: Path, families: tuple[str, ...], folder: Path) -> dict[str, Any]:
    """What a process that has neither of our packages makes of checkpoints; see :data:`GOOD`."""
    return clean_environment.run(_CLEAN, home, *families, folder=folder)


GOOD = {
    "raised": [True, True, True, True],
    **dict.fromkeys(("answer", "logits", "gate", "bf16", "float32", "resaved"), True),
}
_CLEAN = """
import pathlib
import transformers
home, found = pathlib.Path(sys.argv[1]), {}
for family in sys.argv[2:]:
    told = torch.load(home / f"{family}.pt")
    inputs, folder = told["inputs"], str(home / family)
    head = transformers.AutoModelForImageTextToText if "pixel_values" in inputs else transformers.AutoModelForCausalLM
    stock = getattr(transformers, json.loads((pathlib.Path(folder) / "config.json").read_text())["architectures"][0][7:])
    try:
        stock.from_pretrained(folder)
        named = False
    except OSError as error:
        named = "no file named" in str(error)
    raised = [named]
    for cls in (head, transformers.AutoModel, transformers.AutoConfig):
        try:
            cls.from_pretrained(folder, trust_remote_code=False)
        except ValueError as error:
            raised.append("trust_remote_code" in str(error))
    model = head.from_pretrained(folder, trust_remote_code=True)
    said = model.generate(**inputs, max_new_tokens=6, do_sample=False)[:, -6:]
    with torch.no_grad():
        logits = model(**inputs).logits
        gate = transformers.AutoModel.from_pretrained(folder, trust_remote_code=True)(**inputs).steering_gate
        half = head.from_pretrained(folder, trust_remote_code=True, dtype=torch.bfloat16)
        half_gate = half(**{k: v.bfloat16() if v.is_floating_point() else v for k, v in inputs.items()}).steering_gate
    again = home / f"{family}-again-{len(sys.argv)}"
    model.save_pretrained(again)
    resaved = head.from_pretrained(again, trust_remote_code=True)
    found[family] = {
        "raised": raised,
        "answer": torch.equal(said, told["answer"]),
        "logits": torch.allclose(logits, told["logits"], atol=1e-5),
        "gate": torch.equal(gate, told["gate"]),
        "bf16": torch.equal(half_gate, told["gate"]) and half.dtype == torch.bfloat16,
        "float32": {str(t.dtype) for t in half.steering.tensors().values()} == {"torch.float32"},
        "resaved": torch.equal(resaved.generate(**inputs, max_new_tokens=6, do_sample=False)[:, -6:], told["answer"]),
    }
print(json.dumps(found))
"""
