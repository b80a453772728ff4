"""Files that are written and read again: what comes back is what was written, and what is not whole raises and says where."""

from __future__ import annotations

import json
from copy import deepcopy

import pytest
from manifests import gguf_manifest, onnx_manifest, run_report, stock_manifest

from exporter.errors import VerificationError
from exporter.renamed import METRICS
from exporter.report import Report
from exporter.targets.gguf.manifest import GgufManifest
from exporter.targets.onnx.manifest import OnnxManifest
from exporter.targets.stock.manifest import StockManifest

KINDS = {
    StockManifest: stock_manifest([3], {"model.safetensors": "1" * 64}),
    GgufManifest: gguf_manifest([3], {"m-Q8_0.gguf": "1" * 64}),
    OnnxManifest: onnx_manifest({"onnx/model.onnx": "1" * 64}),
    Report: run_report(),
}


def leaves(value, path=()):
    """The path of every value of nested objects."""
    for key, inner in value.items():
        yield (*path, key)
        if isinstance(inner, dict):
            yield from leaves(inner, (*path, key))


def without(value, path):
    value = deepcopy(value)
    inner = value
    for key in path[:-1]:
        inner = inner[key]
    return value, inner


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_what_was_written_is_read_and_written_alike(kind, tmp_path):
    (tmp_path / kind.FILE).write_text(json.dumps(KINDS[kind]))
    found = kind.load(tmp_path)
    assert found.data() == KINDS[kind]
    found.save(tmp_path / "again.json")
    assert list(json.loads((tmp_path / "again.json").read_text())) == list(KINDS[kind])
    assert kind.read(tmp_path / "again.json") == found


@pytest.mark.parametrize(
    ("kind", "path"),
    [(kind, path) for kind, whole in KINDS.items() for path in leaves(whole)],
    ids=lambda one: ".".join(one) if isinstance(one, tuple) else one.__name__,
)
def test_a_value_of_another_kind_raises_and_is_named(kind, path, tmp_path):
    value, inner = without(KINDS[kind], path)
    inner[path[-1]] = ["not", 1, "of these"]
    (tmp_path / kind.FILE).write_text(json.dumps(value))
    with pytest.raises(VerificationError) as refused:
        kind.load(tmp_path)
    assert str(tmp_path / kind.FILE) in str(refused.value) and path[-1] in str(refused.value)
    assert kind.REMEDY in str(refused.value)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_missing_unknown_and_other_formats_raise(kind, tmp_path):
    lacking = "rule" if kind is Report else "files"
    for change in ({lacking: None}, {"a_key_of_tomorrow": 1}, {"format": "steerbake-other/9"}):
        content = {
            k: one for k, one in {**KINDS[kind], **change}.items() if one is not None or k not in change
        }
        (tmp_path / kind.FILE).write_text(json.dumps(content))
        with pytest.raises(VerificationError) as refused:
            kind.load(tmp_path)
        assert next(iter(change)) in str(refused.value)
    (tmp_path / kind.FILE).write_text("{")
    with pytest.raises(VerificationError):
        kind.load(tmp_path)
    (tmp_path / kind.FILE).unlink()
    with pytest.raises(FileNotFoundError):
        kind.load(tmp_path)


def test_a_variant_says_nothing_of_graphs_that_it_has_not(tmp_path):
    """The runner that travels in a folder takes every value of a variant for a path, or for the type of its cache."""
    whole = onnx_manifest({"onnx/model.onnx": "1" * 64})
    del whole["image"]["spatial_merge_size"]
    (tmp_path / OnnxManifest.FILE).write_text(json.dumps(whole, indent=1) + "\n")
    before = (tmp_path / OnnxManifest.FILE).read_bytes()
    found = OnnxManifest.load(tmp_path)
    assert found.variants["fp32"].graphs == {"decoder": "onnx/model.onnx"}
    found.save(tmp_path / OnnxManifest.FILE)
    assert (tmp_path / OnnxManifest.FILE).read_bytes() == before


def test_a_report_of_before_is_read_with_a_warning_and_says_the_same(tmp_path):
    whole = run_report()
    figure = {"value": 0.5, "n": 2}  # without an interval
    old = dict.fromkeys(METRICS, figure)
    before = {
        k: v for k, v in whole.items() if k not in ("too_few_rows", "extraction", "cross_validated", "proof")
    }
    before["models"] = {"base": {**old, "groups": {"later": old}}}
    (tmp_path / Report.FILE).write_text(json.dumps(before))
    with pytest.warns(FutureWarning) as warned:
        found = Report.load(tmp_path)
    assert {name for one in warned for name in (*METRICS, "groups") if repr(name) in str(one.message)} == {
        *METRICS,
        "groups",
    }
    now = dict.fromkeys(METRICS.values(), figure)
    assert found.data() == {**before, "models": {"base": {**now, "eval_slices": {"later": now}}}}
    both = {**before, "models": {"base": {**old, **now, "eval_slices": {}}}}
    (tmp_path / Report.FILE).write_text(json.dumps(both))
    with pytest.raises(VerificationError) as refused:
        Report.load(tmp_path)
    assert all(repr(name) in str(refused.value) for name in METRICS)


@pytest.mark.filterwarnings("error")
def test_a_figure_of_another_kind_within_a_report_raises_and_is_named(tmp_path):
    """What has names that no installation knows beforehand is held to its kind too."""
    for place in (("models", "keyed"), ("models", "keyed", "eval_slices", "later")):
        value, inner = without(run_report(), (*place, "a_metric"))
        for change in ({"value": "0.5", "n": 2}, {"value": 0.5}, 0.5):
            inner["a_metric"] = change
            (tmp_path / Report.FILE).write_text(json.dumps(value))
            with pytest.raises(VerificationError) as refused:
                Report.load(tmp_path)
            assert ".".join((*place, "a_metric")) in str(refused.value)
