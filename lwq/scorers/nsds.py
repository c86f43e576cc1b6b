"""Shape and spectrum of each matrix, compared with its like in other blocks."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from lwq import models
from lwq.common.errors import InputError
from lwq.scorers.weights import effective_rank, kurtosis, weighed
from lwq.statistics.forward import Stats

TINY = 1e-12


@dataclass(frozen=True)
class NSDS:
    """Heavy tails and a spectrum of few directions that matter, matrix by matrix.

        NV = excess kurtosis of W
        SE = Σ s β / erank(s β),    W = U diag(s) Vᵀ, the first s that hold `energy` of Σ s²
        β = log(1 + max(0, excess kurtosis of v)) of a matrix that reads the residual stream,
        β = ‖Pᵀ u‖ of one that writes into it, P the directions that hold `energy` of the head
        erank(p) = exp(−Σ p log p), p scaled to sum 1
        n(x) = sigmoid((x − median) / MAD), over the matrices of one kind in all blocks
        importance = 1 − exp(mean over kinds and both numbers of log(1 − n))        in [0, 1]

    Each number is compared with that of the same matrix in other blocks; one number that stands out
    is enough. A writer is the last kind of matrix of its module, where its rows are as many as the
    stream is wide.

    Attributes:
        energy: see above.

    Costs no pass. Source: NSDS, arXiv:2603.17354, after its code's description. Departures: each
    matrix by itself, where the paper multiplies query with key and value with output matrices head
    by head, and the share of the head's energy, which is ours.
    """

    energy: float = 0.9

    needs: ClassVar[frozenset[str]] = frozenset()
    granularity: ClassVar[str] = "block"

    def __post_init__(self) -> None:
        if not 0 < self.energy <= 1:
            raise InputError(f"nsds: energy={self.energy}; it is a share, such as 0.9")

    def __call__(self, model: nn.Module, stats: Stats) -> dict[str, float]:
        head, matrices = self._head(model), models.matrices(model)
        values: dict[str, dict[str, Tensor]] = {}  # kind -> block -> (NV, SE)
        for block, names in weighed(model).items():
            writers = _writers(block, names)
            with models.resident(model, block):
                for name in names:
                    weight = matrices[name].view().double()
                    basis = head if name in writers and _fits(head, weight) else None
                    both = torch.stack([_tails(weight), self._spectrum(weight, basis)])
                    values.setdefault(name.removeprefix(f"{block}."), {})[block] = both
        return _together(values)

    def _spectrum(self, weight: Tensor, head: Tensor | None) -> Tensor:
        """SE; `head`: (out, directions) for a matrix that writes."""
        u, s, v = torch.linalg.svd(weight, full_matrices=False)
        count = _holding(s.square(), self.energy)
        if head is None:
            beta = torch.stack([_tails(row) for row in v[:count]]).clamp(min=0).log1p()
        else:
            beta = (head.T @ u[:, :count]).norm(dim=0)
        strength = s[:count] * beta
        return strength.sum() / max(effective_rank(strength), TINY)

    def _head(self, model: nn.Module) -> Tensor | None:
        """Directions of the stream that hold `energy` of the head (width, directions); None without
        a head.
        """
        name = next((name for name in models.outside(model) if models.is_after(model, name)), None)
        if name is None:
            return None
        with models.resident(model, name):
            weight = models.outside(model)[name].view().double()
            energies, directions = torch.linalg.eigh(weight.T @ weight)
        energies, directions = energies.flip(0).clamp(min=0), directions.flip(1)
        return directions[:, : _holding(energies, self.energy)]


def _fits(head: Tensor | None, weight: Tensor) -> bool:
    return head is not None and len(head) == len(weight)


def _tails(values: Tensor) -> Tensor:
    """Excess kurtosis; 0 for Gaussian values, −3 where all are equal."""
    return torch.tensor(kurtosis(values) - 3, dtype=torch.float64)


def _holding(energies: Tensor, share: float) -> int:
    """How many of `energies`, from the largest, it takes to hold that share of their sum."""
    held = energies.cumsum(0) / energies.sum().clamp(min=TINY)
    return min(int((held < share).sum()) + 1, len(energies))


def _writers(block: str, names: list[str]) -> set[str]:
    """Of each module of a block the matrices of its last kind; experts count as one kind."""
    last: dict[str, tuple[str, set[str]]] = {}
    for name in names:
        path = name.removeprefix(f"{block}.").rstrip("0123456789").rstrip(".")
        parent, _, kind = path.rpartition(".")
        before, members = last.get(parent, ("", set()))
        last[parent] = (kind, {*members, name} if kind == before else {name})
    return {name for _, members in last.values() for name in members}


def _median(table: Tensor) -> Tensor:
    """Over blocks, (blocks, numbers) -> (numbers,); the mean of the middle two where the blocks are
    even in number, of which torch's own median takes the lower.
    """
    return table.quantile(0.5, dim=0)


def _together(values: Mapping[str, Mapping[str, Tensor]]) -> dict[str, float]:
    """Block -> importance, from kind -> block -> numbers."""
    logs: dict[str, list[Tensor]] = {}
    for of_blocks in values.values():
        table = torch.stack(list(of_blocks.values()))  # (blocks, numbers)
        middle = _median(table)
        spread = _median((table - middle).abs()).clamp(min=TINY)
        normal = torch.sigmoid((table - middle) / spread)
        for block, row in zip(of_blocks, (1 - normal).clamp(min=TINY).log(), strict=True):
            logs.setdefault(block, []).append(row)
    return {block: float(1 - torch.cat(rows).mean().exp()) for block, rows in logs.items()}
