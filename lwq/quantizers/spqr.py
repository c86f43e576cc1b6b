"""SpQR: small groups whose scales are quantized themselves, and single weights that stay in 16
bits.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lwq.common.errors import InputError
from lwq.contracts import Option
from lwq.quantizers.gptq import columns_first, fitting_grid, inverse_factor
from lwq.quantizers.mse import MSE
from lwq.quantizers.shared import grid
from lwq.quantizers.storage.bits import packed_bytes
from lwq.quantizers.storage.packed import Exact, Packed, finite, stored
from lwq.statistics.sums import MatrixStats

OUTLIER_BITS = 48  # of a weight that is kept: its value and its place
# steps of the second level are no smaller, in the dtype that they are stored in
LEAST = {torch.float16: 1e-7, torch.bfloat16: 1e-30}
CHUNK = 1 << 24  # numbers that the search for outliers holds at once


@dataclass(frozen=True)
class SpQR(grid.Fractional):
    """GPTQ with groups of 16, bilevel scales and sparse outliers.

        score_ij = Σ_k ((w_ik − Q(w_ik)) / U_kk)²  −  Σ_{k ≠ j} ((w_ik − Q'(w_ik)) / U_kk)²,    k in
        the group of j

    Q' is fitted without w_ij: the score is what the group gains when that weight is left out. The
    `outliers` share of the weights with the largest scores stays in 16 bits.

    A group's grid is fitted without its outliers. Its scale and its zero point are quantized in
    turn, asymmetrically, in `stat_bits` bits over `stat_group` consecutive rows. Bits a weight,
    with 32-bit positions of outliers:

        b + 2 · stat_bits / group_size + 64 / (group_size · stat_group) + 48 · outliers

    Attributes:
        group_size: input columns that share a scale.
        outliers: share of the weights; a fractional width b + r asks for r / 48 instead (3.48: 3
            bits, and 1 % of outliers).
        stat_bits, stat_group: of the second level; the rows must be a multiple of `stat_group`.
        damp_percent: as in gptq; the authors take 1.0, far more than gptq.

    The second level and the outliers are float16, or bfloat16 in a matrix of tiny weights, which
    float16 cannot hold.

    The authors mark outliers by a threshold while they go; here their number is fixed beforehand,
    so that a plan's bytes are known before it is made. Source: Dettmers et al. 2023,
    arXiv:2306.03078; code Vahe1994/SpQR (Apache-2.0).
    """

    group_size: int = 16
    outliers: float = 0.01
    stat_bits: int = 3
    stat_group: int = 16
    damp_percent: float = 1.0

    needs: ClassVar[frozenset[str]] = frozenset({"gram"})
    levels: ClassVar[tuple[Option, ...]] = grid.with_fractions((2, 3, 4, 5, 6, 7, 8))

    def __post_init__(self) -> None:
        if not 0 <= self.outliers < 0.5 or not 1 <= self.stat_bits <= 8:
            raise InputError(f"{self}: 0 ≤ outliers < 0.5 and 1 ≤ stat_bits ≤ 8 are needed")

    def __call__(self, weight: Tensor, bits: float, stats: MatrixStats) -> Packed:
        rows, columns = finite(weight).shape
        self._require_shape((rows, columns))
        count, bits = self._count((rows, columns), bits), int(bits)
        size = columns // grid.group_count((rows, columns), self.group_size)
        factor = inverse_factor(stats, self.damp_percent)
        w = columns_first(weight)
        numbers = torch.float16 if grid.lift(weight) == 1 else torch.bfloat16
        keep = self._outliers(weight.float(), factor, bits, size, count)
        second: list[tuple[Packed, Packed]] = []
        fits = iter(range(0, columns, size))

        def fit(group: Tensor) -> tuple[Tensor, Tensor]:
            start = next(fits)
            kept = keep[start : start + size].T
            filled = torch.where(
                kept,
                (group * ~kept).sum(1, keepdim=True) / (~kept).sum(1, keepdim=True).clamp(min=1),
                group,
            )
            scale, zero = grid.fit(filled, bits, None, torch.float32)
            # a group of zeros must not widen the range of scales
            scale = scale * (filled != 0).any(1)
            second.append((self._second_level(scale, numbers), self._second_level(zero, numbers)))
            scale, zero = (packed.dequantize()[0] for packed in second[-1])
            return scale.clamp(min=torch.finfo(numbers).tiny), zero

        codes, _, _ = fitting_grid(w, factor, bits, size, fit, keep)
        flat = keep.T.reshape(-1).nonzero()[:, 0]
        scales, zeros = (_stacked([pair[i] for pair in second]) for i in (0, 1))
        exact = Exact(flat.int(), stored(w.T.reshape(-1)[flat], numbers))
        return Packed(codes.T.contiguous().byte(), scales, bits, zeros, exact=exact)

    def _outliers(self, w: Tensor, factor: Tensor, bits: int, size: int, count: int) -> Tensor:
        """(in, out): which weights are kept."""
        diagonal = factor.diagonal().reshape(-1, size).expand(len(w), -1, -1)
        groups, diagonal = w.reshape(-1, size), diagonal.reshape(-1, size)
        parts = zip(groups.split(CHUNK // size**2), diagonal.split(CHUNK // size**2), strict=True)
        scores = torch.cat([_gains(group, d, bits) for group, d in parts]).reshape(-1)
        keep = torch.zeros_like(scores, dtype=torch.bool)
        keep[torch.argsort(scores, descending=True, stable=True)[:count]] = True
        return keep.reshape(w.shape).T

    def _second_level(self, values: Tensor, numbers: torch.dtype) -> Packed:
        """One number a row, (out,), quantized over runs of rows: a Packed of shape (1, out)."""
        groups = values.reshape(-1, self.stat_group)
        low, high = groups.amin(1), groups.amax(1)
        least = LEAST[numbers]
        scale = stored(((high - low) / (2**self.stat_bits - 1)).clamp(min=least), numbers)
        shift = stored(-low, numbers)
        codes = (
            ((groups + shift.float()[:, None]) / scale.float()[:, None])
            .round()
            .clamp(0, 2**self.stat_bits - 1)
        )
        return Packed(codes.reshape(1, -1).byte(), scale[None], self.stat_bits, shifts=shift[None])

    def _count(self, shape: tuple[int, int], bits: float) -> int:
        _, share = self.parts(bits)
        return round(share / OUTLIER_BITS * shape[0] * shape[1])

    def _require_shape(self, shape: tuple[int, int]) -> None:
        if shape[0] % self.stat_group:
            raise InputError(
                f"spqr: stat_group={self.stat_group} does not divide {shape[0]} "
                f"output rows; choose one that does"
            )

    @property
    def share(self) -> float:
        return OUTLIER_BITS * self.outliers

    @property
    def outside(self) -> MSE:
        return MSE(self.group_size)

    def nbytes(self, shape: tuple[int, int], bits: float) -> int:
        self._require_shape(shape)
        groups = grid.group_count(shape, self.group_size)
        second = (
            packed_bytes(groups * shape[0], self.stat_bits)
            + 4 * groups * shape[0] // self.stat_group
        )
        return (
            packed_bytes(shape[0] * shape[1], int(bits))
            + 2 * second
            + OUTLIER_BITS // 8 * self._count(shape, bits)
        )


def _gains(groups: Tensor, diagonal: Tensor, bits: int) -> Tensor:
    """By how much the weighted error of each group falls when one weight is left out; all are
    (groups, size).
    """
    size = groups.shape[1]
    others = torch.tensor(
        [[k for k in range(size) if k != left_out] for left_out in range(size)],
        device=groups.device,
    )
    return _errors(groups, diagonal, bits).unsqueeze(1) - _errors(
        groups[:, others], diagonal[:, others], bits
    )


def _errors(groups: Tensor, diagonal: Tensor, bits: int) -> Tensor:
    scale, zero = (part.unsqueeze(-1) for part in grid.fit(groups, bits, None, torch.float32))
    return (
        ((groups - (grid.nearest(groups, scale, zero, bits) - zero) * scale) / diagonal)
        .square()
        .sum(-1)
    )


def _stacked(parts: list[Packed]) -> Packed:
    """Rows put below each other."""
    shifts = torch.cat([part.shifts for part in parts if part.shifts is not None])
    scales = torch.cat([part.scales for part in parts if isinstance(part.scales, Tensor)])
    return Packed(torch.cat([part.codes for part in parts]), scales, parts[0].bits, shifts=shifts)
