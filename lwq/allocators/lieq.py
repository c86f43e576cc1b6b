"""A few layers at the highest width, all others at the lowest."""

from dataclasses import dataclass, replace

from lwq.allocators.ranked import common_widths, descend
from lwq.common.errors import InputError
from lwq.contracts import Budget, Costs, Option, Scores
from lwq.contracts.methods import Allocator, Objective


@dataclass(frozen=True)
class LieQ(Allocator):
    """The most important units at the highest width, all others at the lowest; widths between are
    not used.

        m = ⌊f · L⌋ units protected,    f = (budget − low) / (high − low), by weights

    The paper rounds f · L; here m never goes above the budget. With two widths and no `protect`
    this is the plan of `topk`.

    Attributes:
        protect: the most units that are protected (the paper's main results protect one, and leave
            the rest of the budget unspent); None protects as many as the budget allows.

    Source: LieQ, arXiv:2508.03332, section on layer-wise bit allocation; its score is another
    matter: any scorer will do.
    """

    protect: int | None = None

    def __call__(
        self, scores: Scores | Costs, budget: Budget, objective: Objective | None = None
    ) -> dict[str, Option]:
        if self.protect is not None and (self.protect < 0 or budget.limit == "moved"):
            raise InputError(
                f"lieq: protect={self.protect} with {budget.limit}={budget.amount:g}; give 0 or "
                "more units, and a budget of bits or bytes"
            )
        widths = common_widths(budget, "lieq")
        alone = {unit: own[0] for unit, own in budget.choices.items() if len(own) == 1}
        ends = tuple(dict.fromkeys((widths[0], widths[-1])))
        narrow = replace(budget, widths=ends, options={}, pinned=alone, least=None)
        chosen = descend(scores.order(), narrow, 1.0, "lieq")
        if self.protect is None:
            return chosen
        high = [unit for unit in scores.order() if chosen[unit] == ends[0] and unit not in alone]
        return chosen | dict.fromkeys(high[: max(0, len(high) - self.protect)], ends[-1])
