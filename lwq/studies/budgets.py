"""Plans of equal size: what a score and an allocator make of a budget. Nothing is measured here."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, Protocol

from lwq.allocators import adjacent, within
from lwq.common.errors import InputError
from lwq.common.names import build, spec
from lwq.contracts import Budget, Costs, Layout, Option, Plan, Scores, Size, nominal_bits
from lwq.contracts.methods import Quantizer
from lwq.contracts.results import BLOCKS, WHOLE
from lwq.engine.apply import require_fit
from lwq.quantizers import QUANTIZERS
from lwq.scorers import SCORERS
from lwq.scorers.shared.declared import Declared
from lwq.studies.candidates import Candidate


class Searcher(Protocol):
    """What finds plans by measuring: an `Experiment`."""

    quantizer: Any

    def search(
        self, scores: Scores | Costs, budget: Budget, allocator: str, passes: float
    ) -> Plan: ...


Found = Mapping[str, Scores | Costs]
NEAR = 1.0  # bits a weight


def fitted(
    names: Sequence[str],
    quantizer: Quantizer,
    options: Sequence[Option],
    granularity: str = "matrix",
    **more: object,
) -> dict[str, str]:
    """Label -> the scorer with all its settings; those of `quantizer`, `options`, `granularity` and
    `more` that it has and its label does not name are as they are here.

    Args:
        names: such as "fisher_kl" or "fisher_kl(granularity='block')", which stay the labels.
    """
    ours = {
        "quantizer": spec(QUANTIZERS, quantizer),
        "options": tuple(options),
        "granularity": granularity,
        **more,
    }
    found = {}
    for name in names:
        own = {field.name for field in fields(build(SCORERS, "scorer", name))}
        settings = {
            key: value for key, value in ours.items() if key in own and f"{key}=" not in name
        }
        found[name] = spec(SCORERS, build(SCORERS, "scorer", name, **settings))
    return found


def require_options(layout: Layout, quantizer: Quantizer, options: Sequence[Option]) -> None:
    """Raise InputError, naming the matrix, for an option that does not suit the model."""
    shapes = {name: shape for own in layout.units.values() for name, shape in own.items()}
    for option in options:
        require_fit(quantizer, shapes, dict.fromkeys(shapes, option))


def of_kind(texts: Mapping[str, str], granularity: str) -> dict[str, str]:
    """Those scorers that score units of this granularity; some are defined for blocks alone."""
    return {
        label: text
        for label, text in texts.items()
        if Declared.of(build(SCORERS, "scorer", text)).granularity == granularity
    }


def fitting(
    found: Found,
    quantizer: Quantizer,
    options: Sequence[Option],
    allocator: str,
    sizes: Sequence[float],
    way: str = BLOCKS,
    limit: str = "true_bits",
) -> Iterator[Candidate]:
    """With each score: the allocator's plan for each size, under the label "score + allocator";
    sizes out of reach are left out.

    Args:
        options: to choose from; none: the two whole widths on either side of a size.
        sizes: stored bits a weight, at most, of all weights that the units of a score have.
        way: what the table says of these plans.
        limit: "true_bits", or what sizes are instead, such as "avg_bits".
    """
    for label, scores in found.items():
        for budget in _within_reach(scores.layout, quantizer, options, sizes, limit):
            yield _made(
                f"{label} + {allocator}", scores, within(scores, budget, allocator), budget, way
            )


def searching(
    study: Searcher,
    found: Found,
    allocator: str,
    options: Sequence[Option],
    true_bits: Sequence[float],
    passes: float,
    way: str = BLOCKS,
) -> Iterator[Candidate]:
    """`fitting` for an allocator that measures plans, each size with so many forward passes."""
    for label, scores in found.items():
        for budget in _within_reach(scores.layout, study.quantizer, options, true_bits):
            plan = study.search(scores, budget, allocator, passes)
            yield _made(f"{label} + {allocator}", scores, plan, budget, way)


def _within_reach(
    layout: Layout,
    quantizer: Quantizer,
    options: Sequence[Option],
    sizes: Sequence[float],
    limit: str = "true_bits",
) -> Iterator[Budget]:
    for size in sizes:
        chosen = tuple(options) or adjacent(layout, quantizer, limit, size)
        try:
            yield Budget(layout, chosen, quantizer, limit, size)
        except InputError:
            continue


def _made(name: str, scores: Scores | Costs, plan: Plan, budget: Budget, way: str) -> Candidate:
    bits = [budget.nominal(option) for option in budget.widths]
    moved = sum(option != budget.offered[0] for option in plan.bits.values())
    return Candidate(name, scores.scorer, plan, int(max(bits)), int(min(bits)), moved, way)


def inside_blocks(found: Found, layout: Layout) -> dict[str, Scores | Costs]:
    """The same scores without embeddings and head; `layout` is that of the model without them."""
    return {label: _restricted(scores, layout) for label, scores in found.items()}


def _restricted(scores: Scores | Costs, layout: Layout) -> Scores | Costs:
    kept = {unit: unit in layout.units for unit in scores}
    if all(kept.values()):
        return scores
    if isinstance(scores, Costs):
        harm = {unit: value for unit, value in scores.harm.items() if kept[unit]}
        pairs = {
            one: {other: value for other, value in beside.items() if kept[other]}
            for one, beside in scores.pairs.items()
            if kept[one]
        }
        return replace(scores, harm=harm, layout=layout, stderr={}, pairs=pairs)
    importance = {unit: value for unit, value in scores.importance.items() if kept[unit]}
    return replace(scores, importance=importance, layout=layout, stderr={})


def mixed_uniform(
    layout: Layout,
    quantizer: Quantizer,
    blocks: Sequence[Option],
    beyond: Sequence[Option],
    true_bits: Sequence[float],
) -> Iterator[Candidate]:
    """One option for all blocks and one for embeddings and head, in each combination whose size is
    less than a bit away from one of `true_bits`.
    """
    high, low = _ends((*blocks, *beyond), quantizer)
    for inner in blocks:
        for outer in beyond:
            bits = dict.fromkeys(layout.units, inner) | dict.fromkeys(layout.outside, outer)
            label = f"uniform({inner}, {outer})"
            size = Size.of(layout, bits, quantizer).true_bits
            if min(abs(size - one) for one in true_bits) >= NEAR:
                continue
            plan = Plan(bits, layout, spec(QUANTIZERS, quantizer), {"scorer": label})
            yield Candidate("uniform", label, plan, high, low, 0, WHOLE)


def _ends(options: Sequence[Option], quantizer: Quantizer) -> tuple[int, int]:
    """The most and the fewest nominal bits, whole."""
    bits = [nominal_bits(option, quantizer) for option in options]
    return int(max(bits)), int(min(bits))
