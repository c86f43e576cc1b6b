"""Everyone loses the same."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from lwq.allocators.greedy import raised, require_size
from lwq.allocators.table import Table, table_of
from lwq.contracts import Budget, Costs, Option, Scores
from lwq.contracts.methods import Allocator, Objective


@dataclass(frozen=True)
class EqualLoss(Allocator):
    """Bits that make the loss of every unit the same: BAQ's rule, at the level of units.

        b_u = b̄ + ½ · log₂(ℓ_u / geomean ℓ),    ℓ_u the harm of unit u a weight at b̄ bits

    is where harm = c · 4^-b is the same for all, and also where Σ harm is least. With options in
    steps and harms of any shape, that is the least t for which the budget holds when each unit
    takes its smallest option with harm(u, b) / weights(u) ≤ t. What is left is spent on the units
    that lose most harm a byte.

    Attributes:
        per_weight: whether losses are compared a weight (of units of several sizes, the small ones
            would get too many bits otherwise) or a unit.
        distortion: option -> relative squared error, for Scores; None takes 4^-bits.

    Source: BAQ, arXiv:2506.05664, equal-loss principle, for the columns of a matrix (there with
    an exponent of 1.95 that was fitted, in place of 2).
    """

    per_weight: bool = True
    distortion: Mapping[Option, float] | None = None

    def __call__(
        self, scores: Scores | Costs, budget: Budget, objective: Objective | None = None
    ) -> dict[str, Option]:
        require_size(budget, "equal_loss")
        table = table_of(scores, budget, self.distortion)
        if table.fits(table.safest()):
            return table.plan(table.safest())
        share = table.weights if self.per_weight else np.ones(len(table.weights))
        loss = table.harm / share[:, None]
        limits = np.unique(loss[np.isfinite(loss)])
        low, high = 0, len(limits) - 1  # the budget holds at the last
        while low < high:
            middle = (low + high) // 2
            if table.fits(_at(table, loss, share, limits[middle])):
                high = middle
            else:
                low = middle + 1
        return table.plan(raised(table, _at(table, loss, share, limits[high])))


def _at(table: Table, loss: np.ndarray, share: np.ndarray, limit: float) -> np.ndarray:
    """The smallest option of each row that loses at most `limit`, or the one that loses least; a
    block goes where all of it, on average, loses no more.
    """
    last = np.arange(table.harm.shape[1]) == table.harm.shape[1] - 1
    alone = ~(table.tied[:, None] & last)  # what a row may have without the rest of its block
    size = np.where((loss <= limit) & alone, table.size, np.inf)
    safest = np.where(alone, table.harm, np.inf).argmin(1)
    kept = np.where(np.isfinite(size).any(1), size.argmin(1), safest)
    if not table.tied.any():
        return kept
    mean = np.bincount(table.block, table.harm[:, -1]) / np.bincount(table.block, share)
    gone = table.tied & (mean <= limit)[table.block]
    return np.where(gone, len(last) - 1, kept)
