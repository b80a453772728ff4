"""The decoder as one graph for prefill and decode, with the gates as inputs and outputs.

Inputs: ``input_ids`` [B, T] (or ``inputs_embeds`` [B, T, d] float32), ``attention_mask`` [B, P+T], ``position_ids`` [B, T] (three
rows [3, B, T] for M-RoPE), what else a family's decoder reads, ``past_key_values.i.key`` and ``.value`` [B, H, P, D], and the state of
the steering. Outputs: ``logits`` [B, T, V] float32, ``present.i.key`` and ``.value`` [B, H, P+T, D], ``steering_gates`` [B, T, G]
float32 (1 where a gate is on), the state of the steering.

The state (:mod:`exporter.targets.onnx.carried`) goes from pass to pass, by choice:

- ``io``: as ``steering_state`` [B, F] in, 0 before the first column, and ``present_steering_state`` [B, F] out. There is a further
  input ``steering_gate`` [B, G] float32: 1 on from the first column of this pass, 0 held off in this pass, -1 decide.
- ``kv``: in one more layer of keys and values, the last, at each column. A runtime that only knows to hand back what it got, or to
  reorder, repeat and crop it, carries the state without knowing of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from exporter.host import ModelHost
from exporter.targets.onnx.carried import Bearer
from exporter.targets.onnx.families import Family
from exporter.targets.onnx.steering_nodes import SteeringNodes

GateState = Literal["io", "kv"]
Past = list[dict[str, Tensor]]


@dataclass(frozen=True)
class Dimensions:
    """Sizes of a decoder's cache: layers of the model, key-value heads, features of a head."""

    layers: int
    kv_heads: int
    head_dim: int

    @classmethod
    def of(cls, host: ModelHost) -> Dimensions:
        config = host.model.config.get_text_config(decoder=True)
        heads = int(config.num_attention_heads)
        return cls(
            host.num_layers,
            int(getattr(config, "num_key_value_heads", None) or heads),
            int(getattr(config, "head_dim", None) or config.hidden_size // heads),
        )


class DecoderGraph(nn.Module):
    """What is traced: the stock forward of a model over flat tensors, with steering nodes on its blocks.

    Args:
        host: a model as it was loaded; the hooks of a steered one are taken off and nodes put in their place.
        gate_state: None for a program without gates that have a state, and for an unsteered model.
        steered: False leaves the nodes out.
    """

    def __init__(
        self, host: ModelHost, family: Family, gate_state: GateState | None, *, steered: bool = True
    ) -> None:
        super().__init__()
        self.model = host.model
        self.family = family
        self.size = Dimensions.of(host)
        self.dtype = host.dtype
        self.gates: tuple[str, ...] = ()
        self.nodes: SteeringNodes | None = None
        self.bearer: Bearer | None = None
        self.header_rows: Tensor | None
        for handle in getattr(self.model, "_steering_handles", ()):
            handle.remove()
        if steered:
            embedding = Embedding(self.model) if family.sees else None
            self.nodes = SteeringNodes(self.model.steering, None if embedding is None else embedding.rows)
            self.nodes.install(host.blocks)
            self.gates = self.nodes.names
        table = None if self.nodes is None else self.nodes.table
        self.register_buffer("header_rows", None if table is None else table.rows)
        self.gate_state = gate_state if self.gates else None
        if self.gate_state == "kv":
            assert self.nodes is not None
            half = self.dtype == torch.float16
            self.bearer = Bearer(self.nodes.layout, self.size.kv_heads, self.size.head_dim, half)

    @property
    def cache_layers(self) -> int:
        """Layers of keys and values in and out, the one that bears the state of the steering included."""
        return self.size.layers + (self.gate_state == "kv")

    def forward(self, **inputs: Any) -> dict[str, Any]:
        past: Past = inputs.pop("past_key_values")
        state: Tensor | None = inputs.pop("steering_state", None)
        given: Tensor | None = inputs.pop("steering_gate", None)
        tokens = inputs["inputs_embeds"] if "inputs_embeds" in inputs else inputs["input_ids"]
        length, behind = tokens.shape[1], past[0]["key"].shape[2]
        borne: dict[str, Tensor] = {}
        if self.bearer is not None:
            *past, borne = past
            state = self.bearer.last(borne)
        mask = inputs["attention_mask"][:, -length:].bool()
        self._begin(tokens, mask, behind, state, given)
        cache = DynamicCache([(layer["key"], layer["value"]) for layer in past])
        if "inputs_embeds" in inputs:
            inputs["inputs_embeds"] = inputs["inputs_embeds"].to(self.dtype)
        logits = self.family.decode(self.model, cache, **inputs)
        layers: list[Any] = list(cache.layers)
        present: Past = [{"key": layer.keys, "value": layer.values} for layer in layers]
        outputs: dict[str, Any] = {"logits": logits.float(), "present": present}
        if self.nodes is not None and self.gates:
            remembered = self.nodes.remembered()
            outputs["steering_gates"] = remembered.gates
            features = self.nodes.layout.written(remembered)
            if self.bearer is None:
                outputs["present_steering_state"] = features[:, -1]
            else:
                present.append(self.bearer.grown(borne, features))
        return outputs

    def _begin(
        self, tokens: Tensor, mask: Tensor, behind: int, state: Tensor | None, given: Tensor | None
    ) -> None:
        """Readies the nodes for a pass behind a state [B, F]; a program without gates has none."""
        if self.nodes is None:
            return
        layout = self.nodes.layout
        if state is None:
            state = torch.zeros(mask.shape[0], layout.features)
        if given is None:
            given = torch.full((mask.shape[0], layout.gates), -1.0)
        self.nodes.begin(tokens, mask, layout.read(state, behind), given, self.header_rows)

    def example(self) -> dict[str, object]:
        """Inputs to trace with: two rows of three tokens behind a past of four."""
        batch, new, behind = 2, 3, 4
        size = self.size
        hidden = int(self.model.config.get_text_config(decoder=True).hidden_size)
        inputs: dict[str, object] = {}
        if self.family.sees:
            inputs["inputs_embeds"] = torch.randn(batch, new, hidden)
        else:
            inputs["input_ids"] = torch.randint(0, 8, (batch, new))
        inputs["attention_mask"] = torch.ones(batch, behind + new, dtype=torch.long)
        positions = torch.arange(behind, behind + new).expand(batch, new)
        rows = self.family.position_rows
        inputs["position_ids"] = positions.expand(rows, batch, new).clone() if rows > 1 else positions.clone()
        inputs |= self.family.example_extras(self.model, batch, new)
        layer = (batch, size.kv_heads, behind, size.head_dim)
        inputs["past_key_values"] = [
            {name: torch.randn(layer, dtype=self.dtype) for name in ("key", "value")}
            for _ in range(self.cache_layers)
        ]
        if self.gate_state == "io":
            assert self.nodes is not None
            inputs["steering_state"] = torch.zeros(batch, self.nodes.layout.features)
            inputs["steering_gate"] = torch.full((batch, len(self.gates)), -1.0)
        return inputs

    def axes(self) -> dict[str, object]:
        """Which axes of each input vary, by name."""
        batch = {0: "batch_size"}
        tokens = {**batch, 1: "sequence_length"}
        positions = tokens if self.family.position_rows == 1 else {1: "batch_size", 2: "sequence_length"}
        layer = {**batch, 2: "past_sequence_length"}
        axes: dict[str, object] = {"inputs_embeds" if self.family.sees else "input_ids": tokens}
        axes |= {"attention_mask": {**batch, 1: "total_sequence_length"}, "position_ids": positions}
        axes |= self.family.extra_axes(self.model)
        axes["past_key_values"] = [{"key": layer, "value": layer} for _ in range(self.cache_layers)]
        if self.gate_state == "io":
            axes |= {"steering_state": batch, "steering_gate": batch}
        return axes


class Embedding(nn.Module):
    """``input_ids`` [B, T] -> ``inputs_embeds`` [B, T, d] float32; a token outside the vocabulary (an image's) counts as 0."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.table = model.get_input_embeddings()

    def forward(self, input_ids: Tensor) -> dict[str, Tensor]:
        return {"inputs_embeds": self.rows(input_ids)}

    def rows(self, ids: Tensor) -> Tensor:
        """Token ids of any shape -> their embeddings [..., d] float32."""
        known = torch.where(ids < self.table.num_embeddings, ids, 0)
        embedded: Tensor = self.table(known).float()
        return embedded

    def example(self) -> dict[str, Tensor]:
        return {"input_ids": torch.zeros(2, 3, dtype=torch.long)}

    def axes(self) -> dict[str, dict[int, str]]:
        return {"input_ids": {0: "batch_size", 1: "sequence_length"}}


class MergedEmbedding(nn.Module):
    """Embeddings with image features in the places of image tokens, as onnxruntime-genai wants them made.

    ``input_ids`` [B, T] and ``image_features`` [F, d] -> ``inputs_embeds`` [B, T, d] float32. F may be 0.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.embedding = Embedding(model)
        self.image_token = int(model.config.image_token_id)

    def forward(self, input_ids: Tensor, image_features: Tensor) -> dict[str, Tensor]:
        embedded = self.embedding(input_ids)["inputs_embeds"]
        places = input_ids == self.image_token
        rows = torch.cat([torch.zeros(1, image_features.shape[1]), image_features], dim=0)
        which = (places.flatten().cumsum(0) * places.flatten()).clamp_max(image_features.shape[0])
        taken = rows[which].view(embedded.shape)
        return {"inputs_embeds": torch.where(places.unsqueeze(-1), taken, embedded)}

    def example(self) -> dict[str, Tensor]:
        width = self.embedding.table.embedding_dim
        return {"input_ids": torch.full((2, 3), self.image_token), "image_features": torch.randn(6, width)}

    def axes(self) -> dict[str, dict[int, str]]:
        return {
            "input_ids": {0: "batch_size", 1: "sequence_length"},
            "image_features": {0: "num_image_tokens"},
        }
