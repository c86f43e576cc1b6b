"""The study of scores: which one, with which allocator, at which size? Its rules and tables."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from lwq.common.names import nickname
from lwq.contracts.results import BLOCKS, TOGETHER, WHOLE
from lwq.contracts.section import Picture, Section
from lwq.report import claims, figures, interactions, intervals
from lwq.report.bootstrap import Interval, Sample, mean
from lwq.report.claims import FAILS, HOLDS, Found, decide
from lwq.report.figures import budgets, style
from lwq.report.floor import text_of
from lwq.report.intervals import SAME
from lwq.report.line import Line, corners, on_windows
from lwq.results.plans import StoredPlan
from lwq.studies import grid

NAME = "which_score"
READING = "reading"  # a score beside the measured harm of single units
MEASURED = "at_option"  # the score that is measured, unit by unit
METHOD = ["ordering", "way"]
PANEL = ["model", "quantizer", "judge", "whole"]  # what a table and a figure show together


def plans_of(table: pd.DataFrame) -> pd.DataFrame:
    """One line a measured plan: its row, and its KL as `kl`, its perplexity and top-1 beside."""
    measured = table[table["metric"].isin(("kl", "perplexity", "top1"))]
    wide = measured.pivot_table(index="id", columns="metric", values="value")
    rows = measured.drop_duplicates("id").drop(columns=["metric", "value", "n"])
    return rows.join(wide, on="id")


def budget_of(row: Mapping[Any, Any]) -> float:
    """Stored bits a weight that a plan was held to; NaN where there was no budget."""
    return float(str(row["budget"]).partition("=")[2] or "nan")


def compared(table: pd.DataFrame, windows: pd.DataFrame) -> pd.DataFrame:
    """Every plan beside uniform bits of its bytes.

    Returns:
        A line a plan with a budget: the columns of its row, `kl`, `perplexity`, `top1`, `asked`
        (bits a weight that it was held to), `whole` (embeddings and head among the units),
        `least` (KL of the best uniform plan no larger), `gain`,
        `low`, `high` (KL of uniform bits less its own, nats a token; above 0 it is better; NaN
        where no uniform plans lie on both sides), `ratio` (its KL over that of uniform bits; NaN
        also for a plan that is uniform itself) and `beside` (ids of those).
    """
    kl = intervals.by_id(windows, "kl")
    found = []
    table = table[~table["way"].isin(("original", TOGETHER))]
    # a plan that two settings of a score found is one
    plans = plans_of(table).drop_duplicates([*SAME, *METHOD, "plan", "budget"])
    for _, part in plans.groupby(SAME, sort=False):
        whole = part["way"].str.startswith(WHOLE)
        for beyond, rows in ((False, part[~whole]), (True, part[whole])):
            uniform = rows[rows["ordering"] == "uniform"]
            flat = Line.through(uniform)
            even = set(rows.loc[rows["plan"].isin(uniform["plan"]), "id"])
            for row in rows[rows["ordering"] != "uniform"].to_dict("records"):
                fits = uniform.loc[uniform["total_bytes"] <= row["total_bytes"], "kl"]
                line = row | {"asked": budget_of(row), "whole": beyond, "least": fits.min()}
                found.append(line | _gain(row, flat, kl, even))
    return pd.DataFrame(found)


def _gain(
    row: Mapping[Any, Any], flat: Line, kl: Mapping[str, Sample], even: set[str]
) -> dict[str, Any]:
    shares = flat.at(row["total_bytes"])
    if shares is None:
        return {**dict.fromkeys(("gain", "low", "high", "ratio"), float("nan")), "beside": ()}
    truth, own = on_windows(shares, kl), kl[row["id"]]
    gain, low, high = mean(truth - own)
    beside = np.exp(sum(share * np.log(kl[key].mean()) for key, share in shares.items()))
    ratio = float("nan") if row["id"] in even else own.mean() / beside
    return {"gain": gain, "low": low, "high": high, "ratio": ratio, "beside": tuple(shares)}


def never_worse(table: pd.DataFrame, windows: pd.DataFrame, numbers: Mapping[str, Any]) -> Found:
    """It holds unless the interval of the gain over uniform bits lies below 0."""
    for row in _of(compared(table, windows), numbers["recipe"]):
        if np.isnan(row["gain"]):
            continue
        gain = Interval(row["gain"], row["low"], row["high"])
        verdict = FAILS if decide(gain) == FAILS else HOLDS
        text = (
            f"KL {row['kl']:.4f}, gain over uniform bits of its bytes {gain.signed(4)}; "
            f"the best uniform file no larger has {row['least']:.4f}"
        )
        yield row["model"], _setting(row), verdict, text, (*row["beside"], row["id"])


def beats(table: pd.DataFrame, windows: pd.DataFrame, numbers: Mapping[str, Any]) -> Found:
    """The interval of the other's KL less the recipe's, at the same limit of bytes, lies above
    0.
    """
    kl = intervals.by_id(windows, "kl")
    frame = compared(table, windows)
    others = {
        tuple(row[column] for column in (*SAME, "budget")): row
        for row in _of(frame, numbers["other"])
    }
    for row in _of(frame, numbers["recipe"]):
        other = others.get(tuple(row[column] for column in (*SAME, "budget")))
        if other is None or row["whole"]:
            continue
        gain = mean(kl[other["id"]] - kl[row["id"]])
        text = f"KL {row['kl']:.4f}, beside {other['kl']:.4f}, gain {gain.signed(4)}"
        yield row["model"], _setting(row), decide(gain), text, (other["id"], row["id"])


def _of(frame: pd.DataFrame, method: list[str]) -> list[dict[Any, Any]]:
    """The lines of a method: an ordering, and the ways that count."""
    if frame.empty:
        return []
    ordering, *ways = method
    return frame[(frame["ordering"] == ordering) & frame["way"].isin(ways)].to_dict("records")


def _setting(row: Mapping[Any, Any]) -> str:
    what = f"{row['asked']:g} bits"
    if row["whole"]:
        what = f"{row['total_bytes'] / 1e6:.1f} MB, embeddings too"
    return f"{nickname(row['quantizer'])}, {what}"


def quality(frame: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """One table a model and quantizer: KL of each method at each size, best first.

    Returns:
        model, quantizer, judge, whole, sizes (text) and lines of method, cells (text, bold where
        the interval says better than uniform bits), worth (mean ratio to uniform bits, text).
    """
    for (model, quantizer, judge, whole), part in frame.groupby(PANEL):
        sizes = sorted(part["asked"].dropna().unique())
        yield {
            "model": model,
            "quantizer": nickname(str(quantizer)),
            "judge": _windows(judge),
            "whole": bool(whole),
            "sizes": [_size(part, size, bool(whole)) for size in sizes],
            "lines": [
                {
                    "method": method,
                    "cells": [_cell(own[own["asked"] == size]) for size in sizes],
                    "worth": _worth(own),
                }
                for method, own in _best_first(part)
            ],
        }


def _windows(text: object) -> str:
    """Judging windows, without the hash of their tokens."""
    return str(text).partition(" #")[0]


def _best_first(part: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """What `_methods` finds, by the ratio to uniform bits."""
    return sorted(_methods(part), key=lambda entry: _order(entry[1]))


def _methods(part: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """(what readers call it, its lines); random orders together."""
    chance = style.is_random(part)
    for (ordering, way), own in part[~chance].groupby(METHOD, sort=False):
        yield budgets.method(str(ordering), str(way)), own
    kinds = part["ordering"].str.partition(" + ")[2]
    for (kind, way), own in part[chance].groupby([kinds, "way"], sort=False):
        yield budgets.method(f"{intervals.RANDOM} + {kind}", str(way)), own


def _cell(own: pd.DataFrame) -> str:
    if own.empty:
        return "–"
    text = f"{own['kl'].median():.3f}"
    if len(own) > 1:
        return f"{text} ({own['kl'].min():.3f} to {own['kl'].max():.3f})"
    return f"**{text}**" if own["low"].iloc[0] > 0 else text


def _worth(own: pd.DataFrame) -> str:
    ratio = own["ratio"].dropna()
    return "–" if ratio.empty else f"{np.exp(np.log(ratio).mean()):.2f}"


def _order(own: pd.DataFrame) -> float:
    ratio = own["ratio"].dropna()
    return float("inf") if ratio.empty else float(np.log(ratio).mean())


def _size(part: pd.DataFrame, size: float, whole: bool) -> str:
    if not whole:
        return f"{size:g}"
    return f"{part.loc[part['asked'] == size, 'total_bytes'].max() / 1e6:.1f} MB"


def readings(table: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """One line a model, quantizer and score: its rank correlation with the measured harm of single
    units, and what it took.

    Returns:
        model, quantizer, score, units (how many), spearman, forwards, backwards (text).
    """
    rows = table[table["way"] == READING]
    wide = rows.pivot(  # refuses what would be averaged
        index=[*SAME, "ordering", "units"], columns="metric", values="value"
    ).reset_index()
    if "spearman" not in wide:
        return
    wide = wide[wide["ordering"].str.partition("(")[0] != MEASURED]
    wide = wide.sort_values(["model", "quantizer", "units", "spearman"], ascending=False)
    for row in wide.to_dict("records"):
        yield {
            "model": row["model"],
            "quantizer": nickname(row["quantizer"]),
            "score": style.label(row["ordering"]),
            "units": int(row["units"]),
            "spearman": f"{row['spearman']:.2f}",
            **{key: _passes(row.get(key)) for key in ("forwards", "backwards")},
        }


def _passes(value: float | None) -> str:
    return "–" if value is None or np.isnan(value) else f"{value:.1f}"


def agreement(table: pd.DataFrame, windows: pd.DataFrame) -> pd.DataFrame:
    """Rank correlation of every score with every other, of one model, quantizer and kind of unit.

    Args:
        table: rows of the way "reading", of equally many units.
        windows: the arrays behind them.

    Returns:
        Square, symmetric, the labels of the scores on both sides, the measured harm first.
    """
    scores = intervals.by_id(windows, "score")
    rows = table[table["metric"] == "spearman"].drop_duplicates("ordering")
    rows = rows.sort_values("value", ascending=False)
    columns = {
        style.label(row["ordering"]): scores[row["id"]].values for row in rows.to_dict("records")
    }
    return pd.DataFrame(columns).corr(method="spearman")


def which(frame: pd.DataFrame, table: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """The closing table: one line a score and allocator, over all models, quantizers and sizes.

    Returns:
        method, settings (how many), worth (geometric mean of KL over uniform bits' KL), better,
        worse (in how many settings the interval says so), forwards, backwards (text).
    """
    if frame.empty:
        return
    inner = frame[~frame["whole"].astype(bool) & frame["ratio"].notna()]
    taken = {row["score"]: row for row in readings(table)}
    for method, own in _best_first(inner):
        cost = taken.get(method.partition(" + ")[0], {})
        yield {
            "method": method,
            "settings": len(own),
            "worth": _worth(own),
            "better": int((own["low"] > 0).sum()),
            "worse": int((own["high"] < 0).sum()),
            "forwards": cost.get("forwards", "–"),
            "backwards": cost.get("backwards", "–"),
        }


def section(table: pd.DataFrame, plans: Mapping[str, StoredPlan], windows: pd.DataFrame) -> Section:
    """All that the report says of the study."""
    frame = compared(table, windows)
    claimed = grid.catalogue()[NAME]["claims"]
    shown = {
        "": tuple(_curves(frame, table)),
        "scores": tuple(_agreements(table, windows)),
        "plans": tuple(_best_plans(frame, plans)),
    }
    tables = {
        "quality": list(quality(frame)) if len(frame) else [],
        "readings": list(readings(table)),
        "which": list(which(frame, table)),
        "together": [
            {**line, "quantizer": nickname(line["quantizer"])}
            for line in interactions.lines(table[table["way"] == TOGETHER], plans)
        ],
    }
    return Section(claims.verdicts(table, windows, claimed, RULES), tables, figures=shown)


def _curves(frame: pd.DataFrame, table: pd.DataFrame) -> Iterator[Picture]:
    if frame.empty:
        return
    flat = plans_of(table[table["ordering"] == "uniform"])
    flat = flat.assign(whole=flat["way"].str.startswith(WHOLE))
    for place, part in frame.groupby(PANEL):
        model, quantizer, judge, whole = place
        own = corners(flat[(flat[PANEL] == list(place)).all(axis=1)])
        what = WHOLE if whole else BLOCKS
        name = f"{model}, {nickname(str(quantizer))}, {what}, {_windows(judge)}"
        yield Picture(
            figures.size_curves,
            (part, own, name),
            name,
            f"KL to the untouched model against stored size, one line a method: {name}.",
            f"study {NAME}, model {model}, quantizer {quantizer}, judge {judge}",
            (str(model), text_of(judge)),
        )


def _agreements(table: pd.DataFrame, windows: pd.DataFrame) -> Iterator[Picture]:
    rows = table[table["way"] == READING]
    for (model, quantizer, units), part in rows.groupby(["model", "quantizer", "units"]):
        found = agreement(part, windows)
        name = f"{model} {nickname(str(quantizer))} {units} units"
        yield Picture(
            figures.correlations,
            (found, f"{model}, {nickname(str(quantizer))}, {units} units"),
            name,
            f"Rank correlation of scores and measured harm: {name}.",
            f"study {NAME}, way {READING}, model {model}, units {units}",
        )


def _best_plans(frame: pd.DataFrame, plans: Mapping[str, StoredPlan]) -> Iterator[Picture]:
    """Of each model and quantizer the plan with the least KL at the middle size."""
    if frame.empty:
        return
    fine = frame[frame["plan"].map(lambda key: _is_fine(plans.get(key)))]
    for (model, *_), part in fine.groupby(PANEL):
        sizes = sorted(part["asked"].dropna().unique())
        if not sizes:
            continue
        best = part[part["asked"] == sizes[len(sizes) // 2]].sort_values("kl").iloc[0]
        name = f"{model}, {_setting(best)}, {_windows(best['judge'])}"
        yield Picture(
            figures.plan_map,
            (plans[best["plan"]]["bits"], f"{model}, {_setting(best)}: {best['ordering']}"),
            name,
            f"The plan with the least KL, matrix by matrix: {name}.",
            f"id {best['id']}",
        )


def _is_fine(plan: StoredPlan | None) -> bool:
    return plan is not None and plan["granularity"] == "matrix"


RULES: dict[str, claims.Rule] = {"never_worse": never_worse, "beats": beats}
