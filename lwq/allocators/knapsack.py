"""The options that do the least harm within a budget: one choice a unit, harms and sizes add up."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import LinearConstraint, OptimizeResult, milp
from scipy.sparse import coo_array

from lwq.allocators.lagrange import relaxed
from lwq.allocators.table import Table, table_of
from lwq.common.errors import InputError
from lwq.common.quiet import quiet
from lwq.contracts import Budget, Costs, Option, Scores
from lwq.contracts.methods import Allocator, Objective

EXACT = 2000  # open choices that branch and bound is used for


@dataclass(frozen=True)
class Knapsack(Allocator):
    """The least total harm that the budget allows; any widths, 0 (drop) and 16 (keep) among them.

        minimise Σ_u harm(u, b_u)  with  Σ_u size(u, b_u) ≤ budget

    Costs bring the harm; for Scores it is importance(u) · distortion(b). A block is dropped whole:
    at a finer granularity all of its units go to 0 bits or none does. `moved=k` moves exactly k
    units, each to the width that harms it least.

    The plan of `lagrange` comes with a dual bound: no plan is better than it by more than the gap
    between the two. An option that adds more than the gap to every plan is in no better one; where
    what is left open is small enough, branch and bound (HiGHS) finds the optimum among it. The plan
    is then the best there is, and mostly that of `lagrange`.

    Attributes:
        distortion: option -> relative squared error, for Scores; None takes 4^-bits: each bit
            halves the step, and 0 bits is 1. For one that differs from unit to unit, hand over
            `lwq.allocators.expected.costs(scores, distortion)`.
        exact: the most choices (units × options) left open that branch and bound is used for;
            above it, as where thousands of units are the same, the plan of `lagrange` stands.

    Source: Shoham and Gersho 1988 (bits by Lagrangian relaxation); Pisinger 1995 (the core of the
    multiple-choice knapsack); 4^-bits: 6 dB a bit.
    """

    distortion: Mapping[Option, float] | None = None
    exact: int = EXACT

    def __call__(
        self, scores: Scores | Costs, budget: Budget, objective: Objective | None = None
    ) -> dict[str, Option]:
        table = table_of(scores, budget, self.distortion)
        return table.plan(_moved(table) if table.full else solved(table, self.exact))


def solved(table: Table, exact: int) -> np.ndarray:
    """The best column of each row within the room; see `Knapsack`."""
    found = relaxed(table)
    if found.gap == 0:
        return found.columns
    # what is in no better plan is closed; the plan at hand stays open
    cells = found.regret + found.keep[table.block][:, None] <= found.gap
    cells[table.tied, -1] = (found.drop[table.block] <= found.gap)[table.tied]
    cells[np.arange(len(cells)), found.columns] = True
    if cells[cells.sum(1) > 1].sum() > exact:
        return found.columns
    better = optimum(table, cells, found.columns, found.gap)
    fits = table.fits(better)
    return better if fits and table.loss(better) < table.loss(found.columns) else found.columns


def _moved(table: Table) -> np.ndarray:
    """Exactly as many units below their highest option as the room says."""
    highest = np.isfinite(table.harm).argmax(1)
    below = np.where(table.size > 0, table.harm, np.inf)
    down = below.argmin(1)
    if table.tied.any() or table.size.max() > 1:
        scale = float(table.harm[np.isfinite(table.harm)].max()) or 1.0
        return optimum(table, np.isfinite(table.harm), highest, scale)
    loss = table.at(below, down) - table.at(table.harm, highest)
    first = np.argsort(loss, kind="stable")[: int(table.room)]
    columns = highest.copy()
    columns[first] = down[first]
    return columns


def optimum(table: Table, cells: np.ndarray, base: np.ndarray, scale: float) -> np.ndarray:
    """The best columns among open cells, by branch and bound.

    Args:
        cells: (rows, options) what is open; rows with one open cell stay at the base.
        base: (rows,) a plan among them; for a budget that holds, it need not be within the room.
        scale: harm that makes a difference.

    Raises:
        InputError: where no choice adds up to the room.
    """
    loose = np.flatnonzero(cells.sum(1) > 1)
    row, column = np.nonzero(cells[loose])  # of each variable; rows are counted among the loose
    harm = table.harm[loose[row], column] - table.harm[loose, base[loose]][row]
    size = table.size[loose[row], column]
    fixed = table.weight(base) - table.size[loose, base[loose]].sum()
    room = table.room - fixed
    unit = _unit(size)
    one = ones(row, np.arange(len(row)), (len(loose), len(row)))
    total = coo_array((size / unit).reshape(1, -1))
    most = room / unit if table.full or unit == 1 else np.floor(room / unit)
    constraints = [
        LinearConstraint(one, 1, 1),
        LinearConstraint(total, most if table.full else -np.inf, most),
        *whole_drops(table, loose[row], column, len(row)),
    ]
    found = branched(harm / scale, np.ones(len(row)), constraints, mip_rel_gap=0.0)
    if found.x is None:
        raise InputError(f"knapsack: no widths add up to {table.room:g}; {found.message}")
    columns, taken = base.copy(), found.x > 0.5
    columns[loose[row[taken]]] = column[taken]
    return columns


def branched(
    cost: np.ndarray, whole: np.ndarray, constraints: Sequence[LinearConstraint], **options: float
) -> OptimizeResult:
    """The least cost of variables in [0, 1], those that are `whole` 0 or 1; `milp` by HiGHS, which
    in scipy 1.17 prints lines for its makers.
    """
    with quiet():
        return milp(
            cost, integrality=whole, bounds=(0, 1), constraints=constraints, options=options
        )


def _unit(size: np.ndarray) -> float:
    """The largest number that all sizes are whole multiples of; 1 where they are not whole."""
    whole = size.astype(np.int64)
    return float(np.gcd.reduce(whole)) or 1.0 if (whole == size).all() else 1.0


def whole_drops(
    table: Table, row: np.ndarray, column: np.ndarray, variables: int
) -> list[LinearConstraint]:
    """Rows of one block go to 0 bits together: each as the first of them.

    Args:
        row, column: of the choices, which are the first of all variables.
    """
    last = table.harm.shape[1] - 1
    drop = np.flatnonzero(table.tied[row] & (column == last))  # variables
    block = table.block[row[drop]]
    _, first, number = np.unique(block, return_index=True, return_inverse=True)
    head = drop[first[number]]
    other = np.flatnonzero(drop != head)
    if not len(other):
        return []
    place, shape = np.arange(len(other)), (len(other), variables)
    same = ones(place, drop[other], shape) - ones(place, head[other], shape)
    return [LinearConstraint(same, 0, 0)]


def ones(rows: np.ndarray, columns: np.ndarray, shape: tuple[int, int]) -> coo_array:
    """A sparse matrix of ones, the rest 0."""
    return coo_array((np.ones(len(rows)), (rows, columns)), shape=shape)
