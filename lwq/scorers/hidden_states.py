"""Scores from what enters and what leaves a block."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from lwq.common.errors import InputError
from lwq.contracts.estimate import Estimate
from lwq.statistics.calls import logits_after
from lwq.statistics.forward import WINDOWS, BlockStats, Stats
from lwq.statistics.windows import require_windows

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

    Costs one forward pass. Source: Dumitru et al. 2024, arXiv:2406.17415, section 3.1; block
    influence: arXiv:2403.03853.
    """

    average: str = "tokens"
    final_norm: bool = False

    needs: ClassVar[frozenset[str]] = frozenset({"similarity"})
    granularity: ClassVar[str] = "block"

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
class BlockInfluence(LIM):
    """Block Influence, BI(i) = 1 − E cos(x_i, y_i): what `lim` is here, under its first name.

    Costs one forward pass. Source: ShortGPT, Men et al. 2024, arXiv:2403.03853, equation 1: the
    cosine token by token.
    """


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

    Costs one forward pass. Source: Gromov et al. 2024, arXiv:2403.17887, section 3.2.
    """

    run: int = 1

    needs: ClassVar[frozenset[str]] = frozenset({"last_token"})
    granularity: ClassVar[str] = "block"

    def __call__(self, model: nn.Module, stats: Stats) -> dict[str, float]:
        require_run("angular", self.run, stats)
        return grown(self.run, _distances(stats), list(stats))


def require_run(scorer: str, run: int, stats: Stats) -> None:
    """Raise InputError for a run that the model is too short for."""
    if not 1 <= run <= len(stats):
        raise InputError(
            f"{scorer}: run={run} is out of range; the model has {len(stats)} "
            f"blocks, so 1 to {len(stats)}"
        )


def grown(run: int, d: Tensor, names: list[str]) -> dict[str, float]:
    """0 for the blocks of the run l … l + run − 1 with the smallest d(l, l + run); 1, 2, … in the
    order in which the run grows from there, on the side where d is smaller.

    d: between the boundaries of the blocks, (blocks + 1, blocks + 1).
    """
    blocks = len(names)
    first = min(range(blocks - run + 1), key=lambda start: float(d[start, start + run]))
    last = first + run
    joined = dict.fromkeys(range(first, last), 0.0)
    while len(joined) < blocks:
        if last == blocks or (first > 0 and d[first - 1, last] <= d[first, last + 1]):
            first -= 1
            joined[first] = float(last - first - run)
        else:
            last += 1
            joined[last - 1] = float(last - first - run)
    return {name: joined[index] for index, name in enumerate(names)}


def _distances(stats: Stats) -> Tensor:
    """d between all boundaries of the blocks, float64 (blocks + 1, blocks + 1)."""
    found = list(stats.values())
    boundaries = [found[0].last_input, *(block.last_output for block in found)]
    states = [x.double().cpu() for x in boundaries]  # type: ignore[union-attr]  # `needs` asks for both, so neither is None
    x = torch.nn.functional.normalize(torch.stack(states), dim=-1)
    return torch.einsum("lwd,mwd->lmw", x, x).clamp(-1, 1).arccos().mean(-1) / torch.pi


def _states(block: BlockStats) -> tuple[Tensor, Tensor]:
    """What entered and what left a block (windows, length, width); `needs` asks for both."""
    assert block.inputs is not None and block.outputs is not None
    return block.inputs.double(), block.outputs.double()


@dataclass(frozen=True)
class NormRatio:
    """How much of a block's output is new.

        importance = mean over tokens of ‖y − x‖ / ‖y‖

    x and y enter and leave the block. Costs one forward pass. Source: EvoPress, Sieberling et al.
    2024, arXiv:2410.14649, among its baselines for dropping blocks.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"hidden_states"})
    granularity: ClassVar[str] = "block"

    def __call__(self, model: nn.Module, stats: Stats) -> dict[str, float]:
        found: dict[str, float] = {}
        for name, block in stats.items():
            x, y = _states(block)
            tiny = torch.finfo(y.dtype).tiny
            ratio = (y - x).norm(dim=-1) / y.norm(dim=-1).clamp(min=tiny)
            found[name] = Estimate.of(ratio.mean(-1).cpu().numpy())
        return found


@dataclass(frozen=True)
class Streamline:
    """Cosine across a run of blocks, of all tokens: which contiguous blocks turn them least?

        d(l, m) = 1 − mean over tokens of cos(x_l, x_m)

    As `angular`, which looks at the last token and at angles.

    Attributes:
        run: number of blocks.

    Costs one forward pass. Source: LLM-Streamline, Chen et al. 2024, arXiv:2403.19135.
    """

    run: int = 1

    needs: ClassVar[frozenset[str]] = frozenset({"hidden_states"})
    granularity: ClassVar[str] = "block"

    def __call__(self, model: nn.Module, stats: Stats) -> dict[str, float]:
        require_run("streamline", self.run, stats)
        states = [torch.nn.functional.normalize(x, dim=-1).flatten() for x in _boundaries(stats)]
        x = torch.stack(states)  # (blocks + 1, tokens · width)
        tokens = states[0].numel() / next(iter(stats.values())).inputs.shape[-1]  # type: ignore[union-attr]  # `needs` asks for it
        return grown(self.run, 1 - x @ x.T / tokens, list(stats))


def _boundaries(stats: Stats) -> list[Tensor]:
    """What enters each block, and what leaves the last, (windows, length, width)."""
    found = [_states(block) for block in stats.values()]
    return [*(x for x, _ in found), found[-1][1]]


@dataclass(frozen=True)
class LSAQ:
    """How many of the likeliest next tokens a block replaces.

        importance = mean over windows of 1 − |A ∩ B| / |A ∪ B|

    A and B are the `top` tokens that what follows the blocks (the final norm, the head) makes of
    the last token's hidden state before and after the block.

    Attributes:
        top: tokens.

    Costs one forward pass, and the head on two tokens a block. Source: LSAQ, Zeng et al. 2024,
    arXiv:2412.18135; 50 is the number of one re-implementation.
    """

    top: int = 50

    needs: ClassVar[frozenset[str]] = frozenset({"last_token", WINDOWS})
    granularity: ClassVar[str] = "block"

    def __post_init__(self) -> None:
        if self.top < 1:
            raise InputError(f"lsaq: top={self.top}; one token or more is needed")

    @torch.no_grad()
    def __call__(self, model: nn.Module, stats: Stats) -> dict[str, float]:
        blocks, last = list(stats.values()), require_windows(stats.windows, self.needs)[:, -1:]
        states = [blocks[0].last_input, *(block.last_output for block in blocks)]
        tokens = [self._likeliest(model, last, x) for x in states if x is not None]
        return {
            name: Estimate.of(np.array([1 - len(a & b) / len(a | b) for a, b in zip(*pair)]))  # noqa: B905 (one entry a window)
            for name, pair in zip(stats, zip(tokens, tokens[1:], strict=False), strict=True)
        }

    def _likeliest(self, model: nn.Module, last: Tensor, states: Tensor) -> list[set[int]]:
        """last: (windows, 1) tokens, states: (windows, width) -> the tokens of each window."""
        logits = logits_after(model, last, states[:, None])[:, 0]
        return [set(row.tolist()) for row in logits.topk(min(self.top, logits.shape[-1])).indices]


@dataclass(frozen=True)
class CCA:
    """How little a block's input correlates with the states between the other blocks.

        importance(l) = 1 − mean over m ≠ l of ρ(X_l, X_m)

    X_l, (windows, width), holds the token means of what enters block l (X_L: what leaves the last).
    ρ is the mean canonical correlation of their first `keep` principal directions, centred: with
    fewer windows than numbers in a state, whole states correlate perfectly.

    Attributes:
        keep: directions; less than half of the windows.

    Costs one forward pass. Source: CMPQ of CPTQuant, Nanda et al. 2024, arXiv:2412.03599; the
    principal directions are those of SVCCA.
    """

    keep: int = 2

    needs: ClassVar[frozenset[str]] = frozenset({"hidden_states"})
    granularity: ClassVar[str] = "block"

    def __call__(self, model: nn.Module, stats: Stats) -> dict[str, float]:
        pooled = [x.mean(1) for x in _boundaries(stats)]
        windows = len(pooled[0])
        if not 1 <= self.keep < windows / 2:
            raise InputError(
                f"cca: keep={self.keep} directions of {windows} windows; give more windows than "
                f"twice the directions"
            )
        bases = [torch.linalg.svd(x - x.mean(0), full_matrices=False).U for x in pooled]
        kept = torch.stack([u[:, : self.keep] for u in bases])  # (blocks + 1, windows, keep)
        crossed = torch.einsum("lwi,mwj->lmij", kept, kept)
        rho = torch.linalg.svdvals(crossed).clamp(max=1).mean(-1)  # (blocks + 1, blocks + 1)
        others = (rho.sum(1) - rho.diagonal()) / (len(rho) - 1)
        return {name: max(0.0, float(1 - others[index])) for index, name in enumerate(stats)}
