"""Curves of sweeps: which ordering keeps how much, and until where."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from lwq.report import intervals
from lwq.report.figures.style import (
    OTHERS,
    RANDOM,
    STYLES,
    UNIFORM,
    all_high,
    band,
    canvas,
    curve_points,
    is_random,
    label,
    log_scale,
    named,
    quality_scale,
    title,
    whiskers,
)

METRICS = {
    "perplexity": "perplexity / that at {high} bits",
    "kl": "KL divergence (nats/token)",
    "top1": "top-1 agreement",
}
PAPER = {
    "paper: its scores 25-50 %": (0.25, 0.50, "///"),
    "paper: no specific ordering 5-10 %": (0.05, 0.10, "...."),
}
READINGS = {
    "lim(average='flat')": "LIM: cosine of a whole window",
    "lim(average='mean')": "LIM: cosine of the tokens' averages",
    "lim(final_norm=True)": "LIM: last block after the final norm",
    "zd(pool='matrix')": "ZD: mean and deviation of each matrix",
    "zd(two_sided=True)": "ZD: |z| > 1 instead of z > 1",
}


def curves(table: pd.DataFrame) -> Figure:
    """Perplexity ratio, KL and top-1 agreement against true bits; the share of blocks moved stands
    on top.

    One line an ordering; random orders are a band from the worst to the best with their median.
    Uniform bits of the same true size stand as black crosses: a mixed plan is worth something where
    it beats the line between them.

    Args:
        table: rows of one study, model, quantizer and pair of widths.
    """
    figure, axes = canvas(10.5, 4.4, 1, len(METRICS))
    for axis, (metric, name) in zip(axes[0], METRICS.items(), strict=True):
        part = curve_points(table, metric)
        band(axis, part[is_random(part["ordering"])], "true_bits")
        for ordering, line in named(part):
            color, style, marker = STYLES.get(ordering, OTHERS)
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
        uniform = part[part["ordering"] == "uniform"].sort_values("true_bits")
        axis.plot(
            uniform["true_bits"],
            uniform["value"],
            "x:",
            color=UNIFORM,
            ms=7,
            lw=0.8,
            label="uniform bits",
        )
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


def retained_curve(table: pd.DataFrame, windows: pd.DataFrame) -> Figure:
    """Retained quality (reference perplexity / plan perplexity) against blocks moved, with 95 %
    intervals over windows.

    The axis is logarithmic where most of the curve lies near 0.

    Args:
        table: rows of one study, model, quantizer and pair of widths.
        windows: the arrays behind them.
    """
    figure, axes = canvas(9.5, 4.6)
    axis = axes[0][0]
    part = curve_points(table, "perplexity")
    nll = intervals.nll_by_id(windows)
    truth = nll[all_high(part)["id"]]
    quality = part.assign(value=[np.exp(truth.mean() - nll[key].mean()) for key in part["id"]])
    band(axis, quality[is_random(quality["ordering"])], "fraction")
    lines = named(quality)
    for position, (name, line) in enumerate(lines):
        color, style, marker = STYLES.get(name, OTHERS)
        ends = pd.DataFrame([intervals.retained(truth, nll[key]) for key in line["id"]])
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
    axis.set(xlabel="blocks moved to low bits", ylabel="retained quality", title=title(table))
    axis.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    figure.legend(loc="outside lower center", ncols=4, frameon=False)
    return figure


def _paper(axis: Axes) -> None:
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
        limits: columns ordering, threshold, value, low, high, from `studies.limits`.
    """
    levels = sorted(limits["threshold"].unique(), reverse=True)
    names = list(dict.fromkeys(limits["ordering"]))[::-1]
    figure, axes = canvas(9.5, 1.6 + 0.32 * len(names), 1, len(levels), sharey=True)
    for axis, level in zip(axes[0], levels, strict=True):
        _paper(axis)
        part = limits[limits["threshold"] == level].set_index("ordering").loc[names]
        for position, (name, row) in enumerate(part.iterrows()):
            color, _, marker = STYLES.get(
                str(name), (RANDOM, "-", ".") if "random" in str(name) else OTHERS
            )
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


def _too_early(
    axis: Axes, part: pd.DataFrame, heights: list[float], color: str, marker: str
) -> None:
    """A hollow mark and a dotted line up to the first step, where that already keeps too little:
    the share lies between.
    """
    for height, row in zip(heights, part.to_dict("records"), strict=True):
        if row["value"] == 0:
            axis.plot([0, row["step"]], [height] * 2, ":", color=color, lw=1.2)
            axis.plot(0, height, marker, color=color, mfc="#ffffff", ms=3.8)


def far(
    limits: pd.DataFrame,
    areas: pd.DataFrame,
    names: Sequence[str] = (
        "lim",
        "zd",
        "reversed(lim)",
        "reversed(zd)",
        "first_to_last",
        "last_to_first",
        "random",
    ),
) -> Figure:
    """Every sweep in one picture: until where each ordering keeps the quality, and how much it
    keeps on the way.

    Left: the largest share of blocks moved that keeps the quality, with the paper's two ranges (25
        to 50 % with its ordering, 5
    to 10 % with none) shaded. Right: the mean retained quality while all blocks are moved. Bars are
    95 % intervals over windows; for random orders the range.

    Args:
        limits: columns sweep, ordering, value, low, high, step: `intervals.limits` of several
            sweeps at one threshold.
        areas: the same columns but step, from `claims.areas`.
        names: orderings to draw, each a little below the one before it.
    """
    sweeps = list(dict.fromkeys(limits["sweep"]))
    figure, axes = canvas(10.5, 1.9 + 0.85 * len(sweeps), 1, 2, sharey=True)
    _paper(axes[0][0])
    for axis, table in zip(axes[0], (limits, areas), strict=True):
        for offset, name in enumerate(names):
            color, _, marker = STYLES.get(name, (RANDOM, "", "D"))
            part = table[(table["ordering"] == name) & table["sweep"].isin(sweeps)]
            heights = [
                sweeps.index(sweep) + 0.125 * (offset - (len(names) - 1) / 2)
                for sweep in part["sweep"]
            ]
            shown = f"{label(name)} (median and range)" if name == "random" else label(name)
            axis.hlines(heights, part["low"], part["high"], color=color, lw=1.8)
            # a cap at either end, so that an interval without width is seen as one
            for end in ("low", "high"):
                axis.plot(part[end], heights, "|", color=color, ms=8, mew=1.2)
            axis.plot(part["value"], heights, marker, color=color, ms=3.8, ls="", label=shown)
            if axis is axes[0][0]:
                _too_early(axis, part, heights, color, marker)
        axis.grid(axis="y", visible=False)
        for edge in range(1, len(sweeps)):
            axis.axhline(edge - 0.5, color="#dddddd", lw=0.8)
    left, right = axes[0]
    left.set_yticks(range(len(sweeps)), sweeps)
    left.set_ylim(len(sweeps) - 0.5, -0.5)
    quality = (
        f"largest share of blocks moved that keeps {limits['threshold'].iloc[0] * 100:.0f} %\nof "
        f"the quality at the high width"
    )
    left.set(xlabel=f"{quality} (hollow: less than the first step)", xlim=(-0.02, 1.02))
    left.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    right.set(
        xlabel="mean retained quality while all blocks are moved\n(1: nothing lost)",
        xlim=(-0.02, 1.02),
    )
    handles, texts = left.get_legend_handles_labels()
    look = {"frameon": False, "handlelength": 3, "handleheight": 1.2}
    figure.legend(handles, texts, loc="outside lower center", ncols=5, **look)
    return figure


def tasks(answers: pd.DataFrame) -> Figure:
    """Retained accuracy against the share of blocks moved, one panel a task; bars are 95 %
    intervals over questions.

    Args:
        answers: from `intervals.tasks`.
    """
    names = list(dict.fromkeys(answers["task"]))
    figure, axes = canvas(2.6 * len(names) + 0.6, 3.6, 1, len(names), sharey=True)
    for axis, name in zip(axes[0], names, strict=True):
        part = answers[answers["task"] == name].assign(
            fraction=lambda rows: rows["moved"] / rows["units"]
        )
        band(axis, part[is_random(part["ordering"])], "fraction")
        lines = named(part)
        for position, (ordering, line) in enumerate(lines):
            color, style, marker = STYLES.get(ordering, OTHERS)
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
        else f"{label(row['ordering'])} on {row['text']}, {row['amount']} × {row['length']} tokens"
        for row in table.to_dict("records")
    ]
    figure, axes = canvas(7.5, 1.2 + 0.26 * len(names))
    axis = axes[0][0]
    axis.plot(table["value"], range(len(names)), "o", color=STYLES["lim"][0], ms=6)
    axis.set_yticks(range(len(names)), names)
    axis.invert_yaxis()
    axis.set_title(table["model"].iloc[0])
    axis.set(
        xlabel="Spearman's rank correlation with the default",
        xlim=(np.floor(table["value"].min() * 10 - 0.5) / 10, 1.02),
    )
    return figure
