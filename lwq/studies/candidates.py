"""Which plans a study measures: labels and bits. Nothing is measured here."""

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from lwq.allocators import allocate
from lwq.common.errors import InputError
from lwq.common.names import build, pick, rebuild, spec
from lwq.contracts import DROPPED, KEPT, Costs, Layout, Option, Plan, Scores
from lwq.contracts.methods import Quantizer
from lwq.quantizers import QUANTIZERS
from lwq.quantizers.masks import density_of
from lwq.scorers import SCORERS
from lwq.scorers.baselines import Random

# until a fractional width asks for them
WITHOUT_OUTLIERS = {"owq": {"outlier_bits": 0.0}, "spqr": {"outliers": 0.0}}

RATES = {  # layer rates of a mask -> (scorer, allocator)
    "uniform": ("first_to_last", "rates(spread=0.0)"),
    "owl": ("owl", "rates(spread=0.08)"),
    "dlp": ("dlp", "rates(spread=0.15)"),
    "lamp": ("lamp(density={density})", "rates(spread=None)"),
}


class Candidate(NamedTuple):
    """A plan, and what the results table says about where it comes from.

    Attributes:
        ordering: label of what chose the widths.
        scorer: the same with all its settings.
        plan: what is measured.
        high, low: base widths that the plan chooses from.
        moved: how many units the ordering took away from where the others are.
        way: what was done to the units, in a word.
    """

    ordering: str
    scorer: str
    plan: Plan
    high: int
    low: int
    moved: int
    way: str

    @property
    def allocator(self) -> str:
        """What made the plan, with its settings; "" where a rule of this module did."""
        return str(self.plan.provenance.get("allocator", ""))

    @property
    def budget(self) -> str:
        """What the allocator was held to: "moved=4"; "" where there was no allocator."""
        limits = self.plan.provenance.get("budget", {})
        return ", ".join(f"{limit}={amount:g}" for limit, amount in limits.items())

    @property
    def seed(self) -> int | None:
        """Of a random order; None for any other."""
        return seed_of(self.scorer)


Orderings = Mapping[str, Scores]


@lru_cache
def seed_of(scorer: str) -> int | None:
    """The seed of a random order that `spec` wrote down; None for what is no random order."""
    try:
        built = rebuild(SCORERS, "scorer", scorer)
    except InputError:  # a rule of this module, or a file's scores by code that is not at hand
        return None
    return built.seed if isinstance(built, Random) else None


def counts_moved(units: int, steps: int) -> list[int]:
    """`steps` numbers of moved units from 0 to all, as even as whole numbers allow."""
    if steps < 2:
        raise InputError(f"steps={steps}; a curve needs its two ends, 2 or more")
    return sorted({int(point) for point in np.linspace(0, units, steps).round()})


def uniform(
    layout: Layout,
    quantizer: Quantizer,
    widths: Sequence[Option],
    label: str = "uniform",
    way: str = "uniform",
) -> Iterator[Candidate]:
    """Every unit at the same width, for each of `widths`."""
    high, low = int(max(widths)), int(min(widths))
    for width in widths:
        bits = dict.fromkeys(layout.units, width)
        plan = Plan(bits, layout, spec(QUANTIZERS, quantizer), {"scorer": label, "way": way})
        moved = len(layout.units) if width != max(widths) else 0
        yield Candidate(label, label, plan, high, low, moved, way)


def ends(
    layout: Layout, quantizer: Quantizer, high: int, low: int, way: str = "uniform"
) -> Iterator[Candidate]:
    """The untouched model ("original"), and uniform bits at `high`, `low` and every width of the
    quantizer between them.
    """
    between = {width for width in quantizer.levels if isinstance(width, int) and low < width < high}
    (original,) = uniform(layout, quantizer, [KEPT], "original", "original")
    yield original._replace(high=high, low=low)
    yield from uniform(layout, quantizer, sorted({high, low} | between), way=way)


def curve(
    orderings: Orderings,
    quantizer: Quantizer,
    high: int,
    low: int,
    moved: Sequence[int],
    avg_bits: Sequence[float] = (),
    way: str = "move",
) -> Iterator[Candidate]:
    """In each ordering: the `moved` least important units at `low`, the others at `high`; and the
    plans for `avg_bits`.

    Where units differ in size, orderings reach a budget with different numbers of units: each of
        these is a point of all curves.
    """
    fitting = [
        allocate(scores, None, (high, low), quantizer, "topk", avg_bits=bits)
        for scores in orderings.values()
        for bits in avg_bits
        if low <= bits <= high
    ]
    counts = sorted(
        {*moved, *(sum(width != high for width in plan.bits.values()) for plan in fitting)}
    )
    for label, scores in orderings.items():
        for count in counts:
            yield _candidate(
                label,
                scores,
                allocate(scores, None, (high, low), quantizer, "topk", moved=count),
                high,
                low,
                way,
            )


def _candidate(
    label: str, scores: Scores | Costs, plan: Plan, high: int, low: int, way: str
) -> Candidate:
    moved = sum(width != high for width in plan.bits.values())
    return Candidate(label, scores.scorer, plan, high, low, moved, way)


def _by_rule(
    label: str,
    scores: Scores,
    bits: Mapping[str, Option],
    quantizer: Quantizer,
    ends: tuple[int, int],
    moved: int,
    way: str,
) -> Candidate:
    """A plan that no allocator made, but a rule of this module."""
    provenance = {"scorer": scores.scorer, "calibration": scores.data, "way": way, "moved": moved}
    plan = Plan(bits, scores.layout, spec(QUANTIZERS, quantizer), provenance)
    return Candidate(label, scores.scorer, plan, *ends, moved, way)


def same_size(
    orderings: Orderings, quantizer: Quantizer, high: int, low: int, true_bits: Sequence[float]
) -> Iterator[Candidate]:
    """In each ordering: as few units moved from `high` to `low` as each size asks for; sizes out of
    reach are left out.
    """
    for label, scores in orderings.items():
        for size in true_bits:
            try:
                plan = allocate(scores, None, (high, low), quantizer, "topk", true_bits=size)
            except InputError:
                continue
            yield _candidate(label, scores, plan, high, low, "same size")


def swaps(
    orderings: Orderings, quantizer: Quantizer, base: int, moved: Sequence[int]
) -> Iterator[Candidate]:
    """The k most important units one bit above `base`, the k least important one bit below it: the
    bytes stay the same.
    """
    for label, scores in orderings.items():
        order = scores.order()
        for count in moved:
            if not 0 < 2 * count <= len(order):
                raise InputError(
                    f"{count} units up and {count} down need {2 * count} units; the "
                    f"model has {len(order)}"
                )
            bits = (
                dict.fromkeys(scores, base)
                | dict.fromkeys(order[:count], base - 1)
                | dict.fromkeys(order[-count:], base + 1)
            )
            ends = (base + 1, base - 1)
            yield _by_rule(label, scores, bits, quantizer, ends, count, "base bits")


def without_outliers(method: str) -> Any:
    """A method that stores outliers, with none of them until a fractional width asks for some."""
    settings = pick(
        WITHOUT_OUTLIERS, "method whose outliers a score can share out", method.partition("(")[0]
    )
    return build(QUANTIZERS, "quantizer", method, **settings)


def outlier_budgets(
    orderings: Orderings, quantizer: Quantizer, base: int, extra: float
) -> Iterator[Candidate]:
    """`base` bits throughout; the more important half of the units shares all that outliers may
    cost, `extra` bits a weight.
    """
    for label, scores in orderings.items():
        upper = scores.order()[len(scores) // 2 :]
        share = extra * len(scores) / len(upper)
        if not 0 < share < 1:
            raise InputError(
                f"extra={extra}: {len(upper)} of {len(scores)} units would spend {share:g} bits "
                f"on outliers; less than 1"
            )
        richer = round(base + share, 2)
        bits: dict[str, Option] = {**dict.fromkeys(scores, base), **dict.fromkeys(upper, richer)}
        yield _by_rule(label, scores, bits, quantizer, (base, base), len(upper), "outlier budget")


def drops(orderings: Orderings, quantizer: Quantizer, counts: Sequence[int]) -> Iterator[Candidate]:
    """In each ordering: the least important blocks dropped, the others untouched."""
    yield from curve(orderings, quantizer, KEPT, DROPPED, counts, way="drop")


def chosen(orderings: Orderings, names: Sequence[str]) -> dict[str, Scores]:
    """Those with a label among `names`, where `random` stands for all random orders."""
    return {
        label: scores
        for label, scores in orderings.items()
        if label in names or ("random" in names and seed_of(scores.scorer) is not None)
    }


def runs(
    orderings: Orderings, quantizer: Quantizer, counts: Sequence[int], label: str
) -> Iterator[Candidate]:
    """The first of `orderings` with the first of `counts` blocks dropped, the second with the
    second, under one label.
    """
    for scores, count in zip(orderings.values(), counts, strict=True):
        yield from drops({label: scores}, quantizer, [count])


def masks(study: Any, rates: Sequence[str], true_bits: Sequence[float]) -> Iterator[Candidate]:
    """Masks of each size, each with densities by one of RATES; sizes that no density reaches are
    left out.

    study: an Experiment whose quantizer is a mask.
    """
    levels = study.quantizer.levels
    for size in (size for size in true_bits if levels[0] < size < levels[-1]):
        for name in rates:
            scorer, rule = pick(RATES, "layer rates", name)
            (scores,) = study.orderings(
                [scorer.format(density=round(density_of(size), 4))]
            ).values()
            plan = allocate(scores, None, levels, study.quantizer, rule, true_bits=size)
            moved = len(scores)
            yield Candidate(name, scores.scorer, plan, KEPT, int(levels[0]), moved, "mask")


def knapsack(
    costs: Costs, quantizer: Quantizer, widths: Sequence[int], true_bits: Sequence[float]
) -> Iterator[Candidate]:
    """The least harm for each size; every unit has any of `widths`."""
    for size in true_bits:
        plan = allocate(costs, None, tuple(widths), quantizer, "knapsack", true_bits=size)
        yield _candidate("knapsack", costs, plan, max(widths), min(widths), "knapsack")
