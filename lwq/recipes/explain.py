"""Why these bits? What each unit loses at its option, and what the next ones would cost or save."""

from collections.abc import Mapping

import pandas as pd

from lwq.common.errors import InputError
from lwq.common.names import rebuild
from lwq.contracts import Costs, Layout, Option, Plan, Shape, matrix_bytes
from lwq.contracts.methods import Quantizer
from lwq.quantizers import QUANTIZERS


def explain(plan: Plan, costs: Costs) -> pd.DataFrame:
    """One row a unit of `plan`, in the forward order.

    Args:
        costs: harm of each unit at its options, of the plan's model and units, such as
            `lwq.score(model, "fisher_kl(…)", windows)` finds.

    Returns:
        Columns unit, option, bytes, harm (nats a token, where the costs are); better, more_bytes,
        saved_harm: the next larger option, what it takes and what it saves; worse, saved_bytes,
        more_harm: the next smaller one. None and NaN where there is no such option.

    Raises:
        InputError: for costs of another model, or that lack an option of the plan.
    """
    plan.layout.require(costs.layout, "plan")
    quantizer: Quantizer = rebuild(QUANTIZERS, "quantizer", plan.quantizer)
    rows = [
        _row(unit, option, costs[unit], _sizes(plan.layout, unit, costs[unit], quantizer))
        for unit, option in plan.bits.items()
    ]
    return pd.DataFrame(rows)


def _sizes(
    layout: Layout, unit: str, harm: Mapping[Option, float], quantizer: Quantizer
) -> dict[Option, int]:
    """Bytes of a unit at each option, from the smallest."""
    packer = quantizer.outside if unit in layout.outside else quantizer
    shapes: list[Shape] = list(layout.units[unit].values())
    found = {
        option: sum(matrix_bytes(shape, option, packer) for shape in shapes) for option in harm
    }
    return dict(sorted(found.items(), key=lambda item: item[1]))


def _row(
    unit: str, option: Option, harm: Mapping[Option, float], sizes: Mapping[Option, int]
) -> dict[str, object]:
    if option not in harm:
        raise InputError(f"{unit}: the costs have no harm at {option}; they have {list(harm)}")
    ordered = list(sizes)
    place = ordered.index(option)
    worse = ordered[place - 1] if place else None
    better = ordered[place + 1] if place + 1 < len(ordered) else None
    nothing = float("nan")
    return {
        "unit": unit,
        "option": option,
        "bytes": sizes[option],
        "harm": harm[option],
        "better": better,
        "more_bytes": nothing if better is None else sizes[better] - sizes[option],
        "saved_harm": nothing if better is None else harm[option] - harm[better],
        "worse": worse,
        "saved_bytes": nothing if worse is None else sizes[option] - sizes[worse],
        "more_harm": nothing if worse is None else harm[worse] - harm[option],
    }
