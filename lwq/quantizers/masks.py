"""Unstructured pruning in the place of a quantizer: single weights become zero, the others stay in
16 bits.

The stored encoding is a bitmap, one bit a weight, and 16 bits for each weight that is kept: a width
    of w bits a weight keeps the
share (w − 1) / 16. So a mask has a size like any plan, and is compared at the same bytes.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lwq.contracts import Option
from lwq.contracts.methods import Quantizer
from lwq.quantizers.shared.grid import lift, refuse_faded
from lwq.quantizers.storage.bits import packed_bytes
from lwq.quantizers.storage.packed import finite, stored
from lwq.quantizers.storage.sparse import Sparse
from lwq.statistics.sums import MatrixStats


def width_of(density: float) -> float:
    """Stored bits a weight where the share `density` of the weights is kept, in steps of 1 %."""
    return round(1 + 0.16 * round(100 * density), 2)


def density_of(width: float) -> float:
    """The share of the weights that a width keeps."""
    return (width - 1) / 16


# 94 % would weigh more than 16 bits
LEVELS = tuple(width_of(percent / 100) for percent in range(1, 94))


class Mask(Quantizer):
    """Options are 1 + 16 · density bits a weight: the bitmap, and the weights that are kept."""

    levels: ClassVar[tuple[Option, ...]] = LEVELS

    @property
    def family(self) -> str:
        return "mask"


@dataclass(frozen=True)
class Magnitude(Mask):
    """Keeps the weights with the largest |w| of each matrix.

    A width is 1 + 16 · density bits a weight. Source: Han et al. 2015, arXiv:1506.02626.
    """

    needs: ClassVar[frozenset[str]] = frozenset()

    def __call__(self, weight: Tensor, bits: float, stats: MatrixStats) -> Sparse:
        scores = finite(weight).float().abs().reshape(1, -1)
        return _kept(weight, _largest(scores, _count(weight.numel(), bits)).reshape(weight.shape))

    def nbytes(self, shape: tuple[int, int], bits: float) -> int:
        return packed_bytes(shape[0] * shape[1], 1) + 2 * _count(shape[0] * shape[1], bits)


@dataclass(frozen=True)
class Wanda(Mask):
    """Keeps the weights with the largest score of each output row.

        S_ij = |w_ij| · ‖x_j‖₂,    ‖x_j‖₂ over the calibration tokens

    Of a matrix that no token reaches (an expert's), the largest |w_ij| of each row stay. A width is
    1 + 16 · density bits a weight. Source: Sun et al. 2023, arXiv:2306.11695, equation 1.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"input_norms"})

    def __call__(self, weight: Tensor, bits: float, stats: MatrixStats) -> Sparse:
        scores, norms = finite(weight).float().abs(), stats.require("square_sum").sqrt()
        scores = scores * norms if bool(norms.any()) else scores
        return _kept(weight, _largest(scores, _count(weight.shape[1], bits)))

    @property
    def outside(self) -> Magnitude:
        return Magnitude()

    def nbytes(self, shape: tuple[int, int], bits: float) -> int:
        return packed_bytes(shape[0] * shape[1], 1) + 2 * shape[0] * _count(shape[1], bits)


def _count(total: int, bits: float) -> int:
    return round(total * density_of(bits))


def _largest(scores: Tensor, count: int) -> Tensor:
    """bool, the shape of `scores`: the `count` largest of each row; of equal ones the first."""
    order = scores.argsort(dim=1, descending=True, stable=True)[:, :count]
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(1, order, True)


def _kept(weight: Tensor, mask: Tensor) -> Sparse:
    values = weight[mask]
    found = stored(values, torch.float16)
    if len(values) and lift(values) != 1:
        refuse_faded(values, found, "a mask")
    return Sparse(mask, found)
