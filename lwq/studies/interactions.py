"""Blocks lowered together: does what each loses alone add up? Nothing is measured here."""

from collections.abc import Iterator
from itertools import combinations

import numpy as np

from lwq.common.names import spec
from lwq.contracts import KEPT, Layout, Option, Plan
from lwq.contracts.methods import Quantizer
from lwq.contracts.results import TOGETHER
from lwq.quantizers import QUANTIZERS
from lwq.studies.candidates import Candidate


def pairs(layout: Layout, quantizer: Quantizer, low: Option) -> Iterator[Candidate]:
    """Every block alone at `low`, and every two of them; all others untouched."""
    for count in (1, 2):
        for places in combinations(range(len(layout.units)), count):
            yield lowered(layout, quantizer, low, places)


def subsets(layout: Layout, quantizer: Quantizer, low: Option, count: int) -> Iterator[Candidate]:
    """Every set of some of `count` blocks, spread evenly over the model, at `low`."""
    spread = np.linspace(0, len(layout.units) - 1, min(count, len(layout.units))).round()
    chosen = sorted({int(place) for place in spread})
    for size in range(1, len(chosen) + 1):
        for places in combinations(chosen, size):
            yield lowered(layout, quantizer, low, places)


def lowered(
    layout: Layout, quantizer: Quantizer, low: Option, places: tuple[int, ...]
) -> Candidate:
    """The blocks with these numbers at `low`, the others untouched."""
    units = list(layout.units)
    bits = dict.fromkeys(units, KEPT) | {units[place]: low for place in places}
    label = f"lowered({', '.join(map(str, places))})"
    plan = Plan(bits, layout, spec(QUANTIZERS, quantizer), {"scorer": label, "way": TOGETHER})
    nominal = int(quantizer.nominal(low))
    return Candidate("lowered", label, plan, KEPT, nominal, len(places), TOGETHER)
