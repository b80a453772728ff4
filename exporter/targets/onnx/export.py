"""Target ``onnx``: a steered or a merged checkpoint as graphs, with the files a runtime needs beside them."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar, cast

import torch

from exporter import registry
from exporter.atomic import refuse_existing, whole_folder
from exporter.errors import CompileError
from exporter.host import ModelHost
from exporter.inspection import examine
from exporter.reader import open_reader
from exporter.targets.companions import copy_companions
from exporter.targets.edited_base import settings_in
from exporter.targets.onnx import graphs, layouts, quantize
from exporter.targets.onnx.core import TOKENIZER, write_core
from exporter.targets.onnx.decoder import DecoderGraph, Embedding, GateState, MergedEmbedding
from exporter.targets.onnx.families import VisionGraph, family_of
from exporter.targets.onnx.look import misheard, plain
from exporter.targets.onnx.manifest import (
    EditInWeights,
    GraphFacts,
    Identity,
    Variant,
    describe,
    license_of,
    write,
)
from exporter.targets.onnx.names import NAMES, ONNX, PRECISIONS, file_name
from exporter.targets.onnx.probe import Probe
from exporter.targets.onnx.steering_nodes import bodies
from exporter.targets.onnx.target import GRAPH_CODE, RUNNER, OnnxOptions
from exporter.targets.values import RenderedPrompt
from steer_modules.registration import register

T = TypeVar("T")
LOG = logging.getLogger(__name__)


def export_onnx(
    checkpoint: Path,
    out: Path,
    options: OnnxOptions,
    turns: Mapping[str, str | None] | None = None,
    prompts: Sequence[RenderedPrompt] = (),
) -> Path:
    """Writes the folder ``out`` of graphs of a checkpoint, whole or not at all.

    Args:
        checkpoint: a folder that ``compile`` wrote, steered or with an edit in its weights; none of the code in it is run.
        turns: the chat template in literal pieces, for runners without Jinja.
        prompts: conversations of which the folder's own runner must make the same ids, and answer them.

    Returns:
        ``out``.

    Raises:
        CompileError: ``out`` exists, the family or a choice is not supported, a graph does not answer as the checkpoint, or the
            folder's own runner cannot open it.
        VerificationError: the checkpoint is not what it claims to be.
    """
    refuse_existing(out)
    quantize.check(options.dtypes)
    identity = identity_of(checkpoint, options)
    model_type = str(identity.base["model_type"])
    family_of(model_type)
    asked = cast("GateState | None", options.gate_state)
    gate_state = layouts.gate_state(options.layout, asked, model_type)
    traced: list[str] = [dtype for dtype in ("fp32", "fp16") if dtype in options.dtypes]
    if "fp32" not in traced and any(dtype in quantize.QUANTISERS for dtype in options.dtypes):
        traced.insert(0, "fp32")
    with whole_folder(out) as folder:
        description: GraphFacts | None = None
        for dtype in traced:
            LOG.info("trace and compare %s", dtype)
            ask = _Asked(checkpoint, folder, dtype, gate_state, options.layout, identity, turns)
            description, probe = _apart(_write_graphs, ask) if _is_large(checkpoint) else _write_graphs(ask)
            probe.check({role: folder / path for role, path in _variant(folder, dtype).graphs.items()})
        for dtype in options.dtypes:
            if dtype in quantize.QUANTISERS:
                LOG.info("quantise to %s", dtype)
                quantize.write(folder / ONNX, dtype)
        if "fp32" in traced and "fp32" not in options.dtypes:
            _remove(folder / ONNX, "fp32")
        assert description is not None, "every precision is traced, or made of one that is"
        variants = {dtype: _variant(folder, dtype) for dtype in options.dtypes}
        _companions(checkpoint, folder)
        layouts.write(options.layout, checkpoint, folder, description, variants)
        _sealed(checkpoint, folder, description, variants, prompts)
    return out


def identity_of(checkpoint: Path, options: OnnxOptions) -> Identity:
    """What the graphs of a checkpoint are to say of themselves.

    Raises:
        CompileError: an option is about gates or a base that a checkpoint with an edit in its weights does not have.
        VerificationError: the checkpoint is not what it claims to be.
    """
    root = registry.root_at(checkpoint)
    if root is None or root.takes == "program":
        section = examine(checkpoint).section
        base = {**section["base"], "settings": settings_in(checkpoint)}
        return Identity(section if options.steered else None, base, license_of(checkpoint))
    if options.gate_state is not None:
        raise CompileError(f"{checkpoint} has an edit in its weights and no gates; remove --gate-state")
    if not options.steered:
        raise CompileError(
            f"{checkpoint} has an edit in its weights, and does not hold the base without it; remove --unsteered"
        )
    told = root.section(checkpoint)
    edit = EditInWeights(
        method=str(told["method"]), sha256=str(told["sha256"]), fingerprint=str(told["fingerprint"])
    )
    base = {**cast("Mapping[str, Any]", told["base"]), "settings": settings_in(checkpoint)}
    return Identity(None, base, license_of(checkpoint), edit)


def prepare(checkpoint: Path, options: OnnxOptions) -> None:
    """Looks at a checkpoint before its tokenizer is opened; raises as :func:`identity_of` does."""
    identity_of(checkpoint, options)
    _registered(checkpoint)


def _registered(checkpoint: Path) -> None:
    """Has Transformers load a steered checkpoint by our own classes; a merged one has a class of its own."""
    root = registry.root_at(checkpoint)
    if root is None or root.takes == "program":
        register(checkpoint)


def _sealed(
    checkpoint: Path,
    folder: Path,
    description: GraphFacts,
    variants: Mapping[str, Variant],
    prompts: Sequence[RenderedPrompt],
) -> None:
    """Writes the manifest, and has the folder's own runner open it; its tokenizer.json becomes what Transformers makes of the checkpoint's."""
    _registered(checkpoint)
    reader = open_reader(checkpoint)
    tokenizer = getattr(reader, "tokenizer", reader)
    shows = description.image is not None and description.image.preprocessing is not None
    asked = [*plain(tokenizer), *(one for one in prompts if shows or one.image is None)]
    if not (folder / TOKENIZER).is_file():
        write_core(tokenizer, folder)
    write(folder, description, variants)
    if not misheard(folder, RUNNER, asked):
        return
    write_core(tokenizer, folder)
    write(folder, description, variants)
    if wrong := misheard(folder, RUNNER, asked):
        raise CompileError(
            f"nothing was written, because the runner of the folder tokenises {wrong[0].said[-1]!r} differently from Transformers, so "
            "gates would read other states than they were fitted on; give the base a complete tokenizer.json and chat template"
        )


@dataclass(frozen=True)
class _Asked:
    """One precision of one export."""

    checkpoint: Path
    folder: Path
    dtype: str
    gate_state: GateState
    layout: str | None
    identity: Identity
    turns: Mapping[str, str | None] | None


def _write_graphs(ask: _Asked) -> tuple[GraphFacts, Probe]:
    """Traces every graph of one precision; returns the manifest's content, and what the model says to a probe."""
    _registered(ask.checkpoint)
    host = ModelHost.load(ask.checkpoint, dtype=PRECISIONS[ask.dtype])
    family = family_of(host.model_type.removeprefix("steered_"))
    steered = ask.identity.section is not None
    probe = Probe.of(host, family, steered=steered)
    metadata = ask.identity.metadata()
    with torch.no_grad():
        decoder = DecoderGraph(host, family, ask.gate_state, steered=steered)
        description = describe(host, decoder, ask.identity, ask.turns, probe.features)
        graph = graphs.traced(decoder, decoder.example(), decoder.axes())
        if decoder.nodes is not None:
            graphs.add_functions(graph, bodies(host.model.steering, host.dtype, decoder.nodes.table))
        name = "decoder_model_merged" if family.sees else "model"
        graphs.save(graph, ask.folder / ONNX / file_name(name, ask.dtype), metadata)
        parts: dict[str, VisionGraph | Embedding | MergedEmbedding] = {}
        if family.sees:
            parts = {"vision_encoder": family.vision(host.model), "embed_tokens": Embedding(host.model)}
        if family.sees and ask.layout == "genai":
            parts["embedding"] = MergedEmbedding(host.model)
        for name, part in parts.items():
            graph = graphs.traced(part, part.example(), part.axes())
            graphs.save(graph, ask.folder / ONNX / file_name(name, ask.dtype), metadata)
    return description, probe


_LARGE = 256_000_000


def _is_large(checkpoint: Path) -> bool:
    return sum(path.stat().st_size for path in checkpoint.glob("*.safetensors")) > _LARGE


def _apart(function: Callable[[_Asked], T], ask: _Asked) -> T:
    """Runs in a process of its own: the tracer's caches keep the weights of a model until theirs ends."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, ask).result()


def _variant(folder: Path, dtype: str) -> Variant:
    """The graphs of one precision, by what they are to a runner."""
    roles = {
        "decoder": ("model", "decoder_model_merged"),
        "embed": ("embed_tokens",),
        "vision": ("vision_encoder",),
        "merge": ("embedding",),
    }
    found = {
        role: f"{ONNX}/{file_name(name, dtype)}"
        for role, names in roles.items()
        for name in names
        if (folder / ONNX / file_name(name, dtype)).is_file()
    }
    return Variant(**found, cache_dtype="float16" if dtype == "fp16" else "float32")


def _remove(folder: Path, dtype: str) -> None:
    for name in NAMES:
        for path in folder.glob(f"{file_name(name, dtype)}*"):
            path.unlink()


def _companions(checkpoint: Path, folder: Path) -> None:
    """Tokenizer, processor, licence and the runner; the config of a stock model, which nobody can mistake for weights."""
    copy_companions(checkpoint, folder)
    for name, source in GRAPH_CODE.items():
        shutil.copyfile(source, folder / name)
