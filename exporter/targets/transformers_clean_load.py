"""Loads a Transformers checkpoint in a clean environment (:mod:`exporter.targets.clean_load` imports this file by its place)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def find(asked: dict[str, Any]) -> dict[str, Any]:
    """What is missing from it, what it says, and which of its damaged copies load."""
    import torch

    torch.set_num_threads(asked["threads"])
    observed: dict[str, Any] = {"refused": {}}
    for name, folder in asked["damaged"].items():
        observed["refused"][name] = refusal(folder, asked["auto"], trust=True)
    if asked["trust"]:
        observed["refused"]["without trust_remote_code"] = refusal(
            asked["folder"], asked["auto"], trust=False
        )
    model, info = load(asked["folder"], asked["auto"], trust=asked["trust"], output_loading_info=True)
    observed["class"] = type(model).__name__
    observed["module"] = type(model).__module__
    observed["verified"] = bool(getattr(getattr(model, "steering", None), "verified", False))
    observed["missing"] = sorted(map(str, (*info["missing_keys"], *info["mismatched_keys"])))
    observed["said"] = [list(say(model.eval(), ids, asked["new_tokens"])) for ids in asked["prompts"]]
    tokenizer = transformers_class("AutoTokenizer").from_pretrained(
        asked["folder"], trust_remote_code=asked["trust"]
    )
    observed["read"] = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in asked["texts"]]
    return observed


def load(folder: str, auto: str, *, trust: bool, **options: Any) -> Any:
    """The model in float32, through one of the Auto classes."""
    import torch

    return transformers_class(auto).from_pretrained(
        folder, trust_remote_code=trust, dtype=torch.float32, **options
    )


def refusal(folder: str, auto: str, *, trust: bool) -> str | None:
    """The name of the exception that loading ends with; None where it loads."""
    try:
        load(folder, auto, trust=trust)
    except Exception as error:  # noqa: BLE001 - any way of not loading will do
        return type(error).__name__
    return None


def transformers_class(name: str) -> Any:
    """A class of Transformers, as it is with nothing registered."""
    import transformers

    return getattr(transformers, name)


def say(model: Any, ids: list[int], count: int) -> Iterator[int]:
    """The greedy continuation of a prompt: of the folder's own generation settings the end tokens alone count."""
    import torch

    ends = model.generation_config.eos_token_id
    # The model's own, since generate takes from there whatever is unset in what it is handed.
    model.generation_config = transformers_class("GenerationConfig")(
        do_sample=False, num_beams=1, eos_token_id=ends, pad_token_id=0, max_new_tokens=count
    )
    inputs = torch.tensor([ids])
    with torch.no_grad():
        out = model.generate(
            input_ids=inputs,
            attention_mask=torch.ones_like(inputs),
            generation_config=model.generation_config,
        )
    yield from out[0, len(ids) :].tolist()
