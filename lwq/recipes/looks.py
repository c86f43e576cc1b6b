"""Plans that harms tell apart badly: a look at a few windows decides between them."""

import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace

from torch import Tensor, nn

from lwq.allocators import within
from lwq.common.errors import InputError
from lwq.contracts import Budget, Costs, Plan
from lwq.contracts.methods import Quantizer
from lwq.engine.bank import Bank
from lwq.engine.evaluate import reference
from lwq.engine.sweep import Sweep

LARGE = 1.0  # nats a token; above it the sum of harms is no KL any more
SCALES = (0.1, 0.03)  # nats a token


def alternatives(best: Plan, costs: Costs, budget: Budget, quantizer: Quantizer) -> list[Plan]:
    """`best`, the plan of the least harm, and those that may be better than it; each once."""
    found = {best.id: best}
    for own in (_neighbours, _saturated):
        for plan in own(best, costs, budget, quantizer):
            found.setdefault(plan.id, plan)
    return list(found.values())


def _neighbours(best: Plan, costs: Costs, budget: Budget, quantizer: Quantizer) -> Iterator[Plan]:
    """The plans of the least harm with an embedding or head one option higher or lower.

    One option of such a unit is worth several of all others together: a harm that is a tenth off
    decides it wrongly, and with it the bits of every block.
    """
    for unit in budget.layout.outside:
        own = budget.choices[unit]
        place = own.index(best.bits[unit])
        for option in {*own[max(0, place - 1) : place], *own[place + 1 : place + 2]}:
            with suppress(InputError):  # no plan within the budget
                other = replace(budget, pinned={**budget.pinned, unit: option})
                yield within(costs, other, "knapsack", quantizer=quantizer)


def _saturated(best: Plan, costs: Costs, budget: Budget, quantizer: Quantizer) -> Iterator[Plan]:
    """Where the harms of `best` add up to LARGE, the plans for harms that saturate:

        h′ = c · log(1 + h / c),    c in SCALES

    KL is quadratic in small errors only. Of a plan that leaves little of a model, the harms of the
    worst units count for less than their squares say; how much less, only a look can tell.
    """
    if sum(costs[unit][option] for unit, option in best.bits.items()) < LARGE:
        return
    for scale in SCALES:
        harm = {
            unit: {option: scale * math.log1p(max(one, 0.0) / scale) for option, one in own.items()}
            for unit, own in costs.items()
        }
        yield within(replace(costs, harm=harm), budget, "knapsack", quantizer=quantizer)


def nearest(model: nn.Module, bank: Bank, plans: Sequence[Plan], windows: Tensor) -> Plan:
    """The plan with the least mean KL to the untouched model on `windows`, LongTensor (n, length);
    its provenance says what each had. Costs a forward pass for each plan, and one.
    """
    if len(plans) == 1 or not len(windows):
        return plans[0]
    bank.restore_()
    sweep = Sweep(model, windows, bank, reference(model, windows))
    harms = {plan.id: losses.mean_kl for plan, losses in sweep.measure(plans)}
    bank.restore_()
    best = min(plans, key=lambda plan: harms[plan.id])
    tried = [
        {**{unit: plan.bits[unit] for unit in plan.layout.outside}, "kl": harms[plan.id]}
        for plan in plans
    ]
    return replace(best, provenance={**best.provenance, "looked at": tried})
