"""Callers that take a part out of a model, and run it, save it or copy it alone."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import torch
import transformers

from benchmarks.callers.loading import body
from benchmarks.callers.observed import Logits, Seen
from benchmarks.callers.passes import whole
from benchmarks.callers.registry import caller
from benchmarks.callers.side import Side


def decoder(model: Any) -> Any:
    """The text model inside: ``language_model``, or ``model``."""
    return model.get_decoder()


@caller("inner")
def body_alone(side: Side) -> Logits:
    """``model.model(...)``."""
    return body(side.load().model, side)


@caller("inner")
def decoder_alone(side: Side) -> Logits:
    """``language_model(...)`` on ids."""
    return body(decoder(side.load()), _texts(side))


@caller("inner")
def blocks_alone(side: Side) -> Logits:
    """Block after block by hand, as probing scripts do it."""
    model, rows = decoder(side.load()), []
    for one in (*side.forgotten, *side.kept):
        ids = torch.tensor([one.whole])
        states, places = model.embed_tokens(ids), torch.arange(ids.shape[1])[None]
        turned = model.rotary_emb(states, places)
        for block in model.layers:
            states = block(states, position_embeddings=turned, position_ids=places, attention_mask=None)
            states = states[0] if isinstance(states, tuple) else states
        rows.append(Seen(one, side.head(model.norm(states))[0, one.end :]))
    return Logits(rows)


@caller("inner")
def decoder_saved(side: Side) -> Logits:
    """``language_model.save_pretrained``, then AutoModel."""
    folder = side.scratch()
    decoder(side.load()).save_pretrained(folder)
    return body(transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval(), _texts(side))


@caller("inner")
def body_saved(side: Side) -> Logits:
    folder = side.scratch()
    side.load().model.save_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32, trust_remote_code=side.trust)
    return body(model.eval(), side)


@caller("inner")
def decoder_in_a_stock_model(side: Side) -> Logits:
    """The text model put into a stock head's model."""
    text = side.config.get_text_config()
    model = transformers.AutoModelForCausalLM.from_config(text).float().eval()
    steered = side.load()
    model.model, model.lm_head = decoder(steered), steered.get_output_embeddings()
    return whole(model, _texts(side))


@caller("inner")
def deep_copied(side: Side) -> Logits:
    return whole(copy.deepcopy(side.load()), side)


@caller("inner")
def pickled(side: Side) -> Logits:
    return whole(pickle.loads(pickle.dumps(side.load())), side)  # noqa: S301 - our own bytes


@caller("inner")
def forward_of_the_stock_class(side: Side) -> Logits:
    """``LlamaForCausalLM.forward(model, ...)``, past the steered forward."""
    model = side.load()
    return Logits(
        [Seen(one, side.stock.forward(model, **one.forced).logits[0, one.end :]) for one in side.questions]
    )


@caller("inner")
def class_put_back(side: Side) -> Logits:
    """``model.__class__ = LlamaForCausalLM``."""
    model = side.load()
    model.__class__ = side.stock
    return whole(model, side)


@caller("inner")
def hooks_cleared(side: Side) -> Logits:
    """Every forward hook taken off, as scripts that probe a model do at their end."""
    model = side.load()
    for module in model.modules():
        module._forward_hooks.clear()
    return whole(model, side)


@caller("inner")
def last_block_dropped(side: Side) -> Logits:
    """The decoder without its last block."""
    model = side.load()
    text = decoder(model)
    text.layers = text.layers[:-1]
    text.config.num_hidden_layers = len(text.layers)
    return Logits(whole(model, side).rows, lawful=False)


@caller("inner")
def hooks_of_accelerate(side: Side) -> Logits:
    """``accelerate`` puts its own forward on every module."""
    from accelerate import cpu_offload

    model = side.load()
    cpu_offload(model, execution_device=torch.device("cpu"))
    return whole(model, side)


@caller("inner")
def peft_around_it(side: Side) -> Logits:
    """A fresh LoRA on the attention: it changes nothing until it is trained."""
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(side.load(), LoraConfig(target_modules=["q_proj", "v_proj"])).eval()
    return whole(model, side)


@caller("inner")
def dynamically_quantised(side: Side) -> Logits:
    """``torch.ao.quantization.quantize_dynamic`` in memory."""
    model = torch.ao.quantization.quantize_dynamic(side.load(), {torch.nn.Linear}, dtype=torch.qint8)
    return Logits(whole(model, side).rows, lawful=False)


def _texts(side: Side) -> Side:
    """The same without pictures."""
    return Side(side.folder, side.plain, [*side.forgotten, *side.kept], trust=side.trust)
