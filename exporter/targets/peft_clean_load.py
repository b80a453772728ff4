"""Loads a LoRA adapter onto its base in a clean environment (:mod:`exporter.targets.clean_load` imports this file by its place)."""

from __future__ import annotations

from typing import Any


def find(asked: dict[str, Any]) -> dict[str, Any]:
    """What of it is missing, whether it changes the base, what base and adapter say, and which damaged copies load."""
    import torch
    import transformers

    torch.set_num_threads(asked["threads"])
    observed: dict[str, Any] = {"refused": {}}
    for name, folder in asked["damaged"].items():
        observed["refused"][name] = _refusal(asked, folder)
    base = _base(asked)
    ids = torch.tensor([asked["prompts"][0]]) if asked["prompts"] else torch.tensor([[1]])
    with torch.no_grad():
        before = base(input_ids=ids).logits
    tuned = _loaded(base, asked["folder"])
    with torch.no_grad():
        observed["changes"] = bool((base(input_ids=ids).logits != before).any())
    found = tuned.load_adapter(asked["folder"], adapter_name="default")
    lost = [key for key in found.missing_keys if "lora_" in key]
    observed["missing"] = sorted(map(str, (*lost, *found.unexpected_keys)))
    observed["said"] = [_said(base, one, asked["new_tokens"]) for one in asked["prompts"]]
    tokenizer = transformers.AutoTokenizer.from_pretrained(asked["base"])
    observed["read"] = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in asked["texts"]]
    return observed


def _base(asked: dict[str, Any]) -> Any:
    """The base in float32, through one of the Auto classes."""
    import torch
    import transformers

    return getattr(transformers, asked["auto"]).from_pretrained(asked["base"], dtype=torch.float32).eval()


def _loaded(base: Any, folder: str) -> Any:
    from peft import PeftModel

    return PeftModel.from_pretrained(base, folder).eval()


def _refusal(asked: dict[str, Any], folder: str) -> str | None:
    """The name of the exception that loading ends with; None where it loads."""
    base = _base(asked)
    try:
        _loaded(base, folder)
    except Exception as error:  # noqa: BLE001 - any way of not loading will do
        return type(error).__name__
    return None


def _said(model: Any, ids: list[int], count: int) -> list[int]:
    """The greedy continuation of a prompt: of the base's own generation settings the end tokens alone count."""
    import torch
    from transformers import GenerationConfig

    ends = model.generation_config.eos_token_id
    settings = GenerationConfig(
        do_sample=False, num_beams=1, eos_token_id=ends, pad_token_id=0, max_new_tokens=count
    )
    model.generation_config = settings
    inputs = torch.tensor([ids])
    with torch.no_grad():
        out = model.generate(
            input_ids=inputs, attention_mask=torch.ones_like(inputs), generation_config=settings
        )
    found: list[int] = out[0, len(ids) :].tolist()
    return found
