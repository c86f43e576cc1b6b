"""A number and its interval: the one bootstrap of lwq, over documents."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, TypeAlias

import numpy as np
from scipy import special  # not stats: it takes as long to import as all else here

from lwq.common.errors import InputError
from lwq.contracts import Losses
from lwq.contracts.estimate import clusters

RESAMPLES = 9999
CONFIDENCE = 0.95
SEED = 0
FEW = 10  # documents of equal size; of fewer, an interval means little


class Interval(NamedTuple):
    """A value and the ends of its 95 % interval."""

    value: float
    low: float
    high: float

    def signed(self, digits: int) -> str:
        """`+0.12 [-0.01, +0.30]`: a difference."""
        value, low, high = (f"{number:+.{digits}f}" for number in self)
        return f"{value} [{low}, {high}]"


@dataclass(frozen=True, eq=False)
class Sample:
    """What was measured, one value a window or item, and where the windows come from.

    Attributes:
        values: (n,).
        documents: the document of each window (n,); None where each value stands for itself, as the
            items of a task do.
    """

    values: np.ndarray
    documents: np.ndarray | None

    @property
    def clusters(self) -> np.ndarray:
        """What is drawn together, (n,)."""
        return clusters(len(self.values), self.documents)

    def __sub__(self, other: "Sample") -> "Sample":
        """Differences on the same windows."""
        _require_same([self, other])
        return Sample(self.values - other.values, self.documents)

    def mean(self) -> float:
        """Over windows."""
        return float(self.values.mean())


Values: TypeAlias = Sample | np.ndarray
"""A sample, or plain values of which each stands for itself."""


def samples(losses: Losses) -> dict[str, Sample]:
    """What was measured, by name: nll, and kl and top1 where there was a reference."""
    found = {"nll": losses.nll, "kl": losses.kl, "top1": losses.top1}
    return {
        name: Sample(values, losses.documents)
        for name, values in found.items()
        if values is not None
    }


def paired(statistic: Callable[[np.ndarray], np.ndarray], *measured: Values) -> Interval:
    """A function of the means of samples, with its bootstrap interval over documents.

    Documents are drawn with replacement, as many as there are, and each brings all of its windows;
    they are drawn together across samples. The mean of a draw is over its windows. The ends are the
    percentiles p and 1 − p of `RESAMPLES` draws, where

        p = Φ(−√(g / (g − 1)) · t),    t: the 97.5 % point of Student's t, g − 1 degrees of freedom

    is what plain percentiles (p = 2.5 %) lack for few observations (Hesterberg, arXiv:1411.5279,
    the expanded percentile interval), and g is how many documents of equal size these count as
    (`worth`).

    Args:
        statistic: takes means (samples, draws), gives (draws,).
        measured: samples on the same windows, in the same order.

    Raises:
        InputError: for samples of other windows, fewer than two windows, or a statistic that some
            draw leaves without a number.
    """
    samples = [one if isinstance(one, Sample) else Sample(one, None) for one in measured]
    _require_same(samples)
    values = np.stack([sample.values for sample in samples])
    _, places = np.unique(samples[0].clusters, return_inverse=True)
    sizes = np.bincount(places)
    sums = np.stack([np.bincount(places, row) for row in values])  # (samples, documents)
    counts = _draws(len(sizes))  # (draws, documents)
    value = float(statistic(values.mean(1)[:, None])[0])
    drawn = statistic(sums @ counts.T / (counts @ sizes))
    beyond = special.ndtr(-_reach(worth(samples[0])))
    low, high = np.quantile(drawn, [beyond, 1 - beyond])
    if not np.isfinite([value, low, high]).all():
        raise InputError(
            f"a statistic of {value:g} [{low:g}, {high:g}] cannot be estimated from "
            f"{values.shape[1]} values"
        )
    return Interval(value, float(low), float(high))


def _require_same(samples: Sequence[Sample]) -> None:
    lengths = [len(sample.values) for sample in samples]
    if len(set(lengths)) != 1 or lengths[0] < 2:
        raise InputError(f"paired values are needed, two windows or more: lengths {lengths}")
    if any(not np.array_equal(samples[0].clusters, other.clusters) for other in samples[1:]):
        raise InputError("paired values are needed: these windows come from different documents")


def worth(sample: Sample) -> float:
    """How many documents of equal size the documents count as: (Σ n)² / Σ n², n windows each."""
    sizes = np.unique(sample.clusters, return_counts=True)[1]
    return float(sizes.sum() ** 2 / (sizes**2).sum())


def remark(documents: np.ndarray | None) -> str:
    """What must be said of intervals over these documents; "" where there are enough of them."""
    if documents is None:
        return ""
    found, equal = len(np.unique(documents)), worth(Sample(documents, documents))
    if found == 1:
        return (
            "All windows come from one document: the intervals are over its windows, speak of this "
            "document alone, and mean little."
        )
    if equal >= FEW:
        return ""
    return (
        f"The {len(documents)} windows come from {found} documents and count as much as "
        f"{equal:.0f} of equal size: of fewer than {FEW}, an interval means little."
    )


@lru_cache(maxsize=8)
def _draws(documents: int) -> np.ndarray:
    """How often each document stands in each draw (RESAMPLES, documents)."""
    shares = np.full(documents, 1 / documents)
    drawn = np.random.default_rng(SEED).multinomial(documents, shares, RESAMPLES)
    return drawn.astype(np.float64)


def _reach(documents: float) -> float:
    """How many standard deviations of the draws an end lies from the middle."""
    more = documents / (documents - 1)
    return float(math.sqrt(more) * special.stdtrit(documents - 1, (1 + CONFIDENCE) / 2))


def retained(reference: Losses | Values, found: Losses | Values) -> Interval:
    """Retained quality: reference perplexity / perplexity, so that 0.95 means 5 % worse; 1 for
    equal losses.

    Both arguments are losses on the same windows, or their mean NLL (nats per token) a window.
    """
    nll = [samples(one)["nll"] if isinstance(one, Losses) else one for one in (reference, found)]
    return paired(lambda means: np.exp(means[0] - means[1]), *nll)


def perplexity(nll: Values) -> Interval:
    """exp of the mean NLL."""
    return paired(lambda means: np.exp(means[0]), nll)


def mean(values: Values) -> Interval:
    """The mean over windows."""
    return paired(lambda means: means[0], values)


def between(first: Interval, second: Interval) -> Interval:
    """`first` less `second`, of two draws that share no document: the distances from each value to
    its ends are added as squares (Zou and Donner, Statistics in Medicine 27:1693, 2008, eq. 8).
    """
    value = first.value - second.value
    below = math.hypot(first.value - first.low, second.high - second.value)
    above = math.hypot(first.high - first.value, second.value - second.low)
    return Interval(value, value - below, value + above)
