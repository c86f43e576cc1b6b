"""Scores from what enters and what leaves a block."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from lwq.common.errors import InputError
from lwq.contracts.estimate import Estimate
from lwq.statistics.forward import Stats

AVERAGES = ("tokens", "flat", "mean")


@dataclass(frozen=True)
class LIM:
    """Layer Input Modification: how much a block turns its input.

        importance(i) = 1 − cos(x_i, y_i)  =  1 + LIM(i)        in [0, 2]

    x_i and y_i, shape (windows, length, width), are the hidden states that enter and leave block i;
    higher = more important. The ranking is that of the paper's LIM(i) = −cos(x_i, y_i) and of
    ShortGPT's block influence.

    Attributes:
        average: "tokens" takes the mean over tokens of per-token cosines; "flat" the cosine of the
            whole window as one vector; "mean" the cosine of the token averages. The paper does not
            say which.
        final_norm: take the last block's output after the final norm, as the last entry of Hugging
            Face's `hidden_states` is. A trap: the last block then looks far more important than it
            is.

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


@dataclass(frozen=True)
class Angular:
    """Angular distance across a run of blocks: which contiguous blocks turn the last token least?

        d(l, m) = 1/π · arccos(x_l · x_m / (‖x_l‖ ‖x_m‖)), mean over windows        in [0, 1]

    x_l, shape (windows, width), is the last token's hidden state that enters block l (x_L: that
    leaves the last block, before the final norm). The blocks of the run l … l + n − 1 with the
    smallest d(l, l + n) have importance 0. From there the run grows by one neighbour at a time, on
    the side where the longer run has the smaller d; importance = 1, 2, … in the order in which
    blocks join. So `moved=n` drops exactly the run, and any larger number a run around it.

    Attributes:
        run: n, from 1 to the number of blocks.

    Source: Gromov et al. 2024, arXiv:2403.17887, section 3.2.
    """

    run: int = 1

    needs: ClassVar[frozenset[str]] = frozenset({"last_token"})

    def __call__(self, model: nn.Module, stats: Stats) -> dict[str, float]:
        blocks = len(stats)
        if not 1 <= self.run <= blocks:
            raise InputError(
                f"angular: run={self.run} is out of range; the model has {blocks} "
                f"blocks, so 1 to {blocks}"
            )
        d = _distances(stats)
        first = min(
            range(blocks - self.run + 1), key=lambda start: float(d[start, start + self.run])
        )
        last = first + self.run
        joined = dict.fromkeys(range(first, last), 0.0)
        while len(joined) < blocks:
            if last == blocks or (first > 0 and d[first - 1, last] <= d[first, last + 1]):
                first -= 1
                joined[first] = float(last - first - self.run)
            else:
                last += 1
                joined[last - 1] = float(last - first - self.run)
        return {name: joined[index] for index, name in enumerate(stats)}


def _distances(stats: Stats) -> Tensor:
    """d between all boundaries of the blocks, float64 (blocks + 1, blocks + 1)."""
    found = list(stats.values())
    boundaries = [found[0].last_input, *(block.last_output for block in found)]
    states = [x.double().cpu() for x in boundaries]  # type: ignore[union-attr]  # `needs` asks for both, so neither is None
    x = torch.nn.functional.normalize(torch.stack(states), dim=-1)
    return torch.einsum("lwd,mwd->lmw", x, x).clamp(-1, 1).arccos().mean(-1) / torch.pi
