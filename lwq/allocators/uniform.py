"""The baseline that every mixed plan must beat."""

from dataclasses import dataclass

from lwq.common.errors import InputError
from lwq.contracts import Budget, Scores, Width


@dataclass(frozen=True)
class Uniform:
    """One width for all units: the highest that the budget holds."""

    def __call__(self, scores: Scores, budget: Budget) -> dict[str, Width]:
        for width in budget.widths:
            bits = dict.fromkeys(scores, width)
            if budget.holds(bits):
                return bits
        raise InputError(
            f"no single width of {budget.widths} meets "
            f"{budget.limit}={budget.amount:g}; mix them with 'topk'"
        )
