"""The modules that hold a program's tensors, and the hook that applies them to the output of one block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from .call import SteeringCall
from .checks import gate_names
from .headers import Headers
from .ops import EDITS, SCORES, fires, prepare
from .positions import Reach
from .program import SteeringProgram, canonical_json, split_tensors
from .proof import Traits
from .schema import HEADER_POOLS, Section
from .state import Features
from .weights import Sample

CALL = "steering_call"
"""Name of the keyword argument in which a forward pass carries its SteeringCall down to the blocks."""


class _Float32Module(nn.Module):
    """Buffers that follow the model to any device but stay float32 when the model is cast."""

    def __init__(self, shapes: Mapping[str, Sequence[int]]) -> None:
        super().__init__()
        self.tensor_names = tuple(shapes)
        for name, shape in shapes.items():
            self.register_buffer(name, torch.zeros(tuple(shape), dtype=torch.float32))

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        def keep_dtype(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        return super()._apply(keep_dtype, recurse)  # type: ignore[no-untyped-call]

    def own_tensors(self, device: torch.device) -> dict[str, Tensor]:
        """Tensors by name, on the device of the states they meet."""
        return {
            name: getattr(self, name).to(device=device, dtype=torch.float32) for name in self.tensor_names
        }


class _Prepared(NamedTuple):
    """Tensors ready for an edit, and the buffers in the state they were made from."""

    device: torch.device
    buffers: list[Tensor | None]
    versions: list[int]
    tensors: dict[str, Tensor]

    def stands_for(self, device: torch.device, buffers: list[Tensor | None], versions: list[int]) -> bool:
        same = all(mine is theirs for mine, theirs in zip(self.buffers, buffers, strict=True))
        return same and self.versions == versions and self.device == device


class SteeringGate(_Float32Module):
    """One gate: scores states and decides from which column on a sequence is steered."""

    def __init__(self, gate: Section, shapes: Mapping[str, Sequence[int]]) -> None:
        super().__init__(shapes)
        self._gate = (
            gate  # read where it is needed: what is checked against the signature is what is computed with
        )

    @property
    def name(self) -> str:
        return str(self._gate["name"])

    @property
    def layer(self) -> int:
        return int(self._gate["layer"])

    @property
    def pool(self) -> str:
        return str(self._gate["pool"])

    @property
    def score_name(self) -> str:
        return str(self._gate["score"])

    @property
    def threshold(self) -> float:
        return float(self._gate["threshold"])

    @property
    def side(self) -> str:
        return str(self._gate["fires"])

    def score(self, p: Tensor) -> Tensor:
        """Scores of states or means: [..., d] -> [...] in float32."""
        return SCORES[self.score_name](p.float(), **self.own_tensors(p.device))

    def fires(self, p: Tensor) -> Tensor:
        """Which states or means fire: [..., d] -> [...] bool."""
        return fires(self.score(p), self.threshold, self.side)

    def decide(self, states: Tensor, call: SteeringCall, at: int) -> Tensor | None:
        """Columns [B, T] bool at which the gate fires by this block's output [B, T, d]; None: it decides at none.

        Args:
            at: where this gate's running sum begins among those that are carried; read for pool "prompt_mean" alone.
        """
        if self.pool == "token":
            return self.fires(states) if call.may_fire(self.name) else None
        read = states
        if self.pool == "prompt_mean":
            carried = call.carried.sums[:, at : at + states.shape[-1]].to(states.device)
            sums = call.columns.totals(states.float(), carried)
            call.sums[self.name] = sums
            ones = states.new_ones((*states.shape[:2], 1), dtype=torch.float32)
            before = call.carried.count.to(states.device).unsqueeze(1)
            read = sums / call.columns.totals(ones, before).clamp_min(1.0)
        if call.decisive is None or not call.may_fire(self.name):
            return None
        decisive = call.decisive.to(states.device)
        found = torch.zeros_like(decisive)
        found[decisive] = self.fires(read[decisive])
        return found


class SteeringLayer(_Float32Module):
    """The edit of one block's output."""

    def __init__(self, edit: Section, shapes: Mapping[str, Sequence[int]]) -> None:
        super().__init__(shapes)
        self._edit = edit
        self._prepared: _Prepared | None = None

    @property
    def gates(self) -> tuple[str, ...]:
        """Names of the gates, one of which must be on; none: the edit always applies."""
        return tuple(gate_names(self._edit["gate"]))

    @property
    def op(self) -> str:
        return str(self._edit["op"])

    @property
    def options(self) -> dict[str, Any]:
        """Keyword arguments of the op that are no tensors."""
        return {k: v for k, v in self._edit.items() if k not in ("layer", "gate", "op", "positions")}

    def edit(self, states: Tensor) -> Tensor:
        """Edited states [..., d], in float32 inside and of the given dtype outside; non-finite rows as they are."""
        tensors = self._tensors_for(states.device)
        return EDITS[self.op](states.float(), **self.options, **tensors).to(states.dtype)

    def _tensors_for(self, device: torch.device) -> dict[str, Tensor]:
        """Prepared tensors on a device; prepared once, and again after a buffer was replaced or written to."""
        if torch.compiler.is_compiling():
            return prepare(self.op, self.options, self.own_tensors(device))
        buffers = [self._buffers[name] for name in self.tensor_names]
        versions = [0 if b is None or b.is_inference() else b._version for b in buffers]
        found = self._prepared
        if found is None or not found.stands_for(device, buffers, versions):
            ready = prepare(self.op, self.options, self.own_tensors(device))
            found = self._prepared = _Prepared(device, buffers, versions, ready)
        return found.tensors

    def forward(self, states: Tensor, call: SteeringCall) -> Tensor:
        """States [B, T, d] edited where a gate is on; everything else is returned bit for bit."""
        where = call.where(self.gates)
        if where is None:
            return states
        if where is True:
            return self.edit(states)
        return torch.where(where.to(states.device).unsqueeze(-1), self.edit(states), states)


class Steering(nn.Module):
    """All gates and edits of a program, named as in the checkpoint: ``gates.NAME.TENSOR``, ``layers.I.TENSOR``.

    Args:
        section: the signed steering section; its keys are checked where it is read.
        shapes: shape of every steering tensor by full name.
    """

    def __init__(self, section: Section, shapes: Mapping[str, Sequence[int]]) -> None:
        super().__init__()
        self.section = dict(section)
        parts = split_tensors(shapes)
        self.gates = nn.ModuleDict(
            {g["name"]: SteeringGate(g, parts.get(f"gates.{g['name']}", {})) for g in section["gates"]}
        )
        self.layers = nn.ModuleDict(
            {
                str(e["layer"]): SteeringLayer(e, parts.get(f"layers.{e['layer']}", {}))
                for e in section["edits"]
            }
        )
        self.gate_names = tuple(g["name"] for g in section["gates"])
        self.pooled_gates = self.gate_names
        self.headers = Headers(section["headers"])
        self.decides_at_headers = any(g["pool"] in HEADER_POOLS for g in section["gates"])
        means = [g["name"] for g in section["gates"] if g["pool"] == "prompt_mean"]
        self.sums_at = {name: index * section["hidden_size"] for index, name in enumerate(means)}
        self.features = Features(
            len(self.gate_names),
            len(self.headers),
            len(means) * section["hidden_size"],
            mark=float(int(section["sha256"][:6], 16)),  # 24 bits: a float32 holds them all
        )
        self.steered_blocks = tuple(
            sorted({g["layer"] for g in section["gates"]} | {e["layer"] for e in section["edits"]})
        )
        self._verified_as: tuple[Sample, bytes] | None = None
        self.proven_for: Any = None
        self.traits = Traits(packs=False, places=False)
        self.reach = Reach(None, None, spatial=False)
        self.notes = False
        self.register_load_state_dict_post_hook(_unverified)  # type: ignore[no-untyped-call]

    def tensors(self) -> dict[str, Tensor]:
        """Every steering tensor by its full name."""
        return {f"steering.{name}": tensor for name, tensor in self.state_dict().items()}

    def load_program(self, program: SteeringProgram) -> None:
        """Takes over the tensors of the program this module was built from."""
        self.load_state_dict({name.removeprefix("steering."): t for name, t in program.tensors().items()})
        self.verify()

    def program(self) -> SteeringProgram:
        """The program in memory; raises ProgramError if it differs from the signed one."""
        return SteeringProgram.parse(self.section, {n: t.detach().cpu() for n, t in self.tensors().items()})

    def verify(self) -> None:
        """Raises where a tensor is missing, altered or not loaded; its tensors are ``verified`` then."""
        away = [name for name, tensor in self.tensors().items() if tensor.device.type == "meta"]
        if away:
            raise RuntimeError(
                f"the steering tensors {', '.join(away)} are not in memory (offloaded, or never loaded), so the model would run "
                "unsteered. Keep the module 'steering' on a device in your device_map."
            )
        self.program()
        self.hold()

    @property
    def verified(self) -> bool:
        """Whether the tensors were verified since they were loaded."""
        return self._verified_as is not None

    def hold(self) -> None:
        """Takes the tensors and the section, as they are now, for verified."""
        self._verified_as = Sample.of(self), canonical_json(self.section)
        for layer in self.layers.values():
            assert isinstance(layer, SteeringLayer)
            layer._prepared = None

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def check_unchanged(self) -> None:
        """Verifies again if a tensor or the section changed since the last check; raises ProgramError like ``verify``."""
        tensors, section = self._verified_as or (None, None)
        if (
            tensors is None
            or tensors.changed(Sample.of(self), casts=False)
            or section != canonical_json(self.section)
        ):
            self.verify()

    def at_block(self, index: int, states: Tensor, call: SteeringCall) -> Tensor:
        """Output [B, T, d] of block ``index`` after its gates were read and its edit applied."""
        for name, gate in self.gates.items():
            assert isinstance(gate, SteeringGate)
            if gate.layer == index:
                call.settle(name, gate.decide(states, call, self.sums_at.get(name, 0)))
        call.visited.add(index)
        edit: nn.Module | None = self.layers._modules.get(str(index))
        return states if edit is None else edit(states, call)


def _unverified(steering: nn.Module, _incompatible: object) -> None:
    """Tensors were loaded into a steering module: they are checked again before the next pass."""
    assert isinstance(steering, Steering)
    steering._verified_as = None


class BlockHook:
    """Forward hook on one decoder block. An object, not a closure, so that copying a model copies its steering."""

    def __init__(self, steering: Steering, index: int) -> None:
        self.steering = steering
        self.index = index

    def __call__(self, _block: nn.Module, _args: Any, kwargs: dict[str, Any], output: Any) -> Any:
        """Steers the block's output; raises RuntimeError where the pass has no SteeringCall."""
        call = kwargs.get(CALL)
        if not isinstance(call, SteeringCall):
            raise RuntimeError(
                f"decoder block {self.index} of a steered model was called outside the steered model's own forward, so it would run "
                "unsteered. Call the model itself, not its inner modules."
            )
        if call.section is not None and call.section is not self.steering.section:
            raise RuntimeError(
                f"decoder block {self.index} still has the steering that the model was loaded with, but model.steering was replaced; load "
                "the checkpoint of the other steering instead"
            )
        if isinstance(output, Tensor):
            return self._steered(output, call)
        if isinstance(output, tuple) and output and isinstance(output[0], Tensor):
            return (self._steered(output[0], call), *output[1:])
        raise TypeError(
            f"decoder block {self.index} returned {type(output).__name__}; expected a tensor to steer"
        )

    def _steered(self, states: Tensor, call: SteeringCall) -> Tensor:
        """The block's states [B, T, d] steered; states of several streams or of columns in another order are none."""
        wanted = (call.columns.batch, call.columns.length, self.steering.section["hidden_size"])
        if tuple(states.shape) != wanted:
            raise TypeError(
                f"decoder block {self.index} returned states of shape {list(states.shape)}; expected one state a column, {list(wanted)}"
            )
        return self.steering.at_block(self.index, states, call)


def install_hooks(steering: Steering, blocks: nn.ModuleList) -> list[RemovableHandle]:
    """Registers the hooks on the decoder's blocks; returns their handles.

    They run before any other hook, so that recorded hidden states are the steered ones.
    """
    return [
        blocks[index].register_forward_hook(BlockHook(steering, index), with_kwargs=True, prepend=True)
        for index in steering.steered_blocks
    ]
