"""Round to nearest: the data-free floor that every other quantizer must beat."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from lwq.common.names import pick
from lwq.contracts import Option, Shape
from lwq.contracts.methods import Grid
from lwq.quantizers.shared import grid
from lwq.quantizers.storage.packed import FLOATS, Packed, finite
from lwq.statistics.sums import MatrixStats


@dataclass(frozen=True)
class RTN(grid.Grouped):
    """Each weight goes to the nearest level of its group's min-max grid.

        ŵ = (clamp(round(w / s) + z, 0, 2^b − 1) − z) · s

    Attributes:
        group_size: input columns that share a scale; −1 for a whole row (per channel).
        sym: s = max|w| / (2^(b−1) − 1), z = 2^(b−1); otherwise s = (max − min) / (2^b − 1) over the
            group and 0.
        scale_dtype: of the stored scales: "float16", "bfloat16" or "float32".

    Rounds half to even. Storage: b bits a weight, one scale a group, and b bits for the zero point
    unless `sym`.
    """

    group_size: int = 64
    sym: bool = False
    scale_dtype: str = "float16"

    needs: ClassVar[frozenset[str]] = frozenset()
    levels: ClassVar[tuple[Option, ...]] = grid.with_groups((2, 3, 4, 5, 6, 7, 8))

    def __post_init__(self) -> None:
        pick(FLOATS, "scale_dtype", self.scale_dtype)

    def __call__(self, weight: Tensor, option: Option, stats: MatrixStats | None = None) -> Packed:
        bits, size = self.grid_of(option)
        rows, columns = finite(weight).shape
        groups = grid.group_count((rows, columns), size)
        w = weight.float().reshape(rows, groups, -1)  # (out, in) -> (out, groups, size)
        half = 2 ** (bits - 1) - 1 if self.sym else None
        scale, zero = grid.fit(w, bits, half, FLOATS[self.scale_dtype])
        codes = grid.nearest(w, scale.unsqueeze(-1), zero.unsqueeze(-1), bits)
        return Packed(
            codes=codes.reshape(weight.shape).byte(),
            scales=scale.to(FLOATS[self.scale_dtype]),
            bits=bits,
            zeros=None if self.sym else zero.byte(),
        )

    def grid(self, option: Option) -> Grid:
        zeros = "none" if self.sym else "codes"
        return Grid(*self.grid_of(option), zeros, self.scale_dtype)

    def nbytes(self, shape: Shape, option: Option) -> int:
        return grid.grid_bytes(shape, *self.grid_of(option), self.sym, self.scale_dtype)
