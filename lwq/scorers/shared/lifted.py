"""Differences of losses as importance, which is never negative."""

from collections.abc import Mapping

import numpy as np

from lwq.contracts.estimate import Estimate


def lifted(rises: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Mean of each unit's values (n,), less the smallest mean where that is negative: exactly 0
    for the unit that the shift comes from; the ranking stays.
    """
    shift = min(0.0, *(float(rise.mean()) for rise in rises.values()))
    return {unit: _lifted(rise, shift) for unit, rise in rises.items()}


def _lifted(rise: np.ndarray, shift: float) -> Estimate:
    found = Estimate(float(rise.mean()) - shift)
    found.stderr = Estimate.of(rise).stderr
    return found
