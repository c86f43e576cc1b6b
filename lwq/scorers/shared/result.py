"""What a scorer found, as Scores or as Costs."""

from collections.abc import Mapping
from typing import TypeVar

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


def _errors(values: Mapping[Key, float]) -> dict[Key, float]:
    return {
        key: value.stderr
        for key, value in values.items()
        if isinstance(value, Estimate) and value.stderr is not None
    }
