"""OWQ: the input columns that hurt most stay in 16 bits; the rest goes through GPTQ."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lwq.common.errors import InputError
from lwq.common.names import pick
from lwq.contracts import Option
from lwq.quantizers.gptq import Grids, inverse_factor, with_grids
from lwq.quantizers.mse import MSE
from lwq.quantizers.shared import grid
from lwq.quantizers.storage.bits import packed_bytes
from lwq.quantizers.storage.packed import FLOATS, Exact, Packed, finite, stored
from lwq.statistics.sums import MatrixStats


@dataclass(frozen=True)
class OWQ(grid.Fractional):
    """Keeps whole input columns, chosen by their effect on the output, and quantizes the others
    with GPTQ.

        s_j = H_jj · ‖W_:j − Q(W)_:j‖²,     n = outlier_bits · in_features / (16 − b), rounded to an
        even number

    The n columns with the largest s_j come last in the GPTQ order, so that they take up the error
    of all others, and are stored in 16 bits. Grids are fitted beforehand to the other columns, with
    a search for the best range.

    Attributes:
        outlier_bits: bits a weight that the kept columns may cost beyond their b bits; a fractional
            width b + r asks for r instead (3.25: 3 bits, and 0.25 for columns), so that a plan can
            share outliers out.
        group_size: input columns that share a scale, in the original order; −1 for a whole row.
        damp_percent: as in gptq.
        scale_dtype: of the stored scales.

    The authors give the same n to every matrix of the attention and 0.375 of it to the others; here
    n follows the width of each. Source: Lee et al. 2023, arXiv:2306.02272; code xvyaward/owq.
    """

    outlier_bits: float = 0.1
    group_size: int = 64
    damp_percent: float = 0.01
    scale_dtype: str = "float16"

    needs: ClassVar[frozenset[str]] = frozenset({"gram"})
    levels: ClassVar[tuple[Option, ...]] = grid.with_fractions((2, 3, 4, 5, 6, 7, 8))

    def __post_init__(self) -> None:
        pick(FLOATS, "scale_dtype", self.scale_dtype)
        if not 0 <= self.outlier_bits < 8:
            raise InputError(
                f"owq: outlier_bits={self.outlier_bits}; bits a weight are needed, "
                f"from 0 to below 8, such as 0.1"
            )

    def __call__(self, weight: Tensor, bits: float, stats: MatrixStats) -> Packed:
        rows, columns = finite(weight).shape
        count, bits = self._count(columns, bits), int(bits)
        groups = grid.group_count((rows, columns), self.group_size)
        w = weight.float()
        outliers = self._outliers(w, bits, groups, stats)[:count].sort().values
        others = torch.ones(columns, dtype=torch.bool, device=w.device)
        others[outliers] = False
        inside = others.nonzero()[:, 0]
        order = torch.cat([inside, outliers])
        dtype = FLOATS[self.scale_dtype]
        # a zero never widens a range
        scales, zeros = grid.search((w * others).reshape(rows, groups, -1), bits, dtype)
        moving = w.T[order].contiguous()
        factor = inverse_factor(stats, self.damp_percent, order, key=f"owq {outliers.tolist()}")
        codes = torch.zeros(columns, rows, dtype=torch.uint8, device=w.device)
        codes[inside] = with_grids(
            moving, factor, 2**bits - 1, Grids(scales, zeros, inside // (columns // groups))
        )
        exact = Exact(outliers.int(), stored(moving[len(inside) :].T, torch.float16).contiguous())
        return Packed(codes.T.contiguous(), scales.to(dtype), bits, zeros.byte(), exact=exact)

    def _outliers(self, w: Tensor, bits: int, groups: int, stats: MatrixStats) -> Tensor:
        """All columns, those that hurt most first."""
        grouped = w.reshape(len(w), groups, -1)
        scale, zero = (
            part.unsqueeze(-1) for part in grid.fit(grouped, bits, None, FLOATS[self.scale_dtype])
        )
        error = (grouped - (grid.nearest(grouped, scale, zero, bits) - zero) * scale).reshape(
            w.shape
        )
        harm = stats.require("gram").diagonal() * error.square().sum(0)
        return torch.argsort(harm, descending=True, stable=True)

    def _count(self, columns: int, bits: float) -> int:
        base, share = self.parts(bits)
        return 2 * round(share * columns / (16 - base) / 2)

    @property
    def share(self) -> float:
        return self.outlier_bits

    @property
    def outside(self) -> MSE:
        return MSE(self.group_size, self.scale_dtype)

    def nbytes(self, shape: tuple[int, int], bits: float) -> int:
        kept, bits = self._count(shape[1], bits), int(bits)
        whole = grid.grid_bytes(shape, bits, self.group_size, False, self.scale_dtype)
        codes = packed_bytes(shape[0] * (shape[1] - kept), bits) - packed_bytes(
            shape[0] * shape[1], bits
        )
        return whole + codes + kept * (2 * shape[0] + 4)
