"""Why a verdict is what it is: the counts that the report's sentences name."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from lwq import claims, compare, figures
from lwq.strategies import nickname


def far(swept: Iterable[claims.Swept], numbers: Mapping[str, Any]) -> dict[str, Any]:
    """Claim (a), over its settings (a sweep and a score): where both halves of the claim break.

    Returns:
        settings; first (the first step keeps too little already); late (the median random order goes beyond the claim's
        baseline); sweeps; above (score -> sweeps in which its area lies above every random order) and models (in which that
        happens); least, most (the smallest and the largest first step, as text).
    """
    scores = numbers["orderings"]
    found: dict[str, Any] = {"settings": 0, "first": 0, "late": 0, "sweeps": 0, "above": dict.fromkeys(scores, 0)}
    models, steps = [], []
    for sweep, limits, areas in swept:
        limits, areas = limits.set_index("ordering"), areas.set_index("ordering")
        if claims.RANDOM not in limits.index:
            continue
        found["sweeps"] += 1
        steps.append(limits["step"].min())
        for score in (name for name in scores if name in limits.index):
            found["settings"] += 1
            found["first"] += bool(limits.loc[score, "value"] == 0)
            found["late"] += bool(limits.loc[claims.RANDOM, "value"] > numbers["baseline"])
            above = bool(areas.loc[score, "low"] > areas.loc[claims.RANDOM, "high"])
            found["above"][score] += above
            models += [sweep["model"].iloc[0]] * above
    least, most = (f"{end:.0%}" for end in (min(steps), max(steps))) if steps else ("", "")
    return {**found, "models": list(dict.fromkeys(models)), "least": least, "most": most}


def headline(table: pd.DataFrame, numbers: Mapping[str, Any]) -> list[str]:
    """What all blocks at the high width keep of the untouched model, for sweeps across the headline's bits: "m, gptq: 79 %"."""
    found = []
    for sweep in compare.sweeps(table):
        rows = sweep[sweep["metric"] == "perplexity"]
        high = figures.all_high(rows)
        if high["low"] < numbers["avg_bits"] < high["high"]:
            kept = rows.loc[rows["ordering"] == "original", "value"].iloc[0] / high["value"]
            found.append(f"{high['model']}, {nickname(high['quantizer'])}: {kept:.0%} at {high['high']} bits")
    return list(dict.fromkeys(found))


def pruned(gaps: pd.DataFrame, numbers: Mapping[str, Any], ordering: Iterable[str]) -> dict[str, Any]:
    """Claim (c): at how many sizes who loses less, for the orderings named.

    Returns:
        sizes, quantizing, pruning (whose interval lies on that side), least and most (the gaps at both ends, nats per token).
    """
    rows = gaps[(gaps["pruned"] == numbers["pruned"]) & gaps["bits"].isin(numbers["bits"])]
    rows = rows[rows["ordering"].isin(list(ordering))]
    wins = {"quantizing": int((rows["low"] > 0).sum()), "pruning": int((rows["high"] < 0).sum())}
    return {"sizes": len(rows), **wins, "least": rows["value"].min(), "most": rows["value"].max()}


def depth(table: pd.DataFrame, windows: pd.DataFrame, pattern: str) -> list[str]:
    """Claim (d): Spearman's correlation of depth and the area of the median random order: "gptq, 4 to 2 bits: +1.00"."""
    areas = claims.areas(table[table["model"].str.contains(pattern)], windows)
    chance = areas[areas["ordering"] == claims.RANDOM]
    return [
        f"{nickname(str(quantizer))}, {pair} bits: {spearmanr(part['units'], part['value']).statistic:+.2f}"
        for (quantizer, pair), part in chance.groupby(["quantizer", "pair"], sort=False)
        if part["units"].nunique() > 2 and np.ptp(part["value"]) > 0
    ]
