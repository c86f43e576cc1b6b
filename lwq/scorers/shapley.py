"""Blocks lowered one after the other, in many orders: what each costs on average."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import nn

from lwq.common.errors import InputError
from lwq.common.names import spec
from lwq.contracts import KEPT, Option, Plan
from lwq.engine.evaluate import reference
from lwq.engine.sweep import Sweep
from lwq.quantizers import QUANTIZERS
from lwq.scorers.shared.checks import require_blocks
from lwq.scorers.shared.lifted import lifted
from lwq.scorers.shared.rounding import Rounding, rounding
from lwq.statistics.forward import WINDOWS, Stats
from lwq.statistics.windows import require_windows


@dataclass(frozen=True)
class Shapley:
    """What lowering a block costs on average over orders in which blocks are lowered.

        importance(u) = mean over permutations of KL(p ‖ those before u, and u, at `low`)
                        − KL(p ‖ those before u at `low`),    less the smallest where negative

    Attributes:
        low, high: options of the quantizer; 16 is untouched.
        permutations: drawn.
        quantizer: whose rounding.
        windows: the first so many of the calibration windows.
        seed: of the permutations.

    Costs about n / 2 forward passes of n blocks a permutation. The standard error is over
    permutations. Source: SPQE of CoopQ (IMPQ), arXiv:2509.15455.
    """

    low: Option = 2
    high: Option = KEPT
    permutations: int = 4
    quantizer: str = "rtn"
    windows: int = 4
    seed: int = 0

    needs: ClassVar[frozenset[str]] = frozenset({WINDOWS})
    granularity: ClassVar[str] = "block"

    def __post_init__(self) -> None:
        if self.permutations < 1 or self.windows < 1:
            raise InputError(
                f"shapley: permutations={self.permutations}, windows={self.windows}; one or more "
                f"of each is needed"
            )

    def __call__(self, model: nn.Module, stats: Stats) -> dict[str, float]:
        drawn = require_windows(stats.windows, self.needs)[: self.windows]
        require_blocks(model, drawn)
        truth = reference(model, drawn)
        options = (self.low, self.high)
        with rounding(model, self.quantizer, options, stats.windows, banked=True) as found:
            assert found.bank is not None
            units = list(found.bank.layout.units)
            generator = torch.Generator().manual_seed(self.seed)
            orders = [
                [units[i] for i in torch.randperm(len(units), generator=generator).tolist()]
                for _ in range(self.permutations)
            ]
            plans = {order: self._plans(found, order) for order in map(tuple, orders)}
            flat = {plan.id: plan for walk in plans.values() for plan in walk}
            sweep = Sweep(model, drawn, found.bank, truth)
            losses = {plan.id: loss.mean_kl for plan, loss in sweep.measure(flat.values())}
        rises: dict[str, list[float]] = {unit: [] for unit in units}
        for order in map(tuple, orders):  # of few blocks one may be drawn twice, and counts twice
            kl = [losses[plan.id] for plan in plans[order]]
            for unit, before, after in zip(order, kl, kl[1:], strict=False):
                rises[unit].append(after - before)
        return lifted({unit: np.array(values) for unit, values in rises.items()})

    def _plans(self, found: Rounding, order: tuple[str, ...]) -> list[Plan]:
        """From all high to all low, one unit of `order` at a time."""
        assert found.bank is not None
        layout, text = found.bank.layout, spec(QUANTIZERS, found.quantizer)
        bits: dict[str, Option] = dict.fromkeys(layout.units, self.high)
        plans = [Plan(dict(bits), layout, text)]
        for unit in order:
            bits[unit] = self.low
            plans.append(Plan(dict(bits), layout, text))
        return plans
