"""Scores from the weights alone: no calibration data."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from lwq import models
from lwq.common.errors import InputError
from lwq.statistics.forward import Stats

POOLS = ("block", "matrix")


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

    Norms, biases and embeddings are not counted. Source: Dumitru et al. 2024, arXiv:2406.17415,
    section 3.1, which does not say over which weights μ and σ are taken.
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
        std, mean = torch.std_mean(weights.double())
        distance = weights.double() - mean
        distance = distance.abs() if self.two_sided else distance
        return float((distance > std).double().mean())


def weighed(model: nn.Module, granularity: str = "block") -> dict[str, list[str]]:
    """Unit -> names of its matrices, without units that have none: `score` gives those 0, since
    nothing of them can be quantized.
    """
    return {unit: names for unit, names in models.units(model, granularity).items() if names}
