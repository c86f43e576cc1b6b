"""BAQ: inside one matrix, columns that lose more get more bits."""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from lwq.common.errors import InputError
from lwq.common.names import pick
from lwq.contracts import Option
from lwq.contracts.methods import Quantizer
from lwq.quantizers.gptq import Grids, column_losses, columns_first, inverse_factor, with_grids
from lwq.quantizers.mse import MSE
from lwq.quantizers.shared import grid
from lwq.quantizers.storage.packed import FLOATS, Packed, finite, width_ratio
from lwq.statistics.sums import MatrixStats


@dataclass(frozen=True)
class BAQ(Quantizer):
    """GPTQ with a width for each input column, chosen so that all columns lose the same.

        L_j = ½ Σ_i (w_ij − ŵ_ij)² / U_jj²   at b bits,     R_j = b + log2(L_j / geometric mean of
        L) / exponent

    R_j is clamped to 1 … 8 and rounded so that the widths of a matrix sum to b a column: the same
    bytes as b bits throughout, and one byte a column that says its width.

    Attributes:
        group_size: input columns that share a range; −1 for a whole row.
        exponent: of the loss, L ~ 2^(−exponent · R); the authors use 1.95, theory says 2.
        damp_percent: as in gptq.
        scale_dtype: of the stored scales.

    The authors round the number of levels, 2^R_j, and let the mean drift; here whole bits are
    stored, and the mean is kept. Source: 2025, arXiv:2506.05664; code CSU-ModelCompression/BAQ.
    """

    group_size: int = 64
    exponent: float = 1.95
    damp_percent: float = 0.01
    scale_dtype: str = "float16"

    needs: ClassVar[frozenset[str]] = frozenset({"gram"})
    levels: ClassVar[tuple[Option, ...]] = (2, 3, 4, 5, 6, 7, 8)

    def __post_init__(self) -> None:
        pick(FLOATS, "scale_dtype", self.scale_dtype)
        if self.exponent <= 0:
            raise InputError(
                f"baq: exponent={self.exponent}; a positive number is needed, such as 1.95"
            )

    def __call__(self, weight: Tensor, bits: int, stats: MatrixStats) -> Packed:
        rows, columns = finite(weight).shape
        groups = grid.group_count((rows, columns), self.group_size)
        dtype = FLOATS[self.scale_dtype]
        scales, zeros = grid.fit(weight.float().reshape(rows, groups, -1), bits, None, dtype)
        grids = Grids(
            scales, zeros, torch.arange(columns, device=weight.device) // (columns // groups)
        )
        factor = inverse_factor(stats, self.damp_percent)
        losses = column_losses(columns_first(weight), factor, 2**bits - 1, grids)
        widths = column_widths(losses, bits, self.exponent)
        grids = replace(grids, ratio=width_ratio(widths, bits))
        codes = with_grids(columns_first(weight), factor, (2 ** widths.int() - 1)[:, None], grids)
        return Packed(codes.T.contiguous(), scales.to(dtype), bits, zeros.byte(), widths=widths)

    @property
    def outside(self) -> MSE:
        return MSE(self.group_size, self.scale_dtype)

    def nbytes(self, shape: tuple[int, int], bits: int) -> int:
        return grid.grid_bytes(shape, bits, self.group_size, False, self.scale_dtype) + shape[1]


def column_widths(losses: Tensor, bits: int, exponent: float) -> Tensor:
    """uint8 (columns,): widths from 1 to 8, near to b + log2(L / geometric mean) / exponent, that
    sum to b · columns.
    """
    logs = losses.clamp(min=torch.finfo(losses.dtype).tiny).log2()
    plain = logs / exponent + bits - (logs / exponent).mean()
    # of what is added to all, so that the clamped wishes sum to the budget; losses of 0 need more
    # than ±64
    low, high = min(-64.0, 1 - float(plain.max())), max(64.0, 8 - float(plain.min()))
    for _ in range(60):
        middle = (low + high) / 2
        wishes = (plain + middle).clamp(1, 8)
        low, high = (middle, high) if float(wishes.sum()) < bits * len(losses) else (low, middle)
    widths = wishes.floor()
    missing = bits * len(losses) - int(widths.sum())
    widths[torch.argsort(wishes - widths, descending=True, stable=True)[:missing]] += 1
    return widths.to(torch.uint8)
