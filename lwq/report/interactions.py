"""What blocks lose together beside the sum of what each loses alone, from rows and their plans."""

from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from lwq.contracts import KEPT
from lwq.report.intervals import SAME
from lwq.results.plans import StoredPlan

FAR = 0.1  # relative difference between a pair and its sum that counts as one
Harms = Mapping[frozenset[str], float]


def harms(rows: pd.DataFrame, plans: Mapping[str, StoredPlan]) -> dict[frozenset[str], float]:
    """Units below 16 bits -> KL, of plans in which all others are untouched."""
    known = rows[(rows["metric"] == "kl") & rows["plan"].isin(list(plans))]
    return {
        frozenset(u for u, option in plans[row["plan"]]["bits"].items() if option != KEPT): row[
            "value"
        ]
        for row in known.to_dict("records")
    }


def expected(found: Harms, units: frozenset[str]) -> float:
    """The sum of what each loses alone."""
    return sum(found[frozenset({unit})] for unit in units)


def of_pairs(found: Harms) -> dict[str, float] | None:
    """How far pairs are from their sums; None where no pair was measured.

    Returns:
        pairs (how many), ratio (geometric mean of KL over the sum), spread (its geometric standard
        deviation), far (share that is more than FAR off the mean ratio), order (Spearman's
        correlation of KL with the sum).
    """
    both = [
        (value, expected(found, units))
        for units, value in found.items()
        if len(units) == 2 and all(frozenset({unit}) in found for unit in units)
    ]
    if len(both) < 3:
        return None
    measured, sums = np.array(both).T
    logs = np.log(measured / sums)
    return {
        "pairs": len(both),
        "ratio": float(np.exp(logs.mean())),
        "spread": float(np.exp(logs.std())),
        "far": float((np.abs(np.exp(logs - logs.mean()) - 1) > FAR).mean()),
        "order": float(spearmanr(measured, sums).statistic),
    }


def of_sets(found: Harms) -> dict[str, float] | None:
    """Of some units all sets were measured: is the set with the least sum the best of its size?

    Returns:
        units (how many), sizes, same (sizes at which it is the best), regret (mean of its KL over
        the best's, less 1), worst (the same at the worst size). None where no three units have
        all their sets.
    """
    whole = max((units for units in found if _complete(found, units)), key=len, default=frozenset())
    if len(whole) < 3:
        return None
    regrets = []
    for size in range(1, len(whole)):
        sets = [frozenset(some) for some in combinations(sorted(whole), size)]
        chosen = min(sets, key=lambda some: expected(found, some))
        regrets.append(found[chosen] / min(found[some] for some in sets) - 1)
    return {
        "units": len(whole),
        "sizes": len(regrets),
        "same": sum(regret == 0 for regret in regrets),
        "regret": float(np.mean(regrets)),
        "worst": float(max(regrets)),
    }


def _complete(found: Harms, units: frozenset[str]) -> bool:
    return all(
        frozenset(some) in found
        for size in range(1, len(units) + 1)
        for some in combinations(sorted(units), size)
    )


def lines(rows: pd.DataFrame, plans: Mapping[str, StoredPlan]) -> Iterator[dict[str, Any]]:
    """One line a model, quantizer, pair of texts and low width: `of_pairs` and `of_sets`, as text.
    What was judged on other windows, or after another calibration, is no sum of the same things.
    """
    for (*same, low), part in rows.groupby([*SAME, "low"]):
        place = dict(zip(SAME, same, strict=True))
        found = harms(part, plans)
        pairs, sets = of_pairs(found), of_sets(found)
        yield {
            "model": place["model"],
            "quantizer": place["quantizer"],
            "judge": place["judge"],
            "low": low,
            "pairs": "–" if pairs is None else f"{pairs['pairs']:.0f}",
            "ratio": "–" if pairs is None else f"{pairs['ratio']:.2f} (×/÷ {pairs['spread']:.2f})",
            "far": "–" if pairs is None else f"{pairs['far']:.0%}",
            "order": "–" if pairs is None else f"{pairs['order']:.3f}",
            "sets": "–" if sets is None else f"{sets['same']} of {sets['sizes']}",
            "regret": "–" if sets is None else f"{sets['regret']:.1%} ({sets['worst']:.1%})",
        }
