"""The decoder as one graph for prefill and decode, with the gates as inputs and outputs.

Inputs: ``input_ids`` [B, T] (or ``inputs_embeds`` [B, T, d] float32), ``attention_mask`` [B, P+T], ``position_ids`` [B, T] (three
rows [3, B, T] for M-RoPE), what else a family's decoder reads, ``past_key_values.i.key`` and ``.value`` [B, H, P, D], and the gate
state. Outputs: ``logits`` [B, T, V] float32, ``present.i.key`` and ``.value`` [B, H, P+T, D], the gates.

The gate state is, by choice:

- ``io``: ``steering_gate`` [B, G] float32 in (1 steer, 0 do not, -1 decide now) and ``present_steering_gate`` [B, G] out.
- ``kv``: one more layer of keys and values, the last. A runtime that only knows to hand back what it got carries the gates
  without knowing of them. Feature g of the layer is 1 where gate g fired, -1 where it did not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from exporter.errors import CompileError
from exporter.host import ModelHost
from exporter.targets.onnx.families import Family
from exporter.targets.onnx.steering_nodes import GraphCall, SteeringNodes

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
        host: a steered model as it was loaded; its own hooks are taken off and nodes put in their place.
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
        self.gate_state = gate_state
        self.nodes: SteeringNodes | None = None
        for handle in getattr(self.model, "_steering_handles", ()):
            handle.remove()
        if steered:
            self.gates = self.model.steering.pooled_gates
            self.nodes = SteeringNodes(self.model.steering)
            self.nodes.install(host.blocks)
        if not self.gates:
            self.gate_state = None
        elif gate_state == "kv" and len(self.gates) > self.size.head_dim:
            raise CompileError(
                f"{len(self.gates)} gates do not fit into a head of {self.size.head_dim} features; export with --gate-state io"
            )

    @property
    def cache_layers(self) -> int:
        """Layers of keys and values in and out, the one that bears gates included."""
        return self.size.layers + (self.gate_state == "kv")

    def forward(self, **inputs: Any) -> dict[str, Any]:
        past: Past = inputs.pop("past_key_values")
        gate: Tensor | None = inputs.pop("steering_gate", None)
        attention_mask = inputs["attention_mask"]
        first = inputs["inputs_embeds"] if "inputs_embeds" in inputs else inputs["input_ids"]
        length, behind = first.shape[1], past[0]["key"].shape[2]
        if self.gate_state == "kv":
            *past, bearer = past
            gate = _carried(bearer["key"], len(self.gates), length)
        call = self._begin(attention_mask[:, -length:].bool(), behind, gate)
        cache = DynamicCache([(layer["key"], layer["value"]) for layer in past])
        if "inputs_embeds" in inputs:
            inputs["inputs_embeds"] = inputs["inputs_embeds"].to(self.dtype)
        logits = self.family.decode(self.model, cache, **inputs)
        layers: list[Any] = list(cache.layers)
        present: Past = [{"key": layer.keys, "value": layer.values} for layer in layers]
        outputs: dict[str, Any] = {"logits": logits.float(), "present": present}
        if call is not None and self.gate_state is not None:
            decided = torch.cat([call.fired[name] for name in self.gates], dim=1).float()
            if self.gate_state == "io":
                outputs["present_steering_gate"] = decided
            else:
                present.append(_borne(bearer, decided, length))
        return outputs

    def _begin(self, mask: Tensor, behind: int, gate: Tensor | None) -> GraphCall | None:
        if self.nodes is None:
            return None
        columns = torch.arange(mask.shape[1], device=mask.device)
        end = (columns * mask).amax(-1)
        later = torch.full((1,), behind, device=mask.device) > 0
        given = {} if gate is None else {name: gate[:, i] for i, name in enumerate(self.gates)}
        self.nodes.call = GraphCall(mask, end, later, given, {})
        return self.nodes.call

    def example(self) -> dict[str, Any]:
        """Inputs to trace with: two rows of three tokens behind a past of four."""
        batch, new, behind = 2, 3, 4
        size = self.size
        hidden = int(self.model.config.get_text_config(decoder=True).hidden_size)
        inputs: dict[str, Any] = {}
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
            inputs["steering_gate"] = torch.full((batch, len(self.gates)), -1.0)
        return inputs

    def axes(self) -> dict[str, Any]:
        """Which axes of each input vary, by name."""
        batch = {0: "batch_size"}
        tokens = {**batch, 1: "sequence_length"}
        positions = tokens if self.family.position_rows == 1 else {1: "batch_size", 2: "sequence_length"}
        layer = {**batch, 2: "past_sequence_length"}
        axes: dict[str, Any] = {"inputs_embeds" if self.family.sees else "input_ids": tokens}
        axes |= {"attention_mask": {**batch, 1: "total_sequence_length"}, "position_ids": positions}
        axes |= self.family.extra_axes(self.model)
        axes["past_key_values"] = [{"key": layer, "value": layer} for _ in range(self.cache_layers)]
        if self.gate_state == "io":
            axes["steering_gate"] = batch
        return axes


class Embedding(nn.Module):
    """``input_ids`` [B, T] -> ``inputs_embeds`` [B, T, d] float32; a token outside the vocabulary (an image's) counts as 0."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.table = model.get_input_embeddings()

    def forward(self, input_ids: Tensor) -> dict[str, Tensor]:
        known = torch.where(input_ids < self.table.num_embeddings, input_ids, 0)
        return {"inputs_embeds": self.table(known).float()}

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


def _carried(keys: Tensor, gates: int, length: int) -> Tensor:
    """Gates [B, G] that a gate-bearing layer [B, H, P, D] hands on to a pass of ``length`` new tokens.

    A single token behind a past keeps what stands there. Several are a later turn: where a gate fired it stays on, else it is
    decided anew. A past that no steered graph wrote bears neither 1 nor -1, and is decided now.
    """
    borne = keys[:, 0, :, :gates].float()
    nothing = torch.zeros_like(borne[:, :0].sum(1, keepdim=True))
    high = torch.cat([borne, nothing], dim=1).amax(1)
    low = torch.cat([borne, nothing], dim=1).amin(1)
    single = torch.full((1, 1), length, device=keys.device) == 1
    off = torch.where(single & (low < 0), 0.0, -1.0)
    return torch.where(high > 0, torch.ones_like(off), off)


def _borne(past: dict[str, Tensor], decided: Tensor, length: int) -> dict[str, Tensor]:
    """The gate-bearing layer behind this pass: keys and values [B, H, P+T, D]."""
    keys = past["key"]
    signs = (decided * 2 - 1).to(keys.dtype)
    features = nn.functional.pad(signs, (0, keys.shape[3] - signs.shape[1]))
    new = features[:, None, None, :].expand(-1, keys.shape[1], length, -1)
    return {"key": torch.cat([keys, new], dim=2), "value": torch.cat([past["value"], new], dim=2)}
