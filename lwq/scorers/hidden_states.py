"""Scores from what enters and what leaves a block."""

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from lwq.collect import Stats
from lwq.errors import InputError
from lwq.scorers.estimate import Estimate

AVERAGES = ("tokens", "flat", "mean")


@dataclass(frozen=True)
class LIM:
    """Layer Input Modification: how much a block turns its input.

        importance(i) = 1 − cos(x_i, y_i)  =  1 + LIM(i)        in [0, 2]

    x_i and y_i, shape (windows, length, width), are the hidden states that enter and leave block i; higher = more
    important. The ranking is that of the paper's LIM(i) = −cos(x_i, y_i) and of ShortGPT's block influence.

    Attributes:
        average: "tokens" takes the mean over tokens of per-token cosines; "flat" the cosine of the whole window as one
            vector; "mean" the cosine of the token averages. The paper does not say which.
        final_norm: take the last block's output after the final norm, as the last entry of Hugging Face's
            `hidden_states` is. A trap: the last block then looks far more important than it is.

    Source: Dumitru et al. 2024, arXiv:2406.17415, section 3.1; block influence: arXiv:2403.03853.
    """

    average: str = "tokens"
    final_norm: bool = False

    needs: ClassVar[frozenset[str]] = frozenset({"similarity"})

    def __post_init__(self) -> None:
        if self.average not in AVERAGES:
            raise InputError(f"lim: average={self.average!r}; choose one of {AVERAGES}")

    def __call__(self, model: nn.Module, stats: Stats) -> dict[str, float]:
        found: dict[str, float] = {}
        for name, block in stats.items():
            normed = f"{self.average}_normed"
            key = normed if self.final_norm and normed in block.similarity else self.average
            # rounding can leave a cosine a hair above 1
            found[name] = Estimate.of((1 - block.similarity[key]).clip(min=0.0))
        return found
