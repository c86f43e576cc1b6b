"""Move the least important units down, one step at a time, until the budget holds."""

from bisect import bisect_left
from dataclasses import dataclass

from lwq.common.errors import InputError
from lwq.contracts import Budget, Scores, Width


def steps(order: list[str], widths: tuple[Width, ...], spread: float) -> list[tuple[str, Width]]:
    """The way from all-high to all-low as (unit, its next width), one unit one level down at a
    time.

    Unit r (0 = least important) leaves level s at time s + spread · r / units. So less important
    units never have more bits; `spread` = 1 empties each level before the next is used, and a
    larger one keeps more widths in use at once.
    """
    moves = [
        (level + spread * rank / len(order), rank, level)
        for level in range(len(widths) - 1)
        for rank in range(len(order))
    ]
    return [(order[rank], widths[level + 1]) for _, rank, level in sorted(moves)]


def descend(scores: Scores, budget: Budget, spread: float) -> dict[str, Width]:
    """Take as few steps down as the budget asks for (by bisection: every step makes the plan
    smaller).
    """
    way = steps(scores.order(), budget.widths, spread)

    def after(count: int) -> dict[str, Width]:
        return {**dict.fromkeys(scores, budget.widths[0]), **dict(way[:count])}

    def enough(count: int) -> bool:
        spent = budget.spent(after(count))
        return spent >= budget.amount if budget.limit == "moved" else budget.holds(after(count))

    return after(bisect_left(range(len(way) + 1), True, key=enough))


@dataclass(frozen=True)
class TopK:
    """Two widths: the most important units keep the high one, the least important move to the low
    one.

    The budget is met with as few moved units as possible; `moved=k` asks for k.

    Source: Dumitru et al. 2024, arXiv:2406.17415, section 3: b_avg = ((L − k) b_high + k b_low) / L
    for equal blocks.
    """

    def __call__(self, scores: Scores, budget: Budget) -> dict[str, Width]:
        if len(budget.widths) != 2:
            raise InputError(
                f"topk takes two widths, not {budget.widths}; use the allocator "
                f"'levels' for three or more"
            )
        return descend(scores, budget, spread=1.0)


@dataclass(frozen=True)
class Levels:
    """Three or more widths in bands of importance.

    Attributes:
        spread: 1 moves every unit down one level before any goes down two; 2 (default) lets the
            bands overlap, so that of three widths the middle one is held by a band between the two
            others. At least 1.
    """

    spread: float = 2.0

    def __call__(self, scores: Scores, budget: Budget) -> dict[str, Width]:
        if self.spread < 1:
            raise InputError(f"levels: spread={self.spread}; it is at least 1")
        return descend(scores, budget, self.spread)
