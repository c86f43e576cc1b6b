"""Which of two plans harms less? Asked window by window, and answered as soon as it is clear.

Differences d_t = harm of the one − harm of the other on window t, both on the same window. "Neither
is better" means that they are symmetric around 0; then, for any λ,

    E_t(λ) = exp(λ S_t − λ² V_t / 2),    S_t = Σ d,   V_t = Σ d²

is a supermartingale that begins at 1, whatever the spread of the differences. So is its mean over
λ ~ N(0, ρ²), which is (1 + ρ² V)^(−1/2) · exp(ρ² S² / (2 (1 + ρ² V))), and the mean of that over
several ρ. The chance that it ever reaches 1/α is at most α: one may look after each window, and
stop whenever one likes.

What is skewed is not symmetric: where one side is a little better on most windows and much worse on
one in ten, with a mean of 0, it wins in 19 % of runs. Differences of plans that were measured (skew
−0.8 to 1.9) decided falsely in 1 %.

Source: de la Peña 1999 (self-normalized, symmetric variables, lemma 6.1); Robbins 1970 (mixtures);
Ville's inequality; e-values, Ramdas et al. 2023, arXiv:2210.01948.
"""

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy.special import logsumexp

ALPHA = 0.05
# 1/ρ in nats: from differences that are lost in rounding to those of a broken model
SCALES = np.logspace(-5, 1, 13)


@dataclass
class Sequential:
    """Evidence against "neither is better", after the differences seen so far.

    Attributes:
        alpha: the chance of a decision where differences are symmetric around 0, at most.
        total, squares: S and V above.
        seen: how many differences.
    """

    alpha: float = ALPHA
    total: float = 0.0
    squares: float = 0.0
    seen: int = 0

    def add(self, differences: Iterable[float]) -> None:
        """Take more windows into account."""
        values = np.asarray(list(differences), dtype=float)
        self.total += float(values.sum())
        self.squares += float(np.square(values).sum())
        self.seen += len(values)

    @property
    def log_evidence(self) -> float:
        """log of the e-value; 0 says nothing either way."""
        spread = 1 + self.squares / SCALES**2
        logs = -0.5 * np.log(spread) + self.total**2 / (2 * SCALES**2 * spread)
        return float(logsumexp(logs) - math.log(len(SCALES)))

    @property
    def decided(self) -> bool:
        """Whether one side is better."""
        return self.log_evidence >= -math.log(self.alpha)

    @property
    def mean(self) -> float:
        """Mean difference."""
        return self.total / self.seen if self.seen else math.nan


@cache
def least_windows(alpha: float = ALPHA) -> int:
    """Below so many differences nothing is decided, however large and alike they are."""
    alike = 10 / SCALES  # differences, nats
    return next(
        count
        for count in itertools.count(1)
        if any(Sequential(alpha, count * d, count * d**2, count).decided for d in alike)
    )


@dataclass(frozen=True)
class Verdict:
    """What a sequential comparison found.

    Attributes:
        winner: "first", "second", or "" where the limit was spent and neither was clearly better.
        difference: mean harm of the first less that of the second, nats a token.
        evidence: the e-value at the end.
        windows, tokens: that both were measured on.
    """

    winner: str
    difference: float
    evidence: float
    windows: int
    tokens: int


def verdict(test: Sequential, length: int) -> Verdict:
    """Where `test` stands, its windows of `length` scored tokens."""
    better = "" if not test.decided else "first" if test.total < 0 else "second"
    evidence = math.exp(min(test.log_evidence, 700.0))
    return Verdict(better, test.mean, evidence, test.seen, test.seen * length)
