"""The best order there is, by trying every set: for models of a few blocks."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations
from typing import ClassVar

from torch import nn

from lwq import models
from lwq.common.errors import InputError
from lwq.common.names import spec
from lwq.contracts import KEPT, Option, Plan
from lwq.engine.evaluate import reference
from lwq.engine.sweep import Sweep
from lwq.quantizers import QUANTIZERS
from lwq.scorers.shared.checks import require_blocks
from lwq.scorers.shared.rounding import rounding
from lwq.statistics.forward import WINDOWS, Stats
from lwq.statistics.windows import require_windows

MOST = 10  # blocks; 1,024 sets


@dataclass(frozen=True)
class Oracle:
    """In how many of the best plans a block stays high.

        S_k = the set of k blocks that does the least harm together at `low`, k = 1 … n − 1
        importance(u) = |{k : u not in S_k}|        in 0 … n − 1

    Harm is the measured KL to the untouched model. Where the best sets are nested, `topk` finds
    each of them from this score; no score can do better.

    Attributes:
        low, high: options of the quantizer; 16 is untouched.
        quantizer: whose rounding.
        windows: the first so many of the calibration windows.

    Costs 2^n plans of n blocks; refused above 10 blocks.
    """

    low: Option = 2
    high: Option = KEPT
    quantizer: str = "rtn"
    windows: int = 4

    needs: ClassVar[frozenset[str]] = frozenset({WINDOWS})
    granularity: ClassVar[str] = "block"

    def __call__(self, model: nn.Module, stats: Stats) -> dict[str, float]:
        units = list(models.blocks(model))
        if len(units) > MOST:
            raise InputError(
                f"oracle: {len(units)} blocks have 2^{len(units)} sets; it tries them all up to "
                f"{MOST} blocks. Above that: leave_one_low, shapley"
            )
        drawn = require_windows(stats.windows, self.needs)[: self.windows]
        require_blocks(model, drawn)
        truth = reference(model, drawn)
        with rounding(
            model, self.quantizer, (self.low, self.high), stats.windows, banked=True
        ) as found:
            assert found.bank is not None
            layout, text = found.bank.layout, spec(QUANTIZERS, found.quantizer)
            plans: dict[str, frozenset[str]] = {}

            def plan(lowered: frozenset[str]) -> Plan:
                bits = {u: self.low if u in lowered else self.high for u in layout.units}
                made = Plan(bits, layout, text)
                plans[made.id] = lowered
                return made

            tried = [plan(lowered) for lowered in _sets(units)]
            sweep = Sweep(model, drawn, found.bank, truth)
            harm = {plans[made.id]: losses.mean_kl for made, losses in sweep.measure(tried)}
        best = [
            min(
                (lowered for lowered in _sets(units) if len(lowered) == count), key=harm.__getitem__
            )
            for count in range(1, len(units))
        ]
        return {unit: float(sum(unit not in lowered for lowered in best)) for unit in units}


def _sets(units: list[str]) -> Iterable[frozenset[str]]:
    """Every set of some but not all units, the small ones first."""
    return (frozenset(some) for n in range(1, len(units)) for some in combinations(units, n))
