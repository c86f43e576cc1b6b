"""Scores, costs and a budget as arrays: what allocators that weigh harm against size read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lwq.allocators.expected import harms
from lwq.common.errors import InputError
from lwq.contracts import (
    DROPPED,
    KEPT,
    Budget,
    Costs,
    Layout,
    Option,
    Scores,
    Shape,
    matrix_bytes,
)

SLACK = 1 + 1e-12  # that `Budget.holds` allows for rounding; less than a byte of a terabyte


@dataclass(frozen=True)
class Table:
    """One row for the units that get one option together, one column an option.

    Attributes:
        rows: units of each row: one, or the members of a group.
        options: of the columns, those with the most bits first.
        harm: (rows, options), added up over members; inf where a row may not have the option.
        size: (rows, options), in the unit of the budget.
        weights: (rows,) number of weights.
        room: what the sizes may add up to; `full`: must add up to.
        block: (rows,) number of the block that a row is dropped with.
        tied: (rows,) whether other rows are dropped with it; its last column is then 0 bits.
    """

    rows: tuple[tuple[str, ...], ...]
    options: tuple[Option, ...]
    harm: np.ndarray
    size: np.ndarray
    weights: np.ndarray
    room: float
    full: bool
    block: np.ndarray
    tied: np.ndarray

    def plan(self, columns: np.ndarray) -> dict[str, Option]:
        """Unit -> option, for a column a row."""
        return {
            unit: self.options[column]
            for members, column in zip(self.rows, columns.tolist(), strict=True)
            for unit in members
        }

    def columns(self, plan: Mapping[str, Option]) -> np.ndarray:
        """The inverse of `plan`."""
        place = {option: column for column, option in enumerate(self.options)}
        return np.array([place[plan[members[0]]] for members in self.rows])

    def at(self, values: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """The entry of each row, (rows, options) -> (rows,)."""
        return np.take_along_axis(values, columns[:, None], 1)[:, 0]

    def weight(self, columns: np.ndarray) -> float:
        """Size of a plan."""
        return float(self.at(self.size, columns).sum())

    def fits(self, columns: np.ndarray) -> bool:
        """Whether a plan is within the room."""
        return self.weight(columns) <= self.room

    def loss(self, columns: np.ndarray) -> float:
        """Harm of a plan."""
        return float(self.at(self.harm, columns).sum())

    def safest(self) -> np.ndarray:
        """The least harm, whatever the size; of equal harms the one with the most bits."""
        return self.harm.argmin(1)

    def cheapest(self, values: np.ndarray) -> np.ndarray:
        """The column of each row where `values` (rows, options) add up to the least; blocks are
        dropped whole.
        """
        if not self.tied.any():
            return values.argmin(1)
        kept = np.where(self.tied, values[:, :-1].argmin(1), values.argmin(1))
        gone = np.bincount(self.block, values[:, -1]) < np.bincount(
            self.block, self.at(values, kept)
        )
        return np.where(self.tied & gone[self.block], values.shape[1] - 1, kept)


def table_of(
    found: Scores | Costs, budget: Budget, distortion: Mapping[Option, float] | None = None
) -> Table:
    """The table of `found` (`lwq.allocators.expected.harms`) under a budget and its constraints."""
    layout, offered = budget.layout, budget.offered
    kind, kinds = _kinds(budget)
    row, rows = _rows(layout, budget.groups)
    harm = _added(harms(found, budget, distortion), row, len(rows))
    weights = np.array([one.weights for one in kinds], dtype=float)[kind]
    size = _added(_sizes(budget, kinds)[kind], row, len(rows))
    if budget.limit == "moved":
        highest = np.isfinite(harm).argmax(1)
        size = (np.arange(len(offered)) != highest[:, None]) * np.bincount(row)[:, None]
    block, tied, names = _blocks(layout, rows, offered)
    room = budget.amount * SLACK
    if budget.limit == "avg_bits":
        room *= layout.total
    elif budget.limit == "true_bits":
        room *= layout.total / 8
    elif budget.limit == "max_bytes":
        room -= 2 * sum(layout.rest.values())
        first = np.unique(block, return_index=True)[1]
        if offered[-1] == DROPPED:  # what no plan reaches goes with its block
            size[first, -1] -= [2 * layout.rest.get(name, 0) for name in names]
    elif budget.limit == "moved":
        room = float(budget.amount)
    weights = np.bincount(row, weights)
    full = budget.limit == "moved"
    return Table(rows, offered, harm, size.astype(float), weights, room, full, block, tied)


@dataclass(frozen=True)
class _Kind:
    """Units that weigh the same: their matrices have the same shapes, inside blocks or outside, and
    they may have the same options.
    """

    shapes: tuple[Shape, ...]
    outside: bool
    own: tuple[Option, ...]

    @property
    def weights(self) -> int:
        return sum(rows * columns for rows, columns in self.shapes)

    def size(self, option: Option, budget: Budget) -> float:
        """Bytes, or nominal bits for `avg_bits`; those of 16 bits for an option that the unit may
        not have, which its shape need not suit.
        """
        if budget.limit == "avg_bits":
            return self.weights * budget.nominal(option)
        packer = budget.quantizer.outside if self.outside else budget.quantizer
        option = option if option in self.own else KEPT
        return sum(matrix_bytes(shape, option, packer) for shape in self.shapes)


def unit_sizes(budget: Budget) -> np.ndarray:
    """Bytes of each unit at each option (nominal bits for `avg_bits`), (units, options)."""
    kind, kinds = _kinds(budget)
    return _sizes(budget, kinds)[kind]


def _kinds(budget: Budget) -> tuple[np.ndarray, list[_Kind]]:
    """The number of each unit's kind, and the kinds."""
    layout, kinds = budget.layout, dict[_Kind, int]()
    number = [
        kinds.setdefault(
            _Kind(tuple(matrices.values()), unit in layout.outside, budget.choices[unit]),
            len(kinds),
        )
        for unit, matrices in layout.units.items()
    ]
    return np.array(number), list(kinds)


def _sizes(budget: Budget, kinds: Sequence[_Kind]) -> np.ndarray:
    """What a unit of each kind weighs at each option, (kinds, options)."""
    return np.array(
        [[kind.size(option, budget) for option in budget.offered] for kind in kinds], dtype=float
    )


def _rows(
    layout: Layout, groups: Mapping[str, str]
) -> tuple[np.ndarray, tuple[tuple[str, ...], ...]]:
    """The number of each unit's row, in the order of the forward pass, and the units of each."""
    if not groups:
        return np.arange(len(layout.units)), tuple((unit,) for unit in layout.units)
    members: dict[tuple[bool, str], list[str]] = {}
    for unit in layout.units:
        members.setdefault((unit in groups, groups.get(unit, unit)), []).append(unit)
    row = {unit: number for number, units in enumerate(members.values()) for unit in units}
    return np.array([row[unit] for unit in layout.units]), tuple(map(tuple, members.values()))


def _added(values: np.ndarray, row: np.ndarray, rows: int) -> np.ndarray:
    """(units, options) -> (rows, options)"""
    if rows == len(values):
        return values
    added = np.zeros((rows, values.shape[1]))
    np.add.at(added, row, values)
    return added


def _blocks(
    layout: Layout, rows: Sequence[tuple[str, ...]], options: tuple[Option, ...]
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """The number of the block of each row, whether other rows share it, and the blocks' names."""
    if options[-1] != DROPPED:
        return np.arange(len(rows)), np.zeros(len(rows), dtype=bool), []
    homes = [sorted({layout.block_of(unit) for unit in members}) for members in rows]
    if split := [members for members, home in zip(rows, homes, strict=True) if len(home) > 1]:
        raise InputError(
            f"groups: {list(split[0])[:4]} stand in several blocks, which are dropped one by one; "
            "leave 0 out of bits, or group within blocks"
        )
    names, block = np.unique([home[0] for home in homes], return_inverse=True)
    return block, np.bincount(block)[block] > 1, names.tolist()
