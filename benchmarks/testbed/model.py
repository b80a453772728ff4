"""The testbed's model: a LLaVA of about three million parameters, and how it is saved and loaded."""

import copy
from pathlib import Path

import torch
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    CLIPVisionConfig,
    GenerationConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedModel,
)

from benchmarks.testbed.draw import CELL, SIDE
from benchmarks.testbed.tokenizer import PATCHES

DEMO = Path(__file__).resolve().parents[2] / "exporter" / "demo"
LONGEST_REPLY = 64


def llava_config(processor: LlavaProcessor) -> LlavaConfig:
    """CLIP tower (3 layers of 128) and Llama decoder (6 layers of 192, grouped queries, tied embeddings)."""
    tokenizer = processor.tokenizer
    tower = CLIPVisionConfig(
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=SIDE,
        patch_size=CELL,
        projection_dim=64,
    )
    decoder = LlamaConfig(
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=6,
        num_attention_heads=6,
        num_key_value_heads=2,
        vocab_size=len(tokenizer),
        max_position_embeddings=512,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        tie_word_embeddings=True,
    )
    return LlavaConfig(
        vision_config=tower.to_dict(),
        text_config=decoder.to_dict(),
        image_token_index=processor.image_token_id,
        image_seq_length=PATCHES,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        tie_word_embeddings=True,
    )


def new_model(processor: LlavaProcessor) -> LlavaForConditionalGeneration:
    """An untrained model with greedy generation settings; draws from torch's global generator."""
    model = LlavaForConditionalGeneration(llava_config(processor))
    tokenizer = processor.tokenizer
    model.generation_config = GenerationConfig(
        do_sample=False,
        max_new_tokens=LONGEST_REPLY,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return model


def save(model: PreTrainedModel, processor: LlavaProcessor, folder: Path) -> None:
    """Write a bfloat16 copy of the model, and the processor with its tokenizer and chat template."""
    copy.deepcopy(model).to(dtype=torch.bfloat16).save_pretrained(folder)
    processor.save_pretrained(folder)
    for path in folder.iterdir():
        path.chmod(0o644)


def load(folder: Path) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """The saved weights, computed with in float32."""
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    return model.eval(), AutoProcessor.from_pretrained(folder)
