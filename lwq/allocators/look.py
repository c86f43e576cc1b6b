"""Plans that harms tell apart badly: a look at a few windows decides between them."""

import math
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import ClassVar

from lwq.allocators.knapsack import Knapsack
from lwq.allocators.search import Search
from lwq.common.errors import InputError, LimitSpent
from lwq.contracts import Budget, Costs, Option, Scores
from lwq.contracts.methods import Allocator, Objective

Bits = Mapping[str, Option]


@dataclass(frozen=True)
class Look(Allocator):
    """The plan of the least harm, or the one that is measured to be better of those which harms
    cannot tell from it.

    With embeddings and head among the units: the plans with one of them an option higher or lower.
    One option of such a unit is worth several of all others together: a harm that is a tenth off
    decides it wrongly, and with it the bits of every block.

    Where the harms of Costs add up to `large`, the plans for harms that saturate:

        h′ = c · log(1 + h / c),    c = scale · mean harm of a unit in the plan of the least harm

    KL is quadratic in small errors only. Of a plan that leaves little of a model, the harms of the
    worst units count for less than their squares say; how much less, only a look can tell.

    Costs a forward pass for each plan; none where there is but one.

    Attributes:
        large: nats a token; above it the sum of harms is no KL any more.
        scales: of c, as above.

    Source: measured, for matrices; see LOG.md.
    """

    large: float = 1.0
    scales: tuple[float, ...] = (8.0, 4.0, 2.0)

    searches: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not all(scale > 0 for scale in self.scales):
            raise InputError(f"look: scales={self.scales}; each is above 0")

    def __call__(
        self, scores: Scores | Costs, budget: Budget, objective: Objective | None = None
    ) -> dict[str, Option]:
        best, *others = self.plans(scores, budget)
        search = Search.of(objective, budget, best, "look")
        if others:
            with suppress(LimitSpent):
                search.harms([best])  # first: no other is taken that was not compared with it
                search.harms(others)
        return dict(search.best)

    def plans(self, scores: Scores | Costs, budget: Budget) -> list[dict[str, Option]]:
        """Unit -> option of each plan that is measured, that of the least harm first; each once."""
        best = Knapsack()(scores, budget)
        found = {frozenset(best.items()): best}
        for plan in (*_neighbours(best, scores, budget), *self._saturated(best, scores, budget)):
            if budget.holds(plan):
                found.setdefault(frozenset(plan.items()), plan)
        return list(found.values())

    def _saturated(
        self, best: Bits, scores: Scores | Costs, budget: Budget
    ) -> Iterator[dict[str, Option]]:
        if not isinstance(scores, Costs):
            return
        total = sum(scores[unit][option] for unit, option in best.items())
        if total <= 0 or total < self.large:
            return
        for scale in self.scales:
            c = scale * total / len(best)
            harm = {
                unit: {option: c * math.log1p(max(one, 0.0) / c) for option, one in own.items()}
                for unit, own in scores.items()
            }
            yield Knapsack()(replace(scores, harm=harm), budget)


def _neighbours(best: Bits, scores: Scores | Costs, budget: Budget) -> Iterator[dict[str, Option]]:
    """The plans of the least harm with an embedding or head one option higher or lower."""
    for unit, own in budget.choices.items():
        if unit not in budget.layout.outside:
            continue
        place = own.index(best[unit])
        for option in (*own[max(0, place - 1) : place], *own[place + 1 : place + 2]):
            with suppress(InputError):  # no plan within the budget
                yield Knapsack()(scores, replace(budget, pinned={**budget.pinned, unit: option}))
