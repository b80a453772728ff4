"""Where each patch of packed images lies, by arithmetic on whole tensors.

Qwen's encoders read the patches of all images as one sequence [N, dim], with ``grid_thw`` [n, 3]: frames, rows and columns of
patches of each image. Transformers works positions and windows out in a loop over images; a graph cannot, so here the same
numbers come from comparisons and divisions. Patches lie in blocks of merge x merge, which one image token stands for.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class PatchGrid:
    """The place of each patch; every tensor is [N] int64.

    Attributes:
        height, width: rows and columns of the patch's image.
        row, column: of the patch in its image.
        frame: number of the first patch of the frame that the patch belongs to: the same within a frame, else another.
        merge: rows and columns of patches that one image token stands for.
    """

    height: Tensor
    width: Tensor
    row: Tensor
    column: Tensor
    frame: Tensor
    merge: int

    @classmethod
    def of(cls, grid_thw: Tensor, patches: Tensor, merge: int) -> PatchGrid:
        """The grid of images [n, 3] whose patches are numbered ``patches`` [N], 0 to N - 1."""
        counts = grid_thw.prod(-1)
        ends = counts.cumsum(0)
        image = (patches.unsqueeze(1) >= ends).long().sum(1)
        height, width = grid_thw[:, 1][image], grid_thw[:, 2][image]
        within = patches - (ends - counts)[image]
        area = height * width
        inside = within % area
        block = inside // (merge * merge)
        blocks_across = width // merge
        row = block // blocks_across * merge + inside // merge % merge
        column = block % blocks_across * merge + inside % merge
        return cls(height, width, row, column, patches - inside, merge)

    @property
    def position_ids(self) -> Tensor:
        """Row and column [N, 2], for the rotary embedding."""
        return torch.stack([self.row, self.column], dim=-1)

    def windows(self, side: int) -> tuple[Tensor, Tensor]:
        """Order and windows of image tokens when every frame is cut into windows of ``side`` x ``side`` tokens.

        Windows at the right and lower border are smaller where a frame does not divide.

        Returns:
            For each place of the new order the token that goes there, [N / merge^2], and the window of each patch in the
            new order [N]: a number that is the same within a window, else another.
        """
        merge, unit = self.merge, self.merge**2
        first = slice(None, None, unit)
        height, width = self.height[first] // merge, self.width[first] // merge
        row, column = self.row[first] // merge, self.column[first] // merge
        top, left = row // side * side, column // side * side
        window_height = torch.minimum(height - top, torch.full_like(top, side))
        window_width = torch.minimum(width - left, torch.full_like(left, side))
        window = self.frame[first] // unit + top * width + left * window_height
        place = window + (row - top) * window_width + column - left
        order = torch.zeros_like(place).scatter(0, place, torch.arange(place.shape[0], device=place.device))
        return order, window[order].unsqueeze(1).expand(-1, unit).flatten()

    def table_taps(self, side: int) -> tuple[Tensor, Tensor]:
        """Which four entries of a square table of positions a patch lies between, and how near it is to each.

        The table [side * side] is stretched so that its corners fall on those of the image.

        Returns:
            Entries [N, 4] int64 and their weights [N, 4] float32.
        """
        above, down = _between(self.row, self.height, side)
        left, across = _between(self.column, self.width, side)
        entries = above.unsqueeze(2) * side + left.unsqueeze(1)
        return entries.flatten(1), (down.unsqueeze(2) * across.unsqueeze(1)).flatten(1)


def _between(index: Tensor, size: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """The two entries [N, 2] of an axis of a table around each of ``size`` places, and their weights [N, 2]."""
    place = index.float() * (side - 1) / (size - 1).clamp_min(1)
    low = place.floor()
    high_share = place - low
    entry = low.long()
    entries = torch.stack([entry, (entry + 1).clamp_max(side - 1)], dim=1)
    return entries, torch.stack([1 - high_share, high_share], dim=1)
