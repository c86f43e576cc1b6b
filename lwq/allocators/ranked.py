"""Move the least important units down, one step at a time, until the budget holds."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lwq.allocators.table import SLACK, unit_sizes
from lwq.common.errors import InputError
from lwq.contracts import DROPPED, Budget, Costs, Option, Scores
from lwq.contracts.methods import Allocator, Objective


def steps(units: int, levels: int, spread: float) -> tuple[np.ndarray, np.ndarray]:
    """The way from all-high to all-low, one unit one level down at a time: (rank, level) of each
    step, from `level` to the next.

    Unit r (0 = least important) leaves level s at time s + spread · r / units; of equal times the
    less important unit goes first. So less important units never have more bits; `spread` = 1
    empties each level before the next is used, and a larger one keeps more widths in use at once.
    """
    level, rank = (part.ravel() for part in np.mgrid[0 : levels - 1, 0:units])
    order = np.lexsort((level, rank, level + spread * rank / units))
    return rank[order], level[order]


def descend(order: Sequence[str], budget: Budget, spread: float, name: str) -> dict[str, Option]:
    """Take as few steps down as the budget asks for: the sizes after each step are a running sum.

    Args:
        order: units from the least to the most important; pinned ones stay where they are.
        name: of the allocator, for errors.

    Raises:
        InputError: for constraints that an order of units cannot honour, and a spread below 1, by
            which more important units would go down first.
    """
    if not spread >= 1:
        raise InputError(f"{name}: spread={spread}; it is at least 1")
    widths = common_widths(budget, name)
    free = [unit for unit in order if len(budget.choices[unit]) > 1]
    rank, level = steps(len(free), len(widths), spread)
    count = _needed(budget, free, widths, rank, level)
    taken = np.bincount(rank[:count], minlength=len(free))
    chosen = {unit: options[0] for unit, options in budget.choices.items()}
    return chosen | {unit: widths[down] for unit, down in zip(free, taken.tolist(), strict=True)}


def common_widths(budget: Budget, name: str) -> tuple[Option, ...]:
    """The options of every unit that is not pinned. Raises InputError where they differ, or where
    units are tied.
    """
    if budget.groups:
        raise InputError(f"{name} orders single units; for groups take 'knapsack' or 'lagrange'")
    sets = {options for options in budget.choices.values() if len(options) > 1}
    if len(sets) > 1:
        raise InputError(
            f"{name} moves units along one row of options, and they differ: "
            f"{sorted(map(str, sets))[:2]}; for options of a unit's own take 'knapsack' or "
            "'lagrange'"
        )
    return next(iter(sets), budget.offered)


def _needed(
    budget: Budget, free: list[str], widths: tuple[Option, ...], rank: np.ndarray, level: np.ndarray
) -> int:
    """How many steps it takes until the budget holds."""
    if budget.limit == "moved":
        return _of_first_steps(int(budget.amount), level)
    places = {unit: row for row, unit in enumerate(budget.layout.units)}
    size = unit_sizes(budget)  # (units, options)
    columns = [budget.offered.index(width) for width in widths]
    top = [budget.offered.index(budget.choices[unit][0]) for unit in places]
    rows = np.array([places[unit] for unit in free], dtype=int)[rank]  # of each step
    less = size[rows, np.array(columns)[level]] - size[rows, np.array(columns)[level + 1]]
    total = size[np.arange(len(size)), top].sum()
    if budget.limit == "max_bytes":
        total += 2 * sum(budget.layout.rest.values())
        less += _rests(budget, free, widths, rank, level)
    after = total - np.concatenate([[0.0], np.cumsum(less)])  # no, one, two … steps
    scale = {"avg_bits": budget.layout.total, "true_bits": budget.layout.total / 8}
    room = budget.amount * SLACK * scale.get(budget.limit, 1)
    return int((after <= room).argmax())


def _of_first_steps(moved: int, level: np.ndarray) -> int:
    """Steps until so many units have left the highest level."""
    return int(np.searchsorted(np.cumsum(level == 0), moved)) + 1 if moved else 0


def _rests(
    budget: Budget, free: list[str], widths: tuple[Option, ...], rank: np.ndarray, level: np.ndarray
) -> np.ndarray:
    """What each step saves of what no plan reaches: the last unit of a block that goes to 0 bits
    takes the rest of the block with it.
    """
    saved = np.zeros(len(rank))
    if widths[-1] != DROPPED:
        return saved
    layout, pinned = budget.layout, budget.choices.keys() - set(free)
    staying = {layout.block_of(unit) for unit in pinned if budget.choices[unit] != (DROPPED,)}
    blocks = [layout.block_of(unit) for unit in free]
    last = {  # block -> its last step
        blocks[unit]: step
        for step, unit in zip(
            np.flatnonzero(level == len(widths) - 2).tolist(),
            rank[level == len(widths) - 2].tolist(),
            strict=True,
        )
    }
    for block, step in last.items():
        saved[step] = 0 if block in staying else 2 * layout.rest.get(block, 0)
    return saved


@dataclass(frozen=True)
class TopK(Allocator):
    """Two widths: the most important units keep the high one, the least important move to the low
    one.

    The budget is met with as few moved units as possible; `moved=k` asks for k.

    Source: Dumitru et al. 2024, arXiv:2406.17415, section 3: b_avg = ((L − k) b_high + k b_low) / L
    for equal blocks.
    """

    def __call__(
        self, scores: Scores | Costs, budget: Budget, objective: Objective | None = None
    ) -> dict[str, Option]:
        widths = common_widths(budget, "topk")
        # of two that are offered, constraints may leave one to every unit
        if len(widths) > 2 or len(budget.widths) < 2:
            raise InputError(
                f"topk takes two widths, not {widths}; use the allocator 'levels' for three or more"
            )
        return descend(scores.order(), budget, 1.0, "topk")


@dataclass(frozen=True)
class Levels(Allocator):
    """Three or more widths in bands of importance.

    Attributes:
        spread: 1 moves every unit down one level before any goes down two; 2 (default) lets the
            bands overlap, so that of three widths the middle one is held by a band between the two
            others. At least 1.
    """

    spread: float = 2.0

    def __call__(
        self, scores: Scores | Costs, budget: Budget, objective: Objective | None = None
    ) -> dict[str, Option]:
        return descend(scores.order(), budget, self.spread, "levels")
