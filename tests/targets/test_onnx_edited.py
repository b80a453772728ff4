"""Graphs of a merged checkpoint have no gates: their manifest says so, and nothing that steers, steered or is the base is taken for one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnx_bed
import pytest
import torch
from random_edits import random_edit
from transformers import AutoModelForCausalLM

from exporter import pipeline, registry
from exporter.errors import CompileError, VerificationError
from exporter.host import ModelHost
from exporter.look_inside import section_of, summary
from exporter.targets.merged.export import export_merged
from exporter.targets.onnx.target import OnnxOptions as Options
from exporter.targets.onnx_runner import FolderError, OnnxModel, left_padded, sha256_of
from exporter.targets.values import Reference

GRAPH = "onnx/model.onnx"
bed = onnx_bed.bed


@pytest.fixture(scope="module")
def edited(bed, tmp_path_factory) -> Path:
    """A folder with the merged checkpoint and its graphs, whole and in 8 bits."""
    home = tmp_path_factory.mktemp("edited")
    edit = random_edit(bed.home / "base", AutoModelForCausalLM.from_pretrained(bed.home / "base"))
    export_merged(bed.home / "base", edit, home / "merged")
    pipeline.export("onnx", home / "merged", home / "onnx", Options(dtypes=("fp32", "int8")))
    return home


@pytest.fixture
def folder(edited, tmp_path) -> Path:
    return Path(shutil.copytree(edited / "onnx", tmp_path / "changed"))


def signed(folder: Path, **changes: object) -> Path:
    """The folder with a manifest that knows every file as it is now."""
    manifest = {**json.loads((folder / "steerbake.json").read_text()), **changes}
    for name in manifest["files"]:
        path = folder / name
        manifest["files"][name] = {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
    (folder / "steerbake.json").write_text(json.dumps(manifest))
    return folder


def refused(folder: Path, words: str) -> None:
    with pytest.raises(FolderError, match=words):
        OnnxModel(folder, provider="cpu")


def test_they_compute_what_the_merged_checkpoint_computes(bed, edited):
    said: list[str] = []
    model = OnnxModel(edited / "onnx", provider="cpu", say=said.append)
    assert "UNSTEERED" not in said[0] and "edited by random; no gates" in said[0]
    ids, mask = left_padded([model.encode(onnx_bed.FORGET)], 0)
    merged = AutoModelForCausalLM.from_pretrained(edited / "merged").eval()
    with torch.no_grad():
        wanted = merged(torch.from_numpy(ids)).logits.numpy()
        base = bed.base(torch.from_numpy(ids)).logits.numpy()
    found = model.start(ids, mask)[1]
    np.testing.assert_allclose(found, wanted, atol=1e-4)
    assert np.abs(found - base).max() > 1e-2
    assert OnnxModel(edited / "onnx", dtype="int8", provider="cpu").generate([[5, 6]], max_new_tokens=2)


def test_the_manifest_names_the_edit_and_no_gates(edited):
    told = json.loads((edited / "onnx" / "steerbake.json").read_text())
    merged = json.loads((edited / "merged" / "merged.json").read_text())
    assert (told["steered"], told["steering"], told["gates"], told["gate_state"]) == (False, None, [], None)
    assert told["edit"] == {
        "method": "random",
        "sha256": merged["edit"],
        "fingerprint": merged["fingerprint"],
    }
    shown = summary(edited / "onnx")
    assert shown is not None and "no gates" in shown.line


def test_verification_compares_their_logits(edited, tmp_path):
    found = pipeline.verify(edited / "merged", [edited / "onnx"], report=tmp_path / "verification.json")
    assert not found.failures
    assert found.parity["onnx"]["variants"]["fp32"]["tokens"][1] > 0


@pytest.mark.slow
def test_graphs_of_the_base_with_copied_metadata_fail_the_verification(bed, edited, folder, tmp_path):
    """The runner cannot tell them by what it reads: nothing but the weights differs."""
    plain, mine = onnx.load(bed.folder("unsteered") / GRAPH), onnx.load(folder / GRAPH)
    del plain.metadata_props[:]
    plain.metadata_props.extend(mine.metadata_props)
    onnx.save(plain, folder / GRAPH)
    found = pipeline.verify(edited / "merged", [signed(folder)], report=tmp_path / "verification.json")
    assert any(one.name == "parity" and "logits differ" in one.told for one in found.failures)


@pytest.mark.parametrize("strip", ["nothing", "nodes", "nodes and functions", "nodes, functions and tensors"])
def test_a_graph_whose_gates_were_taken_out_is_refused(bed, folder, strip):
    graph = onnx.load(bed.folder("io") / GRAPH)
    mine = onnx.load(folder / GRAPH)
    if "nodes" in strip:
        kept = [one for one in graph.graph.node if one.domain != "steerbake"]
        del graph.graph.node[:]
        graph.graph.node.extend(kept)
    if "functions" in strip:
        del graph.functions[:]
    if "tensors" in strip:
        kept = [one for one in graph.graph.initializer if not one.name.startswith("steering.")]
        del graph.graph.initializer[:]
        graph.graph.initializer.extend(kept)
    for props in (list(graph.metadata_props), [*mine.metadata_props, *graph.metadata_props]):
        del graph.metadata_props[:]
        graph.metadata_props.extend(props)
        onnx.save(graph, folder / GRAPH)
        refused(signed(folder), "not the graph without steering")
        with pytest.raises((VerificationError, FolderError)):
            summary(folder)
    refused(signed(folder, edit=None), "not the graph without steering")


def test_graphs_of_another_kind_are_refused(bed, edited, folder):
    shutil.copyfile(bed.folder("unsteered") / GRAPH, folder / GRAPH)
    refused(signed(folder), "says that it is unsteered, not edit:")
    base = shutil.copytree(bed.folder("unsteered"), folder.parent / "base")
    shutil.copyfile(edited / "onnx" / GRAPH, base / GRAPH)
    refused(signed(base), "says that it is edit:.*, not unsteered")
    steered = shutil.copytree(bed.folder("io"), folder.parent / "steered")
    shutil.copyfile(edited / "onnx" / GRAPH, steered / GRAPH)
    refused(signed(steered), "nodes are none")


def test_a_manifest_that_contradicts_itself_is_refused(bed, folder):
    section = json.loads((bed.folder("io") / "steerbake.json").read_text())["steering"]
    for changes in ({"steered": True}, {"steered": True, "steering": section}, {"steering": section}):
        refused(signed(folder, **{"steered": False, "steering": None, **changes}), "does not say whether")


def test_the_checkpoint_of_another_edit_is_told(bed, edited, tmp_path):
    other = random_edit(bed.home / "base", AutoModelForCausalLM.from_pretrained(bed.home / "base"), seed=7)
    merged = export_merged(bed.home / "base", other, tmp_path / "other")
    host = ModelHost.load(edited / "merged", dtype=torch.float32)
    for checkpoint, graphs, wrong in (
        (edited / "merged", edited / "onnx", 0),
        (merged, edited / "onnx", 1),
        (bed.checkpoint, edited / "onnx", 1),
        (edited / "merged", bed.folder("io"), 1),
    ):
        reference = Reference(section_of(checkpoint), host)
        assert len(registry.target("onnx").open(graphs, reference).wrong) == wrong


def test_options_about_gates_are_refused(edited, tmp_path):
    for options in (Options(gate_state="io"), Options(steered=False)):
        with pytest.raises(CompileError, match="edit in its weights"):
            pipeline.export("onnx", edited / "merged", tmp_path / "out", options)
    assert not (tmp_path / "out").exists()
