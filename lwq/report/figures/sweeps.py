"""Curves of sweeps: which ordering keeps how much, and until where."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from lwq.report import bootstrap, intervals
from lwq.report.figures.style import (
    OTHERS,
    RANDOM,
    UNIFORM,
    Look,
    Looks,
    all_high,
    band,
    canvas,
    curve_points,
    is_random,
    label,
    labels,
    log_scale,
    looks,
    named,
    quality_scale,
    title,
    whiskers,
)
from lwq.report.line import hull

METRICS = {
    "perplexity": "perplexity / that at {high} bits (better ↓)",
    "kl": "KL divergence (nats/token, better ↓)",
    "top1": "top-1 agreement (better ↑)",
}
PAPER = {
    "paper: its scores 25-50 %": (0.25, 0.50, "///"),
    "paper: no specific ordering 5-10 %": (0.05, 0.10, "...."),
}


def curves(table: pd.DataFrame, given: Looks | None = None) -> Figure:
    """Perplexity ratio, KL and top-1 agreement against true bits; the share of blocks moved stands
    on top.

    One line an ordering; random orders are a band from the worst to the best with their median.
    Uniform bits of the same true size stand as black crosses: a mixed plan is worth something where
    it beats the line between them.

    Args:
        table: rows of one study, model, quantizer and pair of widths.
        given: how each ordering is drawn, where several figures share that.
    """
    seen = given or looks(labels(table))
    figure, axes = canvas(10.5, 4.4, 1, len(METRICS))
    for axis, (metric, name) in zip(axes[0], METRICS.items(), strict=True):
        part = curve_points(table, metric)
        band(axis, part[is_random(part)], "true_bits")
        for ordering, line in named(part):
            color, style, marker = seen.get(ordering, OTHERS)
            axis.plot(
                line["true_bits"],
                line["value"],
                style,
                color=color,
                marker=marker,
                ms=4,
                lw=1.4,
                label=label(ordering),
            )
        _uniform(axis, part, metric)
        axis.set(
            xlabel="true bits (scales and zeros counted)",
            ylabel=name.format(high=table.iloc[0]["high"]),
        )
        axis.invert_xaxis()
        _shares(axis, part)
        if metric != "top1":
            log_scale(axis)
    handles, names = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=4, frameon=False)
    figure.suptitle(title(table))
    return figure


def _uniform(axis: Axes, part: pd.DataFrame, metric: str) -> None:
    """Crosses, and the line between them; that of KL is the one that mixes are compared with."""
    uniform = part[part["ordering"] == "uniform"].sort_values("true_bits", ignore_index=True)
    some = uniform.loc[hull(uniform["true_bits"], uniform["value"])] if metric == "kl" else uniform
    axis.plot(some["true_bits"], some["value"], ":", color=UNIFORM, lw=0.8)
    label = "uniform bits (the line is straight on these axes)"
    axis.plot(uniform["true_bits"], uniform["value"], "x", color=UNIFORM, ms=7, label=label)


def _shares(axis: Axes, part: pd.DataFrame) -> None:
    """The share of blocks moved, on top of an axis of true bits; left out where units differ in
    size, as bits do not tell it.
    """
    mixed = part[part["ordering"] != "uniform"]
    most, least = mixed["true_bits"].max(), mixed["true_bits"].min()
    if np.allclose((most - mixed["true_bits"]) / (most - least), mixed["fraction"], atol=0.02):
        there, back = (
            (lambda bits: (most - bits) / (most - least)),
            (lambda share: most - share * (most - least)),
        )
        top = axis.secondary_xaxis("top", functions=(there, back))
        top.set_xlabel("blocks moved to low bits")
        top.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))


def retained_curve(
    table: pd.DataFrame, windows: pd.DataFrame, given: Looks | None = None
) -> Figure:
    """Retained quality (reference perplexity / plan perplexity) against blocks moved, with 95 %
    intervals over documents.

    The axis is logarithmic where most of the curve lies near 0.

    Args:
        table: rows of one study, model, quantizer and pair of widths.
        windows: the arrays behind them.
        given: how each ordering is drawn, where several figures share that.
    """
    seen = given or looks(labels(table))
    figure, axes = canvas(9.5, 4.6)
    axis = axes[0][0]
    part = curve_points(table, "perplexity")
    nll = intervals.nll_by_id(windows)
    truth = nll[all_high(part)["id"]]
    quality = part.assign(value=[np.exp(truth.mean() - nll[key].mean()) for key in part["id"]])
    band(axis, quality[is_random(quality)], "fraction")
    lines = named(quality)
    for position, (name, line) in enumerate(lines):
        color, style, marker = seen.get(name, OTHERS)
        ends = pd.DataFrame([bootstrap.retained(truth, nll[key]) for key in line["id"]])
        # there, intervals must not hide each other
        between = (line["fraction"] > 0) & (line["fraction"] < 1)
        x = line["fraction"] + 0.004 * (position - (len(lines) - 1) / 2) * between
        axis.errorbar(
            x,
            line["value"],
            whiskers(ends),
            fmt=marker + style,
            color=color,
            ms=4,
            lw=1.3,
            label=label(name),
        )
    levels = (0.90,) if quality_scale(axis, quality["value"]) else (0.95, 0.90)
    for level in levels:
        if level > axis.get_ylim()[0]:  # text outside the axes takes their room
            axis.axhline(level, color="#555555", lw=0.8, ls=(0, (4, 3)))
            axis.annotate(
                f" {level:.0%}",
                (1.0, level),
                xycoords=("axes fraction", "data"),
                fontsize=7,
                va="center",
            )
    axis.set(
        xlabel="blocks moved to low bits", ylabel="retained quality (better ↑)", title=title(table)
    )
    axis.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    figure.legend(loc="outside lower center", ncols=4, frameon=False)
    return figure


def paper_ranges(axis: Axes) -> None:
    """The paper's two ranges, shaded from bottom to top."""
    for text, (low, high, hatch) in PAPER.items():
        axis.axvspan(
            low,
            high,
            facecolor="#f3f3f3",
            edgecolor="#aaaaaa",
            hatch=hatch,
            lw=0.5,
            label=text,
            zorder=0,
        )


def thresholds(limits: pd.DataFrame) -> Figure:
    """The largest share of blocks moved that keeps 95 % and 90 % retained quality, per ordering,
    with its interval.

    The paper's two ranges (25 to 50 % with its ordering, 5 to 10 % with none) are shaded.

    Args:
        limits: columns ordering, threshold, value, low, high, from `intervals.limits`.
    """
    seen, of_random = looks(labels(limits)), Look(RANDOM, "-", ".")
    drawn_grey = {*limits.loc[is_random(limits), "ordering"], intervals.RANDOM}
    levels = sorted(limits["threshold"].unique(), reverse=True)
    names = list(dict.fromkeys(limits["ordering"]))[::-1]
    figure, axes = canvas(9.5, 1.6 + 0.32 * len(names), 1, len(levels), sharey=True)
    for axis, level in zip(axes[0], levels, strict=True):
        paper_ranges(axis)
        part = limits[limits["threshold"] == level].set_index("ordering").loc[names]
        for position, (name, row) in enumerate(part.iterrows()):
            look = of_random if name in drawn_grey else seen.get(str(name), OTHERS)
            color, _, marker = look
            axis.plot([row["low"], row["high"]], [position] * 2, color=color, lw=2.5)
            axis.plot(row["value"], position, marker, color=color, ms=7)
        axis.set(
            title=f"at least {level:.0%} retained quality",
            xlabel="blocks moved",
            xlim=(-0.02, 1.02),
        )
        axis.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axis.set_yticks(range(len(names)), [label(name) for name in names])
    handles, texts = axes[0][0].get_legend_handles_labels()
    figure.legend(
        handles,
        texts,
        loc="outside lower center",
        ncols=2,
        frameon=False,
        handlelength=3,
        handleheight=1.2,
    )
    return figure


def tasks(answers: pd.DataFrame) -> Figure:
    """Retained accuracy against the share of blocks moved, one panel a task; bars are 95 %
    intervals over questions.

    Args:
        answers: from `intervals.tasks`.
    """
    seen = looks(labels(answers))
    names = list(dict.fromkeys(answers["task"]))
    figure, axes = canvas(2.6 * len(names) + 0.6, 3.6, 1, len(names), sharey=True)
    for axis, name in zip(axes[0], names, strict=True):
        part = answers[answers["task"] == name].assign(
            fraction=lambda rows: rows["moved"] / rows["units"]
        )
        band(axis, part[is_random(part)], "fraction")
        lines = named(part)
        for position, (ordering, line) in enumerate(lines):
            color, style, marker = seen.get(ordering, OTHERS)
            x = line["fraction"] + 0.012 * (position - (len(lines) - 1) / 2)
            axis.errorbar(
                x,
                line["value"],
                whiskers(line),
                fmt=marker + style,
                color=color,
                ms=4,
                lw=1.2,
                label=label(ordering),
            )
        for level in (0, 1):
            axis.axhline(level, color="#333333", lw=0.8)
        axis.set(title=name, xlabel="blocks moved")
        axis.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes[0][0].set_ylabel("retained accuracy\n(0: chance, 1: as at the high width)")
    handles, texts = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, texts, loc="outside lower center", ncols=4, frameon=False)
    return figure
