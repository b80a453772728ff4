"""Where patches lie, worked out without loops, against Transformers' own loops over images."""

from __future__ import annotations

import pytest
import torch
from transformers import vision_utils

from exporter.targets.onnx.families.patch_grid import PatchGrid
from exporter.targets.onnx.families.whole_images import smolvlm_embed

GRIDS = [[[1, 4, 4]], [[1, 2, 2], [1, 12, 10], [1, 6, 16]], [[3, 10, 6], [1, 4, 8], [2, 2, 14]]]


def packed(grid: list[list[int]], merge: int = 2) -> tuple[torch.Tensor, PatchGrid]:
    sizes = torch.tensor(grid)
    return sizes, PatchGrid.of(sizes, torch.arange(int(sizes.prod(-1).sum())), merge)


def lengths(segment: torch.Tensor) -> list[int]:
    """Lengths of the runs of equal numbers; each number must have one run only."""
    values, counts = segment.unique_consecutive(return_counts=True)
    assert len(values.unique()) == len(values)
    return counts.tolist()


@pytest.mark.parametrize("grid", GRIDS)
def test_patches_lie_where_transformers_puts_them(grid):
    sizes, found = packed(grid)
    assert torch.equal(found.position_ids, vision_utils.get_vision_position_ids(sizes, 2))
    assert lengths(found.frame) == vision_utils.get_vision_cu_seqlens(sizes).diff().tolist()


@pytest.mark.parametrize("side", [1, 2, 3, 4])
@pytest.mark.parametrize("grid", GRIDS)
def test_windows_are_those_of_transformers(grid, side):
    sizes, found = packed(grid)
    order, window = found.windows(side)
    wanted, ends = vision_utils.get_vision_window_index(sizes, 2, window_size=side * 2 * 14, patch_size=14)
    assert torch.equal(order, wanted)
    assert lengths(window) == ends.diff().tolist()


@pytest.mark.parametrize("side", [4, 48])
@pytest.mark.parametrize("grid", GRIDS)
def test_positions_are_interpolated_as_transformers_does(grid, side):
    sizes, found = packed(grid)
    table = torch.randn(side * side, 5)
    blend = [
        (table[entries] * weights.unsqueeze(-1)).sum(1)
        for entries, weights in (
            found.table_taps(side),
            vision_utils.get_vision_interpolation_indices_and_weights(
                sizes, side, align_corners=True, spatial_merge_size=2
            ),
        )
    ]
    torch.testing.assert_close(blend[0], blend[1], atol=1e-5, rtol=1e-5)


def test_patches_in_blocks_of_one():
    sizes, found = packed([[1, 3, 5], [2, 2, 7]], merge=1)
    assert torch.equal(found.position_ids, vision_utils.get_vision_position_ids(sizes, 1))


def test_parts_of_an_image_get_the_positions_smolvlm_gives_them():
    from transformers.models.smolvlm import modeling_smolvlm as stock

    config = stock.SmolVLMVisionConfig(hidden_size=4, image_size=27 * 2, patch_size=2, num_attention_heads=1)
    embeddings = stock.SmolVLMVisionEmbeddings(config)
    mask = torch.zeros(27, 27, 27, dtype=torch.bool)
    for i in range(27):
        mask[i, : i + 1, : 27 - i] = True
    pixels = torch.randn(27, 3, 54, 54)
    edges = torch.arange(1 / 27, 1.0, 1 / 27)
    found = smolvlm_embed(embeddings, edges, pixels, mask)
    assert torch.equal(found, embeddings(pixels, mask))
