"""The study of scale: do deeper models take it better? Its rule, counts and figures."""

from collections.abc import Iterator, Mapping
from itertools import permutations
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from scipy.stats import rankdata, spearmanr

from lwq.common.names import nickname
from lwq.contracts.section import Picture, Section
from lwq.report import bootstrap, claims, intervals, overview, sweeps
from lwq.report.bootstrap import Interval
from lwq.report.claims import UNDECIDED, Found, decide
from lwq.report.figures import style
from lwq.report.figures.style import label
from lwq.report.intervals import RANDOM
from lwq.report.sweeps import TEXTS, areas
from lwq.results.plans import StoredPlan
from lwq.studies import grid

NAME = "model_scale"
QUALITY = 0.90  # of the sweeps, as in the picture of all orderings
MARKERS = ["o", "s", "^", "D", "v", "P", "X", "*", "<"]


def grows(table: pd.DataFrame, windows: pd.DataFrame, numbers: Mapping[str, Any]) -> Found:
    """Spearman's correlation of depth and area over models, its interval from each
    area's own (normal) interval.

    So few models line up by chance: a verdict asks as well that no more than `chance` of all their
        orders are as clear. With
    `same_shares`, areas have the points that all models share, so that a deep model's finer steps
    cannot raise it.
    """
    for name, rungs in numbers["groups"].items():
        rows = table[on_ladder(table) == rungs]
        found = areas(_shared(rows) if numbers.get("same_shares") else rows, windows)
        group = found[found["ordering"].isin(numbers["orderings"])]
        for (quantizer, pair, _, _, _, ordering), part in group.groupby(
            ["quantizer", "pair", *TEXTS, "ordering"], sort=False
        ):
            if part["units"].nunique() < 3:
                continue
            trend, (clear, orders) = _trend(part), _luck(part)
            verdict = decide(trend) if clear / orders <= numbers["chance"] else UNDECIDED
            text = (
                f"Spearman {trend.value:+.2f} [{trend.low:+.2f}, {trend.high:+.2f}] over "
                f"{len(part)} models, "
                f"{clear} of their {orders:,} orders as clear on that side"
            )
            ids = tuple(key for keys in part["ids"] for key in keys)
            yield name, f"{nickname(str(quantizer))}, {pair} bits, {ordering}", verdict, text, ids


def _shared(table: pd.DataFrame) -> pd.DataFrame:
    """The rows at shares of blocks moved that every model of the same quantizer and widths has."""
    share = table["moved"] / table["units"]
    place = [table["quantizer"], table["high"], table["low"]]
    having = table["model"].groupby([*place, share]).transform("nunique")
    return table[having == table["model"].groupby(place).transform("nunique")]


def _luck(part: pd.DataFrame) -> tuple[int, int]:
    """How many orders of the models have a correlation as far on the same side, and how many there
    are (a one-sided test).
    """
    units, orders = rankdata(part["units"]), np.array(list(permutations(rankdata(part["value"]))))
    spearman = _correlation(orders, units)  # its first row is the order that was found
    return int((np.sign(spearman[0]) * spearman >= abs(spearman[0]) - 1e-9).sum()), len(orders)


def _trend(part: pd.DataFrame) -> Interval:
    units, sd = rankdata(part["units"]), (part["high"] - part["low"]) / (2 * 1.96)
    draws = np.random.default_rng(bootstrap.SEED).normal(
        part["value"], sd, (bootstrap.RESAMPLES, len(part))
    )
    ranks = rankdata(np.vstack([part["value"], draws]), axis=1)
    spearman = _correlation(ranks, units)
    low, high = np.quantile(spearman[1:], [0.025, 0.975])
    return Interval(float(spearman[0]), float(low), float(high))


def _correlation(rows: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Pearson's correlation of each row with `values`."""
    rows, values = rows - rows.mean(1, keepdims=True), values - values.mean()
    return rows @ values / np.sqrt((rows**2).sum(1) * (values**2).sum())


def on_ladder(table: pd.DataFrame) -> pd.Series:
    """Which rows are about rungs of the depth ladder."""
    return table["model"].map(overview.is_rung).astype(bool)


def depth(table: pd.DataFrame, windows: pd.DataFrame) -> list[str]:
    """Without any score: how the median random order, and all blocks at the low width,
    go with depth.

    Returns:
        For each quantizer and pair of widths: "gptq, 4 to 2 bits: +1.00, and with all blocks at 2
            bits 90%, 92% … of the high
        width's quality", from the shallowest model to the deepest.
    """
    rows = table[on_ladder(table)]
    found = []
    measured = areas(rows, windows)
    for (quantizer, pair), part in measured[measured["ordering"] == RANDOM].groupby(
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
    return f"{style.all_high(rows)['value'] / all_low:.1%}"


def section(table: pd.DataFrame, plans: Mapping[str, StoredPlan], windows: pd.DataFrame) -> Section:
    """All that the report says of the study."""
    claimed = grid.catalogue()[NAME]["claims"]
    return Section(
        claims.verdicts(table, windows, claimed, RULES),
        {"depths": list(sweeps.beyond_chance(sweeps.swept(table, windows, QUALITY)))},
        {"depth": depth(table, windows)},
        {"": tuple(_pictures(table, windows))},
    )


def _pictures(table: pd.DataFrame, windows: pd.DataFrame) -> Iterator[Picture]:
    if not (finished := list(intervals.sweeps(table))):
        return
    table = pd.concat(finished, ignore_index=True)
    ladder = on_ladder(table)
    for what, group in (("depth ladder", table[ladder]), ("other models", table[~ladder])):
        for _, part in group.groupby(["quantizer", "high", "low"], sort=False):
            where = f"{what}, {intervals.setting(part.iloc[0])}"
            alt = f"Retained quality while blocks are moved: {where}."
            rows = f"study {NAME}, {where}"
            yield Picture(scale_curves, (part, windows), where, alt, rows)
            alt = f"Mean retained quality against the number of blocks: {where}."
            yield Picture(scale_areas, (areas(part, windows),), where, alt, rows)


def scale_curves(table: pd.DataFrame, windows: pd.DataFrame) -> Figure:
    """Retained quality against the share of blocks moved: one panel a score and one for the median
    of the random orders, one line a model, darker with more blocks.

    The axis is logarithmic where most of the curves lies near 0.

    Args:
        table: rows of one study, quantizer and pair of widths, of several models.
        windows: the arrays behind them.
    """
    nll = intervals.nll_by_id(windows)
    drawn = []
    depths = table.groupby("model")["units"].first().sort_values(kind="stable")
    colors = sns.color_palette("cividis_r", len(depths) + 1)[1:]
    panels = [*style.scores(style.labels(table)), RANDOM]
    figure, axes = style.canvas(3.4 * len(panels), 3.9, 1, len(panels), sharey=True)
    for axis, name in zip(axes[0], panels, strict=True):
        for color, marker, (model, depth) in zip(
            colors, MARKERS * len(depths), depths.items(), strict=False
        ):
            rows = style.curve_points(table[table["model"] == model], "perplexity")
            truth = nll[style.all_high(rows)["id"]]
            rows = rows.assign(value=[np.exp(truth.mean() - nll[key].mean()) for key in rows["id"]])
            chosen = rows[style.is_random(rows) if name == RANDOM else rows["ordering"] == name]
            line = chosen.groupby("fraction")["value"].median()
            drawn.append(line)
            axis.plot(
                line.index,
                line,
                marker=marker,
                color=color,
                ms=4,
                lw=1.5,
                label=f"{model} ({depth} blocks)",
            )
        axis.set(
            title="random orders (median)" if name == RANDOM else label(name),
            xlabel="blocks moved to low bits",
        )
        axis.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes[0][0].set(ylabel="retained quality (better ↑)")
    style.quality_scale(axes[0][0], pd.concat(drawn))
    handles, texts = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, texts, loc="outside lower center", ncols=2, frameon=False)
    figure.suptitle(intervals.setting(table.iloc[0]))
    return figure


def scale_areas(areas: pd.DataFrame) -> Figure:
    """Mean retained quality while blocks are moved, against the number of blocks; bars are 95 %
    intervals over documents.

    Points are joined on the ladder, whose rungs differ in depth alone. For random orders: median
    and range.

    Args:
        areas: from `lwq.report.sweeps.areas`, of one quantizer and pair of widths.
    """
    figure, axes = style.canvas(7.5, 4.6)
    axis = axes[0][0]
    models = areas.groupby("units")["model"].unique()
    # so that intervals do not hide each other
    step = (models.index.max() / models.index.min()) ** 0.012
    met = list(areas["ordering"].unique())
    looks, names = style.looks(met), style.order(met)
    names += [RANDOM] if RANDOM in met else []
    for position, name in enumerate(names):
        part = areas[areas["ordering"] == name].sort_values("units")
        color, line, marker = looks.get(name, style.Look(style.RANDOM, "-", "."))
        look = {
            "fmt": marker + line * bool(on_ladder(part).all()),
            "color": color,
            "ms": 5,
            "capsize": 2,
        }
        x = part["units"] * step ** (position - (len(names) - 1) / 2)
        shown = "random (median and range)" if name == RANDOM else label(name)
        axis.errorbar(x, part["value"], style.whiskers(part), **look, label=shown)
    axis.set_xscale("log", base=2)
    texts = [
        "\n".join([str(depth), *(name.rpartition("/")[2] for name in found)])
        for depth, found in models.items()
    ]
    axis.set_xticks(models.index, texts)
    axis.minorticks_off()
    axis.set(xlabel="blocks of the model", ylabel="mean retained quality (better ↑)")
    style.quality_scale(axis, pd.concat([areas["low"], areas["high"]]))
    first = areas.iloc[0]
    axis.set_title(f"{nickname(first['quantizer'])}, {first['pair']} bits")
    figure.legend(loc="outside lower center", ncols=5, frameon=False)
    return figure


RULES: dict[str, claims.Rule] = {"grows": grows}
