"""Stands in for llama.cpp's converter: as much of it as a tiny Llama with a byte-level tokenizer needs."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from safetensors.numpy import load_file


def main() -> None:
    parser = argparse.ArgumentParser()
    for option in ("model", "--outfile", "--outtype", "--model-name"):
        parser.add_argument(option)
    asked = parser.parse_args()
    folder = Path(asked.model)
    config = json.loads((folder / "config.json").read_text())
    writer = gguf.GGUFWriter(asked.outfile, "llama")
    writer.add_name(asked.model_name)
    write_shapes(writer, config)
    write_tokenizer(writer, json.loads((folder / "tokenizer.json").read_text()), config)
    write_tensors(writer, load_file(folder / "model.safetensors"), config, asked.outtype)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_shapes(writer: gguf.GGUFWriter, config: dict[str, Any]) -> None:
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(config["hidden_size"] // config["num_attention_heads"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_vocab_size(config["vocab_size"])


def write_tokenizer(writer: gguf.GGUFWriter, tokenizer: dict[str, Any], config: dict[str, Any]) -> None:
    vocabulary = sorted(tokenizer["model"]["vocab"].items(), key=lambda entry: entry[1])
    special = {entry["id"] for entry in tokenizer["added_tokens"]}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([token for token, _ in vocabulary])
    kinds = {True: gguf.TokenType.CONTROL, False: gguf.TokenType.NORMAL}
    writer.add_token_types([kinds[place in special] for _, place in vocabulary])
    writer.add_token_merges([" ".join(pair) for pair in tokenizer["model"]["merges"]])
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])


def write_tensors(
    writer: gguf.GGUFWriter, tensors: dict[str, np.ndarray], config: dict[str, Any], kind: str
) -> None:
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    for name, stored in tensors.items():
        count = next((heads[one] for one in heads if one in name), None)
        narrow = kind == "f16" and stored.ndim == 2
        with np.errstate(over="ignore"):
            data = (stored if count is None else pairs(stored, count)).astype(
                "float16" if narrow else "float32"
            )
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), np.ascontiguousarray(data))


def pairs(data: np.ndarray, heads: int) -> np.ndarray:
    """Rows in llama.cpp's order: it turns neighbours where Transformers turns halves."""
    return data.reshape(heads, 2, data.shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(data.shape)


if __name__ == "__main__":
    main()
