"""A price on size: each unit chooses for itself, and the few that hesitate are settled together."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from lwq.allocators.greedy import raised, require_size
from lwq.allocators.table import Table, table_of
from lwq.contracts import Budget, Costs, Option, Scores
from lwq.contracts.methods import Allocator, Objective

HALVINGS = 100  # of the interval that holds the price of size
ROWS = 48  # that are settled together
ROUNDING = 1e-12  # of sums of harms, relative
STATES = 4000  # partial plans that are kept while they are


@dataclass(frozen=True)
class Lagrange(Allocator):
    """Nearly the least total harm, by a price λ on size; for 100,000 units in seconds.

        b_u = argmin_b harm(u, b) + λ · size(u, b)

    λ is the least price at which the plan fits, by bisection, so that only options on the lower
    convex hull of a unit's (size, harm) are chosen. What is left is spent on the steps that save
    most harm a byte, and then the units that lose least by another option are settled together, by
    dynamic programming over the plans of which none is both smaller and less harmful than another.
    Options off the hull come in there.

    The harm is above the optimum by at most what one unit (one block that could be dropped) loses
    between two options, and mostly by nothing; `knapsack` proves it.

    Attributes:
        distortion: option -> relative squared error, for Scores; None takes 4^-bits.

    Source: Shoham and Gersho 1988 (the price); Pisinger 1995, A minimal algorithm for the
    multiple-choice knapsack problem (the core that is settled exactly).
    """

    distortion: Mapping[Option, float] | None = None

    def __call__(
        self, scores: Scores | Costs, budget: Budget, objective: Objective | None = None
    ) -> dict[str, Option]:
        require_size(budget, "lagrange")
        table = table_of(scores, budget, self.distortion)
        return table.plan(relaxed(table).columns)


@dataclass(frozen=True)
class Relaxed:
    """A plan that fits, and how far from the best it may be.

    Attributes:
        columns: (rows,) of the plan.
        regret: (rows, options) what an option adds to the harm of every plan, at the least, over
            the harm of the dual bound; for a row that is dropped with others, what it adds to the
            plans that keep its block.
        keep, drop: (blocks,) what it adds to keep or to drop a block of several rows.
        gap: harm of the plan less the dual bound; 0 where the plan is proven to be the best.
    """

    columns: np.ndarray
    regret: np.ndarray
    keep: np.ndarray
    drop: np.ndarray
    gap: float


def relaxed(table: Table) -> Relaxed:
    """The best plan found by a price, filled and settled."""
    columns = table.safest()
    if table.fits(columns):
        zero = np.zeros(table.block.max() + 1)
        return Relaxed(columns, table.harm, zero, zero, 0.0)
    price = _price(table)
    base = _at(table, price)
    regret, keep, drop = _regrets(table, price)
    filled = raised(table, base)
    # dual bound: what all rows add up to at this price
    bound = table.loss(base) + price * (table.weight(base) - table.room)
    found = Relaxed(filled, regret, keep, drop, _gap(table.loss(filled), bound))
    settled, complete = _settled(table, found, base, price)
    best = min(settled, filled, key=table.loss)
    gap = 0.0 if complete else _gap(table.loss(best), bound)
    return Relaxed(best, regret, keep, drop, gap)


def _gap(loss: float, bound: float) -> float:
    """0 where the two differ by rounding alone."""
    return loss - bound if loss - bound > ROUNDING * abs(loss) else 0.0


def _at(table: Table, price: float) -> np.ndarray:
    return table.cheapest(table.harm + price * table.size)


def _price(table: Table) -> float:
    """The least price at which the plan fits."""
    low, high = 0.0, 1.0
    while not table.fits(_at(table, high)):
        low, high = high, high * 4
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        fits = table.fits(_at(table, middle))
        low, high = (low, middle) if fits else (middle, high)
    return high


def _regrets(table: Table, price: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """See `Relaxed`."""
    worth = table.harm + price * table.size  # (rows, options)
    free = worth.copy()
    free[table.tied, -1] = np.inf
    least = free.min(1)
    regret = free - least[:, None]
    ahead = np.where(table.tied, worth[:, -1] - least, 0.0)
    lead = np.bincount(table.block, ahead)  # what dropping adds, below 0 where it helps
    return regret, np.maximum(0.0, -lead), np.maximum(0.0, lead)


def _settled(
    table: Table, found: Relaxed, base: np.ndarray, price: float
) -> tuple[np.ndarray, bool]:
    """The best plan that differs from `base` in the rows that hesitate most, and whether no other
    plan can be better.
    """
    blocks, complete = _core(table, found)
    ends = [_ends(table, found, base, rows) for rows in blocks]
    less, more = (np.cumsum([end[side] for end in ends][::-1])[::-1] for side in (0, 1))
    states = _States(np.array([table.weight(base)]), np.zeros(1), np.zeros((1, 0), dtype=int))
    for step, rows in enumerate(blocks):
        states = _over(table, found, base, rows, states)
        left = step + 1 < len(blocks)
        low = states.size + (less[step + 1] if left else 0.0)
        high = states.size + (more[step + 1] if left else 0.0)
        harm = states.regret + price * np.maximum(0.0, table.room - high)
        states = states.only((low <= table.room) & (harm <= found.gap))
        states = states.undominated(states.regret - price * states.size)
        complete = complete and len(states.size) <= STATES
        states = states.only(np.argsort(states.regret, kind="stable")[:STATES])
    columns = base.copy()
    if len(states.size):
        best = (states.regret - price * states.size).argmin()
        columns[np.concatenate(blocks or [np.zeros(0, dtype=int)])] = states.picks[best]
    return columns, complete


def _core(table: Table, found: Relaxed) -> tuple[list[np.ndarray], bool]:
    """The rows of each block that may differ from the base, those that lose least first, and
    whether these are all that could be in a better plan.
    """
    regret = found.regret + found.keep[table.block][:, None]
    second = np.sort(regret, 1)[:, 1:2].min(1, initial=np.inf)
    other = np.where(table.tied, np.maximum(found.keep, found.drop)[table.block], np.inf)
    nearest = np.full(len(found.keep), np.inf)
    np.minimum.at(nearest, table.block, np.minimum(second, other))
    some = np.flatnonzero(nearest <= found.gap)
    order = some[np.argsort(nearest[some], kind="stable")]
    fit = np.bincount(table.block)[order].cumsum() <= ROWS
    fit[:1] = True
    return [np.flatnonzero(table.block == block) for block in order[fit]], bool(fit.all())


def _ends(table: Table, found: Relaxed, base: np.ndarray, rows: np.ndarray) -> tuple[float, float]:
    """What a block can save in size, and add, at options that are open; below and above 0."""
    size, now = table.size[rows], table.size[rows, base[rows]].sum()
    is_open = found.regret[rows] <= found.gap
    low = np.where(is_open, size, np.inf).min(1).sum()
    high = np.where(is_open, size, -np.inf).max(1).sum()
    gone = size[:, -1].sum() if table.tied[rows[0]] else low
    return min(low, gone) - now, max(high, gone) - now


@dataclass(frozen=True)
class _States:
    """Partial plans: some rows are settled, all others are as in the base.

    Attributes:
        size: (states,) of the plan.
        regret: (states,) of what is settled; harm = bound + regret + price · (room − size).
        picks: (states, settled rows) columns.
    """

    size: np.ndarray
    regret: np.ndarray
    picks: np.ndarray

    def only(self, which: np.ndarray) -> "_States":
        return _States(self.size[which], self.regret[which], self.picks[which])

    def plus(self, size: float, regret: float, picks: list[int]) -> "_States":
        added = np.tile(np.array(picks, dtype=int), (len(self.size), 1))
        return _States(self.size + size, self.regret + regret, np.hstack([self.picks, added]))

    def undominated(self, value: np.ndarray) -> "_States":
        """Without those that another beats in both size and value."""
        order = np.lexsort((value, self.size))
        best = np.minimum.accumulate(np.concatenate([[np.inf], value[order][:-1]]))
        return self.only(order[value[order] < best])


def _joined(states: list[_States]) -> _States:
    return _States(
        np.concatenate([one.size for one in states]),
        np.concatenate([one.regret for one in states]),
        np.concatenate([one.picks for one in states]),
    )


def _over(
    table: Table, found: Relaxed, base: np.ndarray, rows: np.ndarray, states: _States
) -> _States:
    """Every state with every open choice of one block."""
    block, now = table.block[rows[0]], float(table.size[rows, base[rows]].sum())
    kept = states.plus(-now, float(found.keep[block]), [])
    for row in rows.tolist():
        regret, size = found.regret[row], table.size[row]
        cells = np.flatnonzero(regret <= found.gap).tolist()
        kept = _joined([kept.plus(size[cell], regret[cell], [cell]) for cell in cells])
        kept = kept.only(kept.regret <= found.gap)
        kept = kept.only(np.argsort(kept.regret, kind="stable")[: 16 * STATES])
    if not table.tied[rows[0]]:
        return kept
    drop, last = float(found.drop[block]), table.harm.shape[1] - 1
    gone = states.plus(float(table.size[rows, -1].sum()) - now, drop, [last] * len(rows))
    return _joined([kept, gone])
