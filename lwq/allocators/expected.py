"""What a unit at an option is expected to cost: its importance times the error that the option
makes, or what was measured.
"""

from collections.abc import Mapping

import numpy as np

from lwq.common.errors import InputError
from lwq.contracts import Budget, Costs, Option, Scores


def costs(scores: Scores, distortion: Mapping[str, Mapping[Option, float]]) -> Costs:
    """harm(u, b) = importance(u) · distortion(u, b).

    Args:
        distortion: unit -> option -> relative squared error ‖W − Ŵ‖² / ‖W‖², never increasing in
            bits; 1 where the unit is dropped.
    """
    harm = {
        unit: {width: value * error for width, error in distortion[unit].items()}
        for unit, value in scores.items()
    }
    return Costs(harm, scores.layout, scores.scorer, scores.data, scores.cost)


def harms(
    found: Scores | Costs, budget: Budget, distortion: Mapping[Option, float] | None = None
) -> np.ndarray:
    """Harm of each unit at each of `budget.offered`, (units, options); inf where the unit may not
    have the option.

    Costs bring it; for Scores it is importance(u) · distortion(b).

    Args:
        distortion: option -> relative squared error, for Scores; None takes 4^-bits: each bit
            halves the step, and 0 bits is 1.

    Raises:
        InputError: where costs or distortion lack an option that a unit may have.
    """
    offered, units = budget.offered, budget.layout.units
    allowed = _allowed(budget)
    if isinstance(found, Costs):
        rows = [[harm.get(option, np.nan) for option in offered] for harm in _of(found, units)]
        table = np.array(rows, dtype=float)
        _require_measured(np.isnan(table) & allowed, budget)
    else:
        importance = np.array([found.importance[unit] for unit in units])
        table = importance[:, None] * _errors(budget, distortion)
    return np.where(allowed, table, np.inf)


def _of(found: Costs, units: Mapping[str, object]) -> list[Mapping[Option, float]]:
    return [found.harm[unit] for unit in units]


def _allowed(budget: Budget) -> np.ndarray:
    """Whether a unit may have an option, (units, options)."""
    kinds = {own: number for number, own in enumerate(dict.fromkeys(budget.choices.values()))}
    masks = np.array([[option in own for option in budget.offered] for own in kinds])
    return masks[[kinds[budget.choices[unit]] for unit in budget.layout.units]]


def _errors(budget: Budget, distortion: Mapping[Option, float] | None) -> np.ndarray:
    if distortion is None:
        return np.array([4.0 ** -budget.nominal(option) for option in budget.offered])
    if missing := [option for option in budget.offered if option not in distortion]:
        raise InputError(
            f"distortion={dict(distortion)} lacks the widths {missing} "
            f"of bits={budget.widths}; add them"
        )
    return np.array([distortion[option] for option in budget.offered])


def _require_measured(missing: np.ndarray, budget: Budget) -> None:
    if not missing.any():
        return
    row = int(missing.any(1).argmax())
    options = [option for option, gone in zip(budget.offered, missing[row], strict=True) if gone]
    raise InputError(
        f"the costs of {list(budget.layout.units)[row]} lack the widths {options} of "
        f"bits={budget.widths}; measure them, or leave them out"
    )
