"""What a unit at a width costs, measured one block at a time."""

import time
from collections.abc import Iterable

from lwq.common.names import spec
from lwq.contracts import KEPT, Costs, Option, Plan
from lwq.contracts.scores import falling
from lwq.engine.sweep import Sweep
from lwq.quantizers import QUANTIZERS


def measured_costs(sweep: Sweep, widths: Iterable[int], base: int = KEPT, data: str = "") -> Costs:
    """Harm of each block at each width, measured with every other block at `base` bits.

        harm(u, b) = max over b' ≥ b of (loss with u at b' − loss with all at base)        in nats a
        token

    The loss is the mean KL to the sweep's reference, or the mean NLL where it has none; the
    maximum, over `widths`, takes out noise that would let more bits do more harm. Of n blocks, each
    width runs about n (n + 1) / 2.

    Args:
        sweep: on windows that no plan made from these costs is judged on.
        widths: what the harm is wanted of; 0 drops the block.
        base: width of the other blocks.
        data: the text of those windows, for the record.
    """
    start, before = time.monotonic(), sweep.blocks_run
    layout, quantizer = sweep.bank.layout, spec(QUANTIZERS, sweep.bank.quantizer)
    ordered = sorted(set(widths), reverse=True)

    def plan(unit: str, width: int) -> Plan:
        return Plan({**dict.fromkeys(layout.units, base), unit: width}, layout, quantizer)

    plans = {
        made.id: made
        for unit in layout.units
        for made in (plan(unit, width) for width in [base, *ordered])
    }
    found = {
        made.id: losses.harm for made, losses in sweep.measure(plans.values(), "measure costs")
    }
    harm: dict[str, dict[Option, float]] = {}
    for unit in layout.units:
        harms = {width: found[plan(unit, width).id] for width in ordered}
        least = found[plan(unit, base).id]
        harm[unit] = falling({width: value - least for width, value in harms.items()})
    took = {
        "seconds": round(time.monotonic() - start, 3),
        "blocks": sweep.blocks_run - before,
        "tokens": sweep.windows.numel(),
    }
    metric = "nll" if sweep.reference is None else "kl"
    return Costs(
        harm,
        layout,
        costs_name(quantizer, base, metric),
        data,
        took,
    )


def costs_name(quantizer: str, base: int = KEPT, metric: str = "kl") -> str:
    """What `measured_costs` calls its result."""
    return f"measured_costs(base={base}, metric={metric!r}, quantizer={quantizer!r})"
