"""What a scorer found, as Scores or as Costs."""

import math
from collections.abc import Mapping
from typing import Any, TypeVar

from lwq.common.errors import InputError
from lwq.contracts import Costs, Layout, Option, Scores
from lwq.contracts.estimate import Estimate
from lwq.contracts.scores import falling
from lwq.scorers.shared.declared import Found, Joint, importance

Key = TypeVar("Key", str, Option)


def result(
    found: Found, layout: Layout, scorer: str, data: str, cost: Mapping[str, float]
) -> Scores | Costs:
    """Costs of unit -> option -> harm, Scores of unit -> importance; the standard errors of
    Estimates beside them.
    """
    harms = {unit: value for unit, value in found.items() if isinstance(value, Mapping)}
    if harms:
        errors = {unit: _errors(harm) for unit, harm in harms.items()}
        return Costs(
            {unit: falling(harm) for unit, harm in harms.items()},
            layout,
            scorer,
            data,
            cost,
            found.pairs if isinstance(found, Joint) else {},
            stderr={unit: error for unit, error in errors.items() if error},
        )
    values = importance(found)
    plain = {unit: float(value) for unit, value in values.items()}
    return Scores(plain, layout, scorer, _errors(values), data, cost)


def require_numbers(found: Any, scorer: str) -> None:
    """Raise InputError for anything but numbers under the names of units, and for harm that is not
    finite: a running maximum (`falling`) would hide it.
    """
    if not isinstance(found, Mapping):
        raise InputError(
            f"{scorer} returned a {type(found).__name__}; a dict of unit -> importance is needed, "
            "or of unit -> option -> harm"
        )
    for unit, value in found.items():
        for option, one in value.items() if isinstance(value, Mapping) else [("", value)]:
            place = f"{unit} at {option} bits" if option != "" else str(unit)
            try:
                number = float(one)
            except (TypeError, ValueError, RuntimeError):
                raise InputError(
                    f"{scorer}: {place} has a {type(one).__name__}, {one!r:.60}; one number is "
                    "needed"
                ) from None
            if option != "" and not math.isfinite(number):
                raise InputError(
                    f"{scorer}: the harm of {place} is {number}; harms are finite (look for NaN or "
                    "Inf in what the quantizer makes of it, or in the activations of its block)"
                )


def _errors(values: Mapping[Key, float]) -> dict[Key, float]:
    return {
        key: value.stderr
        for key, value in values.items()
        if isinstance(value, Estimate) and value.stderr is not None
    }
