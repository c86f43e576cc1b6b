"""Scores that were made to give each block a sparsity of its own."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from lwq import models
from lwq.common.errors import InputError
from lwq.scorers.weights import mean, weighed
from lwq.statistics.forward import Stats


def _saliences(model: nn.Module, stats: Stats) -> Iterator[tuple[str, Tensor]]:
    """(block, A) with A_ij = |w_ij| · ‖x_j‖₂ of all its matrices in one flat tensor."""
    matrices = models.matrices(model)
    for block, names in weighed(model).items():
        with models.resident(model, block):
            norms = {
                name: stats[block].matrices[name].require("square_sum").sqrt() for name in names
            }
            yield (
                block,
                torch.cat(
                    [
                        (matrices[name].view().float().abs() * norms[name]).reshape(-1)
                        for name in names
                    ]
                ),
            )


@dataclass(frozen=True)
class OWL:
    """The share of a block's weights that stand out, in percent.

        D = 100 · |{A_ij > M · mean A}| / N,    A_ij = |w_ij| · ‖x_j‖₂

    Attributes:
        threshold: M.

    Costs one forward pass. Source: Yin et al. 2023, arXiv:2310.05175, section 3.2 (the code uses
    M = 5 for Llama).
    """

    threshold: float = 5.0

    needs: ClassVar[frozenset[str]] = frozenset({"input_norms"})
    granularity: ClassVar[str] = "block"

    def __call__(self, model: nn.Module, stats: Stats) -> dict[str, float]:
        return {
            block: 100 * _share(values > self.threshold * values.mean())
            for block, values in _saliences(model, stats)
        }


@dataclass(frozen=True)
class DLP:
    """One less a block's share of all salience: what stands out little on average is hard to spare.

        u = 1 − S / Σ S,    S = mean of A_ij = |w_ij| · ‖x_j‖₂

    Costs one forward pass. Source: Chen et al. 2025, arXiv:2505.23807 (the text takes the median;
    the authors' code for unstructured pruning the mean).
    """

    needs: ClassVar[frozenset[str]] = frozenset({"input_norms"})
    granularity: ClassVar[str] = "block"

    def __call__(self, model: nn.Module, stats: Stats) -> dict[str, float]:
        means = {block: mean(values) for block, values in _saliences(model, stats)}
        total = sum(means.values())
        return {block: 1 - mean / total for block, mean in means.items()}


@dataclass(frozen=True)
class LAMP:
    """The share of a block's weights that survives one threshold over the whole model.

        score(u) = w_u² / Σ_{v ≥ u} w_v²    within each matrix

    Its weights are numbered by size, the smallest first, equal ones in any order, and the sum runs
    over u and all behind it.

    Attributes:
        density: share of all weights that lies above the threshold.

    Costs no pass; in memory, two float32 for each weight that a plan reaches. Source: Lee et al.
    2021, arXiv:2010.07611, equation 4.
    """

    density: float = 0.5

    needs: ClassVar[frozenset[str]] = frozenset()
    granularity: ClassVar[str] = "block"

    def __post_init__(self) -> None:
        if not 0 < self.density < 1:
            raise InputError(
                f"lamp: density={self.density}; a share between 0 and 1 is needed, such as 0.5"
            )

    def __call__(self, model: nn.Module, stats: Stats) -> dict[str, float]:
        matrices, found = models.matrices(model), {}
        for block, names in weighed(model).items():
            with models.resident(model, block):
                found[block] = torch.cat([lamp_scores(matrices[name].view()) for name in names])
        threshold = _threshold(list(found.values()), 1 - self.density)
        return {block: _share(values > threshold) for block, values in found.items()}


def _threshold(parts: list[Tensor], share: float) -> float:
    """The largest of the smallest `share` of all values; partitioned in place, where torch would
    take 12 bytes a value more.
    """
    values = torch.cat(parts).cpu().numpy()
    place = max(1, round(share * len(values))) - 1
    values.partition(place)
    return float(values[place])


def _share(mask: Tensor) -> float:
    """Of what is true."""
    return int(mask.count_nonzero()) / mask.numel()


def lamp_scores(weight: Tensor) -> Tensor:
    """LAMP scores of a matrix, (weights,), from the largest weight (whose score is 1) to the
    smallest.
    """
    squares = weight.reshape(-1).double().square().sort(descending=True).values
    return (squares / squares.cumsum(0).clamp(min=torch.finfo(torch.float64).tiny)).float()
