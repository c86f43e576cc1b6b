"""Why a verdict is what it is: the counts that the report's sentences name."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from lwq.common.names import nickname
from lwq.report import claims, figures, intervals


def reach(swept: Iterable[claims.Swept], numbers: Mapping[str, Any]) -> dict[str, Any]:
    """Claim (a), over its settings (a sweep and a score): where one half of the claim or the other
    breaks.

    Returns:
        settings; short (the interval ends before the claim's share); first (of these, not close
        even at the first step); late (of the others, the median random order goes beyond the
        claim's baseline); least, most (first steps, as text); random (the smallest and the largest
        median random order of the others, as text); sweeps; above (score -> sweeps in which its
        area lies above every random order, with its interval) and models (in which that happens);
        luck (how often orders without merit would be the best of their sweep).
    """
    scores = numbers["orderings"]
    found: dict[str, Any] = {
        "short": 0,
        "first": 0,
        "late": 0,
        "sweeps": 0,
        "above": dict.fromkeys(scores, 0),
        "luck": 0.0,
    }
    models, steps, others = [], [], []
    for sweep, limits, areas in swept:
        limits, areas = limits.set_index("ordering"), areas.set_index("ordering")
        if claims.RANDOM not in limits.index:
            continue
        found["sweeps"] += 1
        steps.append(limits["step"].to_numpy().min())
        shares = limits["value"].to_dict()
        chance, orders = shares[claims.RANDOM], limits.index.str.startswith("random(").sum()
        for score in (name for name in scores if name in limits.index):
            short = limits.loc[score, "high"] < numbers["share"]
            found["short"] += bool(short)
            found["first"] += bool(short and shares[score] == 0)
            found["late"] += bool(not short and chance > numbers["baseline"])
            others += [] if short else [chance]
            above = bool(areas.loc[score, "low"] > areas.loc[claims.RANDOM, "high"])
            found["above"][score] += above
            found["luck"] += 1 / (orders + 1)
            models += [sweep["model"].iloc[0]] * above
    return {
        **found,
        "settings": found["short"] + len(others),
        "models": list(dict.fromkeys(models)),
        "least": f"{min(steps, default=0):.0%}",
        "most": f"{max(steps, default=0):.0%}",
        "random": [f"{min(others, default=0):.0%}", f"{max(others, default=0):.0%}"],
    }


def headline(table: pd.DataFrame, numbers: Mapping[str, Any]) -> dict[str, list[str]]:
    """What all blocks at the high width keep of the untouched model, for sweeps across the
    headline's bits.

    Returns:
        "below" and "above" the headline's quality -> "m, gptq: 79% at 4 bits".
    """
    found: dict[str, list[str]] = {"below": [], "above": []}
    for sweep in intervals.sweeps(table):
        rows = sweep[sweep["metric"] == "perplexity"]
        high = figures.all_high(rows)
        if high["low"] < numbers["avg_bits"] < high["high"]:
            kept = rows.loc[rows["ordering"] == "original", "value"].iloc[0] / high["value"]
            text = (
                f"{high['model']}, {nickname(high['quantizer'])}: {kept:.0%} at {high['high']} bits"
            )
            found["above" if kept >= numbers["quality"] else "below"].append(text)
    return {side: list(dict.fromkeys(texts)) for side, texts in found.items()}


def pruned(
    gaps: pd.DataFrame, kind: str, bits: Iterable[int], orderings: Iterable[str]
) -> dict[str, Any]:
    """Claim (c): in how many comparisons who loses less, against one `kind` of pruning, for the
    widths and orderings named.

    Returns:
        comparisons, quantizing, pruning (those whose interval lies on that side), least (the
        smallest gap, nats per token).
    """
    rows = gaps[
        (gaps["pruned"] == kind)
        & gaps["bits"].isin(list(bits))
        & gaps["ordering"].isin(list(orderings))
    ]
    wins = {"quantizing": int((rows["low"] > 0).sum()), "pruning": int((rows["high"] < 0).sum())}
    return {"comparisons": len(rows), **wins, "least": rows["value"].min()}


def best(gaps: pd.DataFrame, numbers: Mapping[str, Any]) -> list[dict[str, Any]]:
    """`pruned` where either side has the order that loses least: one line a model, kind of pruning
    and set of widths.
    """
    found = []
    for model, part in gaps.groupby("model", sort=False):
        for kind, bits in [
            (kind, bits) for kind in ("blocks", "weights") for bits in (numbers["bits"], [2])
        ]:
            line = pruned(part, kind, bits, [claims.BEST])
            if line["comparisons"]:
                found.append(
                    {"model": model, "pruned": kind, "bits": ", ".join(map(str, bits)), **line}
                )
    return found


def depth(table: pd.DataFrame, windows: pd.DataFrame, pattern: str) -> list[str]:
    """Claim (d), without any score: how the median random order, and all blocks at the low width,
    go with depth.

    Returns:
        For each quantizer and pair of widths: "gptq, 4 to 2 bits: +1.00, and with all blocks at 2
            bits 90%, 92% … of the high
        width's quality", from the shallowest model to the deepest.
    """
    rows = table[table["model"].str.contains(pattern)]
    found = []
    areas = claims.areas(rows, windows)
    for (quantizer, pair), part in areas[areas["ordering"] == claims.RANDOM].groupby(
        ["quantizer", "pair"], sort=False
    ):
        if part["units"].nunique() < 3 or not np.ptp(part["value"]):
            continue
        spearman, low = (
            spearmanr(part["units"], part["value"]).statistic,
            str(pair).rpartition(" ")[2],
        )
        kept = [
            _all_low(rows, model, str(quantizer), int(low))
            for model in part.sort_values("units")["model"]
        ]
        found.append(
            f"{nickname(str(quantizer))}, {pair} bits: {spearman:+.2f}, and all blocks at {low} "
            f"bits keep {', '.join(kept)}"
        )
    return found


def _all_low(table: pd.DataFrame, model: str, quantizer: str, low: int) -> str:
    """What all blocks at the low width keep of the quality at the high width."""
    rows = table[
        (table["metric"] == "perplexity")
        & (table["model"] == model)
        & (table["quantizer"] == quantizer)
    ]
    rows = rows[(rows["ordering"] == "uniform") & (rows["low"] == low)]
    all_low = rows.loc[rows["avg_bits"] == low, "value"].iloc[0]
    return f"{figures.all_high(rows)['value'] / all_low:.1%}"
