"""Plans of equal size: what a score and an allocator make of a budget. Nothing is measured here."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields

from lwq.allocators import adjacent, within
from lwq.common.errors import InputError
from lwq.common.names import build, pick, spec
from lwq.contracts import Budget, Costs, Layout, Option, Plan, Scores
from lwq.contracts.methods import Quantizer
from lwq.quantizers import QUANTIZERS
from lwq.scorers import SCORERS
from lwq.scorers.shared.declared import Declared
from lwq.studies.candidates import Candidate

Found = Mapping[str, Scores | Costs]


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
        kind = pick(SCORERS, "scorer", name.partition("(")[0])
        own = {field.name for field in fields(kind)}
        settings = {
            key: value for key, value in ours.items() if key in own and f"{key}=" not in name
        }
        found[name] = spec(SCORERS, build(SCORERS, "scorer", name, **settings))
    return found


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
    true_bits: Sequence[float],
    way: str = "blocks",
) -> Iterator[Candidate]:
    """With each score: the allocator's plan for each size, under the label "score + allocator";
    sizes out of reach are left out.

    Args:
        options: to choose from; none: the two whole widths on either side of a size.
        true_bits: stored bits a weight, at most, of all weights that the units of a score have.
        way: what the table says of these plans.
    """
    for label, scores in found.items():
        for size in true_bits:
            chosen = tuple(options) or adjacent(scores.layout, quantizer, "true_bits", size)
            try:
                budget = Budget(scores.layout, chosen, quantizer, "true_bits", size)
            except InputError:
                continue
            plan = within(scores, budget, allocator)
            high, low = _ends(chosen, quantizer)
            moved = sum(option != budget.offered[0] for option in plan.bits.values())
            name = f"{label} + {allocator}"
            yield Candidate(name, scores.scorer, plan, high, low, moved, way)


def mixed_uniform(
    layout: Layout, quantizer: Quantizer, blocks: Sequence[Option], beyond: Sequence[Option]
) -> Iterator[Candidate]:
    """One option for all blocks and one for embeddings and head, in each combination."""
    high, low = _ends((*blocks, *beyond), quantizer)
    for inner in blocks:
        for outer in beyond:
            bits = dict.fromkeys(layout.units, inner) | dict.fromkeys(layout.outside, outer)
            label = f"uniform({inner}, {outer})"
            plan = Plan(bits, layout, spec(QUANTIZERS, quantizer), {"scorer": label})
            yield Candidate("uniform", label, plan, high, low, 0, "whole file")


def _ends(options: Sequence[Option], quantizer: Quantizer) -> tuple[int, int]:
    """The most and the fewest nominal bits, whole."""
    bits = [quantizer.nominal(option) for option in options]
    return int(max(bits)), int(min(bits))
