"""Densities that follow a score: layer rates for pruning single weights."""

from bisect import bisect_right
from dataclasses import dataclass

from lwq.contracts import Budget, Scores, Width

HALVINGS = 40  # of the range of means


@dataclass(frozen=True)
class Rates:
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

    def __call__(self, scores: Scores, budget: Budget) -> dict[str, Width]:
        options, shifts = sorted(budget.widths, key=budget.nominal), self._shifts(scores)
        levels = [budget.nominal(option) for option in options]

        def around(mean: float) -> dict[str, Width]:
            return {unit: options[_below(levels, mean + shifts[unit])] for unit in scores}

        # all at the lowest, all at the highest
        low, high = levels[0] - max(shifts.values()), levels[-1] - min(shifts.values())
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


def _below(levels: list[float], wish: float) -> int:
    """The index of the largest level that is no larger than `wish`, or of the smallest."""
    return max(0, bisect_right(levels, wish + 1e-9) - 1)
