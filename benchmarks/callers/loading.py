"""Callers that load a checkpoint in some way, and put questions to what they get."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers

from benchmarks.callers.observed import Logits, Seen, Text
from benchmarks.callers.passes import whole
from benchmarks.callers.registry import caller
from benchmarks.callers.side import NEW, Side


def body(model: Any, side: Side) -> Logits:
    """The last states of a body without a head, through the base's head."""
    rows = []
    for one in side.questions:
        states = model(**one.forced).last_hidden_state
        rows.append(Seen(one, side.head(states)[0, one.end :]))
    return Logits(rows)


@caller("loading")
def task_class(side: Side) -> Logits:
    return whole(side.load(), side)


@caller("loading")
def AutoModel(side: Side) -> Logits:  # noqa: N802 - the class's own name
    return body(side.load(auto=transformers.AutoModel), side)


@caller("loading")
def AutoModelForCausalLM(side: Side) -> Logits:  # noqa: N802
    """Of a vision-language model too."""
    model = side.load(auto=transformers.AutoModelForCausalLM)
    rows = [Seen(one, model(**one.forced).logits[0, one.end :]) for one in (*side.forgotten, *side.kept)]
    return Logits(rows)


@caller("loading")
def stock_class(side: Side) -> Logits:
    """``LlamaForCausalLM.from_pretrained(folder)``, as most cards have it."""
    return whole(side.stock.from_pretrained(side.folder, dtype=torch.float32).eval(), side)


@caller("loading")
def stock_body_class(side: Side) -> Logits:
    name = transformers.models.auto.modeling_auto.MODEL_MAPPING_NAMES[side.config.model_type]
    return body(getattr(transformers, name).from_pretrained(side.folder, dtype=torch.float32).eval(), side)


@caller("loading")
def stock_decoder_class(side: Side) -> Logits:
    """The text model of a vision-language folder, or the text model's own class once more."""
    text = side.config.get_text_config()
    model = transformers.AutoModelForCausalLM.from_pretrained(side.folder, config=text, dtype=torch.float32)
    return whole(model.eval(), _texts(side))


@caller("loading")
def stock_class_with_the_base_config(side: Side) -> Logits:
    model = side.stock.from_pretrained(side.folder, config=side.config, dtype=torch.float32)
    return whole(model.eval(), side)


@caller("loading")
def base_config(side: Side) -> Logits:
    """``AutoModelFor...(folder, config=base_config)``."""
    return whole(side.load(config=side.config), side)


@caller("loading")
def base_config_without_trust(side: Side) -> Logits:
    return whole(side.load(config=side.config, trust_remote_code=False), side)


@caller("loading")
def without_trust(side: Side) -> Logits:
    return whole(side.load(trust_remote_code=False), side)


@caller("loading")
def subfolder(side: Side) -> Logits:
    home = side.scratch()
    side.copy(home / "inside", linked=True)
    return whole(side.load(home, subfolder="inside"), side)


@caller("loading", core=False)
def stock_class_with_every_variant(side: Side) -> Logits:
    """The stock class given each variant that lies in the folder, whatever its name."""
    names = {part for path in side.folder.glob("*.safetensors*") for part in path.name.split(".")[1:-1]}
    names -= {"safetensors", "index", "json"}
    found = [_tried(side, name) for name in (None, *sorted(names))]
    models = [model for model, _ in found if model is not None]
    if not models:
        raise OSError(found[-1][1])
    return whole(models[-1].eval(), side)


def _tried(side: Side, variant: str | None) -> tuple[Any, str]:
    try:
        return side.stock.from_pretrained(side.folder, variant=variant, dtype=torch.float32), ""
    except Exception as error:  # noqa: BLE001 - whatever it says, the next one is tried
        return None, str(error)


@caller("loading")
def variant(side: Side) -> Logits:
    """A variant that was never written; the loader may fall back to what there is."""
    return whole(side.load(variant="fp16"), side)


@caller("loading")
def bfloat16(side: Side) -> Logits:
    return Logits(whole(side.load(dtype=torch.bfloat16), side).rows, lawful=False)


@caller("loading")
def bfloat16_by_to(side: Side) -> Logits:
    return Logits(whole(side.load().to(torch.bfloat16), side).rows, lawful=False)


@caller("loading")
def dtype_auto(side: Side) -> Logits:
    return Logits(whole(side.load(dtype="auto"), side).rows, lawful=False)


@caller("loading")
def default_dtype_float16(side: Side) -> Logits:
    """``torch.set_default_dtype`` before loading, as some servers do."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float16)
    try:
        model = side.load(dtype=None)
    finally:
        torch.set_default_dtype(before)
    return Logits(whole(model.float(), side).rows, lawful=False)


@caller("loading")
def device_map_cpu(side: Side) -> Logits:
    return whole(side.load(device_map="cpu"), side)


@caller("loading")
def eager_attention(side: Side) -> Logits:
    return whole(side.load(attn_implementation="eager"), side)


@caller("loading")
def saved_and_loaded_again(side: Side) -> Logits:
    folder = side.scratch()
    side.load().save_pretrained(folder)
    return whole(side.load(folder), side)


@caller("loading")
def saved_in_bfloat16(side: Side) -> Logits:
    folder = side.scratch()
    side.load(dtype=torch.bfloat16).save_pretrained(folder)
    return Logits(whole(side.load(folder), side).rows, lawful=False)


@caller("loading")
def from_config_and_state_dict(side: Side) -> Logits:
    """An empty model, filled with the weights of the files."""
    model = _empty(side)
    model.load_state_dict(side.load().state_dict())
    return whole(model, side)


@caller("loading")
def from_config_and_base_weights(side: Side) -> Logits:
    """An empty model, filled with the base's weights alone and ``strict=False``."""
    model = _empty(side)
    model.load_state_dict(side.base.state_dict(), strict=False)
    return whole(model, side)


@caller("loading")
def from_config_alone(side: Side) -> Logits:
    """Random weights: whoever runs them must at least not be unsteered."""
    torch.manual_seed(0)
    return Logits(whole(_empty(side), side).rows, lawful=False)


@caller("loading")
def stock_class_and_state_dict(side: Side) -> Logits:
    """A stock model that takes the steered model's ``state_dict``, strictly."""
    model = side.stock(side.config).eval()
    model.load_state_dict(side.load().state_dict())
    return whole(model, side)


@caller("loading")
def pipeline(side: Side) -> Text:
    return _through(side, side.folder)


@caller("loading")
def pipeline_of_a_loaded_model(side: Side) -> Text:
    return _through(side, side.load())


def _through(side: Side, model: Path | Any) -> Text:
    pipe = transformers.pipeline(
        "text-generation",
        model=str(model) if isinstance(model, Path) else model,
        tokenizer=side.tokenizer,
        trust_remote_code=side.trust,
    )
    keys = {"max_new_tokens": NEW, "do_sample": False, "return_full_text": False, "add_special_tokens": False}
    return Text([(one, pipe(one.text, **keys)[0]["generated_text"]) for one in side.forgotten])


def _empty(side: Side) -> Any:
    config = transformers.AutoConfig.from_pretrained(side.folder, trust_remote_code=side.trust)
    model = side.auto.from_config(config, trust_remote_code=side.trust)
    return model.float().eval()


def _texts(side: Side) -> Side:
    """The same without pictures."""
    return Side(side.folder, side.plain, [*side.forgotten, *side.kept], trust=side.trust)
