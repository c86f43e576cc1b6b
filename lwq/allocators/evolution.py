"""Mutation and selection: offspring of equal size, judged on more and more text."""

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from lwq.allocators.greedy import require_size
from lwq.allocators.knapsack import Knapsack
from lwq.allocators.search import Bits, Search, larger, moved, smaller
from lwq.allocators.table import Table, table_of
from lwq.common.errors import InputError, LimitSpent
from lwq.contracts import Budget, Costs, Option, Scores
from lwq.contracts.methods import Allocator, Objective

FLIPS = 3  # level switches of one offspring, at most
TRIES = 20  # for an offspring that is new


@dataclass(frozen=True)
class Evolution(Allocator):
    """EvoPress: the parent's offspring switch a few levels at equal size; the best one, if it is
    better, is the next parent.

    An offspring makes min(U{1..3}, U{1..3}) switches; each takes one unit a level down and another
    a level up, of those that free just the bytes that it needs, or the fewest that will do. Of the
    offspring of a generation the best go on to the next stage, which sees more of the windows; the
    last sees all, and the parent stands against it.

    Attributes:
        start: the allocator of the first parent (the paper starts from uniform bits).
        offspring: of one generation (the paper: 128).
        stages: (survivors, share of the windows) of each stage before the last one (the paper: 16
            on 1/64, 4 on 1/8 of its tokens).
        generations: at most; the limit of the objective mostly ends it, or no offspring being new.
        seed: of the mutations.

    Source: EvoPress, arXiv:2410.14649, algorithm 1 and section on multi-step selection.
    """

    start: Allocator = field(default_factory=Knapsack)
    offspring: int = 16
    stages: tuple[tuple[int, float], ...] = ((4, 0.25),)
    generations: int = 150
    seed: int = 0

    searches: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.offspring < 1 or any(
            count < 1 or not 0 < share <= 1 for count, share in self.stages
        ):
            raise InputError(
                f"evolution: offspring={self.offspring}, stages={self.stages}; give at least one, "
                "and (survivors of at least 1, share of the windows above 0 and at most 1) a stage"
            )

    def __call__(
        self, scores: Scores | Costs, budget: Budget, objective: Objective | None = None
    ) -> dict[str, Option]:
        require_size(budget, "evolution")
        table, draw = table_of(scores, budget), np.random.default_rng(self.seed)
        search = Search.of(objective, budget, self.start(scores, budget), "evolution")
        try:
            search.harms([search.best])
            for _ in range(self.generations):
                if not self._generation(search, table, draw):
                    break
        except LimitSpent:
            pass
        return dict(search.best)

    def _generation(self, search: Search, table: Table, draw: np.random.Generator) -> bool:
        """Judge the offspring of the best plan; False where none of them is new."""
        parent = table.columns(search.best)
        made = [_offspring(search, table, parent, draw) for _ in range(self.offspring)]
        distinct = {tuple(columns.tolist()): columns for columns in made if columns is not None}
        plans: list[Bits] = [table.plan(columns) for columns in distinct.values()]
        for count, share in self.stages:
            if len(plans) > count:
                harms = search.harms(plans, share)
                plans = [plans[place] for place in np.argsort(harms, kind="stable")[:count]]
        if plans:
            search.harms(plans)
        return bool(plans)


def _offspring(
    search: Search, table: Table, parent: np.ndarray, draw: np.random.Generator
) -> np.ndarray | None:
    """A plan that fits and was not measured yet; None where none was found."""
    for _ in range(TRIES):
        columns = parent
        for _ in range(draw.integers(1, FLIPS + 1, size=2).min()):
            columns = _switched(table, columns, draw)
        fits = table.fits(columns)
        if fits and not search.tried(table.plan(columns)):
            return columns
    return None


def _switched(table: Table, columns: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """One row up, and one down that makes room for it, each drawn at random."""
    up, down = larger(table, columns), smaller(table, columns)
    risers = np.flatnonzero(up >= 0)
    if not len(risers):
        return columns
    riser = int(draw.choice(risers))
    raised, now = moved(columns, [riser], up), table.at(table.size, columns)
    need = table.weight(raised) - table.room
    freed = np.where(down >= 0, now - table.at(table.size, down), -np.inf)
    freed[riser] = -np.inf
    added = table.size[riser, up[riser]] - now[riser]
    equal = np.flatnonzero(freed == added)
    enough = np.flatnonzero(freed >= max(need, np.finfo(float).tiny))
    if not len(equal) and len(enough):  # the fewest bytes that will do
        equal = enough[freed[enough] == freed[enough].min()]
    return moved(raised, [int(draw.choice(equal))], down) if len(equal) else raised
