"""The baseline that every mixed plan must beat."""

from dataclasses import dataclass

from lwq.common.errors import InputError
from lwq.contracts import Budget, Costs, Option, Scores
from lwq.contracts.methods import Allocator, Objective


@dataclass(frozen=True)
class Uniform(Allocator):
    """One width for all units: the highest that the budget holds. Pinned units stay as they are."""

    def __call__(
        self, scores: Scores | Costs, budget: Budget, objective: Objective | None = None
    ) -> dict[str, Option]:
        pinned = {unit: own[0] for unit, own in budget.choices.items() if len(own) == 1}
        free = {own for own in budget.choices.values() if len(own) > 1}
        for width in budget.offered:
            bits = dict.fromkeys(scores, width) | pinned
            if all(width in own for own in free) and budget.holds(bits):
                return bits
        raise InputError(
            f"no single width of {budget.widths} meets "
            f"{budget.limit}={budget.amount:g}; mix them with 'topk'"
        )
