"""Orderings to beat: random, by position, and any other scorer turned round."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from lwq import models
from lwq.common.errors import InputError
from lwq.contracts.estimate import Estimate
from lwq.scorers.shared.declared import Declared, importance
from lwq.statistics.forward import GRADIENTS, Stats


@dataclass(frozen=True)
class Random:
    """A seeded random order: importance is a permutation of 0 … units − 1.

    Costs no pass.
    """

    seed: int = 0
    granularity: str = "block"

    needs: ClassVar[frozenset[str]] = frozenset()

    def __call__(self, model: nn.Module, stats: Stats) -> dict[str, float]:
        units = models.units(model, self.granularity)
        order = torch.randperm(len(units), generator=torch.Generator().manual_seed(self.seed))
        return dict(zip(units, order.double().tolist(), strict=True))


@dataclass(frozen=True)
class FirstToLast:
    """The first unit is moved to low bits first: importance grows with depth.

    Costs no pass.
    """

    granularity: str = "block"

    needs: ClassVar[frozenset[str]] = frozenset()

    def __call__(self, model: nn.Module, stats: Stats) -> dict[str, float]:
        return {
            unit: float(index) for index, unit in enumerate(models.units(model, self.granularity))
        }


@dataclass(frozen=True)
class LastToFirst:
    """The last unit is moved to low bits first: importance falls with depth.

    Costs no pass.
    """

    granularity: str = "block"

    needs: ClassVar[frozenset[str]] = frozenset()

    def __call__(self, model: nn.Module, stats: Stats) -> dict[str, float]:
        units = list(models.units(model, self.granularity))
        return {unit: float(len(units) - 1 - index) for index, unit in enumerate(units)}


@dataclass(frozen=True)
class Edges:
    """The units at both ends matter most: importance grows with the distance from the middle.

    Of L units, importance(i) = |i − (L − 1) / 2|. Costs no pass.
    """

    granularity: str = "block"

    needs: ClassVar[frozenset[str]] = frozenset()

    def __call__(self, model: nn.Module, stats: Stats) -> dict[str, float]:
        units = list(models.units(model, self.granularity))
        return {unit: abs(i - (len(units) - 1) / 2) for i, unit in enumerate(units)}


@dataclass(frozen=True)
class Deepest:
    """The deepest block but one goes first, then those above it; the last block goes last.

    Of L blocks, importance(i) = L − 2 − i for i < L − 1, and L − 1 for the last: `moved=n` drops
    the deepest n except the last.

    Costs no pass. Source: the simple rule of Gromov et al. 2024, arXiv:2403.17887.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    granularity: ClassVar[str] = "block"

    def __call__(self, model: nn.Module, stats: Stats) -> dict[str, float]:
        *others, last = models.blocks(model)
        return {block: float(len(others) - 1 - index) for index, block in enumerate(others)} | {
            last: float(len(others))
        }


@dataclass(frozen=True)
class Reversed:
    """Another scorer turned round, so that what came first comes last.

        importance = max + min − importance of `scorer`

    Costs what `scorer` costs.
    """

    scorer: Any

    @property
    def needs(self) -> frozenset[str]:
        return Declared.of(self.scorer).needs - {GRADIENTS}

    @property
    def granularity(self) -> str:
        return Declared.of(self.scorer).granularity

    def __call__(self, model: nn.Module, stats: Stats) -> dict[str, float]:
        found = importance(self.scorer(model, stats))
        if not found:
            raise InputError(
                f"reversed: {type(self.scorer).__name__} says what each option costs, so there is "
                f"no importance to turn round; reverse a scorer that ranks units"
            )
        ends = max(found.values()) + min(found.values())
        return {unit: _turned(ends, value) for unit, value in found.items()}


def _turned(ends: float, value: float) -> float:
    turned = Estimate(ends - value)
    turned.stderr = value.stderr if isinstance(value, Estimate) else None
    return turned
