"""Scores hold near the plan that they were taken at: score there, choose, and score again."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from lwq.allocators.greedy import require_size
from lwq.allocators.knapsack import EXACT, solved
from lwq.allocators.search import Search, larger, moved, smaller
from lwq.allocators.table import Table, table_of
from lwq.common.errors import LimitSpent
from lwq.contracts import Budget, Costs, Option, Scores
from lwq.contracts.methods import Allocator, Objective


@dataclass(frozen=True)
class Iterate(Allocator):
    """The knapsack's plan; harms around it; the knapsack's plan for those; until it comes back.

    Without `rescore` the harms are measured: each unit one option up and one down from the plan,

        harm(u, b) − harm(u, b_u) = H(plan with u at b) − H(plan)

    and further options keep the ratio that the scores had, scaled to the measured step of their
    side. That is two plans a unit and round. The plan with the least measured harm is returned.

    Attributes:
        rounds: at most.
        rescore: plan -> Costs around it, in place of measuring each unit: a scorer that expands
            there.

    Source: sequential linear programming (Griffith and Stewart 1961) with the knapsack as the
    program.
    """

    rounds: int = 4
    rescore: Callable[[Mapping[str, Option]], Costs] | None = None

    searches: ClassVar[bool] = True

    def __call__(
        self, scores: Scores | Costs, budget: Budget, objective: Objective | None = None
    ) -> dict[str, Option]:
        require_size(budget, "iterate")
        table = table_of(scores, budget)
        plan = table.plan(solved(table, EXACT))
        search = Search.of(objective, budget, plan, "iterate")
        try:
            for _ in range(self.rounds):
                (harm,) = search.harms([plan])
                table = self._around(table, plan, harm, search)
                plan = table.plan(solved(table, EXACT))
                if search.tried(plan):
                    break
            else:
                search.harms([plan])
        except LimitSpent:
            pass
        return dict(search.best)

    def _around(
        self, table: Table, plan: Mapping[str, Option], harm: float, search: Search
    ) -> Table:
        if self.rescore is not None:
            return table_of(self.rescore(plan), search.budget)
        columns = table.columns(plan)
        found = table.harm - table.at(table.harm, columns)[:, None]
        for to in (larger(table, columns), smaller(table, columns)):
            rows = np.flatnonzero(to >= 0).tolist()
            near = [table.plan(moved(columns, [row], to)) for row in rows]
            for row, value in zip(rows, search.harms(near), strict=True):
                found[row] = _scaled(table, found[row], row, columns[row], to[row], value - harm)
        return replace(table, harm=found)


def _scaled(
    table: Table, found: np.ndarray, row: int, column: int, step: int, measured: float
) -> np.ndarray:
    """Harms of a row over that at `column`; on the side of `step` scaled, so that it is what was
    measured there.
    """
    way = table.size[row, step] - table.size[row, column]
    side = (table.size[row] - table.size[row, column]) * way > 0
    ratio = measured / found[step] if found[step] * measured > 0 else 0.0
    return np.where(side & np.isfinite(found), found * ratio if ratio else measured, found)
