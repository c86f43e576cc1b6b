"""Scorers: how important is each unit? One dict, one line a method.

A scorer is a frozen dataclass with `needs` (the statistics it wants) and `granularity` (of the
units it scores), called as `scorer(model, stats)`. It returns unit -> importance, higher = more
important = keeps more bits; or unit -> option -> harm. A value is an Estimate where it is sampled.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from lwq import models
from lwq.common.errors import InputError
from lwq.common.names import build, spec
from lwq.contracts import Costs, Layout, Scores
from lwq.contracts.estimate import Estimate
from lwq.scorers.activations import ActivationVariance, GramError, LieQ
from lwq.scorers.baselines import Deepest, Edges, FirstToLast, LastToFirst, Random, Reversed
from lwq.scorers.fisher import FisherKL
from lwq.scorers.gradients import (
    DeltaLoss,
    Fisher,
    Hutchinson,
    OutputFisher,
    Relevance,
    Taylor,
)
from lwq.scorers.hidden_states import (
    CCA,
    LIM,
    LSAQ,
    Angular,
    BlockInfluence,
    NormRatio,
    Streamline,
)
from lwq.scorers.interventions import BlockDrop
from lwq.scorers.measured import (
    AtOption,
    LeaveOneHigh,
    LeaveOneLow,
    Linearity,
    PruneSensitivity,
    ShapedNoise,
)
from lwq.scorers.nsds import NSDS
from lwq.scorers.oracle import Oracle
from lwq.scorers.outliers import DLP, LAMP, OWL
from lwq.scorers.shapley import Shapley
from lwq.scorers.shared.declared import Declared, Found
from lwq.scorers.shared.listening import Source, listen
from lwq.scorers.shared.result import require_numbers, result
from lwq.scorers.sublayers import AttentionDrop, MLPDrop
from lwq.scorers.weights import ZD, Entropy, Kurtosis, Rank, WeightError
from lwq.statistics.forward import GRADIENTS, Stats, collect
from lwq.statistics.passes import Passes, counted
from lwq.statistics.windows import require_token_ids

SCORERS: dict[str, type] = {
    "lim": LIM,
    "bi": BlockInfluence,
    "zd": ZD,
    "angular": Angular,
    "norm_ratio": NormRatio,
    "streamline": Streamline,
    "lsaq": LSAQ,
    "cca": CCA,
    "attention_drop": AttentionDrop,
    "mlp_drop": MLPDrop,
    "kurtosis": Kurtosis,
    "entropy": Entropy,
    "rank": Rank,
    "nsds": NSDS,
    "weight_error": WeightError,
    "gram_error": GramError,
    "lieq": LieQ,
    "activation_variance": ActivationVariance,
    "block_drop": BlockDrop,
    "owl": OWL,
    "dlp": DLP,
    "lamp": LAMP,
    "fisher_kl": FisherKL,
    "fisher": Fisher,
    "hutchinson": Hutchinson,
    "taylor": Taylor,
    "delta_loss": DeltaLoss,
    "output_fisher": OutputFisher,
    "relevance": Relevance,
    "at_option": AtOption,
    "leave_one_low": LeaveOneLow,
    "leave_one_high": LeaveOneHigh,
    "prune_sensitivity": PruneSensitivity,
    "linearity": Linearity,
    "shaped_noise": ShapedNoise,
    "shapley": Shapley,
    "random": Random,
    "first_to_last": FirstToLast,
    "last_to_first": LastToFirst,
    "deepest": Deepest,
    "edges": Edges,
    "oracle": Oracle,
    "reversed": Reversed,
}

__all__ = ["SCORERS", "Estimate", "score", "score_all"]


def score(
    model: nn.Module, scorer: Any, windows: Tensor | None = None, data: str = "", **settings: Any
) -> Scores | Costs:
    """Score the units of `model`; higher = more important = keeps more bits.

    Args:
        model: from `lwq.load`.
        scorer: a name in SCORERS, a call in text such as `"zd(two_sided=True)"`, or an object of
            your own.
        windows: LongTensor (n, length) of calibration tokens; needed only where the scorer says so.
        data: where the windows came from, for the record.
        settings: of the scorer.

    Returns:
        Scores, one finite value of at least 0 for each unit; or, of a scorer that says what each
        option costs (`fisher_kl`), Costs. Both say what they took: seconds, and how often the
        tokens of `windows` went forward and back through the model.
    """
    return score_all(model, [build(SCORERS, "scorer", scorer, **settings)], windows, data)[0]


def score_all(
    model: nn.Module, scorers: list[Any], windows: Tensor | None = None, data: str = ""
) -> list[Scores | Costs]:
    """Many scorers for the price of one pass over the windows, and of one back for all that listen
    to the same gradients; the arguments are those of `score`.
    """
    if not isinstance(model, nn.Module):
        raise InputError(
            f"the model is a {type(model).__name__}; write lwq.score(model, scorer, windows), with "
            "a model from lwq.load"
        )
    if windows is not None:
        require_token_ids(windows)
    built = [build(SCORERS, "scorer", scorer) for scorer in scorers]
    declared = [Declared.of(scorer) for scorer in built]
    start = time.monotonic()
    if models.streamed(model) is None:  # else they were checked when the model was loaded
        models.require_finite(model)
    with counted(model) as passes:
        stats = collect(model, windows, frozenset().union(*(said.needs for said in declared)))
    shared = _Took(time.monotonic() - start, passes)
    heard = _hear_all(model, stats, built, declared)
    beyond = set(models.outside(model))
    layouts: dict[tuple[str, bool], Layout] = {}  # granularity, whether with embeddings and head
    tokens = 0 if windows is None else windows.numel()
    scores = []
    for number, (scorer, said) in enumerate(zip(built, declared, strict=True)):
        found, took = heard[number] if number in heard else _called(model, stats, scorer)
        text = spec(SCORERS, scorer)
        require_numbers(found, text)
        place = said.granularity, not beyond.isdisjoint(found)
        if place not in layouts:
            layouts[place] = models.layout(model, *place)
        found = _complete(found, layouts[place])
        cost = took.plus(shared if said.needs else None).cost(tokens)
        scores.append(result(found, layouts[place], text, data, cost))
    return scores


def _complete(found: Any, layout: Layout) -> Any:
    """What a scorer found, and 0 (at every option) for units without matrices: they have nothing to
    lose.
    """
    if all(layout.units.values()):
        return found
    one = next(iter(found.values()), 0.0)
    nothing = dict.fromkeys(one, 0.0) if isinstance(one, Mapping) else 0.0
    return {unit: found.get(unit, nothing) for unit in layout.units}


@dataclass(frozen=True)
class _Took:
    seconds: float
    passes: Passes

    def plus(self, other: "_Took | None") -> "_Took":
        if other is None:
            return self
        return _Took(self.seconds + other.seconds, self.passes.plus(other.passes))

    def cost(self, tokens: int) -> dict[str, float]:
        return {"seconds": round(self.seconds, 3), "tokens": tokens, **self.passes.over(tokens)}


def _called(model: nn.Module, stats: Stats, scorer: Any) -> tuple[Found, _Took]:
    start = time.monotonic()
    with counted(model) as passes:
        found = scorer(model, stats)
    return found, _Took(time.monotonic() - start, passes)


def _hear_all(
    model: nn.Module, stats: Stats, scorers: Sequence[Any], declared: Sequence[Declared]
) -> dict[int, tuple[Found, _Took]]:
    """Number of each scorer that listens to gradients -> what it found and what its pass took."""
    sources: dict[Source, list[int]] = {}
    for number, (scorer, said) in enumerate(zip(scorers, declared, strict=True)):
        if GRADIENTS in said.needs:
            source = getattr(scorer, "source", None)
            if not isinstance(source, Source):
                raise InputError(
                    f"{type(scorer).__name__} needs gradients and has no source; add source = "
                    "Source() of lwq.scorers.shared.listening"
                )
            sources.setdefault(source, []).append(number)
    heard: dict[int, tuple[Found, _Took]] = {}
    for source, numbers in sources.items():
        start = time.monotonic()
        with counted(model) as passes:
            found = listen(model, stats, [scorers[number] for number in numbers], source)
        took = _Took(time.monotonic() - start, passes)
        heard |= {number: (one, took) for number, one in zip(numbers, found, strict=True)}
    return heard
