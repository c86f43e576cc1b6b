"""The study of orderings: which blocks first, and how far? Its rules, tables and figures."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lwq.common.names import nickname
from lwq.contracts.section import Picture, Section
from lwq.report import beside, bootstrap, claims, figures, intervals, overview, sweeps
from lwq.report.bootstrap import Interval
from lwq.report.claims import FAILS, HOLDS, UNDECIDED, Found, decide
from lwq.report.figures import style
from lwq.report.intervals import RANDOM
from lwq.results.plans import StoredPlan
from lwq.studies import grid

NAME = "orderings"
QUALITY = 0.90  # of the picture of all sweeps
ALL_HIGH = "all blocks at the high width"
READINGS = {
    "lim(average='flat')": "LIM: cosine of a whole window",
    "lim(average='mean')": "LIM: cosine of the tokens' averages",
    "lim(final_norm=True)": "LIM: last block after the final norm",
    "zd(pool='matrix')": "ZD: mean and deviation of each matrix",
    "zd(two_sided=True)": "ZD: |z| > 1 instead of z > 1",
}


def how_far(table: pd.DataFrame, windows: pd.DataFrame, numbers: Mapping[str, Any]) -> Found:
    """The ordering keeps `quality` until `share` of the units has moved, and random
    orders only until `baseline`.
    """
    for sweep in intervals.sweeps(table):
        limits = intervals.limits(sweep, windows, (numbers["quality"],)).set_index("ordering")
        if RANDOM not in limits.index:
            continue
        chance = dict(limits.loc[RANDOM])
        for ordering in [name for name in numbers["orderings"] if name in limits.index]:
            limit = Interval(*limits.loc[ordering, ["value", "low", "high"]])
            verdict = UNDECIDED
            if limit.low >= numbers["share"] and chance["value"] <= numbers["baseline"]:
                verdict = HOLDS
            elif limit.high < numbers["share"] or chance["value"] >= limit.value:
                verdict = FAILS
            until = intervals.span(limit, chance["step"], "[{}, {}]")
            others = intervals.span(
                Interval(*limits.loc[RANDOM, ["value", "low", "high"]]),
                chance["step"],
                "({} to {})",
            )
            text = f"{ordering.upper()} close until {until}, median random order until {others}"
            behind = (sweep["ordering"] == ordering) | style.is_random(sweep)
            ids = sweep[behind & (sweep["metric"] == "perplexity")]["id"]
            yield (
                sweep["model"].iloc[0],
                f"{intervals.setting(sweep.iloc[0])}, {ordering}",
                verdict,
                text,
                tuple(ids),
            )


def headline(table: pd.DataFrame, windows: pd.DataFrame, numbers: Mapping[str, Any]) -> Found:
    """`quality` of the untouched model is kept at `avg_bits` nominal bits or less."""
    nll = intervals.nll_by_id(windows)
    for sweep in intervals.sweeps(table):
        rows = sweep[sweep["metric"] == "perplexity"]
        original = rows[rows["ordering"] == "original"].iloc[0]["id"]
        for ordering in numbers["orderings"]:
            fits = rows[(rows["ordering"] == ordering) & (rows["avg_bits"] <= numbers["avg_bits"])]
            near = fits[fits["avg_bits"] > numbers["avg_bits"] - 0.25]
            if near.empty:
                continue
            best = near.sort_values("avg_bits").iloc[-1]
            kept = bootstrap.retained(nll[original], nll[best["id"]])
            size = f"{best['avg_bits']:.2f} ({best['true_bits']:.2f} true) bits"
            text = f"{kept.value:.1%} [{kept.low:.1%}, {kept.high:.1%}] at {size}"
            setting = f"{intervals.setting(best)}, {ordering}"
            yield (
                sweep["model"].iloc[0],
                setting,
                decide(kept, numbers["quality"]),
                text,
                (original, best["id"]),
            )


def reach(swept: Iterable[sweeps.Swept], numbers: Mapping[str, Any]) -> dict[str, Any]:
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
        if RANDOM not in limits.index:
            continue
        found["sweeps"] += 1
        steps.append(limits["step"].to_numpy().min())
        shares = limits["value"].to_dict()
        chance, orders = shares[RANDOM], style.is_random(limits).sum()
        for score in (name for name in scores if name in limits.index):
            short = limits.loc[score, "high"] < numbers["share"]
            found["short"] += bool(short)
            found["first"] += bool(short and shares[score] == 0)
            found["late"] += bool(not short and chance > numbers["baseline"])
            others += [] if short else [chance]
            above = bool(areas.loc[score, "low"] > areas.loc[RANDOM, "high"])
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


def across(table: pd.DataFrame, numbers: Mapping[str, Any]) -> dict[str, list[str]]:
    """What all blocks at the high width keep of the untouched model, for sweeps across the
    headline's bits.

    Returns:
        "below" and "above" the headline's quality -> "m, gptq: 79% at 4 bits".
    """
    found: dict[str, list[str]] = {"below": [], "above": []}
    for sweep in intervals.sweeps(table):
        rows = sweep[sweep["metric"] == "perplexity"]
        high = style.all_high(rows)
        if high["low"] < numbers["avg_bits"] < high["high"]:
            kept = rows.loc[rows["ordering"] == "original", "value"].iloc[0] / high["value"]
            text = (
                f"{high['model']}, {nickname(high['quantizer'])}: {kept:.0%} at {high['high']} bits"
            )
            found["above" if kept >= numbers["quality"] else "below"].append(text)
    return {side: list(dict.fromkeys(texts)) for side, texts in found.items()}


def tasks(table: pd.DataFrame, windows: pd.DataFrame) -> dict[str, Any]:
    """Accuracy on tasks: their names, and one line a plan that answered all of them; {} without."""
    rows = table[table["metric"] == "accuracy"]
    rows = rows.assign(task=rows["judge"].str.split().str[0])
    names = sorted(rows["task"].unique())
    correct = intervals.by_id(windows, "correct")
    found = []
    for _, sweep in rows.groupby(intervals.ANSWERED, sort=False):
        plans: dict[str, pd.DataFrame] = {}
        for (_, ordering), part in sweep.groupby(["moved", "ordering"]):
            if set(part["task"]) == set(names):
                plans.setdefault(
                    plan_label(str(ordering), part["moved"].iloc[0], part["units"].iloc[0]),
                    part.set_index("task"),
                )
        if ALL_HIGH not in plans:
            continue
        answers = {
            plan: np.concatenate([correct[part["id"][name]].values for name in names])
            for plan, part in plans.items()
        }
        for plan, part in plans.items():
            lost = bootstrap.mean(answers[ALL_HIGH] - answers[plan])
            found.append(
                {
                    "model": part["model"].iloc[0],
                    "setting": intervals.setting(part.iloc[0]),
                    "plan": plan,
                    "cells": [f"{part['value'][name]:.3f}" for name in names],
                    "lost": "–" if plan == ALL_HIGH else lost.signed(3),
                    "questions": part["n"].iloc[0],
                    "tenth": f"{answers[ALL_HIGH].mean() / 10:.3f}",
                }
            )
    return {} if not found else {"names": names, "lines": found}


def plan_label(ordering: str, moved: int, units: int) -> str:
    """What a plan of a sweep is called: "LIM, 50 % moved"; both ends are the same in every
    order.
    """
    if moved in (0, units):
        return "all blocks at the low width" if moved else ALL_HIGH
    return f"{style.label(ordering)}, {moved / units:.0%} moved"


def section(table: pd.DataFrame, plans: Mapping[str, StoredPlan], windows: pd.DataFrame) -> Section:
    """All that the report says of the study."""
    claimed = grid.catalogue()[NAME]["claims"]
    swept = sweeps.swept(table, windows, QUALITY)
    ratios = beside.ratios(beside.arenas(table, windows))
    looks = style.looks(style.labels(table[table["way"] == "move"]))
    tables = {
        "beyond_chance": list(sweeps.beyond_chance(swept)),
        "worth": list(sweeps.worth(table, ratios)),
        "tasks": tasks(table, windows),
        "sweeps": [_sweep(sweep.rows, windows, ratios) for sweep in swept],
    }
    counts = {
        "far": reach(swept, claimed["a"]["numbers"]),
        "headline": across(table, claimed["headline"]["numbers"]),
    }
    old = overview.superseded(table["quantizer"])
    today = [sweep for sweep in swept if sweep.rows["quantizer"].iloc[0] not in old]
    before = [sweep for sweep in swept if sweep.rows["quantizer"].iloc[0] in old]
    pictures = {
        "": (*_far(today, "all", looks), *_pictures(table, windows, looks)),
        "superseded": tuple(_far(before, "superseded", looks)),
        **{_name(sweep.rows): () for sweep in before},
        **{_name(sweep.rows): tuple(_curves(sweep.rows, windows, looks)) for sweep in today},
    }
    return Section(claims.verdicts(table, windows, claimed, RULES), tables, counts, pictures)


def _pictures(table: pd.DataFrame, windows: pd.DataFrame, looks: style.Looks) -> Iterator[Picture]:
    for _, part in table.groupby(intervals.ANSWERED, sort=False):
        answers = intervals.tasks(part, windows)
        if len(answers):
            where = f"{part['model'].iloc[0]}, {intervals.setting(part.iloc[0])}"
            alt = f"Accuracy that is retained on tasks, with 95 % intervals: {where}."
            rows = f"{where}, metric accuracy"
            yield Picture(figures.tasks, (answers,), where, alt, rows)
    for model in dict.fromkeys(table.loc[table["metric"] == "spearman", "model"]):
        alt = f"How other readings of the scores rank the blocks of {model}."
        own = table[(table["model"] == model) & (table["metric"] == "spearman")]
        yield Picture(rankings, (own,), model, alt, f"model {model}, metric spearman")


def _far(swept: list[sweeps.Swept], what: str, looks: style.Looks) -> Iterator[Picture]:
    """All of these sweeps in one picture."""
    if not swept:
        return
    named = [(f"{one.model}\n{intervals.setting(one.rows.iloc[0])}", one) for one in swept]
    limits, areas = (
        pd.concat([part(one).assign(sweep=name) for name, one in named], ignore_index=True)
        for part in (lambda one: one.limits, lambda one: one.areas)
    )
    alt = (
        "The largest share of blocks moved that keeps 90 % of the quality, and the mean quality "
        "kept while all are moved, with 95 % intervals."
    )
    yield Picture(figures.far, (limits, areas, looks), what, alt, f"study {NAME}")


def _name(table: pd.DataFrame) -> str:
    """What the files of a sweep are named after."""
    first = table.iloc[0]
    return f"{first['model']}-{nickname(first['quantizer'])}-{first['high']}-{first['low']}"


def _curves(table: pd.DataFrame, windows: pd.DataFrame, looks: style.Looks) -> Iterator[Picture]:
    first = table.iloc[0]
    rows = f"study {NAME}, model {first['model']}, {intervals.setting(first)}"
    alt = "Retained quality against blocks moved, with 95 % intervals."
    yield Picture(figures.retained_curve, (table, windows, looks), _name(table), alt, rows)
    alt = "Perplexity, KL and agreement against blocks moved and true bits."
    yield Picture(figures.curves, (table, looks), _name(table), alt, rows)


def _sweep(
    table: pd.DataFrame, windows: pd.DataFrame, ratios: Mapping[str, Interval]
) -> dict[str, Any]:
    """What the template says about one sweep."""
    first = table.iloc[0]
    perplexity = table[table["metric"] == "perplexity"]
    moved = sorted(perplexity["moved"].unique())
    lowest = perplexity[
        (perplexity["ordering"] == "uniform") & (perplexity["avg_bits"] == first["low"])
    ]
    return {
        "model": first["model"],
        "name": _name(table),
        "quantizer_name": nickname(first["quantizer"]),
        "high": first["high"],
        "low": first["low"],
        "remark": bootstrap.remark(intervals.nll_by_id(windows)[first["id"]].documents),
        "seeds": perplexity.loc[style.is_random(perplexity), "ordering"].nunique(),
        "first": min(count for count in moved if count) / first["units"],
        "step": max(b - a for a, b in zip(moved, moved[1:], strict=False)) / first["units"],
        "original": perplexity.loc[perplexity["ordering"] == "original", "value"].iloc[0],
        "all_high": style.all_high(perplexity)["value"],
        "all_low": lowest["value"].iloc[0],
        "rest_bytes": int(first["total_bytes"] - first["plan_bytes"]),
        "limits": sweeps.limit_lines(intervals.limits(table, windows)),
        "points": list(sweeps.measured_plans(table, windows, ratios)),
    }


def rankings(table: pd.DataFrame) -> Figure:
    """Rank correlation with the default reading of a score, one row a variant: settings,
    calibration text, amount of text.

    A direction turned round is left out: its correlation is -1 by construction.

    Args:
        table: rows with the metric "spearman", of one model.
    """
    table = table[~table["ordering"].str.contains("larger_is_important")].drop_duplicates(
        ["ordering", "calibration"]
    )
    parts = (
        table["calibration"]
        .str.extract(
            r"^(?P<text>.+)/\w+ "
            r"(?P<amount>\d+)x(?P<length>\d+) "
        )
        .astype({"amount": int})
    )
    table = table.join(parts).assign(kind=table["ordering"].str.contains("(", regex=False))
    table = table.sort_values(["kind", "text", "amount", "ordering"], kind="stable")
    names = [
        READINGS.get(row["ordering"], row["ordering"])
        if row["kind"]
        else f"{style.label(row['ordering'])} on {row['text']}, "
        f"{row['amount']} × {row['length']} tokens"
        for row in table.to_dict("records")
    ]
    figure, axes = style.canvas(7.5, 1.2 + 0.26 * len(names))
    axis = axes[0][0]
    axis.plot(table["value"], range(len(names)), "o", color=style.COLORS[0][0], ms=6)
    axis.set_yticks(range(len(names)), names)
    axis.invert_yaxis()
    axis.set_title(table["model"].iloc[0])
    axis.set(
        xlabel="Spearman's rank correlation with the default",
        xlim=(np.floor(table["value"].min() * 10 - 0.5) / 10, 1.02),
    )
    return figure


RULES: dict[str, claims.Rule] = {"far": how_far, "headline": headline}
