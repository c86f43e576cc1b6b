"""Densities that follow a score: layer rates for pruning single weights."""

from bisect import bisect_right
from dataclasses import dataclass

from lwq.common.errors import InputError
from lwq.contracts import Budget, Costs, Option, Scores
from lwq.contracts.methods import Allocator, Objective

HALVINGS = 40  # of the range of means


@dataclass(frozen=True)
class Rates(Allocator):
    """A width for each unit, linear in its score around a mean that the budget sets.

        width(u) = mean + 2 · spread · 16 · (n(u) − mean n),    n(u) = (s(u) − min s) / (max s − min
        s)

    Widths are rounded down to the quantizer's own; with those of a mask (1 + 16 · density) the
    densities are linear too.

    Attributes:
        spread: half of the range of densities: 0.08 in OWL, 0.15 in DLP; None where the scores are
            densities themselves (LAMP).

    Source: OWL, arXiv:2310.05175; DLP, arXiv:2505.23807.
    """

    spread: float | None = 0.08

    def __call__(
        self, scores: Scores | Costs, budget: Budget, objective: Objective | None = None
    ) -> dict[str, Option]:
        if isinstance(scores, Costs) or budget.groups:
            raise InputError(
                "rates follow the scores of single units; for costs and groups take 'knapsack'"
            )
        ladders = {own: _Ladder.of(own, budget) for own in set(budget.choices.values())}
        shifts = self._shifts(scores)

        def around(mean: float) -> dict[str, Option]:
            return {
                unit: ladders[own].below(mean + shifts[unit])
                for unit, own in budget.choices.items()
            }

        # all at the lowest, all at the highest
        low = min(ladder.bits[0] for ladder in ladders.values()) - max(shifts.values())
        high = max(ladder.bits[-1] for ladder in ladders.values()) - min(shifts.values())
        if budget.holds(around(high)):
            return around(high)
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if budget.holds(around(middle)) else (low, middle)
        return around(low)

    def _shifts(self, scores: Scores) -> dict[str, float]:
        low, high = min(scores.values()), max(scores.values())
        scale = (
            16.0 if self.spread is None else 32 * self.spread / (high - low) if high > low else 0.0
        )
        mean = sum(scores.values()) / len(scores)
        return {unit: scale * (value - mean) for unit, value in scores.items()}


@dataclass(frozen=True)
class _Ladder:
    """Options with their nominal bits, the lowest first."""

    options: tuple[Option, ...]
    bits: tuple[float, ...]

    @classmethod
    def of(cls, options: tuple[Option, ...], budget: Budget) -> "_Ladder":
        return cls(options[::-1], tuple(map(budget.nominal, options[::-1])))

    def below(self, wish: float) -> Option:
        """The highest option of at most `wish` bits, or the lowest there is."""
        return self.options[max(0, bisect_right(self.bits, wish + 1e-9) - 1)]
