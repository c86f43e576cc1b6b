"""Bits of embeddings and head: few units, each as large as many, so that a look decides."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from torch import Tensor, nn

from lwq.allocators import within
from lwq.common.errors import InputError
from lwq.contracts import Budget, Costs, Plan
from lwq.contracts.methods import Quantizer
from lwq.engine import room
from lwq.engine.bank import Bank
from lwq.engine.evaluate import reference
from lwq.engine.sweep import Sweep


def neighbours(best: Plan, costs: Costs, budget: Budget, quantizer: Quantizer) -> list[Plan]:
    """`best`, and the plans of the least harm with an embedding or head one option higher or lower.

    One option of such a unit is worth several of all others together: a harm that is a tenth off
    decides it wrongly, and with it the bits of every block.
    """
    found = [best]
    for unit in budget.layout.outside:
        own = budget.choices[unit]
        place = own.index(best.bits[unit])
        for option in {*own[max(0, place - 1) : place], *own[place + 1 : place + 2]}:
            with suppress(InputError):  # no plan within the budget
                other = replace(budget, pinned={**budget.pinned, unit: option})
                found.append(within(costs, other, "knapsack", quantizer=quantizer))
    return found


def nearest(model: nn.Module, bank: Bank, plans: Sequence[Plan], windows: Tensor) -> Plan:
    """The plan with the least mean KL to the untouched model on `windows`, LongTensor (n, length);
    its provenance says what each had. Costs a forward pass for each plan, and one.
    """
    if len(plans) == 1 or not len(windows):
        return plans[0]
    bank.restore_()
    truth = reference(model, windows, room.of_reference(model))
    sweep = Sweep(model, windows, bank, truth, room.of_states(model))
    harms = {plan.id: losses.mean_kl for plan, losses in sweep.measure(plans)}
    bank.restore_()
    best = min(plans, key=lambda plan: harms[plan.id])
    tried = [
        {**{unit: plan.bits[unit] for unit in plan.layout.outside}, "kl": harms[plan.id]}
        for plan in plans
    ]
    return replace(best, provenance={**best.provenance, "outside": tried})
