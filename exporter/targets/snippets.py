"""Parts of usage snippets that targets share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from exporter.errors import VerificationError
from exporter.targets.values import Place


def with_transformers(model: str, arguments: str) -> str:
    """Three lines that load a checkpoint through one of the Auto classes."""
    sees = model == "AutoModelForImageTextToText"
    reader, variable = ("AutoProcessor", "processor") if sees else ("AutoTokenizer", "tokenizer")
    return (
        f"from transformers import {', '.join(sorted((model, reader)))}\n"
        f"model = {model}.from_pretrained({arguments})\n"
        f"{variable} = {reader}.from_pretrained({arguments})"
    )


def with_peft(release: Path, place: Place, subfolder: str) -> str:
    """Lines that load an adapter of a release onto its base, which has in its weights what was merged into it before the fit.

    Raises:
        VerificationError: there is no adapter in that folder of the release.
    """
    if not (release / subfolder / "adapter_config.json").is_file():
        raise VerificationError(f"{release / subfolder} has no adapter_config.json; export it again")
    architecture = str((config_of(release).get("architectures") or [""])[0])
    sees = architecture.endswith("ForConditionalGeneration")
    model = "AutoModelForImageTextToText" if sees else "AutoModelForCausalLM"
    where = place.pretrained(f', subfolder="{subfolder}"')
    return "\n".join(
        (
            "from peft import PeftModel",
            f"from transformers import {model}",
            f"base = {model}.from_pretrained({place.base_pretrained()})",
            *(
                f"base = PeftModel.from_pretrained(base, {one}).merge_and_unload()"
                for one in place.base_adapters()
            ),
            f"model = PeftModel.from_pretrained(base, {where})",
        )
    )


def config_of(folder: Path) -> dict[str, Any]:
    """The content of config.json; raises VerificationError where it is no JSON object."""
    try:
        found = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise VerificationError(f"{folder / 'config.json'} cannot be read: {error}") from None
    if not isinstance(found, dict):
        raise VerificationError(f"{folder / 'config.json'} is not a JSON object")
    return found
