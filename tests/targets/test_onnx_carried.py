"""What a graph remembers from pass to pass, in a tensor of its own and in a layer of keys and values."""

from __future__ import annotations

import pytest
import torch

from exporter.errors import CompileError
from exporter.targets.onnx.carried import Bearer, Layout, Remembered

MEANS = Layout(gates=2, headers=True, mean_layers=(1, 3), hidden=5)
PLAIN = Layout(gates=3, headers=False, mean_layers=(), hidden=5)


def state(layout: Layout, batch: int = 2, length: int = 4) -> Remembered:
    random = torch.Generator().manual_seed(3)
    gates = (torch.rand(batch, length, layout.gates, generator=random) < 0.5).float()
    header = torch.randint(0, 9, (batch, length), generator=random).float()
    count = torch.randint(2000, 65_000, (batch, length), generator=random).float()
    means = {
        layer: torch.randn(batch, length, layout.hidden, generator=random) * 300
        for layer in layout.mean_layers
    }
    return Remembered(gates, header, count, means)


def empty(bearer: Bearer, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    shape = (2, bearer.heads, 0, bearer.head_dim)
    return {"key": torch.zeros(shape, dtype=dtype), "value": torch.zeros(shape, dtype=dtype)}


@pytest.mark.parametrize("layout", [MEANS, PLAIN])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_layer_bears_the_state_of_every_column(layout, dtype):
    bearer = Bearer(layout, 3, 8, dtype == torch.float16)
    told = state(layout)
    layer = bearer.grown(empty(bearer, dtype), layout.written(told))
    assert layer["key"].dtype == dtype and layer["key"].shape == layer["value"].shape == (2, 3, 4, 8)
    order = torch.tensor([1, 0, 1])
    for stop in range(1, 5):
        kept = {name: one[order, :, :stop] for name, one in layer.items()}
        found = layout.read(bearer.last(kept), stop)
        torch.testing.assert_close(found.gates, told.gates[order, stop - 1], rtol=0, atol=0)
        if layout is MEANS:
            torch.testing.assert_close(found.header, told.header[order, stop - 1], rtol=0, atol=0)
            torch.testing.assert_close(found.count, told.count[order, stop - 1], rtol=0, atol=0)
        for index, mean in found.means.items():
            torch.testing.assert_close(mean, told.means[index][order, stop - 1], rtol=1e-6, atol=1e-4)


@pytest.mark.parametrize("layout", [MEANS, PLAIN])
def test_nothing_is_known_before_the_first_column(layout):
    bearer = Bearer(layout, 3, 8, half=False)
    found = layout.read(bearer.last(empty(bearer, torch.float32)), 0)
    assert not found.gates.any() and not found.header.any() and not found.count.any()


def test_columns_that_no_steered_graph_wrote_switch_every_gate_on():
    bearer = Bearer(PLAIN, 3, 8, half=False)
    for written in (torch.zeros(2, 3, 4, 8), torch.randn(2, 3, 4, 8), torch.full((2, 3, 4, 8), torch.nan)):
        assert PLAIN.read(bearer.last({"key": written, "value": written}), 4).gates.all()
    assert PLAIN.read(torch.zeros(2, PLAIN.features), 1).gates.all()


def test_a_layer_that_is_too_small_is_refused():
    assert MEANS.features == 15
    Bearer(MEANS, 1, 8, half=False)
    for heads, half in ((1, True), (0, False)):
        with pytest.raises(CompileError, match="gate-state io"):
            Bearer(MEANS, heads, 8, half)
