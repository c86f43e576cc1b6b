"""Allocators: scores and a budget to bits. One dict, one line a method.

An allocator is a frozen dataclass, called as `allocator(scores, budget, objective)`; it returns
unit -> option. One that searches measures plans by the objective; all others leave it alone.
"""

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeVar

from lwq.allocators.edges import Edges
from lwq.allocators.equal_loss import EqualLoss
from lwq.allocators.evolution import Evolution
from lwq.allocators.greedy import Greedy
from lwq.allocators.impq import ImpQ
from lwq.allocators.iterate import Iterate
from lwq.allocators.knapsack import Knapsack
from lwq.allocators.lagrange import Lagrange
from lwq.allocators.lieq import LieQ
from lwq.allocators.look import Look
from lwq.allocators.ranked import Levels, TopK
from lwq.allocators.rates import Rates
from lwq.allocators.refine import Refine
from lwq.allocators.uniform import Uniform
from lwq.common.errors import InputError
from lwq.common.names import build, spec
from lwq.contracts import (
    Budget,
    Costs,
    Layout,
    Option,
    Plan,
    Scores,
    Size,
    require_whole_drops,
)
from lwq.contracts.methods import Allocator, Objective, Quantizer

if TYPE_CHECKING:
    from torch import nn

Amount = TypeVar("Amount")
BYTES = "size (or max_bytes)"  # what callers of lwq.allocate write

ALLOCATORS: dict[str, type] = {
    "uniform": Uniform,
    "topk": TopK,
    "levels": Levels,
    "rates": Rates,
    "edges": Edges,
    "lieq": LieQ,
    "equal_loss": EqualLoss,
    "greedy": Greedy,
    "lagrange": Lagrange,
    "knapsack": Knapsack,
    "impq": ImpQ,
    "look": Look,
    "refine": Refine,
    "evolution": Evolution,
    "iterate": Iterate,
}

__all__ = ["ALLOCATORS", "allocate"]


def allocate(
    scores: Scores | Costs,
    model: "nn.Module | None" = None,
    bits: tuple[Option, ...] | None = None,
    quantizer: Any = "rtn",
    allocator: Any = None,
    *,
    moved: int | None = None,
    avg_bits: float | None = None,
    true_bits: float | None = None,
    max_bytes: int | None = None,
    options: Mapping[str, tuple[Option, ...]] | None = None,
    pinned: Mapping[str, Option] | None = None,
    least: Option | None = None,
    groups: Mapping[str, str] | None = None,
    objective: Objective | None = None,
) -> Plan:
    """Turn scores into a Plan under exactly one budget.

    Args:
        scores: from `lwq.score`, or read from a file; for `knapsack` also Costs, such as
            `lwq.engine.costs.measured_costs` finds.
        model: the model that was scored, to check that the scores are its own; None trusts the
            file.
        bits: the options to choose from; 0 drops a block, 16 keeps it; None: of Costs all that they
            price, else the two neighbouring widths on either side of the budget.
        quantizer: what will pack the weights (a name, a call in text, an object): true bytes depend
            on it.
        allocator: a name in ALLOCATORS, a call in text or an object; by default `topk` for two
            widths, `levels` for more, `uniform` for one; `knapsack` for Costs.
        moved: this many units leave the highest width.
        avg_bits: nominal bits a weight, at most (the paper's convention).
        true_bits: stored bits a weight, scales and zeros counted, at most.
        max_bytes: stored bytes of the whole model, embeddings and head at 16 bits included, at
            most.
        options, pinned, least, groups: what single units may have; see `Budget`.
        objective: measures plans for the allocators that search.

    Raises:
        InputError: for scores of another model, a width that the quantizer lacks, a shape that does
            not divide, a budget below what the widths can reach (with their range), or 0 bits for a
            part of a block.
    """
    from lwq import models
    from lwq.quantizers import QUANTIZERS
    from lwq.quantizers.shared.contract import require_complete

    layout = scores.layout
    if model is not None:
        own = models.layout(model, layout.granularity, bool(layout.outside))
        layout.require(own, "score")
    limits = {"moved": moved, "avg_bits": avg_bits, "true_bits": true_bits, "max_bytes": max_bytes}
    limit, amount = one_limit(limits)
    packer = build(QUANTIZERS, "quantizer", quantizer)
    require_complete(packer)
    if bits is None:
        bits = _priced(scores) or adjacent(layout, packer, limit, amount)
    budget = Budget(
        layout, tuple(bits), packer, limit, amount, options or {}, pinned or {}, least, groups or {}
    )
    return within(scores, budget, allocator, objective)


def within(
    scores: Scores | Costs,
    budget: Budget,
    allocator: str | Allocator | None = None,
    objective: Objective | None = None,
    quantizer: Quantizer | None = None,
) -> Plan:
    """`allocate` for a budget that is made; `quantizer` where the budget counts the bytes of
    a format in its place.
    """
    from lwq.quantizers import QUANTIZERS

    default = {1: "uniform", 2: "topk"}.get(len(budget.widths), "levels")
    if len(budget.widths) > 1 and isinstance(scores, Costs):
        default = "knapsack"  # refuses options that the costs lack
    chooser: Allocator = build(ALLOCATORS, "allocator", allocator or default)
    packer = spec(QUANTIZERS, quantizer or budget.quantizer)
    # an objective of a user's own need not name what it measures with
    measured = getattr(objective, "quantizer", packer)
    if getattr(chooser, "searches", False) and measured != packer:
        raise InputError(
            f"the objective measures plans with {measured}, and this plan is for {packer}; give "
            "both the same quantizer"
        )
    # allocators of a user's own may take no objective
    chosen = chooser(scores, budget) if objective is None else chooser(scores, budget, objective)
    _require_offered(chosen, budget, spec(ALLOCATORS, chooser))
    if not budget.holds(chosen):
        raise InputError(
            f"{spec(ALLOCATORS, chooser)} broke the budget: {budget.limit} is "
            f"{budget.spent(chosen):g}, not {budget.amount:g}"
        )
    require_whole_drops(scores.layout.rest, chosen)
    provenance = {
        "scorer": scores.scorer,
        "allocator": spec(ALLOCATORS, chooser),
        "bits": list(budget.widths),
        "budget": {budget.limit: budget.amount},
        "calibration": scores.data,
    }
    return Plan(chosen, scores.layout, packer, provenance)


def _require_offered(chosen: Any, budget: Budget, name: str) -> None:
    """Raise InputError unless `chosen` gives each unit one of its options, and a group the same."""
    if not isinstance(chosen, Mapping) or chosen.keys() != budget.choices.keys():
        wrong = sorted(chosen.keys() ^ budget.choices.keys())[:4] if chosen else chosen
        raise InputError(f"{name} gives each unit an option; missing or unknown: {wrong}")
    together: dict[str, Option] = {}
    for unit, option in chosen.items():
        own = budget.choices[unit]
        if option not in own:
            raise InputError(f"{name} gives {unit} {option!r}, and it may have {list(own)}")
        group = budget.groups.get(unit, unit)
        if together.setdefault(group, option) != option:
            raise InputError(
                f"{name} gives members of the group {group} {together[group]!r} and {option!r}; "
                "they get the same"
            )


def _priced(scores: Scores | Costs) -> tuple[Option, ...]:
    """The options whose harm is known of every unit; of Scores none."""
    if not isinstance(scores, Costs):
        return ()
    first, *others = scores.values()
    return tuple(option for option in first if all(option in harm for harm in others))


def one_limit(
    limits: Mapping[str, Amount | None], spelled: Callable[[str], str] | None = None
) -> tuple[str, Amount]:
    """The name and the amount of the one that is given; `spelled`: how the caller writes a name."""
    given = {key: value for key, value in limits.items() if value is not None}
    spelled = spelled or (lambda name: BYTES if name == "max_bytes" else name)
    if len(given) != 1:
        *others, last = map(spelled, limits)
        raise InputError(
            f"give exactly one of {', '.join(others)} and {last}, not "
            f"{' and '.join(map(spelled, given)) or 'none'}"
        )
    ((limit, amount),) = given.items()
    return limit, amount


def adjacent(layout: Layout, packer: Quantizer, limit: str, amount: float) -> tuple[Option, ...]:
    """The two neighbouring whole widths of `packer` on either side of a budget; the lowest or the
    highest two where it lies beyond them. Mixes of widths that lie further apart do more harm.
    """
    widths = sorted((one for one in packer.levels if isinstance(one, int)), reverse=True)
    if limit == "moved" or len(widths) < 2:
        return (4, 3) if {4, 3} <= set(widths) else tuple(widths[:2] or packer.levels[:2])
    for high, low in pairwise(widths):
        size = Size.of(layout, dict.fromkeys(layout.units, low), packer)
        if {"max_bytes": size.total_bytes, "avg_bits": size.avg_bits}.get(
            limit, size.true_bits
        ) <= amount:
            return high, low
    return widths[-2], widths[-1]
