"""Uniform grids: where the levels lie, and the nearest one. Shared by rtn and gptq."""

import math
from typing import ClassVar

import torch
from torch import Tensor

from lwq.common.errors import InputError
from lwq.contracts import Option
from lwq.contracts.methods import Quantizer
from lwq.quantizers.storage.bits import packed_bytes
from lwq.quantizers.storage.packed import FLOATS, WAY

# a group this far below its matrix's largest weight may vanish in the scale's dtype
NEGLIGIBLE = 1e-4
# the largest weight of an ordinary matrix is larger
TINY = 2.0**-6
# share of the weights' norm that 16-bit numbers may lose of a tiny matrix, beside its rounding
FADED = 0.05
GROUPS = (32, 64, 128)  # sizes that options name
ROUNDING = 0.999  # of a bound, so that float32 cannot turn it over
PANEL = 1 << 20  # weights whose grids are searched at once: what is in between stays in the cache


def fit(groups: Tensor, bits: int, half: float | None, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Scale and zero point of each group.

    Args:
        groups: (..., group_size) float32.
        bits: width of a code.
        half: None for an asymmetric grid from min(w, 0) to max(w, 0) with zero = round(−min /
            scale); else a symmetric one with scale = max|w| / half and zero = 2^(bits − 1).
        dtype: that scales are stored in; codes are chosen for the stored scale, not for the exact
            one.

    Returns:
        (scale, zero), float32, shape (...). A group of zeros gets scale 1.
    """
    return _covering(groups.amin(-1), groups.amax(-1), bits, half, dtype)


def _covering(
    low: Tensor, high: Tensor, bits: int, half: float | None, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """`fit` of groups with these least and largest weights."""
    if half is None:
        low, high = low.clamp(max=0), high.clamp(min=0)
        scale = high / (2**bits - 1) - low / (2**bits - 1)  # not (high − low): that may overflow
    else:
        scale = torch.maximum(low.abs(), high.abs()) / half
    stored = scale.to(dtype).float()
    refuse_lost(scale, stored, dtype)
    stored = torch.where(stored > 0, stored, 1.0)
    if half is not None:
        return stored, torch.full_like(stored, 2.0 ** (bits - 1))
    return stored, (-low / stored).round().clamp(0, 2**bits - 1)


def search(
    groups: Tensor,
    bits: int,
    dtype: torch.dtype,
    steps: int = 20,
    power: float = 2.4,
    half: float | None = None,
    weights: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """`fit`, with the range of each group shrunk to where Σ d |w − ŵ|^power is least.

    The range is tried at `steps` even fractions from 1 down to 0.2. Source: the `mse` option of
    IST-DASLab/gptq, with 20 steps for its 80.

    Args:
        groups, bits, half, dtype: as `fit`.
        weights: d, of the shape of `groups` or one that broadcasts to it; None for 1.
    """
    (low, lowest), (high, highest) = groups.min(-1), groups.max(-1)
    scale, zero = _covering(low, high, bits, half, dtype)
    heavy = None
    if weights is not None:
        weights = weights.expand_as(groups)
        heavy = weights.gather(-1, torch.stack((lowest, highest), -1)).unbind(-1)
    best = torch.full_like(low, torch.inf)
    for fraction in torch.linspace(1, 0.2, steps, device="cpu").tolist():
        trial = _covering(low * fraction, high * fraction, bits, half, dtype)
        still = ROUNDING * _lost_outside((low, high), heavy, trial, bits, power) < best
        share = float(still.float().mean())
        if share == 0:
            continue
        some = still if share < 0.7 else slice(None)  # to pick them out costs a copy
        part, (step, offset) = groups[some], (found[some].unsqueeze(-1) for found in trial)
        error = nearest(part, step, offset, bits).sub_(offset).mul_(step).sub_(part)
        error = error.square_() if power == 2 else error.abs_().pow_(power)
        size = torch.full_like(best, torch.inf)
        size[some] = (error if weights is None else error.mul_(weights[some])).sum(-1)
        better = size < best
        best = torch.where(better, size, best)
        scale, zero = torch.where(better, trial[0], scale), torch.where(better, trial[1], zero)
    return scale, zero


def _lost_outside(
    ends: tuple[Tensor, Tensor],
    heavy: tuple[Tensor, ...] | None,
    trial: tuple[Tensor, Tensor],
    bits: int,
    power: float,
) -> Tensor:
    """d |w − ŵ|^power of the outermost weight of each group that lies outside the grid `trial`, no
    more than the sum over the group: with many bits most narrow ranges need no closer look.

    Args:
        ends: least and largest weight of each group; heavy: d of those two.
        trial: (scale, zero).
    """
    scale, zero = trial
    below = -zero * scale - ends[0]
    above = ends[1] - (2**bits - 1 - zero) * scale
    low, high = (beyond.clamp_(min=0).pow_(power) for beyond in (below, above))
    return (
        torch.maximum(low, high)
        if heavy is None
        else torch.maximum(low * heavy[0], high * heavy[1])
    )


def refuse_lost(scale: Tensor, stored: Tensor, dtype: torch.dtype) -> None:
    """Raise InputError where `dtype` turns the scale of a group into zero or infinity."""
    lost = ~torch.isfinite(stored) | ((stored == 0) & (scale > NEGLIGIBLE * scale.max()))
    if bool(lost.any()):
        worst = scale[lost].max().item()
        raise InputError(
            f"a group needs a scale of {worst:.3g}, which {str(dtype).removeprefix('torch.')} "
            f"cannot hold; "
            "use scale_dtype='bfloat16' or 'float32'"
        )


def lift(weight: Tensor) -> float:
    """The power of two that brings the largest weight of a tiny matrix up to TINY; 1 for any other.

    Thresholds and 16-bit numbers are made for weights as models have them; where a norm carries the
    scale of a matrix, its weights may be a million times smaller.
    """
    largest = float(weight.abs().max())
    return 2.0 ** math.ceil(math.log2(TINY / largest)) if 0 < largest < TINY else 1.0


def missed(weight: Tensor, found: Tensor) -> float:
    """‖w − ŵ‖ / ‖w‖, of any scale."""
    factor = lift(weight)
    wide = weight.float() * factor
    return float((wide - found.float() * factor).norm() / wide.norm())


def refuse_faded(weight: Tensor, found: Tensor, name: str, least: float = 0.0) -> None:
    """Raise InputError where `found`, what is stored of a matrix of tiny weights, misses a larger
    share of them than FADED beyond `least`.

    Args:
        name: of what stores it, for the error.
        least: what is missed of the same weights, lifted to an ordinary scale.
    """
    if (share := missed(weight, found)) > least + FADED:
        raise InputError(
            f"{name} loses {share:.1%} of weights up to {float(weight.abs().max()):.3g}, and "
            f"{least:.1%} of larger ones: float16, in which it stores them or their scales, fades "
            f"below 6e-8; {WAY}"
        )


def nearest(values: Tensor, scale: Tensor, zero: Tensor, bits: int) -> Tensor:
    """Codes of the nearest levels, half to even, clamped to 0 … 2^bits − 1; as floats, shape of
    `values`.
    """
    return (values / scale).round_().add_(zero).clamp_(0, 2**bits - 1)


def group_count(shape: tuple[int, int], group_size: int) -> int:
    """Groups in a row; group_size −1 is the whole row. Raises InputError, with the sizes that
    divide, if it does not.
    """
    columns = shape[1]
    if group_size == -1:
        return 1
    if group_size < 1 or columns % group_size:
        fits = [
            size for size in (16, 32, 48, 64, 96, 128, 192, 256, 512, 1024) if columns % size == 0
        ]
        raise InputError(
            f"group_size={group_size} does not divide {columns} input columns; choose one of "
            f"{[-1, *fits]} (-1: the whole row)"
        )
    return columns // group_size


def grid_bytes(
    shape: tuple[int, int], bits: int, group_size: int, symmetric: bool, scale_dtype: str
) -> int:
    """Stored bytes of a matrix on such a grid: codes, scales, and zeros where the grid is
    asymmetric.
    """
    groups = shape[0] * group_count(shape, group_size)
    zeros = 0 if symmetric else packed_bytes(groups, bits)
    return packed_bytes(shape[0] * shape[1], bits) + groups * FLOATS[scale_dtype].itemsize + zeros


class Grouped(Quantizer):
    """Options of a quantizer with groups: a width in its own group size, or in that of the name:
    "4g32" is 4 bits in groups of 32.
    """

    group_size: int
    levels: ClassVar[tuple[Option, ...]]

    def nominal(self, option: Option) -> float:
        return float(self.grid_of(option)[0])

    def grid_of(self, option: Option) -> tuple[int, int]:
        """(bits, columns that share a scale)."""
        if isinstance(option, str):
            bits, _, size = option.partition("g")
            return int(bits), int(size)
        return int(option), self.group_size


def with_groups(widths: tuple[int, ...]) -> tuple[Option, ...]:
    """`widths`, and each of them in groups of 32, 64 and 128 by name."""
    return *widths, *(f"{bits}g{size}" for bits in widths for size in GROUPS)


def with_fractions(widths: tuple[int, ...]) -> tuple[float, ...]:
    """`widths`, and those of 2, 3 and 4 with 0.05 to 0.95 bits more."""
    fractions = [round(width + step / 20, 2) for width in (2, 3, 4) for step in range(1, 20)]
    return tuple(sorted([*widths, *fractions]))


class Fractional(Quantizer):
    """Options of a quantizer that keeps outliers: a whole width pays the share of its own for them,
    a fractional one its fraction.
    """

    @property
    def share(self) -> float:
        """Bits a weight for the outliers of a whole width."""
        raise NotImplementedError  # each quantizer has its own

    def parts(self, option: Option) -> tuple[int, float]:
        """(bits of what is rounded, bits a weight for outliers)."""
        bits = float(option)
        return int(bits), round(bits - int(bits), 6) or self.share

    def nominal(self, option: Option) -> float:
        """Outliers are in it: 3 is as large as 3.48 where its share is 0.48."""
        return float(sum(self.parts(option)))
