"""What a unit at a width is expected to cost: its importance times the error that the width
makes.
"""

from collections.abc import Mapping

from lwq.contracts import Costs, Scores, Width


def costs(scores: Scores, distortion: Mapping[str, Mapping[Width, float]]) -> Costs:
    """harm(u, b) = importance(u) · distortion(u, b).

    Args:
        distortion: unit -> bits -> relative squared error ‖W − Ŵ‖² / ‖W‖², never increasing in
            bits; 1 where the unit is dropped.
    """
    harm = {
        unit: {width: value * error for width, error in distortion[unit].items()}
        for unit, value in scores.items()
    }
    return Costs(harm, scores.layout, scores.scorer, scores.data, scores.cost)
