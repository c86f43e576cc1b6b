"""How far two scores put the units in the same order."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from lwq.common.errors import InputError
from lwq.contracts import Costs, Option, Scores

PASSES = ("forwards", "backwards")  # of what a score says that it took


@dataclass(frozen=True)
class Ranking:
    """A score beside the one it is a variant of.

    Attributes:
        score: importance of each unit, in the order of the forward pass.
        spearman: rank correlation with the default, from −1 to 1.
        passes: what the score took: "forwards" and "backwards" of the calibration windows.
    """

    score: np.ndarray
    spearman: float
    passes: Mapping[str, float] = field(default_factory=dict)

    def summary(self) -> dict[str, float]:
        return {"spearman": self.spearman, **self.passes}

    def arrays(self) -> dict[str, np.ndarray]:
        return {"score": self.score}


def ranking(label: str, scores: Scores | Costs, default: Scores | Costs, option: Option) -> Ranking:
    """Of the variant `label` beside the `default`; what says the harm of options counts by its harm
    at `option`.
    """
    from scipy.stats import spearmanr  # slow to import, and seldom needed

    values, truth = values_at(scores, option), values_at(default, option)
    if not np.ptp(values) or not np.ptp(truth):
        raise InputError(
            f"{label} or {beside(default)}: all scores are equal, and a rank correlation needs "
            f"some that differ"
        )
    passes = {key: scores.cost[key] for key in PASSES if key in scores.cost}
    return Ranking(values, float(spearmanr(values, truth).statistic), passes)


def beside(default: Scores | Costs) -> str:
    """What a variant is compared with, as the column `judge` names it."""
    return f"{default.scorer} on {default.data}"


def values_at(found: Scores | Costs, option: Option) -> np.ndarray:
    """Importance of each unit (units,), or its harm at `option`.

    Raises InputError for costs that lack the option.
    """
    if isinstance(found, Costs):
        if lacking := next((harm for harm in found.values() if option not in harm), None):
            raise InputError(
                f"{found.scorer} has no harm at {option!r}; it has {list(lacking)}: compare at one "
                f"of these (harm_at), or offer {option!r} (options)"
            )
        return np.array([harm[option] for harm in found.values()])
    return np.array(list(found.values()))
