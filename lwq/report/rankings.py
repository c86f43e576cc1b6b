"""Lines of the report's tables, from the results; numbers are text where the template prints them
as they are.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from lwq.common.errors import InputError
from lwq.common.names import nickname
from lwq.inputs import catalogue
from lwq.report import claims, figures, intervals

SWEPT = ("orderings", "model_scale")  # studies that move blocks from one width to another
ALL_HIGH = "all blocks at the high width"
SCORED = {"lim": "lim", "zd": "zd", "reversed(lim)": "lim_reversed", "reversed(zd)": "zd_reversed"}
LADDER = "trained by lwq.ladder in float32; the same width, tokens and recipe for all rungs"


def place(model: Any, *more: Any) -> tuple[Any, ...]:
    """Where a line about `model` stands: the ladder last, from shallow to deep; then by `more`."""
    return (
        str(model).startswith("ladder-"),
        re.sub(r"\d+", lambda number: number[0].zfill(4), str(model)),
        *more,
    )


def models(table: pd.DataFrame) -> Iterator[dict[Any, Any]]:
    """One line a model: what it is, its blocks, and its perplexity on each judging text,
    untouched.
    """
    rows = table[(table["metric"] == "perplexity") & (table["ordering"] == "original")]
    for (model, judge), part in sorted(
        rows.groupby(["model", "judge"]), key=lambda group: place(*group[0])
    ):
        carried = catalogue.MODELS.get(str(model))
        note = carried.note if carried else LADDER if str(model).startswith("ladder-") else ""
        yield {
            **part.iloc[0].to_dict(),
            "note": note,
            "judge": judge,
            "perplexity": part.iloc[0]["value"],
        }


def uniform(table: pd.DataFrame) -> dict[str, Any]:
    """Perplexity with the same width in every block: its widths, and one line a model and
    quantizer.
    """
    rows = table[
        (table["metric"] == "perplexity")
        & (table["ordering"] == "uniform")
        & table["study"].isin([*SWEPT, "pruning"])
    ]
    rows = rows[
        rows["avg_bits"].isin(range(2, 9)) & ~rows["quantizer"].str.startswith(claims.MASKS)
    ]
    rows = rows.sort_values("dtype", kind="stable").drop_duplicates(
        ["model", "quantizer", "avg_bits"]
    )
    untouched = table[(table["metric"] == "perplexity") & (table["ordering"] == "original")]
    truth = untouched.drop_duplicates(["model", "judge", "dtype"]).set_index(
        ["model", "judge", "dtype"]
    )["value"]
    widths = sorted(rows["avg_bits"].unique(), reverse=True)
    lines = []
    groups = sorted(
        rows.groupby(["model", "quantizer"]),
        key=lambda group: place(group[0][0], nickname(str(group[0][1]))),
    )
    for (model, quantizer), part in groups:
        found = {row["avg_bits"]: row for row in part.to_dict("records")}
        cells = [_beside(found[width], truth) if width in found else "–" for width in widths]
        lines.append({"model": model, "quantizer": nickname(str(quantizer)), "cells": cells})
    return {"widths": [f"{width:.0f}" for width in widths], "lines": lines}


def _beside(row: Mapping[Any, Any], truth: pd.Series) -> str:
    """ "34.35 (79%)": a perplexity, and what it retains of the untouched model's on the same
    text.
    """
    untouched = truth.get((row["model"], row["judge"], row["dtype"]))
    return f"{row['value']:.4g}" + (f" ({untouched / row['value']:.0%})" if untouched else "")


def worth(table: pd.DataFrame, windows: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """One line a sweep: how many of an ordering's mixes beat uniform bits of the same true size,
    and how many lose to them.
    """
    nll = intervals.nll_by_id(windows)
    for sweep in intervals.sweeps(table):
        rows = sweep[sweep["metric"] == "perplexity"]
        gains = intervals.against_uniform(rows, nll)
        rows = rows[rows["id"].isin(gains) & (rows["moved"] > 0)]
        first = rows.iloc[0]
        line = {"model": first["model"], "setting": intervals.setting(first)}
        for name in ("lim", "zd", "random"):
            own = (
                figures.is_random(rows["ordering"])
                if name == "random"
                else rows["ordering"] == name
            )
            found = [gains[key] for key in rows.loc[own, "id"]]
            better, worse = (
                sum(gain.low > 0 for gain in found),
                sum(gain.high < 0 for gain in found),
            )
            line[name] = f"{better} better, {worse} worse of {len(found)}"
        yield line


def beyond_chance(swept: Iterable[claims.Swept]) -> Iterator[dict[str, Any]]:
    """One line a sweep: the mean retained quality with each score and with its reverse, bold where
    its interval lies above every random order."""
    for sweep, _, areas in sorted(swept, key=lambda found: place(found.rows["model"].iloc[0])):
        areas = areas.set_index("ordering")
        first, chance = sweep.iloc[0], areas.loc["random"] if "random" in areas.index else None
        line = {"model": first["model"], "setting": intervals.setting(first), "random": "–"}
        if chance is not None:
            orders = sweep.loc[figures.is_random(sweep["ordering"]), "ordering"].nunique()
            line["random"] = "{:.3f} ({:.3f} to {:.3f}, {} orders)".format(
                *chance[["value", "low", "high"]], orders
            )
        for name, key in SCORED.items():
            line[key] = "–"
            if name in areas.index:
                value, low, high = areas.loc[name, ["value", "low", "high"]]
                better = chance is not None and low > chance["high"]
                line[key] = (
                    f"**{value:.3f}** [{low:.3f}, {high:.3f}]"
                    if better
                    else f"{value:.3f} [{low:.3f}, {high:.3f}]"
                )
        yield line


def tasks(table: pd.DataFrame, windows: pd.DataFrame) -> dict[str, Any]:
    """Accuracy on tasks: their names, and one line a plan that answered all of them."""
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
            plan: np.concatenate([correct[part["id"][name]] for name in names])
            for plan, part in plans.items()
        }
        for plan, part in plans.items():
            lost = intervals.mean(answers[ALL_HIGH] - answers[plan])
            found.append(
                {
                    "model": part["model"].iloc[0],
                    "setting": intervals.setting(part.iloc[0]),
                    "plan": plan,
                    "cells": [f"{part['value'][name]:.3f}" for name in names],
                    "lost": "–" if plan == ALL_HIGH else "{:+.3f} [{:+.3f}, {:+.3f}]".format(*lost),
                    "questions": part["n"].iloc[0],
                    "tenth": f"{answers[ALL_HIGH].mean() / 10:.3f}",
                }
            )
    return {"names": names, "lines": found}


def plan_label(ordering: str, moved: int, units: int) -> str:
    """What a plan of a sweep is called: "LIM, 50 % moved"; both ends are the same in every
    order.
    """
    if moved in (0, units):
        return "all blocks at the low width" if moved else ALL_HIGH
    return f"{figures.label(ordering)}, {moved / units:.0%} moved"


def ways(found: Iterable[claims.Verdict], gains: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Claim (b), one line a model and way in which a score decides: its verdicts, and the random
    orders that gain something.

    Of each score: in how many of its settings it holds, its interval lies above every random order,
        and it beats its reverse.
    """
    found = list(found)
    for (model, way), part in gains.groupby(["model", "way"], sort=False):
        chance = part[figures.is_random(part["ordering"])]
        line: dict[str, Any] = {
            "model": model,
            "way": way,
            "gaining": f"{(chance['value'] > 0).sum()} of {len(chance)}",
        }
        for score in ("lim", "zd"):
            own = [
                v.verdict
                for v in found
                if v.model == model
                and f", {way}, " in v.setting
                and v.setting.endswith(f" {score}")
            ]
            above = beats = 0
            for _, same in part.groupby(["quantizer", "moved"]):
                mine, turned = (
                    same[same["ordering"] == name] for name in (score, f"reversed({score})")
                )
                randoms = same.loc[figures.is_random(same["ordering"]), "value"]
                above += len(mine) > 0 and bool(mine["low"].iloc[0] > randoms.max())
                beats += len(mine) > 0 < len(turned) and bool(
                    mine["value"].iloc[0] > turned["value"].iloc[0]
                )
            line[score] = {
                "settings": len(own),
                "holds": own.count(claims.HOLDS),
                "above": above,
                "beats": beats,
            }
        yield line


def deviations(table: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """How far the perplexity of each end of a sweep is off that in float32, for finished sweeps in
    any other dtype.

    Raises InputError where float32 was not measured.
    """
    key = ["model", "quantizer", "judge", "ordering", "avg_bits"]
    ends = table[(table["metric"] == "perplexity") & table["ordering"].isin(intervals.ENDS)]
    exact = ends[ends["dtype"] == "float32"].drop_duplicates(key).set_index(key)["value"]
    finished = {
        name
        for sweep in intervals.sweeps(table)
        if sweep["study"].iloc[0] in SWEPT
        for name in sweep["id"]
    }
    ends = ends[(ends["dtype"] != "float32") & ends["id"].isin(finished)]
    for row in ends.drop_duplicates([*key, "dtype"]).to_dict("records"):
        place = tuple(row[column] for column in key)
        if place not in exact.index:
            raise InputError(
                f"{row['model']}, {row['dtype']}: its deviation from float32 was not "
                f"measured; run the study again"
            )
        what = "untouched" if row["ordering"] == "original" else f"{row['avg_bits']:.0f} bits"
        yield {
            **{str(k): v for k, v in row.items()},
            "what": what,
            "quantizer_name": nickname(row["quantizer"]),
            "deviation": row["value"] / float(exact.loc[[place]].iloc[0]) - 1,
        }


def crossings(gaps: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """One line a model, quantizer, kind of pruning and width: who loses less at which size, in each
    ordering.
    """
    found = claims.crossings(gaps)
    for (model, quantizer, pruned, bits), part in found.groupby(
        ["model", "quantizer", "pruned", "bits"], sort=False
    ):
        orders = list(_wins(part[~figures.is_random(part["ordering"])]))
        yield {
            "model": model,
            "quantizer": nickname(str(quantizer)),
            "pruned": pruned,
            "bits": bits,
            "orders": orders,
        }


def _wins(part: pd.DataFrame) -> Iterator[str]:
    """ "LIM: quantizing at 14.9 to 10.7, then pruning at 9.6 to 5.3"."""
    for ordering, runs in part.groupby("ordering", sort=False):
        said = [
            f"{run['wins']} at "
            f"{run['most']:.1f}"
            + (f" to {run['least']:.1f}" if run["least"] != run["most"] else "")
            for run in runs.to_dict("records")
        ]
        yield f"{figures.label(str(ordering))}: {', then '.join(said)}"


def limits(limits: pd.DataFrame) -> list[dict[str, str]]:
    """One line an ordering; the random orders stand together."""
    found: dict[str, dict[str, str]] = {}
    for row in limits[~limits["ordering"].str.startswith("random(")].to_dict("records"):
        cell = intervals.span(
            intervals.Interval(row["value"], row["low"], row["high"]), row["step"], "[{}, {}]"
        )
        found.setdefault(row["ordering"], {"label": figures.label(row["ordering"])})[
            f"t{row['threshold'] * 100:.0f}"
        ] = cell
    return list(found.values())


def measured_plans(table: pd.DataFrame, windows: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """One line an ordering at the measured points nearest to a quarter and a half, and the uniform
    plans.
    """
    wide = table.pivot_table(index="id", columns="metric", values="value")
    rows = (
        table[table["metric"] == "perplexity"]
        .drop(columns=["metric", "value", "n"])
        .join(wide, on="id")
    )
    nll = intervals.nll_by_id(windows)
    truth = nll[figures.all_high(rows)["id"]]
    beside = intervals.against_uniform(rows, nll)
    mixed = rows[~rows["ordering"].isin(intervals.ENDS)]
    for share in (0.25, 0.5):
        nearest = min(
            mixed["moved"].unique(), key=lambda moved: abs(moved / mixed["units"].iloc[0] - share)
        )
        point = mixed[mixed["moved"] == nearest]
        chance = figures.is_random(point["ordering"])
        for row in point[~chance].sort_values("perplexity").to_dict("records"):
            yield _point(row, truth, nll, beside)
        if chance.any():
            yield _together(point[chance], truth, nll, beside)
    for row in rows[rows["ordering"] == "uniform"].sort_values("true_bits").to_dict("records"):
        yield {**_point(row, truth, nll, beside), "label": f"uniform {row['avg_bits']:.0f} bits"}


def _point(
    row: dict[Any, Any], truth: Any, nll: Any, beside: Mapping[str, intervals.Interval]
) -> dict[str, Any]:
    numbers = {name: f"{row[name]:.3f}" for name in ("kl", "top1")}
    return {
        **row,
        **numbers,
        "label": figures.label(row["ordering"]),
        "perplexity": f"{row['perplexity']:.4g}",
        "retained": "{:.3f} [{:.3f}, {:.3f}]".format(*intervals.retained(truth, nll[row["id"]])),
        "gain": "{:+.3f} [{:+.3f}, {:+.3f}]".format(*beside[row["id"]])
        if row["id"] in beside
        else "",
    }


def _together(
    rows: pd.DataFrame, truth: Any, nll: Any, beside: Mapping[str, intervals.Interval]
) -> dict[str, Any]:
    """Random orders in one line: median, lowest and highest."""
    spans: dict[str, tuple[Any, str]] = {
        "perplexity": (rows["perplexity"], ".4g"),
        "retained": (np.exp([truth.mean() - nll[key].mean() for key in rows["id"]]), ".3f"),
        "gain": (np.array([beside[key].value for key in rows["id"] if key in beside]), "+.3f"),
        "kl": (rows["kl"], ".3f"),
        "top1": (rows["top1"], ".3f"),
    }
    cells = {
        name: f"{np.median(values):{style}} ({values.min():{style}} to {values.max():{style}})"
        if len(values)
        else ""
        for name, (values, style) in spans.items()
    }
    return {
        **rows.iloc[0].to_dict(),
        **cells,
        "label": f"random ({len(rows)} orders, median and range)",
        "id": "",
    }
