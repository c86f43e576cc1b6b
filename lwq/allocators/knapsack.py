"""The widths that do the least harm within a budget: one choice a unit, harms and sizes add up."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.optimize import LinearConstraint, milp
from scipy.sparse import coo_array

from lwq.allocators.expected import costs
from lwq.common.errors import InputError
from lwq.contracts import DROPPED, Budget, Costs, Scores, Width, matrix_bytes

HALVINGS = 100  # of the interval that holds the price of size


@dataclass(frozen=True)
class Knapsack:
    """The least total harm that the budget allows; any widths, 0 (drop) and 16 (keep) among them.

        minimise Σ_u harm(u, b_u)  with  Σ_u size(u, b_u) ≤ budget

    Costs bring the harm; for Scores it is importance(u) · distortion(b). A block is dropped whole:
    at a finer granularity all of its units go to 0 bits or none does. `moved=k` moves exactly k
    units, each to the width that harms it least.

    Up to `exact` choices (units × widths) the optimum is found by branch and bound (HiGHS). Above
    that a price is put on size and bisected until the budget holds, and what is left is spent on
    the moves that help most; the harm is then above the optimum by at most what one unit (one block
    that could be dropped) loses between two widths, which is little among many.

    Attributes:
        distortion: bits -> relative squared error, for Scores; None takes 4^-bits: each bit halves
            the step, and 0 bits is 1. For one that differs from unit to unit, hand over
            `lwq.allocators.expected.costs(scores, distortion)`.
        exact: the most choices that branch and bound is used for.

    Source: Shoham and Gersho 1988 (bits by Lagrangian relaxation); 4^-bits: 6 dB a bit.
    """

    distortion: Mapping[Width, float] | None = None
    exact: int = 2000

    def __call__(self, scores: Scores | Costs, budget: Budget) -> dict[str, Width]:
        found = (
            scores
            if isinstance(scores, Costs)
            else costs(scores, dict.fromkeys(scores, self._distortion(budget)))
        )
        table = table_of(found, budget)
        if budget.holds(highest := dict.fromkeys(budget.layout.units, budget.widths[0])):
            return highest  # harm never increases with bits; a unit that does none stays too
        columns = (
            table.optimum()
            if table.harm.size <= self.exact or budget.limit == "moved"
            else table.priced()
        )
        return {
            unit: budget.widths[column]
            for unit, column in zip(budget.layout.units, columns.tolist(), strict=True)
        }

    def _distortion(self, budget: Budget) -> Mapping[Width, float]:
        widths = budget.widths
        if self.distortion is None:
            return {width: 4.0 ** -budget.nominal(width) for width in widths}
        if missing := sorted(set(widths) - self.distortion.keys(), key=str):
            raise InputError(
                f"knapsack: distortion={self.distortion} lacks the widths {missing} "
                f"of bits={widths}; add them"
            )
        return dict(self.distortion)


@dataclass(frozen=True)
class Table:
    """One row a unit, one column a width, the highest first.

    Attributes:
        harm: (units, widths).
        size: (units, widths), in the unit of the budget.
        room: what the sizes may add up to; `full`: must add up to.
        block: (units,) number of the block that a unit is dropped with.
        drops: whether the last column is 0 bits.
    """

    harm: np.ndarray
    size: np.ndarray
    room: float
    full: bool
    block: np.ndarray
    drops: bool

    def optimum(self) -> np.ndarray:
        """The best column of each unit, by branch and bound."""
        units, widths = self.harm.shape
        cells = np.arange(units * widths).reshape(units, widths)
        one = _ones(np.repeat(np.arange(units), widths), cells.ravel(), (units, cells.size))
        total = coo_array(self.size.reshape(1, -1))
        constraints = [
            LinearConstraint(one, 1, 1),
            LinearConstraint(total, self.room if self.full else -np.inf, self.room),
        ]
        # the first unit of each unit's block
        head = np.unique(self.block, return_index=True)[1][self.block]
        tied = np.flatnonzero(head != np.arange(units))
        if self.drops and len(tied):
            rows, shape = np.arange(len(tied)), (len(tied), cells.size)
            same = _ones(rows, cells[tied, -1], shape) - _ones(rows, cells[head[tied], -1], shape)
            constraints.append(LinearConstraint(same, 0, 0))
        found = milp(
            self.harm.ravel() / (np.abs(self.harm).max() or 1.0),
            integrality=np.ones(cells.size),
            bounds=(0, 1),
            constraints=constraints,
            options={"mip_rel_gap": 0.0},
        )
        if found.x is None:
            raise InputError(f"knapsack: no widths add up to {self.room:g}; {found.message}")
        return found.x.reshape(units, widths).argmax(1)

    def priced(self) -> np.ndarray:
        """A column of each unit, by a price on size."""
        low, high = 0.0, 1.0
        while self._weight(self._at(high)) > self.room:
            high *= 4
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            low, high = (
                (middle, high) if self._weight(self._at(middle)) > self.room else (low, middle)
            )
        return self._filled(self._at(high))

    def _at(self, price: float) -> np.ndarray:
        worth = self.harm + price * self.size
        if not self.drops:
            return worth.argmin(1)
        kept = worth[:, :-1].argmin(1)
        best = np.take_along_axis(worth, kept[:, None], 1)[:, 0]
        gone = np.bincount(self.block, worth[:, -1]) < np.bincount(self.block, best)
        return np.where(gone[self.block], worth.shape[1] - 1, kept)

    def _weight(self, columns: np.ndarray) -> float:
        return float(np.take_along_axis(self.size, columns[:, None], 1).sum())

    def _filled(self, columns: np.ndarray) -> np.ndarray:
        """Spend what is left on the units that gain most; dropped blocks stay dropped, and no other
        one is.
        """
        columns, units = columns.copy(), np.arange(len(columns))
        left = self.room - self._weight(columns)
        gain = self.harm[units, columns][:, None] - self.harm
        gain[self.drops & (columns == self.harm.shape[1] - 1)] = 0
        for cell in np.argsort(-gain, axis=None, kind="stable"):
            unit, column = divmod(int(cell), gain.shape[1])
            if gain[unit, column] <= 0:
                break
            more = self.size[unit, column] - self.size[unit, columns[unit]]
            if more <= left and self.harm[unit, column] < self.harm[unit, columns[unit]]:
                columns[unit], left = column, left - more
        return columns


def table_of(found: Costs, budget: Budget) -> Table:
    """Harm and size of each choice. Raises InputError where the costs lack a width."""
    widths, layout = budget.widths, budget.layout
    for unit in layout.units:
        if missing := sorted(set(widths) - found[unit].keys(), key=str):
            raise InputError(
                f"knapsack: the costs of {unit} lack the widths {missing} of "
                f"bits={widths}; measure them"
            )
    harm = np.array([[found[unit][width] for width in widths] for unit in layout.units])
    drops = widths[-1] == DROPPED
    names = [layout.block_of(unit) for unit in layout.units] if drops else list(layout.units)
    _, first, block = np.unique(names, return_index=True, return_inverse=True)
    size, room = _sizes(budget), budget.amount
    if budget.limit == "avg_bits":
        room *= layout.total
    elif budget.limit == "true_bits":
        room *= layout.total / 8
    elif budget.limit == "max_bytes":
        room -= 2 * sum(layout.rest.values())
        if drops:  # what no plan reaches goes with its block
            size[first, -1] -= [2 * layout.rest.get(names[index], 0) for index in first]
    return Table(harm, size, room, budget.limit == "moved", block, drops)


def _sizes(budget: Budget) -> np.ndarray:
    layout, widths = budget.layout, budget.widths
    if budget.limit == "moved":
        return np.tile([float(width != widths[0]) for width in widths], (len(layout.units), 1))
    if budget.limit == "avg_bits":
        return np.array(
            [
                [layout.weights(unit) * budget.nominal(width) for width in widths]
                for unit in layout.units
            ],
            dtype=float,
        )
    shapes = {shape for matrices in layout.units.values() for shape in matrices.values()}
    weighed = {
        shape: np.array([matrix_bytes(shape, width, budget.quantizer) for width in widths], float)
        for shape in shapes
    }
    return np.array(
        [sum(weighed[shape] for shape in matrices.values()) for matrices in layout.units.values()]
    )


def _ones(rows: np.ndarray, columns: np.ndarray, shape: tuple[int, int]) -> coo_array:
    return coo_array((np.ones(len(rows)), (rows, columns)), shape=shape)
