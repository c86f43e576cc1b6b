"""Half-quadratic quantization: data-free, with zero points that make most weights exact rather than
all nearly so.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lwq.common.errors import InputError
from lwq.common.names import pick
from lwq.contracts import Option, Shape
from lwq.contracts.methods import Grid
from lwq.quantizers.shared import grid
from lwq.quantizers.storage.bits import packed_bytes
from lwq.quantizers.storage.packed import FLOATS, Packed, finite, stored
from lwq.statistics.sums import MatrixStats

CACHED = 1 << 17  # weights that a processor optimizes at once; a GPU takes all
FLAT = 1e-4  # a group whose weights span no more than this is constant


@dataclass(frozen=True)
class HQQ(grid.Grouped):
    """Minimizes ‖W − Ŵ‖_p over the zero point of each group, p < 1, by half-quadratic splitting.

        s = (max − min) / (2^b − 1),   q = clamp(round(w / s + z), 0, 2^b − 1),   ŵ = (q − z) · s
        repeat:   e = shrink(w − ŵ),   z = mean over the group of q − (w − e) / s
        shrink(x) = sign(x) · max(|x| − |x|^(p−1) / β, 0)

    It stops when the mean of |w − ŵ| over the matrix grows, with the zero point of that step, as
    its authors' default does.

    Attributes:
        group_size: input columns that share a scale and a zero point; −1 for a whole row.
        iters: at most this many steps.
        lp_norm: p above.
        beta: β above.
        scale_dtype: of the stored scales and of the zero points, which are numbers here, not codes.
            "float32" gives the library's numbers with compute_dtype=float32 bit for bit.

    A group that spans no more than 1e-4 keeps its smallest value (the library would let it drift).
    A matrix of tiny weights is scaled up by a power of two first, since the algorithm has a scale.
    Source: Badri and Shaji 2023, Half-Quadratic Quantization; code mobiusml/hqq,
    `optimize_weights_proximal_legacy` (Apache-2.0).
    """

    group_size: int = 64
    iters: int = 20
    lp_norm: float = 0.7
    beta: float = 10.0
    scale_dtype: str = "float16"

    needs: ClassVar[frozenset[str]] = frozenset()
    slow: ClassVar[bool] = True
    levels: ClassVar[tuple[Option, ...]] = grid.with_groups((2, 3, 4, 5, 6, 8))

    def __post_init__(self) -> None:
        pick(FLOATS, "scale_dtype", self.scale_dtype)
        if not 0 < self.lp_norm < 1 or self.beta <= 0 or self.iters < 0:
            raise InputError(f"{self}: 0 < lp_norm < 1, beta > 0 and iters ≥ 0 are needed")

    def __call__(self, weight: Tensor, option: Option, stats: MatrixStats | None = None) -> Packed:
        bits, size = self.grid_of(option)
        rows, columns = finite(weight).shape
        top, groups = 2**bits - 1, grid.group_count((rows, columns), size)
        lift = grid.lift(weight)
        w = lift * weight.float().reshape(rows * groups, -1)  # (out, in) -> (out · groups, size)
        low, span = w.amin(1, keepdim=True), w.amax(1, keepdim=True) - w.amin(1, keepdim=True)
        flat = span <= FLAT
        inverse = torch.where(flat, 1.0, top / span).clamp_(max=2e4)
        dtype = FLOATS[self.scale_dtype]
        scales = stored(1 / inverse / lift, dtype)
        if lift != 1:  # codes for the scale as it is stored, which may be coarse
            grid.refuse_lost(1 / inverse / lift, scales.float(), dtype)
            inverse = 1 / (scales.float() * lift)
        start = -low * inverse
        zero = start.round() if bits == 4 else start
        zero = torch.where(flat, start, self._optimize(w, inverse, zero, top))
        codes = (w * inverse).add_(zero).round_().clamp_(0, top)
        return Packed(
            codes=codes.reshape(weight.shape).byte(),
            scales=scales.reshape(rows, groups),
            bits=bits,
            zeros=stored(zero.reshape(rows, groups), dtype),
        )

    def _optimize(self, w: Tensor, inverse: Tensor, zero: Tensor, top: int) -> Tensor:
        rows = max(1, CACHED // w.shape[1]) if w.device.type == "cpu" else len(w)
        parts, zeros = (w.split(rows), inverse.split(rows)), list(zero.split(rows))
        best = torch.inf
        for _ in range(self.iters):
            total = 0.0
            for place, (own, scale) in enumerate(zip(*parts, strict=True)):
                zeros[place], size = self._step(own, scale, zeros[place], top)
                total += size
            if total >= best:
                break
            best = total
        return torch.cat(zeros)

    def _step(self, w: Tensor, inverse: Tensor, zero: Tensor, top: int) -> tuple[Tensor, float]:
        """The next zeros of some groups, and Σ |error| with those before."""
        codes = (w * inverse).add_(zero).round_().clamp_(0, top)
        error = torch.sub(codes, zero).div_(inverse).sub_(w).neg_()
        size = error.abs()
        found = float(size.sum(dtype=torch.float64))
        shrunk = size.pow(self.lp_norm - 1).mul_(-1 / self.beta).add_(size).clamp_min_(0)
        shrunk.copysign_(error)
        return codes.sub_(torch.sub(w, shrunk).mul_(inverse)).mean(1, keepdim=True), found

    def grid(self, option: Option) -> Grid:
        return Grid(*self.grid_of(option), "numbers", self.scale_dtype)

    def nbytes(self, shape: Shape, option: Option) -> int:
        bits, size = self.grid_of(option)
        groups = shape[0] * grid.group_count(shape, size)
        numbers = 2 * groups * FLOATS[self.scale_dtype].itemsize
        return packed_bytes(shape[0] * shape[1], bits) + numbers
