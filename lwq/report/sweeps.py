"""What studies that move blocks from one width to another share: areas under their curves, and
lines of tables.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from lwq.report import bootstrap, intervals, overview
from lwq.report.bootstrap import Interval
from lwq.report.figures import style
from lwq.report.intervals import RANDOM

TEXTS = ["calibration", "judge", "dtype"]


def areas(table: pd.DataFrame, windows: pd.DataFrame) -> pd.DataFrame:
    """The mean retained quality while blocks are moved, for each model and ordering.

    Returns:
        Columns model, units, quantizer, pair, calibration, judge, dtype, ordering, value, low,
        high, ids; random orders together as their median.
    """
    nll = intervals.nll_by_id(windows)
    found, together = [], []
    for sweep in intervals.sweeps(table):
        rows = sweep[sweep["metric"] == "perplexity"]
        truth = nll[rows[(rows["ordering"] == "uniform") & (rows["moved"] == 0)].iloc[0]["id"]]
        first = rows.iloc[0]
        # without the tokens, which differ between models
        texts = [first[key].partition(" #")[0] for key in TEXTS]
        place = (
            first["model"],
            first["units"],
            first["quantizer"],
            f"{first['high']} to {first['low']}",
            *texts,
        )
        chance = []
        for ordering, points in rows[~rows["ordering"].isin(intervals.ENDS)].groupby(
            "ordering", sort=False
        ):
            share, losses = (
                (points["moved"] / points["units"]).to_numpy(),
                [nll[key] for key in points["id"]],
            )
            area = intervals.area(share, losses, truth)
            if points["seed"].notna().all():
                chance.append(area.value)
            else:
                found.append((*place, ordering, *area, tuple(points["id"])))
        if chance:
            together.append((*place, RANDOM, np.median(chance), min(chance), max(chance), ()))
    columns = [
        "model",
        "units",
        "quantizer",
        "pair",
        *TEXTS,
        "ordering",
        "value",
        "low",
        "high",
        "ids",
    ]
    return pd.DataFrame([*found, *together], columns=columns)


class Swept(NamedTuple):
    """A sweep, how far its orderings go (`intervals.limits` at one quality), and the areas under
    their curves (`areas`).
    """

    rows: pd.DataFrame
    limits: pd.DataFrame
    areas: pd.DataFrame

    @property
    def model(self) -> str:
        """The model that was swept."""
        return str(self.rows["model"].iloc[0])


def swept(table: pd.DataFrame, windows: pd.DataFrame, quality: float) -> list[Swept]:
    """Every finished sweep of a table."""
    return [
        Swept(rows, intervals.limits(rows, windows, (quality,)), areas(rows, windows))
        for rows in intervals.sweeps(table)
    ]


def beyond_chance(swept: Iterable[Swept]) -> Iterator[dict[str, Any]]:
    """One line a sweep: the mean retained quality with each score and with its reverse, bold where
    its interval lies above every random order.

    Returns:
        Lines of model, setting, cells (label -> text, the same labels in all lines) and random.
    """
    swept = list(swept)
    columns = columns_of(sweep.rows for sweep in swept)
    for sweep, _, areas in sorted(
        swept, key=lambda found: overview.place(found.rows["model"].iloc[0])
    ):
        areas = areas.set_index("ordering")
        first, chance = sweep.iloc[0], areas.loc[RANDOM] if RANDOM in areas.index else None
        cells: dict[str, str] = {}
        line = {"model": first["model"], "setting": intervals.setting(first), "random": "–"}
        if chance is not None:
            orders = sweep.loc[style.is_random(sweep), "ordering"].nunique()
            line["random"] = "{:.3f} ({:.3f} to {:.3f}, {} orders)".format(
                *chance[["value", "low", "high"]], orders
            )
        for name in columns:
            cells[style.label(name)] = "–"
            if name in areas.index:
                value, low, high = areas.loc[name, ["value", "low", "high"]]
                better = chance is not None and low > chance["high"]
                cells[style.label(name)] = (
                    f"**{value:.3f}** [{low:.3f}, {high:.3f}]"
                    if better
                    else f"{value:.3f} [{low:.3f}, {high:.3f}]"
                )
        yield {**line, "cells": cells}


def columns_of(tables: Iterable[pd.DataFrame], reverses: bool = True) -> list[str]:
    """The scores that any of `tables` has plans of, and their reverses: columns of a table."""
    plans = (table[table["metric"] == "perplexity"] for table in tables)
    met = [name for rows in plans for name in style.labels(rows)]
    return [
        name
        for name in style.order(met)
        if name not in style.POSITIONAL and (reverses or not style.turned(name))
    ]


def worth(table: pd.DataFrame, ratios: Mapping[str, Interval]) -> Iterator[dict[str, Any]]:
    """One line a sweep: how many of an ordering's mixes beat uniform bits of the same bytes, and
    how many lose to them.

    Args:
        table: rows of a study.
        ratios: plan -> KL over that of uniform bits, from `beside.ratios`.

    Returns:
        Lines of model, setting and cells (label -> text, the same labels in all lines).
    """
    sweeps = list(intervals.sweeps(table))
    columns = [*columns_of(sweeps, reverses=False), RANDOM]
    for sweep in sweeps:
        rows = sweep[sweep["metric"] == "perplexity"]
        first = rows.iloc[0]
        rows = rows[rows["plan"].isin(ratios)]
        cells = {}
        for name in columns:
            own = style.is_random(rows) if name == RANDOM else rows["ordering"] == name
            found = [ratios[key] for key in rows.loc[own, "plan"]]
            better, worse = (
                sum(ratio.high < 1 for ratio in found),
                sum(ratio.low > 1 for ratio in found),
            )
            shown = "random orders" if name == RANDOM else style.label(name)
            cells[shown] = f"{better} better, {worse} worse of {len(found)}"
        setting = intervals.setting(first)
        yield {"model": first["model"], "setting": setting, "cells": cells}


def limit_lines(limits: pd.DataFrame) -> list[dict[str, str]]:
    """One line an ordering; the random orders stand together."""
    found: dict[str, dict[str, str]] = {}
    for row in limits[limits["seed"].isna()].to_dict("records"):
        cell = intervals.span(
            Interval(row["value"], row["low"], row["high"]), row["step"], "[{}, {}]"
        )
        found.setdefault(row["ordering"], {"label": style.label(row["ordering"])})[
            f"t{row['threshold'] * 100:.0f}"
        ] = cell
    return list(found.values())


def measured_plans(
    table: pd.DataFrame, windows: pd.DataFrame, ratios: Mapping[str, Interval]
) -> Iterator[dict[str, Any]]:
    """One line an ordering at the measured points nearest to a quarter and a half, and the uniform
    plans; `ratios` are those of `worth`.
    """
    wide = table.pivot_table(index="id", columns="metric", values="value")
    rows = (
        table[table["metric"] == "perplexity"]
        .drop(columns=["metric", "value", "n"])
        .join(wide, on="id")
    )
    nll = intervals.nll_by_id(windows)
    truth = nll[style.all_high(rows)["id"]]
    mixed = rows[~rows["ordering"].isin(intervals.ENDS)]
    for share in (0.25, 0.5):
        nearest = min(
            mixed["moved"].unique(), key=lambda moved: abs(moved / mixed["units"].iloc[0] - share)
        )
        point = mixed[mixed["moved"] == nearest]
        chance = style.is_random(point)
        for row in point[~chance].sort_values("perplexity").to_dict("records"):
            yield _point(row, truth, nll, ratios)
        if chance.any():
            yield _together(point[chance], truth, nll, ratios)
    for row in rows[rows["ordering"] == "uniform"].sort_values("true_bits").to_dict("records"):
        yield {**_point(row, truth, nll, ratios), "label": f"uniform {row['avg_bits']:.0f} bits"}


def _point(
    row: dict[Any, Any], truth: Any, nll: Any, ratios: Mapping[str, Interval]
) -> dict[str, Any]:
    numbers = {name: f"{row[name]:.3f}" for name in ("kl", "top1")}
    return {
        **row,
        **numbers,
        "label": style.label(row["ordering"]),
        "perplexity": f"{row['perplexity']:.4g}",
        "retained": "{:.3f} [{:.3f}, {:.3f}]".format(*bootstrap.retained(truth, nll[row["id"]])),
        "gain": "{:.2f} [{:.2f}, {:.2f}]".format(*ratios[row["plan"]])
        if row["plan"] in ratios
        else "",
    }


def _together(
    rows: pd.DataFrame, truth: Any, nll: Any, ratios: Mapping[str, Interval]
) -> dict[str, Any]:
    """Random orders in one line: median, lowest and highest."""
    spans: dict[str, tuple[Any, str]] = {
        "perplexity": (rows["perplexity"], ".4g"),
        "retained": (np.exp([truth.mean() - nll[key].mean() for key in rows["id"]]), ".3f"),
        "gain": (np.array([ratios[key].value for key in rows["plan"] if key in ratios]), ".2f"),
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
