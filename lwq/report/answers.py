"""The first screen: mixed or uniform, which score, and what at about N MB, in numbers."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from lwq.inputs import catalogue
from lwq.report import overview
from lwq.report.beside import UNIFORM, Arena, Method
from lwq.report.bootstrap import Interval
from lwq.report.figures import style
from lwq.report.intervals import RANDOM
from lwq.studies import grid

ASKED = 5  # sizes on the first screen
RATIO = ("ratio", "low_ratio", "high_ratio")


def answers(arenas: Sequence[Arena]) -> dict[str, Any] | None:
    """What the template says first; None where no mixed plan stands beside uniform bits.

    Returns:
        name, model, windows, judge (text), remark: of the leading arena; best (a method, as `line`
        says it); shown (methods with the same units as the claimed scores); drawn (labels of both);
        losing (labels of those that are worse than uniform bits); verdict ("mixed", "uniform" or
        "open"); clear (whether the first shown is told apart from the next); sizes (lines of
        `_sizes`); others (lines: name, verdict, and the best method of those with embeddings and
        head among the units where `best` has them) of other models with today's quantizers;
        allocators (tried).
    """
    if not arenas:
        return None
    lead, *others = arenas
    first = lead.first
    alike = [method for method in lead.methods if not method.whole] or lead.methods
    shown = list(_shown(alike))
    return {
        "name": lead.name,
        "model": first["model"],
        "windows": int(first["n"]),
        "remark": lead.remark,
        "judge": str(first["judge"]).partition(" ")[0],
        "verdict": verdict(lead.methods[0].worth),
        "best": line(lead.methods[0]),
        "shown": [line(method) for method in shown],
        "drawn": list(dict.fromkeys(method.label for method in (lead.methods[0], *shown))),
        "losing": [method.label for method in shown if verdict(method.worth) == "uniform"],
        "clear": len(shown) > 1 and shown[0].worth.high < shown[1].worth.low,
        "sizes": list(_sizes(lead)),
        "others": [
            {"name": arena.name, "verdict": verdict(best.worth)} | line(best)
            for arena in _named(others, first["model"])
            for best in [_alike(arena, lead.methods[0].whole)]
        ],
        "allocators": sorted({name.partition("(")[0] for name in lead.plans["allocator"].dropna()}),
    }


def verdict(worth: Interval) -> str:
    """What KL over that of uniform bits says."""
    if worth.high < 1:
        return "mixed"
    return "uniform" if worth.low > 1 else "open"


def line(method: Method) -> dict[str, Any]:
    """A method as text."""
    counts = {"better": method.better, "worse": method.worse, "plans": method.plans}
    counts |= {"whole": method.whole}
    return {"label": method.label, "worth": times(method.worth), **counts}


def times(worth: Interval) -> str:
    """ "0.63 [0.60, 0.66]"."""
    return "{:.2f} [{:.2f}, {:.2f}]".format(*worth)


def _shown(methods: Iterable[Method]) -> Iterator[Method]:
    """The best one, the scores of claims and random orders."""
    named = {style.label(name) for name in grid.claimed()} | {RANDOM}
    for place, method in enumerate(methods):
        if place == 0 or method.label in named:
            yield method


def _named(arenas: Iterable[Arena], lead: str) -> Iterator[Arena]:
    """The first one of each other model, without rungs of the ladder; a carried model and its file
    (`NAME@file`) are one.
    """
    seen = {lead.removesuffix(catalogue.AS_FILED)}
    for arena in arenas:
        model = str(arena.first["model"]).removesuffix(catalogue.AS_FILED)
        if not overview.is_rung(model) and model not in seen:
            seen.add(model)
            yield arena


def _alike(arena: Arena, whole: bool) -> Method:
    """The best method with embeddings and head among the units, or without; of any where there is
    none.
    """
    return next((one for one in arena.methods if one.whole == whole), arena.methods[0])


def _sizes(arena: Arena) -> Iterator[dict[str, Any]]:
    """At sizes of the leading method, the best measured plan that is no larger.

    Returns:
        Lines of mb (of the plan), bits (stored, a weight of its units), label, kl, uniform (KL of
        uniform bits of the same bytes, with the same units), ratio (of both), id.
    """
    plans = arena.plans[arena.plans["method"] == arena.methods[0].label].dropna(subset="ratio")
    measured = np.unique(plans["total_bytes"])
    places = np.linspace(0, len(measured) - 1, min(ASKED, len(measured))).round().astype(int)
    for best in {(plan := arena.best(measured[place]))["id"]: plan for place in places}.values():
        even = best["ordering"] == UNIFORM
        yield {
            "mb": f"{best['total_bytes'] / 1e6:.1f}",
            "bits": f"{best['true_bits']:.2f}",
            "label": label(best),
            "kl": span(best),
            "uniform": number(best["kl"] if even else best["kl"] / best["ratio"]),
            "ratio": "1" if even else times(Interval(*(best[key] for key in RATIO))),
            "id": best["id"],
        }


def label(plan: Any) -> str:
    """What readers call a plan of `Arena.best`."""
    if plan["ordering"] != UNIFORM:
        return str(plan["method"])
    return f"uniform {plan['avg_bits']:.3g} bits"


def span(row: Any) -> str:
    """KL with its interval."""
    return " ".join([number(row["kl"]), f"[{number(row['low_kl'])}, {number(row['high_kl'])}]"])


def number(value: float) -> str:
    """Three figures that tell small divergences apart."""
    return f"{value:.3f}" if value >= 0.01 else f"{value:.4f}"
