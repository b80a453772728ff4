"""Headers and indexes of a base are read as the format allows, or refused in one sentence; nothing else can come of them."""

from __future__ import annotations

import json
import re
import struct
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from exporter.errors import CompileError
from exporter.targets.base_weights import INDEX, SINGLE, BaseWeights, read_header


def entry(dtype="F32", shape=(2,), offsets=(0, 8), **more):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets), **more}


def written(folder: Path, header, data: int = 8, length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path = folder / SINGLE
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + bytes(data))
    return path


def test_what_safetensors_writes_is_read(tmp_path):
    """The control: every dtype that is written here comes back with its place."""
    kinds = (torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.bool, torch.float8_e4m3fn)
    tensors = {f"t{i}": torch.ones(3, i, dtype=torch.float32).to(kind) for i, kind in enumerate(kinds)}
    save_file(tensors, tmp_path / SINGLE, metadata={"format": "pt"})
    found = read_header(tmp_path / SINGLE)
    assert {name: one.shape for name, one in found.items()} == {n: tuple(t.shape) for n, t in tensors.items()}
    assert max(one.stop for one in found.values()) == (tmp_path / SINGLE).stat().st_size
    assert read_header(written(tmp_path, {"a": entry()}))["a"].dtype == "F32"


BAD = {
    "a list": [],
    "a number": 7,
    "no entry": {"a": 1},
    "no shape": {"a": {"dtype": "F32", "data_offsets": [0, 8]}},
    "unknown dtype": {"a": entry("F33")},
    "dtype is no name": {"a": entry(["F32"])},
    "shape is text": {"a": {**entry(), "shape": "2"}},
    "shape is negative": {"a": entry(shape=(-1, -2))},
    "shape is a truth": {"a": entry(shape=(2, True))},
    "shape is broken": {"a": entry(shape=(2.0,))},
    "shape without end": {"a": entry(shape=(2**62,) * 9)},
    "three offsets": {"a": entry(offsets=(0, 4, 8))},
    "backwards": {"a": entry(offsets=(8, 0))},
    "beyond the file": {"a": entry(shape=(4,), offsets=(0, 16))},
    "other size": {"a": entry(shape=(1,))},
    "a hole in front": {"a": entry(shape=(1,), offsets=(4, 8))},
    "a hole behind": {"a": entry(shape=(1,), offsets=(0, 4))},
    "overlap": {"a": entry(), "b": entry()},
    "half a surrogate": {"\ud800": entry()},
    "metadata is no object": {"__metadata__": [], "a": entry()},
    "metadata holds a number": {"__metadata__": {"a": 1}, "a": entry()},
    "a name twice": b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}',
    "not UTF-8": b'{"\xff":1}',
    "UTF-16": json.dumps({"a": entry()}).encode("utf-16"),
    "NaN": b'{"a":NaN}',
    "nested without end": b'{"a":' * 40_000,
    "a number of ten thousand digits": b'{"a":{"dtype":"F32","shape":['
    + b"9" * 10_000
    + b'],"data_offsets":[0,8]}}',
    "no tensors": {},
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_header_is_refused_by_file_and_fault(tmp_path, name):
    path = written(tmp_path, BAD[name])
    with pytest.raises(CompileError, match=SINGLE):
        read_header(path)


@pytest.mark.parametrize("length", [0, 1, 2**63, 100_000_001, 2**64 - 1])
def test_a_length_is_bounded(tmp_path, length):
    with pytest.raises(CompileError, match=f"{length} bytes"):
        read_header(written(tmp_path, {"a": entry()}, length=length))


def test_a_model_without_tensors_is_none(tmp_path):
    written(tmp_path, {}, data=0)
    with pytest.raises(CompileError, match="no tensors"):
        BaseWeights.read(tmp_path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.text(max_size=4), inside, max_size=3),
    max_leaves=8,
)
ENTRIES = st.fixed_dictionaries({
    "dtype": st.sampled_from(["F32", "BF16", "U8", "F4", "X"]) | JSON,
    "shape": st.lists(st.integers(-1, 4), max_size=3) | JSON,
    "data_offsets": st.lists(st.integers(-1, 20), min_size=1, max_size=3) | JSON,
})  # fmt: skip
HEADERS = JSON | st.dictionaries(st.text(max_size=3) | st.just("__metadata__"), ENTRIES | JSON, max_size=3)
MANY = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@MANY
@given(header=HEADERS, data=st.integers(0, 24))
def test_nothing_but_a_refusal_comes_of_a_random_header(tmp_path, header, data):
    path = written(tmp_path, header, data)
    try:
        found = read_header(path)
    except CompileError:
        return
    assert sum(one.stop - one.start for one in found.values()) == data
    BaseWeights(tmp_path, (SINGLE,), found).fingerprint()


@MANY
@given(content=st.binary(max_size=40))
def test_nothing_but_a_refusal_comes_of_random_bytes(tmp_path, content):
    (tmp_path / SINGLE).write_bytes(content)
    try:
        read_header(tmp_path / SINGLE)
    except CompileError:
        return
    assert len(content) >= 10


@MANY
@given(index=JSON | st.fixed_dictionaries({"weight_map": JSON | st.dictionaries(st.text(max_size=3), JSON)}))
def test_nothing_but_a_refusal_comes_of_a_random_index(tmp_path, index):
    (tmp_path / INDEX).write_text(json.dumps(index), encoding="utf-8")
    with pytest.raises(CompileError):
        BaseWeights.read(tmp_path)


@pytest.mark.parametrize(
    "shard",
    [
        "../model.safetensors",
        "/etc/x.safetensors",
        "a/b.safetensors",
        "..",
        "",
        "a\\b.safetensors",
        "model.bin",
        3,
    ],
)
def test_a_shard_is_a_plain_name(tmp_path, shard):
    written(tmp_path, {"a": entry()}).rename(tmp_path / "one.safetensors")
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"a": shard}}))
    with pytest.raises(CompileError, match=rf"shard {re.escape(repr(shard))}"):
        BaseWeights.read(tmp_path)
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"a": "one.safetensors"}}))
    assert set(BaseWeights.read(tmp_path).tensors) == {"a"}


def test_a_tensor_in_two_shards_is_refused(tmp_path):
    for name in ("one", "two"):
        written(tmp_path, {"a": entry()}).rename(tmp_path / f"{name}.safetensors")
    names = {"a": "one.safetensors", "b": "two.safetensors"}
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": names}))
    with pytest.raises(CompileError, match="'a' in two shards"):
        BaseWeights.read(tmp_path)


def test_a_shard_behind_a_link_out_of_the_folder_is_refused(tmp_path):
    """In the Hub's cache shards are links to its blobs; those are read."""
    snapshot = tmp_path / "models--o--n" / "snapshots" / ("0" * 40)
    blobs = tmp_path / "models--o--n" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    written(tmp_path, {"a": entry()}).rename(blobs / "abc")
    (snapshot / SINGLE).symlink_to("../../blobs/abc")
    assert set(BaseWeights.read(snapshot).tensors) == {"a"}
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / SINGLE).symlink_to(blobs / "abc")
    with pytest.raises(CompileError, match="is a link"):
        BaseWeights.read(tmp_path / "plain")
