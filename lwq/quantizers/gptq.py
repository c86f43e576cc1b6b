"""GPTQ: round one input column at a time and let the columns that remain make up for the error."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lwq.collect import MatrixStats
from lwq.errors import InputError
from lwq.quantizers import grid
from lwq.quantizers.packed import FLOATS, Packed
from lwq.strategies import pick

SOURCES = ("full", "quantized")


@dataclass(frozen=True)
class GPTQ:
    """Minimizes ‖(W − Ŵ) X‖² greedily, column by column.

        H = (2/n) Σ x xᵀ + λ I,   λ = damp_percent · mean diag H,   U = upper Cholesky factor of H⁻¹
        for each column i:   ŵ_i = Q(w_i),   e = (w_i − ŵ_i) / U_ii,   w_j ← w_j − e U_ij   for j > i

    Attributes:
        group_size: input columns that share a scale; −1 for a whole row.
        sym: symmetric grid, s = 2 max|w| / (2^b − 1), z = 2^(b−1); otherwise min-max with zero included.
        act_order: quantize the columns with the largest H_ii first. The groups keep the original order and their grids are
            fitted beforehand ("static groups"), so that no permutation has to be stored.
        damp_percent: λ above, as a share of the mean diagonal.
        inputs: "full" takes X from the full-precision prefix, so that a block's result does not depend on the widths of the
            others; "quantized" takes it from the quantized prefix, as the authors do.
        scale_dtype: of the stored scales.

    Two departures from the authors' code, both on purpose: a later group inside a 128-column block is fitted to weights
    that carry the compensation so far (theirs are stale); a column that no input reaches is rounded to nearest (theirs
    becomes zero). Source: Frantar et al. 2022, arXiv:2210.17323; code IST-DASLab/gptq (Apache-2.0).
    """

    group_size: int = 64
    sym: bool = False
    act_order: bool = False
    damp_percent: float = 0.01
    inputs: str = "full"
    scale_dtype: str = "float16"

    needs: ClassVar[frozenset[str]] = frozenset({"gram"})
    levels: ClassVar[tuple[int, ...]] = (2, 3, 4, 5, 6, 7, 8)

    def __post_init__(self) -> None:
        pick(FLOATS, "scale_dtype", self.scale_dtype)
        pick(dict.fromkeys(SOURCES), "inputs", self.inputs)
        if not 0 < self.damp_percent < 10:
            raise InputError(f"gptq: damp_percent={self.damp_percent}; it is a share of the mean diagonal, such as 0.01")

    def __call__(self, weight: Tensor, bits: int, stats: MatrixStats) -> Packed:
        rows, columns = weight.shape
        groups = grid.group_count((rows, columns), self.group_size)
        order, factor = self._factor(stats)
        w = weight.float().T[order].contiguous()  # (in, out): a column of W is a contiguous row here
        if self.act_order:
            scales, zeros = self._fit(weight.float().reshape(rows, groups, -1), bits)
            codes = self._with_grid(w, factor, bits, scales.T, zeros.T, order // (columns // groups))
        else:
            codes, scales, zeros = self._fitting_grid(w, factor, bits, columns // groups)
        unordered = torch.empty_like(codes)
        unordered[order] = codes
        return Packed(
            codes=unordered.T.contiguous().byte(),
            scales=scales.to(FLOATS[self.scale_dtype]),
            bits=bits,
            zeros=None if self.sym else zeros.byte(),
        )

    def nbytes(self, shape: tuple[int, int], bits: int) -> int:
        return grid.grid_bytes(shape, bits, self.group_size, self.sym, self.scale_dtype)

    def _fit(self, groups: Tensor, bits: int) -> tuple[Tensor, Tensor]:
        return grid.fit(groups, bits, (2**bits - 1) / 2 if self.sym else None, FLOATS[self.scale_dtype])

    def _factor(self, stats: MatrixStats) -> tuple[Tensor, Tensor]:
        """(order of the columns, U in that order); worked out once for all matrices and widths that share the inputs."""
        key = f"gptq factor {self.act_order} {self.damp_percent}"
        if key not in stats.derived:
            gram = stats.require("gram") * (2 / max(stats.tokens, 1))
            diagonal = gram.diagonal()
            diagonal[diagonal == 0] = 1.0
            order = torch.argsort(diagonal, descending=True, stable=True) if self.act_order else torch.arange(len(gram))
            if self.act_order:
                gram = gram[order][:, order]
            gram.diagonal().add_(self.damp_percent * gram.diagonal().mean())
            stats.derived[key] = order, _inverse_factor(gram, self.damp_percent)
        return stats.derived[key]

    def _fitting_grid(self, w: Tensor, factor: Tensor, bits: int, group: int) -> tuple[Tensor, Tensor, Tensor]:
        """Codes (in, out), scales and zeros (out, groups); each group's grid is fitted when its first column is reached."""
        scales, zeros, codes = [], [], []
        size = group if group <= 256 else math.gcd(group, 128)
        for start in range(0, len(w), size):
            if start % group == 0:
                scale, zero = self._fit(w[start : start + group].T, bits)
                scales.append(scale)
                zeros.append(zero)
            same = scales[-1].expand(size, -1), zeros[-1].expand(size, -1)
            codes.append(_quantize_block(w, factor, bits, start, size, *same))
        return torch.cat(codes), torch.stack(scales, 1), torch.stack(zeros, 1)

    def _with_grid(
        self, w: Tensor, factor: Tensor, bits: int, scales: Tensor, zeros: Tensor, group_of: Tensor, size: int = 128
    ) -> Tensor:
        """Codes (in, out) for grids (groups, out) known beforehand; `group_of` (in,) says which one each column uses."""
        parts = (slice(start, start + size) for start in range(0, len(w), size))
        return torch.cat(
            [
                _quantize_block(w, factor, bits, part.start, len(w[part]), scales[group_of[part]], zeros[group_of[part]])
                for part in parts
            ]
        )


def _quantize_block(w: Tensor, factor: Tensor, bits: int, start: int, size: int, scales: Tensor, zeros: Tensor) -> Tensor:
    """Quantize `size` columns from `start` on, in place; the columns after them receive the error in one product.

    w: (in, out), the weights with all compensation so far; scales, zeros: (size, out). Returns codes (size, out).
    """
    end, top = start + size, 2**bits - 1
    columns, inner = w[start:end], factor[start:end, start:end]
    codes, errors = torch.empty_like(columns), torch.empty_like(columns)
    diagonal = inner.diagonal().tolist()
    for i, (column, code, error, scale, zero) in enumerate(zip(columns, codes, errors, scales, zeros, strict=True)):
        torch.div(column, scale, out=code).round_().add_(zero).clamp_(0, top)
        torch.sub(zero, code, out=error).mul_(scale).add_(column).div_(diagonal[i])
        columns[i + 1 :].addr_(inner[i, i + 1 :], error, alpha=-1)
    w[end:].addmm_(factor[start:end, end:].T, errors, alpha=-1)
    return codes


def _inverse_factor(gram: Tensor, damp_percent: float) -> Tensor:
    """Upper Cholesky factor U of gram⁻¹ = Uᵀ U; written over `gram`."""
    try:
        torch.linalg.cholesky(gram, out=gram)
        torch.cholesky_inverse(gram, out=gram)
        return torch.linalg.cholesky(gram, upper=True, out=gram)
    except torch.linalg.LinAlgError:
        raise InputError(
            f"gptq: the inputs' second moment is singular with damp_percent={damp_percent}; raise it (0.1), or give more windows"
        ) from None
