"""From a plan that is good to one that no small step makes better, by measuring."""

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from lwq.allocators.greedy import require_size
from lwq.allocators.knapsack import Knapsack
from lwq.allocators.search import Search, larger, moved, smaller
from lwq.allocators.table import Table, table_of
from lwq.common.errors import InputError, LimitSpent
from lwq.contracts import Budget, Costs, Option, Scores
from lwq.contracts.methods import Allocator, Objective

ENDS = 200  # rows that may go up, and that may go down, in one round


@dataclass(frozen=True)
class Refine(Allocator):
    """Local search: one unit goes up where it fits, or one goes up and another down; the harm is
    measured.

    Steps are tried in the order in which the scores expect them to help, `batch` at a time; the
    best of a batch is taken if it makes the measured harm smaller, and the search goes on from
    there. It ends where no step helps, or where the passes are spent.

    Attributes:
        start: the allocator of the first plan.
        batch: steps that are measured together.

    Source: 2-exchange local search, as in Croes 1958.
    """

    start: Allocator = field(default_factory=Knapsack)
    batch: int = 8

    searches: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise InputError(f"refine: batch={self.batch}; at least one step is measured at once")

    def __call__(
        self, scores: Scores | Costs, budget: Budget, objective: Objective | None = None
    ) -> dict[str, Option]:
        require_size(budget, "refine")
        table = table_of(scores, budget)
        search = Search.of(objective, budget, self.start(scores, budget), "refine")
        try:
            search.harms([search.best])
            while self._improved(search, table):
                pass
        except LimitSpent:
            pass
        return dict(search.best)

    def _improved(self, search: Search, table: Table) -> bool:
        """Take the first step, in expected order, that helps; False where none does."""
        before, columns = search.harm, table.columns(search.best)
        plans = [
            plan for step in steps(table, columns) if not search.tried(plan := table.plan(step))
        ]
        for first in range(0, len(plans), self.batch):
            search.harms(plans[first : first + self.batch])
            if search.harm < before:
                return True
        return False


def steps(table: Table, columns: np.ndarray) -> list[np.ndarray]:
    """Plans one step away that fit, (rows,) columns each; those expected to do least harm first."""
    up, down = larger(table, columns), smaller(table, columns)
    gain, more = _change(table, columns, up)
    loss, less = _change(table, columns, down)
    room = table.room - table.weight(columns)
    rise = [row for row in np.argsort(gain, kind="stable")[:ENDS].tolist() if up[row] >= 0]
    fall = [row for row in np.argsort(loss, kind="stable")[:ENDS].tolist() if down[row] >= 0]
    found = [(gain[u], u, -1) for u in rise if more[u] <= room]
    found += [
        (gain[u] + loss[v], u, v)
        for u in rise
        for v in fall
        if u != v and more[u] + less[v] <= room
    ]
    both = np.where(up >= 0, up, columns)
    return [
        moved(moved(columns, [u], both), [v] if v >= 0 else [], down) for _, u, v in sorted(found)
    ]


def _change(table: Table, columns: np.ndarray, to: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What the step of each row adds to harm and size; inf harm where it has none."""
    harm = table.at(table.harm, to) - table.at(table.harm, columns)
    size = table.at(table.size, to) - table.at(table.size, columns)
    return np.where(to >= 0, harm, np.inf), size
