"""Scores from the weights alone: no calibration data."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from lwq import models
from lwq.common.errors import InputError
from lwq.contracts import Option
from lwq.scorers.shared.declared import Harms
from lwq.scorers.shared.rounding import WIDTHS, rounding
from lwq.statistics.forward import Stats

POOLS = ("block", "matrix")
PART = 1 << 20  # weights that are compared at once


@dataclass(frozen=True)
class ZD:
    """Z-score Distribution: the share of weights that lie far above the mean.

        z = (w − μ) / σ,    ZD = |{w : z > 1}| / N        in [0, 1]

    The fewer large weights, the more important (the paper's abstract: "smaller is better"), so the
    importance is 1 − ZD.

    Attributes:
        two_sided: count |z| > 1 (about 32 % of Gaussian weights) instead of z > 1 (about 16 %).
        larger_is_important: turn the direction round, as some re-implementations do; the importance
            is then ZD.
        pool: "block" takes one μ and σ over all matrices of a unit; "matrix" has them for each
            matrix and averages the matrices' ZD without weights.
        granularity: of the units that are scored.

    Costs no pass. Norms, biases and embeddings are not counted. Source: Dumitru et al. 2024,
    arXiv:2406.17415, section 3.1, which does not say over which weights μ and σ are taken.
    """

    two_sided: bool = False
    larger_is_important: bool = False
    pool: str = "block"
    granularity: str = "block"

    needs: ClassVar[frozenset[str]] = frozenset()

    def __post_init__(self) -> None:
        if self.pool not in POOLS:
            raise InputError(f"zd: pool={self.pool!r}; choose one of {POOLS}")

    def __call__(self, model: nn.Module, stats: Stats) -> dict[str, float]:
        matrices = models.matrices(model)
        found = {}
        for unit, names in weighed(model, self.granularity).items():
            with models.resident(model, unit):
                flat = [matrices[name].view().reshape(-1) for name in names]
                pools = [torch.cat(flat)] if self.pool == "block" else flat
                share = sum(self._share(pool) for pool in pools) / len(pools)
            found[unit] = share if self.larger_is_important else 1 - share
        return found

    def _share(self, weights: Tensor) -> float:
        """ZD of a flat tensor; 0 where all weights are equal."""
        middle, above = mean(weights), 0
        squares = (float((part - middle).square().sum()) for part in wide_parts(weights))
        std = (sum(squares) / max(len(weights) - 1, 1)) ** 0.5
        for part in wide_parts(weights):
            distance = part - middle
            above += int(((distance.abs() if self.two_sided else distance) > std).sum())
        return above / len(weights)


def wide_parts(values: Tensor) -> Iterator[Tensor]:
    """A flat tensor in float64, `PART` values at once."""
    return (part.double() for part in values.split(PART))


def mean(values: Tensor) -> float:
    """Mean of a flat tensor, summed in float64."""
    return sum(float(part.sum()) for part in wide_parts(values)) / len(values)


def weighed(model: nn.Module, granularity: str = "block") -> dict[str, list[str]]:
    """Unit -> names of its matrices, without units that have none: `score` gives those 0, since
    nothing of them can be quantized.
    """
    return {unit: names for unit, names in models.units(model, granularity).items() if names}


def _means(
    model: nn.Module, granularity: str, value: Callable[[Tensor], float], weighted: bool = False
) -> dict[str, float]:
    """unit -> mean over its matrices of `value` of the weights (out, in), or over its weights."""
    matrices, found = models.matrices(model), {}
    for unit, names in weighed(model, granularity).items():
        with models.resident(model, unit):
            views = [matrices[name].view() for name in names]
            shares = [view.numel() if weighted else 1 for view in views]
            total = sum(value(view) * share for view, share in zip(views, shares, strict=True))
        found[unit] = total / sum(shares)
    return found


@dataclass(frozen=True)
class Kurtosis:
    """How heavy the tails of a unit's weights are.

        importance = mean over matrices of E[(w − μ)⁴] / σ⁴        3 for Gaussian weights

    Heavy tails stretch the grid. Costs no pass. Source: KurtBoost, arXiv:2503.06518, which looks at
    the jumps of this number from block to block.

    Attributes:
        granularity: of the units that are scored.
    """

    granularity: str = "block"

    needs: ClassVar[frozenset[str]] = frozenset()

    def __call__(self, model: nn.Module, stats: Stats) -> dict[str, float]:
        return _means(model, self.granularity, kurtosis)


def kurtosis(weight: Tensor) -> float:
    """E[(w − μ)⁴] / σ⁴; 0 where all weights are equal."""
    wide = weight.double()
    centred = wide - wide.mean()
    variance = float(centred.square().mean())
    return float(centred.pow(4).mean()) / variance**2 if variance else 0.0


@dataclass(frozen=True)
class Entropy:
    """How evenly exp(w) is spread over a unit's weights.

        importance = mean, over the unit's weights, of the matrices' −Σ p log p / log n,
        p = softmax of the n weights of a matrix as one vector        in [0, 1]

    Costs no pass. Source: EWQ, arXiv:2503.04704, which keeps what has a high entropy; its text
    could not be read in full, so the direction and the norm by log n are ours.

    Attributes:
        granularity: of the units that are scored.
    """

    granularity: str = "block"

    needs: ClassVar[frozenset[str]] = frozenset()

    def __call__(self, model: nn.Module, stats: Stats) -> dict[str, float]:
        return _means(model, self.granularity, entropy, weighted=True)


def entropy(weight: Tensor) -> float:
    """−Σ p log p / log n of the softmax of n weights; 1 where they are equal."""
    log_p = weight.double().flatten().log_softmax(0)
    return float(-(log_p.exp() * log_p).sum()) / max(np.log(weight.numel()), 1e-12)


@dataclass(frozen=True)
class Rank:
    """How many directions a unit's matrices use.

        importance = mean over matrices of exp(−Σ p log p) / min(out, in),    p = σ² / Σ σ²

    σ are the singular values. A matrix of few directions is easier to approximate. Costs no pass.
    Source: the effective rank, Roy and Vetterli 2007, of squared singular values.

    Attributes:
        granularity: of the units that are scored.
    """

    granularity: str = "block"

    needs: ClassVar[frozenset[str]] = frozenset()

    def __call__(self, model: nn.Module, stats: Stats) -> dict[str, float]:
        return _means(
            model,
            self.granularity,
            lambda w: effective_rank(torch.linalg.svdvals(w.double()).square()) / min(w.shape),
        )


def effective_rank(energies: Tensor) -> float:
    """exp of the entropy of energies that are scaled to sum 1, (n,): from 1 to n; 0 without any."""
    positive = energies.double()[energies > 0]
    p = positive / positive.sum()
    return float((-(p * p.log()).sum()).exp()) if len(p) else 0.0


@dataclass(frozen=True)
class WeightError:
    """What rounding does to the weights, whatever they are for.

        harm(u, b) = Σ_{m in u} ‖ΔW_mb‖²        or, relative, Σ ‖ΔW_mb‖² / Σ ‖W_m‖²

    The floor of what an option can cost: no data, no gradient. Costs no pass.

    Attributes:
        quantizer, options: whose rounding; see `FisherKL`. A quantizer that needs statistics needs
            windows, which this scorer has not.
        granularity: of the units that are scored.
        relative: see above.
    """

    quantizer: str = "rtn"
    options: tuple[Option, ...] = WIDTHS
    granularity: str = "matrix"
    relative: bool = False

    needs: ClassVar[frozenset[str]] = frozenset()

    def __call__(self, model: nn.Module, stats: Stats) -> Harms:
        harms: Harms = {}
        with rounding(model, self.quantizer, self.options, stats.windows) as found:
            for unit, names in models.units(model, self.granularity).items():
                with models.resident(model, unit):
                    weights = (found.matrices[name].view().float() for name in names)
                    whole = sum(float(weight.square().sum()) for weight in weights)
                    scale = 1 / whole if self.relative and whole else 1.0
                    harms[unit] = {
                        option: scale
                        * sum(float(found.change(name, option).square().sum()) for name in names)
                        for option in self.options
                    }
                found.leave()
        return harms
