"""Units that do more harm together than alone: a quadratic program, made linear."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from scipy.optimize import LinearConstraint

from lwq.allocators.greedy import require_size
from lwq.allocators.knapsack import EXACT, branched, ones, solved, whole_drops
from lwq.allocators.search import larger, moved, smaller
from lwq.allocators.table import Table, table_of
from lwq.common.errors import InputError
from lwq.contracts import Budget, Costs, Option, Scores
from lwq.contracts.methods import Allocator, Objective


@dataclass(frozen=True)
class ImpQ(Allocator):
    """The least total harm where costs carry pairs (`Costs.pairs`).

        minimise Σ_u harm(u, b_u) + Σ_{u<v} K_uv · s_u(b_u) · s_v(b_v)  with  Σ size ≤ budget
        s_u(b) = (2^-b − 2^-high) / (2^-low − 2^-high)

    K_uv is what u and v at their lowest options do beyond the sum of both; the amplitude s of the
    error is 1 there, 0 at the highest option, and halves with each bit between. With two options
    that is the paper's aᵀq + qᵀKq over q ∈ {0, 1}: harm(u, low) = a_u + K_uu, and pairs hold
    2 K_uv. Products of choices become variables of their own: y_(u,b),(v,c) with Σ_c y = x_(u,b)
    and Σ_b y = x_(v,c); branch and bound (HiGHS) solves that, and single steps and exchanges then
    improve what it found.

    Attributes:
        nodes: of branch and bound, at most, so that the answer does not depend on the machine.
        gap: relative distance from the optimum at which it stops.

    Source: CoopQ (first: IMPQ), arXiv:2509.15455, whose interaction matrix comes from Shapley
    values of progressive quantization.
    """

    nodes: int = 2000
    gap: float = 1e-4

    def __call__(
        self, scores: Scores | Costs, budget: Budget, objective: Objective | None = None
    ) -> dict[str, Option]:
        require_size(budget, "impq")
        if not isinstance(scores, Costs) or not scores.pairs:
            raise InputError(
                f"impq: {scores.scorer} brings no pairs; take costs with pairs, or the allocator "
                "'knapsack'"
            )
        table = table_of(scores, budget)
        pairs = _Pairs.of(scores, table, budget)
        starts = [solved(pairs.table, EXACT)]
        if (found := self._program(pairs.table, pairs)) is not None:
            starts.append(found)
        return table.plan(min(map(pairs.descended, starts), key=pairs.loss))

    def _program(self, table: Table, pairs: "_Pairs") -> np.ndarray | None:
        """The columns that branch and bound finds; None where the nodes end before any."""
        row, column = np.nonzero(np.isfinite(table.harm))  # of each x
        place = np.full(table.harm.shape, -1)
        place[row, column] = np.arange(len(row))
        worth, tie, x_of_tie = pairs.products(place)  # worth of each y; its two sums; their x
        size = np.concatenate([table.size[row, column], np.zeros(len(worth))])
        one = ones(row, np.arange(len(row)), (len(table.rows), len(size)))
        y = np.arange(len(worth)).repeat(2) + len(row)
        sums = ones(tie.ravel(), y, (len(x_of_tie), len(size)))
        same = sums - ones(np.arange(len(x_of_tie)), x_of_tie, sums.shape)
        cost = np.concatenate([table.harm[row, column], worth])
        constraints = [
            LinearConstraint(one, 1, 1),
            LinearConstraint(same, 0, 0),
            LinearConstraint(size[None], -np.inf, table.room),
            *whole_drops(table, row, column, len(size)),
        ]
        cost /= np.abs(cost).max() or 1.0
        whole = np.arange(len(size)) < len(row)
        found = branched(cost, whole, constraints, mip_rel_gap=self.gap, node_limit=self.nodes)
        if found.x is None:
            return None
        chosen = np.zeros(len(table.rows), dtype=int)
        taken = found.x[: len(row)] > 0.5
        chosen[row[taken]] = column[taken]
        return chosen if table.fits(chosen) else None


@dataclass(frozen=True)
class _Pairs:
    """What rows do together.

    Attributes:
        together: (rows, rows), symmetric, 0 on the diagonal.
        amplitude: (rows, options), from 0 to 1.
    """

    table: Table
    together: np.ndarray
    amplitude: np.ndarray

    @classmethod
    def of(cls, found: Costs, table: Table, budget: Budget) -> "_Pairs":
        row = {unit: place for place, units in enumerate(table.rows) for unit in units}
        together = np.zeros((len(table.rows), len(table.rows)))
        for one, others in found.pairs.items():
            for other, value in others.items():
                together[row[one], row[other]] += value
        own = together.diagonal().copy()  # members of one group
        together += together.T
        np.fill_diagonal(together, 0.0)
        amplitude = np.array([_amplitudes(found[units[0]], budget) for units in table.rows])
        return cls(
            replace(table, harm=table.harm + own[:, None] * amplitude**2), together, amplitude
        )

    def loss(self, columns: np.ndarray) -> float:
        """Harm of a plan, pairs included."""
        s = self.table.at(self.amplitude, columns)
        return self.table.loss(columns) + float(s @ self.together @ s) / 2

    def products(self, place: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The variables y.

        Args:
            place: (rows, options) number of each x; −1 where there is none.

        Returns:
            The worth of each y; (y, 2) the two sums that it is in; and the x that each sum equals.
        """
        worth: list[float] = []
        tie: list[tuple[int, int]] = []
        x_of_tie: list[int] = []
        for u, v in np.argwhere(np.triu(self.together)).tolist():
            sums: dict[tuple[int, int], int] = {}
            for b, c in product(*(np.flatnonzero(place[one] >= 0).tolist() for one in (u, v))):
                for one, at in ((u, b), (v, c)):
                    if (one, at) not in sums:
                        sums[one, at] = len(x_of_tie)
                        x_of_tie.append(int(place[one, at]))
                tie.append((sums[u, b], sums[v, c]))
                worth.append(self.together[u, v] * self.amplitude[u, b] * self.amplitude[v, c])
        return np.array(worth), np.array(tie).reshape(-1, 2), np.array(x_of_tie)

    def descended(self, columns: np.ndarray) -> np.ndarray:
        """Steps and exchanges of one option, the best first, until none helps."""
        while True:
            ups, downs = larger(self.table, columns), smaller(self.table, columns)
            sides = [np.where(to >= 0, to, columns) for to in (ups, downs)]
            (rise, more, s_up), (fall, less, s_down) = (self._step(columns, to) for to in sides)
            room = self.table.room - self.table.weight(columns)
            both = rise[:, None] + fall[None] + self.together * s_up[:, None] * s_down[None]
            both[more[:, None] + less[None] > room] = np.inf
            np.fill_diagonal(both, np.where(more <= room, rise, np.inf))  # up alone
            u, v = np.unravel_index(both.argmin(), both.shape)
            if min(both[u, v], fall.min()) >= -1e-12 * abs(self.loss(columns)):
                return columns
            if fall.min() < both[u, v]:  # harm that rises with bits
                columns = moved(columns, [int(fall.argmin())], sides[1])
                continue
            columns = moved(columns, [int(u)], sides[0])
            if u != v:
                columns = moved(columns, [int(v)], sides[1])

    def _step(self, columns: np.ndarray, to: np.ndarray) -> tuple[np.ndarray, ...]:
        """What a step of each row alone adds to harm, size and amplitude, (rows,) each."""
        harm, size, s = (
            self.table.at(values, to) - self.table.at(values, columns)
            for values in (self.table.harm, self.table.size, self.amplitude)
        )
        return harm + s * (self.together @ self.table.at(self.amplitude, columns)), size, s


def _amplitudes(harm: Mapping[Option, float], budget: Budget) -> np.ndarray:
    """See `ImpQ`; of a unit's costs, the lowest option has 1 and the highest 0."""
    steps = {option: 2.0 ** -budget.nominal(option) for option in {*harm, *budget.offered}}
    low, high = (pick(steps[option] for option in harm) for pick in (max, min))
    return np.array([(steps[option] - high) / ((low - high) or 1.0) for option in budget.offered])
