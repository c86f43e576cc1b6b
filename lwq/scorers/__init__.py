"""Scorers: how important is each unit? One dict, one line a method.

A scorer is a frozen dataclass with `needs` (the statistics it wants), called as `scorer(model,
stats)`; it returns unit -> importance, or unit -> Estimate where the value is sampled. Higher =
more important = keeps more bits.
"""

import time
from typing import Any

from torch import Tensor, nn

from lwq import models
from lwq.common.names import build, spec
from lwq.contracts import Layout, Scores
from lwq.contracts.estimate import Estimate
from lwq.scorers.baselines import Deepest, FirstToLast, LastToFirst, Random, Reversed
from lwq.scorers.hidden_states import LIM, Angular
from lwq.scorers.interventions import BlockDrop
from lwq.scorers.outliers import DLP, LAMP, OWL
from lwq.scorers.weights import ZD
from lwq.statistics.forward import collect

SCORERS: dict[str, type] = {
    "lim": LIM,
    "zd": ZD,
    "angular": Angular,
    "block_drop": BlockDrop,
    "owl": OWL,
    "dlp": DLP,
    "lamp": LAMP,
    "random": Random,
    "first_to_last": FirstToLast,
    "last_to_first": LastToFirst,
    "deepest": Deepest,
    "reversed": Reversed,
}

__all__ = ["SCORERS", "Estimate", "score", "score_all"]


def score(
    model: nn.Module, scorer: Any, windows: Tensor | None = None, data: str = "", **settings: Any
) -> Scores:
    """Score the units of `model`; higher = more important = keeps more bits.

    Args:
        model: from `lwq.load`.
        scorer: a name in SCORERS, a call in text such as `"zd(two_sided=True)"`, or an object of
            your own.
        windows: LongTensor (n, length) of calibration tokens; needed only where the scorer says so.
        data: where the windows came from, for the record.
        settings: of the scorer.

    Returns:
        Scores, one finite value of at least 0 for each unit.
    """
    return score_all(model, [build(SCORERS, "scorer", scorer, **settings)], windows, data)[0]


def score_all(
    model: nn.Module, scorers: list[Any], windows: Tensor | None = None, data: str = ""
) -> list[Scores]:
    """Many scorers for the price of one pass over the windows; the arguments are those of
    `score`.
    """
    built = [build(SCORERS, "scorer", scorer) for scorer in scorers]
    start = time.monotonic()
    if models.streamed(model) is None:  # else they were checked when the model was loaded
        models.require_finite(model)
    needs: frozenset[str] = frozenset().union(*(getattr(scorer, "needs", ()) for scorer in built))
    stats = collect(model, windows, needs)
    shared = time.monotonic() - start
    layouts: dict[str, Layout] = {}
    scores = []
    for scorer in built:
        start = time.monotonic()
        found = scorer(model, stats)
        seconds = time.monotonic() - start + (shared if getattr(scorer, "needs", ()) else 0)
        granularity = getattr(scorer, "granularity", "block")
        if granularity not in layouts:
            layouts[granularity] = models.layout(model, granularity)
        scores.append(
            Scores(
                importance={unit: float(value) for unit, value in found.items()},
                layout=layouts[granularity],
                scorer=spec(SCORERS, scorer),
                stderr={
                    unit: value.stderr
                    for unit, value in found.items()
                    if isinstance(value, Estimate) and value.stderr is not None
                },
                data=data,
                cost={
                    "seconds": round(seconds, 3),
                    "tokens": 0 if windows is None else windows.numel(),
                },
            )
        )
    return scores
