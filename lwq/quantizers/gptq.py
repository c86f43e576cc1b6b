"""GPTQ: round one input column at a time and let the columns that remain make up for the error."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from lwq.common.errors import InputError
from lwq.common.names import pick
from lwq.contracts import Option, Shape
from lwq.contracts.methods import Grid
from lwq.quantizers.mse import MSE
from lwq.quantizers.rtn import RTN
from lwq.quantizers.shared import grid
from lwq.quantizers.storage.packed import FLOATS, Packed, finite
from lwq.statistics.sums import MatrixStats

SOURCES = ("uniform", "quantized", "full")
CLIPS = 20  # ranges that are tried for each group


@dataclass(frozen=True)
class GPTQ(grid.Grouped):
    """Minimizes ‖(W − Ŵ) X‖² greedily, column by column.

        H = (2/n) Σ x xᵀ + λ I,   λ = damp_percent · mean diag H,   U = upper Cholesky factor of H⁻¹
        for each column i:   ŵ_i = Q(w_i),   e = (w_i − ŵ_i) / U_ii,   w_j ← w_j − e U_ij   for j >
            i

    Attributes:
        group_size: input columns that share a scale; −1 for a whole row.
        sym: symmetric grid, s = 2 max|w| / (2^b − 1), z = 2^(b−1); otherwise min-max with zero
            included.
        act_order: quantize the columns with the largest H_ii first (better wherever it was
            measured, LOG.md). The groups keep the original order and their grids are fitted
            beforehand ("static groups"): no permutation has to be stored. False: the first column
            first, each group's grid fitted when it is reached.
        clip: shrink the range of each group to where Σ_j (w_j − ŵ_j)² / U_jj² is least, which is
            what the solver adds up (the columns to come make up for the rest), in place of the
            range from the least to the largest weight: a third less error at 2 bits, a seventh at
            3, next to nothing at 5 (LOG.md). Needs act_order, whose grids are fitted beforehand.
        damp_percent: λ above, as a share of the mean diagonal.
        inputs: which prefix makes X. "uniform": blocks quantized to the width at hand. A plan with
            one width then has the authors' inputs, and in any other a block's result does not
            depend on the widths of the others, so that sweeps can reuse it, for one pass a width;
            matrices whose shape cannot take the width are untouched there.
            "quantized": blocks as the plan quantizes them, as the authors do; nothing can be
            reused. "full": untouched blocks; all widths come from one pass, and 3 bits are worse
            than rounding (LOG.md).
        scale_dtype: of the stored scales.

    Departures from the authors' code, all on purpose: two defaults, the order and static groups;
    without them, a later group inside a 128-column block is fitted to weights that carry the
    compensation so far (theirs are stale); a column that no input reaches is rounded to nearest
    (theirs becomes zero) and has the mean diagonal of the others, which is what is damped by
    (theirs has 1, so that the result depends on the scale of the inputs).

    Source: Frantar et al. 2022, arXiv:2210.17323; code IST-DASLab/gptq (Apache-2.0).
    """

    group_size: int = 64
    sym: bool = False
    act_order: bool = True
    damp_percent: float = 0.01
    inputs: str = "uniform"
    scale_dtype: str = "float16"
    clip: bool = False

    needs: ClassVar[frozenset[str]] = frozenset({"gram"})
    levels: ClassVar[tuple[Option, ...]] = grid.with_groups((2, 3, 4, 5, 6, 7, 8))

    def __post_init__(self) -> None:
        pick(FLOATS, "scale_dtype", self.scale_dtype)
        pick(dict.fromkeys(SOURCES), "inputs", self.inputs)
        if self.clip and not self.act_order:
            raise InputError(
                "gptq: clip=True with act_order=False: a group's weights carry the compensation "
                "so far when its grid is fitted; leave act_order on"
            )
        require_damping(self.damp_percent, "gptq")

    def __call__(self, weight: Tensor, option: Option, stats: MatrixStats) -> Packed:
        bits, size = self.grid_of(option)
        rows, columns = finite(weight).shape
        groups = grid.group_count((rows, columns), size)
        size, fit = columns // groups, partial(self._fit, bits=bits)
        if self.act_order:
            diagonal = stats.require("gram").diagonal()
            order = torch.argsort(diagonal, descending=True, stable=True)
            factor = inverse_factor(stats, self.damp_percent, order)
            grouped = weight.float().reshape(rows, groups, -1)
            scales, zeros = (
                self._clipped(grouped, bits, factor, order) if self.clip else fit(grouped)
            )
            w = columns_first(weight[:, order])
            codes = torch.empty(columns, rows, dtype=torch.uint8, device=w.device)
            codes[order] = with_grids(w, factor, 2**bits - 1, Grids(scales, zeros, order // size))
        else:
            w = columns_first(weight)
            codes, scales, zeros = fitting_grid(
                w, inverse_factor(stats, self.damp_percent), bits, size, fit
            )
            codes = codes.byte()
        return Packed(
            codes=codes.T.contiguous(),
            scales=scales.to(FLOATS[self.scale_dtype]),
            bits=bits,
            zeros=None if self.sym else zeros.byte(),
        )

    @property
    def outside(self) -> RTN | MSE:
        size, dtype = self.group_size, self.scale_dtype
        return RTN(size, True, dtype) if self.sym else MSE(size, dtype)

    def grid(self, option: Option) -> Grid:
        zeros = "none" if self.sym else "codes"
        return Grid(*self.grid_of(option), zeros, self.scale_dtype)

    def nbytes(self, shape: Shape, option: Option) -> int:
        return grid.grid_bytes(shape, *self.grid_of(option), self.sym, self.scale_dtype)

    def _fit(self, groups: Tensor, bits: int) -> tuple[Tensor, Tensor]:
        return grid.fit(groups, bits, self._half(bits), FLOATS[self.scale_dtype])

    def _clipped(
        self, groups: Tensor, bits: int, factor: Tensor, order: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Scales and zeros (out, groups) of weights (out, groups, size)."""
        weights = torch.empty_like(factor[0])
        weights[order] = factor.diagonal().square().reciprocal()
        weights = weights.reshape(1, groups.shape[1], -1)
        dtype, half = FLOATS[self.scale_dtype], self._half(bits)
        rows = max(1, grid.PANEL // groups[0].numel())
        found = [
            grid.search(part, bits, dtype, CLIPS, 2.0, half, weights) for part in groups.split(rows)
        ]
        scales, zeros = zip(*found, strict=True)
        return torch.cat(scales), torch.cat(zeros)

    def _half(self, bits: int) -> float | None:
        return (2**bits - 1) / 2 if self.sym else None


def require_damping(share: float, name: str) -> None:
    """Raise InputError, in the name of the quantizer, for a damping that is no share."""
    if not 0 < share < 10:
        raise InputError(
            f"{name}: damp_percent={share}; it is a share of the mean diagonal, such as 0.01"
        )


def columns_first(weight: Tensor) -> Tensor:
    """A copy to work on, float32 (in, out): a column of W is a contiguous row of it. The weight may
    be a transposed view.
    """
    return weight.T.to(torch.float32, memory_format=torch.contiguous_format, copy=True)


def inverse_factor(
    stats: MatrixStats, damp_percent: float, order: Tensor | None = None, key: str = ""
) -> Tensor:
    """Upper Cholesky factor U of H⁻¹ = Uᵀ U, its columns in `order`; kept with the statistics under
    `key` and the damping.

    A column that no input reaches has the mean diagonal of the others; 1 where all are so. `key`
    must tell orders apart that do not follow from the statistics.

    Raises InputError where H is singular in spite of the damping.
    """
    name = f"inverse factor {damp_percent} {order is not None} {key}"
    if name not in stats.derived:
        gram = stats.require("gram")
        gram = gram.clone() if order is None else _permuted(gram, order)
        gram.mul_(2 / max(stats.tokens, 1))
        diagonal = gram.diagonal()
        if len(dead := (diagonal == 0).nonzero()[:, 0]):
            # the mean of those that are reached, so that the damping below is a share of it, too
            rest = len(diagonal) - len(dead)
            diagonal[dead] = diagonal.sum() / rest if rest else 1.0
        gram.diagonal().add_(damp_percent * gram.diagonal().mean())
        try:
            torch.linalg.cholesky(gram, out=gram)
            torch.cholesky_inverse(gram, out=gram)
            torch.linalg.cholesky(gram, upper=True, out=gram)
        except torch.linalg.LinAlgError:
            raise InputError(
                f"gptq: the inputs' second moment is singular with damp_percent={damp_percent}; "
                f"raise it (0.1), or give more "
                "windows"
            ) from None
        stats.derived[name] = gram
    return stats.derived[name]


def _permuted(matrix: Tensor, order: Tensor) -> Tensor:
    """matrix[order][:, order], with one copy of the matrix in memory."""
    found = matrix[order]
    for rows in found.split(256):
        rows.copy_(rows[:, order])
    return found


def fitting_grid(
    w: Tensor,
    factor: Tensor,
    bits: int,
    group: int,
    fit: Callable[[Tensor], tuple[Tensor, Tensor]],
    keep: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Codes (in, out), scales and zeros (out, groups); `fit` sees a group's compensated weights
    when its first column is reached.

    w: (in, out), changed in place: each row holds the weights that were quantized. keep: (in, out),
        weights to leave as they are.
    """
    scales, zeros, codes = [], [], []
    size = group if group <= 256 else math.gcd(group, 128)
    for start in range(0, len(w), size):
        if start % group == 0:
            scale, zero = fit(w[start : start + group].T)
            scales.append(scale)
            zeros.append(zero)
        same = scales[-1].expand(size, -1), zeros[-1].expand(size, -1)
        kept = None if keep is None else keep[start : start + size]
        codes.append(_quantize_block(w, factor, 2**bits - 1, start, *same, kept)[0])
    return torch.cat(codes), torch.stack(scales, 1), torch.stack(zeros, 1)


@dataclass(frozen=True)
class Grids:
    """Grids of columns that are known beforehand; `grids[a:b]` gives scales and zeros of those
    columns, each (columns, out).

    Attributes:
        scales, zeros: of each group (out, groups).
        own: the group of each column (columns,).
        ratio: by which a column's scale is larger than its group's (columns,).
    """

    scales: Tensor
    zeros: Tensor
    own: Tensor
    ratio: Tensor | None = None

    def __len__(self) -> int:
        return len(self.own)

    def __getitem__(self, part: slice) -> tuple[Tensor, Tensor]:
        scales, zeros = self.scales.T[self.own[part]], self.zeros.T[self.own[part]]
        if self.ratio is None:
            return scales, zeros
        ratio = self.ratio[part, None]
        return scales * ratio, (zeros / ratio).round()


def with_grids(w: Tensor, factor: Tensor, top: int | Tensor, grids: Grids) -> Tensor:
    """Codes, uint8 (columns, out), of the first columns of `w`; those after them make up for the
    error.

    w: (in, out), changed in place; top: the largest code, of all or of each column (columns, 1).
    """
    return torch.cat([codes.byte() for codes, _ in _all_blocks(w, factor, top, grids)])


def column_losses(w: Tensor, factor: Tensor, top: int, grids: Grids) -> Tensor:
    """½ Σ (w − ŵ)² / U_jj² of each column (columns,), in float64; the arguments are those of
    `with_grids`.
    """
    return torch.cat(
        [errors.double().square().sum(1) / 2 for _, errors in _all_blocks(w, factor, top, grids)]
    )


def _all_blocks(
    w: Tensor, factor: Tensor, top: int | Tensor, grids: Grids, size: int = 128
) -> Iterator[tuple[Tensor, Tensor]]:
    for start in range(0, len(grids), size):
        part = slice(start, min(start + size, len(grids)))
        yield _quantize_block(
            w, factor, top[part] if isinstance(top, Tensor) else top, start, *grids[part]
        )


def _quantize_block(
    w: Tensor,
    factor: Tensor,
    top: int | Tensor,
    start: int,
    scales: Tensor,
    zeros: Tensor,
    keep: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Quantize columns from `start` on, in place; the columns after them receive the error in one
    product.

    w: (in, out), the weights with all compensation so far; scales, zeros (whole numbers or not),
        keep: (columns, out).
    Returns the codes and (w − ŵ) / U_jj, both (columns, out).
    """
    end = start + len(scales)
    columns, inner = w[start:end], factor[start:end, start:end]
    codes, errors = torch.empty_like(columns), torch.empty_like(columns)
    diagonal = inner.diagonal().tolist()
    tops = top[:, 0].tolist() if isinstance(top, Tensor) else [top] * len(scales)
    whole = zeros.floor()
    rest = zeros - whole if bool((zeros != whole).any()) else None
    for i, (column, code, error, scale, zero) in enumerate(
        zip(columns, codes, errors, scales, zeros, strict=True)
    ):
        torch.div(column, scale, out=code)
        if rest is not None:
            code.add_(rest[i])
        code.round_().add_(whole[i]).clamp_(0, tops[i])
        torch.sub(zero, code, out=error).mul_(scale).add_(column).div_(diagonal[i])
        if keep is not None:
            error.masked_fill_(keep[i], 0)
        columns[i + 1 :].addr_(inner[i, i + 1 :], error, alpha=-1)
    w[end:].addmm_(factor[start:end, end:].T, errors, alpha=-1)
    return codes, errors
