"""Round to nearest on the grid with the least error: data-free, in the bytes of rtn."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lwq.common.names import pick
from lwq.contracts import Option, Shape
from lwq.contracts.methods import Grid
from lwq.quantizers.shared import grid
from lwq.quantizers.storage.packed import FLOATS, Packed, finite
from lwq.statistics.sums import MatrixStats


@dataclass(frozen=True)
class MSE(grid.Grouped):
    """`rtn` with the range of each group shrunk to where Σ |w − ŵ|^2.4 is least; see `grid.search`.

    Embeddings and head go through it where a plan gives them bits: no statistics are needed, and
    at 4 bits or fewer a range that cuts off outliers errs less than the full one.

    Attributes:
        group_size: input columns that share a scale; −1 for a whole row (per channel).
        scale_dtype: of the stored scales: "float16", "bfloat16" or "float32".

    Storage: as rtn. Source: the `mse` option of IST-DASLab/gptq (Apache-2.0).
    """

    group_size: int = 64
    scale_dtype: str = "float16"

    needs: ClassVar[frozenset[str]] = frozenset()
    slow: ClassVar[bool] = True
    levels: ClassVar[tuple[Option, ...]] = grid.with_groups((2, 3, 4, 5, 6, 7, 8))

    def __post_init__(self) -> None:
        pick(FLOATS, "scale_dtype", self.scale_dtype)

    def __call__(self, weight: Tensor, option: Option, stats: MatrixStats | None = None) -> Packed:
        bits, size = self.grid_of(option)
        rows, columns = finite(weight).shape
        groups = grid.group_count((rows, columns), size)
        parts = [
            self._rounded(part.float().reshape(len(part), groups, -1), bits)
            for part in weight.split(max(1, grid.PANEL // columns))
        ]
        codes, scales, zeros = (torch.cat(part) for part in zip(*parts, strict=True))
        return Packed(codes, scales, bits, zeros)

    def _rounded(self, w: Tensor, bits: int) -> tuple[Tensor, Tensor, Tensor]:
        """(rows, groups, size) -> codes (rows, in), scales and zeros (rows, groups)."""
        dtype = FLOATS[self.scale_dtype]
        scale, zero = grid.search(w, bits, dtype)
        codes = grid.nearest(w, scale.unsqueeze(-1), zero.unsqueeze(-1), bits)
        return codes.reshape(len(w), -1).byte(), scale.to(dtype), zero.byte()

    def grid(self, option: Option) -> Grid:
        return Grid(*self.grid_of(option), "codes", self.scale_dtype)

    def nbytes(self, shape: Shape, option: Option) -> int:
        return grid.grid_bytes(shape, *self.grid_of(option), False, self.scale_dtype)
