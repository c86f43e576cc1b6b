"""Byte by byte to where it helps most."""

from dataclasses import dataclass
from heapq import heapify, heappop, heappush

import numpy as np

from lwq.allocators.table import Table, table_of
from lwq.common.errors import InputError
from lwq.contracts import Budget, Costs, Option, Scores
from lwq.contracts.methods import Allocator, Objective


@dataclass(frozen=True)
class Greedy(Allocator):
    """From the smallest plan up, always the step that saves most harm a byte, while any fits.

        next = argmax over u, b of (harm(u, b_u) − harm(u, b)) / (size(u, b) − size(u, b_u))

    A dropped block of several units is taken back whole, each unit at its smallest option.

    Source: Fox 1966, Discrete optimization via marginal analysis.
    """

    def __call__(
        self, scores: Scores | Costs, budget: Budget, objective: Objective | None = None
    ) -> dict[str, Option]:
        require_size(budget, "greedy")
        table = table_of(scores, budget)
        if table.fits(table.safest()):
            return table.plan(table.safest())
        smallest = table.cheapest(np.where(np.isfinite(table.harm), table.size, np.inf))
        return table.plan(raised(table, smallest, blocks=True))


def require_size(budget: Budget, name: str) -> None:
    """Raise InputError for a budget that counts units."""
    if budget.limit == "moved":
        raise InputError(
            f"{name} spends bits or bytes, not moved={budget.amount:g}; give avg_bits, true_bits "
            "or max_bytes, or take 'knapsack'"
        )


def raised(table: Table, columns: np.ndarray, blocks: bool = False) -> np.ndarray:
    """`columns` with what is left of the room spent, the most harm a byte saved first.

    Args:
        blocks: whether dropped blocks of several units may be taken back; no block is dropped.
    """
    gone = table.tied & (columns == table.harm.shape[1] - 1)
    if not (blocks and gone.any()):
        columns = _while_all_fit(table, columns, gone)
    columns, left = columns.copy(), table.room - table.weight(columns)
    heap = _first_steps(table, columns, left, gone)
    if blocks:
        heap += [(-rate, -1 - block, 0) for block, rate in _returns(table, gone)]
        heapify(heap)
    while heap:
        _, row, column = heappop(heap)
        changed = {row: column} if row >= 0 else _smallest(table, -1 - row)
        rows, new = np.array(list(changed)), np.array(list(changed.values()))
        more = float((table.size[rows, new] - table.size[rows, columns[rows]]).sum())
        if more <= left:
            columns[rows], left = new, left - more
        elif row < 0:
            continue
        for one in changed:
            if (step := _step(table, one, int(columns[one]), left)) is not None:
                heappush(heap, step)
    return columns


def _while_all_fit(table: Table, columns: np.ndarray, gone: np.ndarray) -> np.ndarray:
    """The steps up to the first that does not fit, all at once: the steps of a row save less and
    less a byte (they are its lower convex hull), so that all of them are sorted together.
    """
    way, now = [], columns
    while True:
        rate, best = _best_steps(table, now, np.inf, gone)
        some = np.flatnonzero(rate > 0)
        if not len(some):
            break
        more = table.size[some, best[some]] - table.size[some, now[some]]
        way.append((rate[some], some, best[some], more))
        now = now.copy()
        now[some] = best[some]
    if not way:
        return columns
    rate, row, column, more = (np.concatenate(parts) for parts in zip(*way, strict=True))
    order = np.argsort(-rate, kind="stable")
    count = int((np.cumsum(more[order]) <= table.room - table.weight(columns)).cumprod().sum())
    columns = columns.copy()
    columns[row[order[:count]]] = column[order[:count]]  # of one row the last step stands
    return columns


def _first_steps(
    table: Table, columns: np.ndarray, left: float, gone: np.ndarray
) -> list[tuple[float, int, int]]:
    """The best step of each row as (−rate, row, column), in a heap."""
    rate, best = _best_steps(table, columns, left, gone)
    some = np.flatnonzero(rate > 0)
    heap = list(zip((-rate[some]).tolist(), some.tolist(), best[some].tolist(), strict=True))
    heapify(heap)
    return heap


def _best_steps(
    table: Table, columns: np.ndarray, left: float, gone: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Harm that the best step of each row saves a byte, 0 where none is left, and its column."""
    rate = _rates(
        table.at(table.harm, columns)[:, None] - table.harm,
        table.size - table.at(table.size, columns)[:, None],
        left,
    )
    rate[table.tied, -1] = 0
    rate[gone] = 0
    best = rate.argmax(1)
    return rate[np.arange(len(best)), best], best


def _step(table: Table, row: int, column: int, left: float) -> tuple[float, int, int] | None:
    rate = _rates(
        table.harm[row, column] - table.harm[row],
        table.size[row] - table.size[row, column],
        left,
    )
    if table.tied[row]:
        rate[-1] = 0
    best = int(rate.argmax())
    return (-float(rate[best]), row, best) if rate[best] > 0 else None


def _rates(gain: np.ndarray, more: np.ndarray, left: float) -> np.ndarray:
    """Harm saved a byte; 0 where nothing is saved or it does not fit, inf where it is for free."""
    with np.errstate(divide="ignore", invalid="ignore"):
        rate = np.where(more > 0, gain / more, np.inf)
    return np.where((gain > 0) & (more <= left), rate, 0.0)


def _returns(table: Table, gone: np.ndarray) -> list[tuple[int, float]]:
    """What each dropped block saves a byte when it is taken back."""
    return [
        (block, _return_rate(table, _smallest(table, block)))
        for block in np.unique(table.block[gone]).tolist()
    ]


def _return_rate(table: Table, smallest: dict[int, int]) -> float:
    rows, columns = np.array(list(smallest)), np.array(list(smallest.values()))
    gain = float((table.harm[rows, -1] - table.harm[rows, columns]).sum())
    return max(0.0, gain) / float((table.size[rows, columns] - table.size[rows, -1]).sum())


def _smallest(table: Table, block: int) -> dict[int, int]:
    """Row -> its smallest option that is not 0, for each row of a block."""
    rows = np.flatnonzero(table.block == block)
    kept = np.where(np.isfinite(table.harm[rows, :-1]), table.size[rows, :-1], np.inf)
    return dict(zip(rows.tolist(), kept.argmin(1).tolist(), strict=True))
