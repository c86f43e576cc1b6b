"""Results table -> Figure, one function a figure. Nothing is read, saved or measured here."""

from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from lwq import compare
from lwq.contracts import Scores

# Okabe and Ito's colours are told apart by colour-blind readers; line style and marker say the same again for grey print
STYLES = {
    "lim": ("#0072B2", "-", "o"),
    "zd": ("#D55E00", "-", "s"),
    "reversed(lim)": ("#56B4E9", "--", "o"),
    "reversed(zd)": ("#E69F00", "--", "s"),
    "first_to_last": ("#009E73", ":", "^"),
    "last_to_first": ("#CC79A7", ":", "v"),
}
OTHERS = ("#000000", "-.", "D")
RANDOM, UNIFORM = "#999999", "#000000"
WIDTHS = (0, 1, 2, 3, 4, 5, 6, 7, 8, 16)
METRICS = {"perplexity": "perplexity / reference", "kl": "KL divergence (nats/token)", "top1": "top-1 agreement"}
PAPER = {"our ordering": (0.25, 0.50), "no specific ordering": (0.05, 0.10)}
LABELS = {"lim": "LIM", "zd": "ZD", "reversed(lim)": "LIM reversed", "reversed(zd)": "ZD reversed"}


def label(ordering: str) -> str:
    """What an ordering is called on an axis."""
    return LABELS.get(ordering, ordering.replace("_", " "))


def is_random(ordering: pd.Series) -> pd.Series:
    """Which rows belong to random orders."""
    return ordering.str.startswith("random")


def _figure(width: float, height: float, rows: int = 1, columns: int = 1, **options: Any) -> tuple[Figure, np.ndarray]:
    sns.set_theme(style="whitegrid", context="paper", font="DejaVu Sans")
    mpl.rcParams["svg.hashsalt"] = "lwq"  # the same table gives the same bytes
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def curves(table: pd.DataFrame) -> Figure:
    """Perplexity ratio, KL and top-1 agreement against the share of blocks moved and against true bits.

    One line an ordering; random orders are a band from the worst to the best with their median. On the right, uniform bits
    of the same true size stand as black crosses: a mixed plan is worth something where it beats the line between them.

    Args:
        table: rows of one study, model, quantizer and pair of widths.
    """
    figure, axes = _figure(9.5, 9.5, 3, 2, sharey="row")
    for row, (metric, name) in enumerate(METRICS.items()):
        part = _points(table, metric)
        for axis, x in zip(axes[row], ("fraction", "true_bits"), strict=True):
            _band(axis, part[is_random(part["ordering"])], x)
            for ordering, line in _named(part):
                color, style, marker = STYLES.get(ordering, OTHERS)
                axis.plot(line[x], line["value"], style, color=color, marker=marker, ms=4, lw=1.4, label=label(ordering))
            if x == "true_bits":
                uniform = part[part["ordering"] == "uniform"].sort_values(x)
                axis.plot(uniform[x], uniform["value"], "x:", color=UNIFORM, ms=7, lw=0.8, label="uniform bits")
            if metric != "top1":
                axis.set_yscale("log")
        axes[row][0].set_ylabel(name)
    axes[-1][0].set_xlabel("blocks moved to low bits")
    axes[-1][1].set_xlabel("true bits per weight (scales and zeros counted)")
    for left, right in axes:
        left.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        right.invert_xaxis()
    handles, names = axes[0][1].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=4, frameon=False)
    figure.suptitle(_title(table))
    return figure


def _title(table: pd.DataFrame) -> str:
    first = table.iloc[0]
    quantizer = first["quantizer"].partition("(")[0]
    return f"{first['model']}, {quantizer}, {first['high']} to {first['low']} bits ({first['n']} judging windows)"


def _points(table: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Rows of one metric, without the untouched model, with the share moved; perplexity relative to the all-high plan."""
    part = table[(table["metric"] == metric) & (table["ordering"] != "original")].copy()
    part["fraction"] = part["moved"] / part["units"]
    if metric == "perplexity":
        part["value"] /= all_high(part)["value"]
    return part


def all_high(table: pd.DataFrame) -> pd.Series:
    """The row of the sweep's reference: every block at the high width."""
    return table[(table["ordering"] == "uniform") & (table["moved"] == 0)].iloc[0]


def _named(part: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    lines = part[~is_random(part["ordering"]) & (part["ordering"] != "uniform")]
    order = [*STYLES, *sorted(set(lines["ordering"]) - set(STYLES))]
    return [(name, lines[lines["ordering"] == name].sort_values("moved")) for name in order if name in set(lines["ordering"])]


def _band(axis: Axes, part: pd.DataFrame, x: str) -> None:
    if part.empty:
        return
    seeds = part["ordering"].nunique()
    grouped = part.groupby("moved").agg(x=(x, "mean"), low=("value", "min"), high=("value", "max"), middle=("value", "median"))
    axis.fill_between(grouped["x"], grouped["low"], grouped["high"], color=RANDOM, alpha=0.3, lw=0)
    axis.plot(grouped["x"], grouped["middle"], color=RANDOM, lw=1.6, label=f"random ({seeds} orders, median and range)")


def thresholds(limits: pd.DataFrame) -> Figure:
    """The largest share of blocks moved that keeps 95 % and 90 % retained quality, per ordering, with its interval.

    The paper's two ranges (25 to 50 % with its ordering, 5 to 10 % with none) are shaded.

    Args:
        limits: columns ordering, threshold, value, low, high, from `studies.limits`.
    """
    levels = sorted(limits["threshold"].unique(), reverse=True)
    names = list(dict.fromkeys(limits["ordering"]))[::-1]
    figure, axes = _figure(9.5, 1.6 + 0.32 * len(names), 1, len(levels), sharey=True)
    for axis, level in zip(axes[0], levels, strict=True):
        for (text, (low, high)), hatch in zip(PAPER.items(), ("//", ".."), strict=True):
            axis.axvspan(low, high, facecolor="none", edgecolor="#bbbbbb", hatch=hatch, lw=0, label=f"paper: {text}")
        part = limits[limits["threshold"] == level].set_index("ordering").loc[names]
        for position, (name, row) in enumerate(part.iterrows()):
            color, _, marker = STYLES.get(str(name), (RANDOM, "-", ".") if "random" in str(name) else OTHERS)
            axis.plot([row["low"], row["high"]], [position] * 2, color=color, lw=2.5)
            axis.plot(row["value"], position, marker, color=color, ms=7)
        axis.set(title=f"at least {level:.0%} retained quality", xlabel="blocks moved", xlim=(-0.02, 1.02))
        axis.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axis.set_yticks(range(len(names)), [label(name) for name in names])
    handles, texts = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, texts, loc="outside lower center", ncols=2, frameon=False)
    return figure


def strip(scores: Mapping[str, Scores]) -> Figure:
    """The blocks in the order of the forward pass, coloured by their rank under each score.

    Dark keeps its bits longest; the number in a cell is the place at which the block is moved (1 = first). Ranks, because
    scores have units of their own.
    """
    table = pd.DataFrame({label(name): _places(score) for name, score in scores.items()}).T
    figure, axes = _figure(max(6.0, 1.6 + 0.3 * table.shape[1]), 1.2 + 0.34 * len(table))
    axis = axes[0][0]
    sns.heatmap(
        table,
        ax=axis,
        cmap="cividis_r",
        annot=table.astype(int),
        fmt="d",
        annot_kws={"size": 6.5},
        linewidths=0.6,
        cbar_kws={"label": "moved first … last", "ticks": []},
    )
    axis.set(xlabel="block (first to last)", ylabel="")
    axis.tick_params(axis="y", rotation=0)
    axis.tick_params(axis="x", rotation=0, labelsize=7)
    return figure


def _places(score: Scores) -> dict[int, int]:
    """Block number -> place in the order in which blocks are moved, from 1."""
    place = {unit: rank for rank, unit in enumerate(score.order(), start=1)}
    return {index: place[unit] for index, unit in enumerate(score)}


def plans(bits: Mapping[str, Mapping[str, int]]) -> Figure:
    """Plans as strips of coloured blocks: one row a plan, one cell a block, its width written in it.

    Args:
        bits: label -> (unit -> width), all over the same units.
    """
    table = pd.DataFrame({name: list(plan.values()) for name, plan in bits.items()}).T
    codes = table.apply(lambda row: row.map(WIDTHS.index))
    figure, axes = _figure(max(6.0, 1.6 + 0.28 * table.shape[1]), 0.9 + 0.36 * len(table))
    axis = axes[0][0]
    colors = sns.color_palette("cividis_r", len(WIDTHS))  # one colour a width, the same in every figure
    look = {"annot_kws": {"size": 7}, "linewidths": 0.8, "cbar": False}
    sns.heatmap(codes, ax=axis, cmap=colors, vmin=0, vmax=len(WIDTHS) - 1, annot=table, fmt="d", **look)
    axis.set(xlabel="block (first to last); the number is its bit width", ylabel="")
    axis.tick_params(axis="y", rotation=0)
    axis.tick_params(axis="x", rotation=0, labelsize=7)
    return figure


def retained_curve(table: pd.DataFrame, windows: pd.DataFrame) -> Figure:
    """Retained quality (reference perplexity / plan perplexity) against blocks moved, with 95 % intervals over windows.

    Args:
        table: rows of one study, model, quantizer and pair of widths.
        windows: the arrays behind them.
    """
    figure, axes = _figure(9.5, 4.6)
    axis = axes[0][0]
    part = _points(table, "perplexity")
    nll = compare.nll_by_id(windows)
    truth = nll[all_high(part)["id"]]
    quality = part.assign(value=[np.exp(truth.mean() - nll[key].mean()) for key in part["id"]])
    _band(axis, quality[is_random(quality["ordering"])], "fraction")
    lines = _named(quality)
    for position, (name, line) in enumerate(lines):
        color, style, marker = STYLES.get(name, OTHERS)
        ends = [compare.retained(truth, nll[key]) for key in line["id"]]
        errors = np.clip([[e.value - e.low for e in ends], [e.high - e.value for e in ends]], 0, None)
        shifted = line["fraction"] + 0.004 * (position - len(lines) / 2)  # so that intervals do not hide each other
        axis.errorbar(shifted, line["value"], errors, fmt=marker + style, color=color, ms=4, lw=1.3, label=label(name))
    for level in (0.95, 0.90):
        axis.axhline(level, color="#555555", lw=0.8, ls=(0, (4, 3)))
        axis.annotate(f"{level:.0%}", (1.0, level), xycoords=("axes fraction", "data"), fontsize=7, va="center")
    axis.set(xlabel="blocks moved to low bits", ylabel="retained quality", title=_title(table))
    axis.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axis.set_ylim(0, max(1.05, quality["value"].max() * 1.03))
    figure.legend(loc="outside lower center", ncols=4, frameon=False)
    return figure
