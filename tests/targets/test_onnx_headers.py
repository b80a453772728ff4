"""Generation headers recognised in a graph, against a loop over tokens: however they are cut, padded and repeated."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.targets.onnx import graphs
from exporter.targets.onnx.headers import HeadersBody, HeaderTable
from exporter.targets.onnx.steering_nodes import HEADERS, Body

SETS = [
    [[5, 6, 7]],
    [[5, 5, 6, 5, 5]],
    [[5, 6, 7], [6, 7, 6, 7], [8]],
    [[8], [5]],
    [[5, 6], [5, 6, 5, 6], [6, 5]],
]
ROWS = torch.randn(12, 16, generator=torch.Generator().manual_seed(1))


def ends_of(ids: list[int], headers: list[list[int]]) -> list[bool]:
    return [any(ids[: i + 1][-len(one) :] == one for one in headers) for i in range(len(ids))]


def expected(ids: torch.Tensor, mask: torch.Tensor, headers: list[list[int]]) -> torch.Tensor:
    found = torch.zeros_like(mask)
    for row, real in enumerate(mask):
        found[row, real] = torch.tensor(ends_of(ids[row, real].tolist(), headers), dtype=torch.bool)
    return found


@st.composite
def rows(draw: st.DrawFn) -> tuple[list[list[int]], torch.Tensor, torch.Tensor, list[int]]:
    """Headers, ids [2, T] made of their tokens, a mask, and where passes end."""
    headers = draw(st.sampled_from(SETS))
    length = draw(st.integers(1, 14))
    ids = [draw(st.lists(st.integers(4, 9), min_size=length, max_size=length)) for _ in range(2)]
    real = [draw(st.lists(st.booleans(), min_size=length, max_size=length)) for _ in range(2)]
    cuts = [*sorted(draw(st.sets(st.integers(1, length)))), length]
    return headers, torch.tensor(ids), torch.tensor(real), cuts


@given(rows(), st.booleans())
@settings(max_examples=150, deadline=None)
def test_headers_are_found_however_a_sequence_is_cut(case, by_ids):
    headers, ids, mask, cuts = case
    table = HeaderTable.of(headers, None if by_ids else lambda some: ROWS[some])
    body, tensors = HeadersBody(table), None if by_ids else {"rows": table.rows}
    tokens = ids if by_ids else ROWS[ids]
    before, found = torch.zeros(2), []
    for start, stop in zip([0, *cuts], cuts, strict=False):
        if start < stop:
            ends, seen = body(tokens[:, start:stop], mask[:, start:stop], before, tensors)
            before = seen[:, -1]
            found.append(ends)
    assert torch.equal(torch.cat(found, dim=1), expected(ids, mask, headers))


@pytest.mark.parametrize("by_ids", [True, False])
def test_the_body_of_the_node_finds_the_same(by_ids, tmp_path: Path):
    headers = SETS[2]
    table = HeaderTable.of(headers, None if by_ids else lambda some: ROWS[some])
    tokens = torch.zeros(2, 3, dtype=torch.long) if by_ids else torch.randn(2, 3, 16)
    rows = {} if by_ids else {"tensors": {"rows": table.rows}}
    example = {"tokens": tokens, "mask": torch.ones(2, 3).bool(), "before": torch.tensor([0.0, 1.0]), **rows}
    made = Body(HEADERS, HeadersBody(table), example, ("tokens", "mask"))
    graph = graphs.traced(made.module, made.inputs, made.axes())
    graphs.save(graph, tmp_path / "body.onnx", {})
    session = ort.InferenceSession(tmp_path / "body.onnx", providers=["CPUExecutionProvider"])
    assert not {"If", "Loop", "Scan"} & {node.op_type for node in graph.graph.all_nodes()}
    random = torch.Generator().manual_seed(2)
    for length in (1, 2, 5, 9):
        ids = torch.randint(4, 10, (3, length), generator=random)
        mask = torch.rand(3, length, generator=random) < 0.8
        before = torch.tensor([0.0, 2.0, 5.0])
        fed = {"tokens": ids if by_ids else ROWS[ids], "mask": mask, "before": before}
        given_rows = {} if by_ids else {"tensors.rows": table.rows.numpy()}
        found = session.run(None, {name: one.numpy() for name, one in fed.items()} | given_rows)
        wanted = made.module(**fed, **({} if by_ids else {"tensors": {"rows": table.rows}}))
        for ours, theirs in zip(found, wanted, strict=True):
            np.testing.assert_array_equal(ours, theirs.numpy())


def test_tokens_of_one_row_are_one_class_and_a_row_nearby_is_no_header():
    twins = ROWS.clone()
    twins[9] = twins[5]
    table = HeaderTable.of([[5, 6], [9, 7]], lambda some: twins[some])
    assert len(table.rows) == 3
    body = HeadersBody(table)
    mask, before = torch.ones(1, 2).bool(), torch.zeros(1)
    for ids in ([5, 6], [9, 6], [5, 7], [9, 7]):
        ends, _ = body(twins[torch.tensor([ids])], mask, before, {"rows": table.rows})
        assert ends.tolist() == [[False, True]]
    near = twins[torch.tensor([[5, 6]])].clone()
    near[0, 0] *= 1 + 5e-4
    assert body(near, mask, before, {"rows": table.rows})[0][0, 1]
    near[0, 0] *= 1 + 5e-3
    assert not body(near, mask, before, {"rows": table.rows})[0][0, 1]


def test_an_embedding_that_is_not_finite_is_no_header():
    table = HeaderTable.of([[5]], lambda some: ROWS[some])
    states = ROWS[torch.tensor([[5, 5, 5]])].clone()
    states[0, 0, 0], states[0, 1, 0] = torch.nan, torch.inf
    ends, _ = HeadersBody(table)(states, torch.ones(1, 3).bool(), torch.zeros(1), {"rows": table.rows})
    assert ends.tolist() == [[False, False, True]]
