"""What searches share: the best plan so far, and an end when the forward passes are spent."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from lwq.allocators.table import Table
from lwq.common.errors import InputError, LimitSpent
from lwq.contracts import Budget, Option
from lwq.contracts.methods import Objective

Bits = Mapping[str, Option]


@dataclass
class Search:
    """The trials of one search.

    Attributes:
        budget: what the best plan must hold.
        best: the plan with the least harm so far, of those that hold.
        harm: what it was measured at; inf before the first trial.
    """

    objective: Objective
    budget: Budget
    best: Bits
    harm: float = float("inf")
    _known: dict[frozenset[tuple[str, Option]], float] = field(default_factory=dict)

    @classmethod
    def of(cls, objective: Objective | None, budget: Budget, start: Bits, name: str) -> "Search":
        """A search from a plan that holds. Raises InputError without an objective."""
        if objective is None:
            raise InputError(
                f"{name} measures plans and needs an objective: "
                f"lwq.allocate(…, objective=lwq.Objective(sweep, limit=500)); without one take "
                "'knapsack'"
            )
        return cls(objective, budget, start)

    def tried(self, bits: Bits) -> bool:
        """Whether the harm of a plan on all windows is known."""
        return frozenset(bits.items()) in self._known

    def harms(self, plans: Iterable[Bits], share: float = 1.0) -> list[float]:
        """Harm of each plan, on the first `share` of the windows; of those on all of them the best
        is kept.

        Raises LimitSpent; what was measured until then counts.
        """
        plans = list(plans)
        try:
            found = [losses.harm for losses in self.objective.many(plans, share)]
        except LimitSpent:
            if share == 1.0:
                self._save(plans)
            raise
        if not all(map(math.isfinite, found)):
            raise InputError(f"the objective measured {found}; harms of plans are finite")
        if share == 1.0:
            for bits, harm in zip(plans, found, strict=True):
                self._note(bits, harm)
        return found

    def _save(self, plans: list[Bits]) -> None:
        """Note those that were measured before the limit: they cost nothing any more."""
        for bits in plans:
            try:
                self._note(bits, self.objective(bits).harm)
            except LimitSpent:
                continue

    def _note(self, bits: Bits, harm: float) -> None:
        self._known[frozenset(bits.items())] = harm
        if harm < self.harm and self.budget.holds(bits):
            self.best, self.harm = dict(bits), harm


def larger(table: Table, columns: np.ndarray) -> np.ndarray:
    """The next larger option of each row, (rows,) columns; −1 where there is none."""
    return _next(table, columns, 1)


def smaller(table: Table, columns: np.ndarray) -> np.ndarray:
    """The next smaller option of each row, (rows,) columns; −1 where there is none."""
    return _next(table, columns, -1)


def _next(table: Table, columns: np.ndarray, way: int) -> np.ndarray:
    """Blocks of several rows are neither dropped nor taken back: that is no small step."""
    further = way * (table.size - table.at(table.size, columns)[:, None])
    last = table.harm.shape[1] - 1
    free = np.isfinite(table.harm) & (further > 0)
    free[table.tied, last] = False
    free[table.tied & (columns == last)] = False
    found = np.where(free, further, np.inf).argmin(1)
    return np.where(free.any(1), found, -1)


def moved(columns: np.ndarray, rows: list[int], to: np.ndarray) -> np.ndarray:
    """`columns` with some rows at those of `to`."""
    changed = columns.copy()
    changed[rows] = to[rows]
    return changed
