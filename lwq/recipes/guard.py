"""Does a mixed plan beat the uniform bits that its budget allows? Measured on the tune split before
use.

Uniform bits step by whole widths, so that they mostly weigh less than the plan: what has more bytes
and is no better is refused, and what is better only by its bytes passes. `compress` prints uniform
bits on either side.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace

from torch import Tensor, nn

from lwq.common.errors import InputError
from lwq.common.names import rebuild
from lwq.contracts import Budget, Costs, Option, Plan
from lwq.engine.bank import Bank
from lwq.engine.evaluate import evaluate, reference
from lwq.quantizers import QUANTIZERS
from lwq.recipes.sequential import Sequential, Verdict, verdict

FIRST = 8  # windows of the first look; each further look takes as many as were seen


def uniform_plans(budget: Budget) -> list[dict[str, Option]]:
    """All within the budget: one option for all blocks, and one for embeddings and head if they are
    units.

    Raises InputError where there is none.
    """
    layout = budget.layout
    found: list[dict[str, Option]] = []
    for blocks in budget.widths:
        for beyond in budget.widths if layout.outside else budget.widths[:1]:
            bits = {u: beyond if u in layout.outside else blocks for u in layout.units}
            bits |= {u: own[0] for u, own in budget.choices.items() if len(own) == 1}
            allowed = all(option in budget.choices[unit] for unit, option in bits.items())
            if allowed and budget.holds(bits):
                found.append(bits)
    if not found:
        raise InputError(
            f"no uniform plan of bits={budget.widths} meets {budget.limit}={budget.amount:g}; "
            "offer fewer bits, or leave the guard out (guard=False)"
        )
    return found


def uniform_plan(costs: Costs, budget: Budget) -> dict[str, Option]:
    """That of `uniform_plans` with the least harm."""

    def harm(bits: Mapping[str, Option]) -> float:
        return sum(costs[unit][option] for unit, option in bits.items())

    return min(uniform_plans(budget), key=harm)


def compared(model: nn.Module, bank: Bank, mixed: Plan, uniform: Plan, windows: Tensor) -> Verdict:
    """Which of two plans is nearer to the untouched model, by KL, in as few windows as it takes.

    Args:
        windows: of the tune split, LongTensor (n, length); a look costs three forward passes over
            the windows that it adds.
    """
    test = Sequential()
    for part in _looks(windows):
        bank.restore_()
        truth = reference(model, part)
        harms = []
        for plan in (mixed, uniform):
            bank.apply_(plan)
            losses = evaluate(model, part, truth, "guard")
            assert losses.kl is not None
            harms.append(losses.kl)
        test.add(harms[0] - harms[1])
        if test.decided:
            break
    bank.restore_()
    return verdict(test, windows.shape[1] - 1)


def _looks(windows: Tensor) -> Iterator[Tensor]:
    """8 windows, 8 more, 16 more, …: the decision is at most one doubling late."""
    start = 0
    while start < len(windows):
        count = max(FIRST, start)
        yield windows[start : start + count]
        start += count


def guarded(
    model: nn.Module,
    mixed: Plan,
    costs: Costs,
    budget: Budget,
    windows: Tensor | None,
    tune: Tensor,
    bank: Bank | None = None,
    said: str = "",
) -> Plan:
    """`mixed` if it beats the uniform plan of its budget on `tune`, else that uniform plan.

    Args:
        windows: calibration windows, where the quantizer needs them.
        tune: windows that share no document: evidence adds up over them.
        bank: of the model and the plan's quantizer, if there is one.
        said: words for `tune`, for the record.

    Returns:
        The plan; its provenance says which it is, by how much, and after how many tokens.
    """
    bits = uniform_plan(costs, budget)
    if bits == dict(mixed.bits):
        return _said(mixed, {"kept": "uniform", "why": _uniform(budget)})
    uniform = replace(mixed, bits=bits)
    bank = bank or Bank(model, rebuild(QUANTIZERS, "quantizer", mixed.quantizer), windows)
    bank.prepare([mixed, uniform])
    found = compared(model, bank, mixed, uniform, tune)
    kept = "mixed" if found.winner == "first" else "uniform"
    told: Mapping[str, object] = {
        "kept": kept,
        **{key: value for key, value in asdict(found).items() if key != "winner"},
        "uniform_bytes": uniform.size(budget.quantizer).total_bytes,
        "mixed_bytes": mixed.size(budget.quantizer).total_bytes,
        "text": said,
    }
    return _said(mixed if kept == "mixed" else uniform, told)


def _uniform(budget: Budget) -> str:
    own = ", and one for embeddings and head" if budget.layout.outside else ""
    return f"the best plan is uniform: one option for all blocks{own}"


def _said(plan: Plan, told: Mapping[str, object]) -> Plan:
    return replace(plan, provenance={**plan.provenance, "guard": dict(told)})
