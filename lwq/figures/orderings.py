"""Curves of sweeps: which ordering keeps how much, and until where."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter, PercentFormatter

from lwq import compare
from lwq.figures.look import (
    OTHERS,
    RANDOM,
    STYLES,
    UNIFORM,
    all_high,
    band,
    canvas,
    is_random,
    label,
    named,
    points,
    title,
)

METRICS = {"perplexity": "perplexity / reference", "kl": "KL divergence (nats/token)", "top1": "top-1 agreement"}
PAPER = {"our ordering": (0.25, 0.50), "no specific ordering": (0.05, 0.10)}


class Plain(LogFormatter):
    """20 and 0.1, not 2e1 and 1e-1, at the ticks that LogFormatter would label; one for each axis, as it knows its own."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        return f"{x:g}" if super().__call__(x, pos) else ""


def curves(table: pd.DataFrame) -> Figure:
    """Perplexity ratio, KL and top-1 agreement against the share of blocks moved and against true bits.

    One line an ordering; random orders are a band from the worst to the best with their median. On the right, uniform bits
    of the same true size stand as black crosses: a mixed plan is worth something where it beats the line between them.

    Args:
        table: rows of one study, model, quantizer and pair of widths.
    """
    figure, axes = canvas(9.5, 9.5, 3, 2, sharey="row")
    for row, (metric, name) in enumerate(METRICS.items()):
        part = points(table, metric)
        for axis, x in zip(axes[row], ("fraction", "true_bits"), strict=True):
            band(axis, part[is_random(part["ordering"])], x)
            for ordering, line in named(part):
                color, style, marker = STYLES.get(ordering, OTHERS)
                axis.plot(line[x], line["value"], style, color=color, marker=marker, ms=4, lw=1.4, label=label(ordering))
            if x == "true_bits":
                uniform = part[part["ordering"] == "uniform"].sort_values(x)
                axis.plot(uniform[x], uniform["value"], "x:", color=UNIFORM, ms=7, lw=0.8, label="uniform bits")
            if metric != "top1":
                axis.set_yscale("log")
                axis.yaxis.set_major_formatter(Plain())
                axis.yaxis.set_minor_formatter(Plain(minor_thresholds=(1.2, 0.5)))
        axes[row][0].set_ylabel(name)
    axes[-1][0].set_xlabel("blocks moved to low bits")
    axes[-1][1].set_xlabel("true bits per weight (scales and zeros counted)")
    for left, right in axes:
        left.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        right.invert_xaxis()
    handles, names = axes[0][1].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=4, frameon=False)
    figure.suptitle(title(table))
    return figure


def retained_curve(table: pd.DataFrame, windows: pd.DataFrame) -> Figure:
    """Retained quality (reference perplexity / plan perplexity) against blocks moved, with 95 % intervals over windows.

    Args:
        table: rows of one study, model, quantizer and pair of widths.
        windows: the arrays behind them.
    """
    figure, axes = canvas(9.5, 4.6)
    axis = axes[0][0]
    part = points(table, "perplexity")
    nll = compare.nll_by_id(windows)
    truth = nll[all_high(part)["id"]]
    quality = part.assign(value=[np.exp(truth.mean() - nll[key].mean()) for key in part["id"]])
    band(axis, quality[is_random(quality["ordering"])], "fraction")
    lines = named(quality)
    for position, (name, line) in enumerate(lines):
        color, style, marker = STYLES.get(name, OTHERS)
        ends = [compare.retained(truth, nll[key]) for key in line["id"]]
        errors = np.clip([[e.value - e.low for e in ends], [e.high - e.value for e in ends]], 0, None)
        shifted = line["fraction"] + 0.004 * (position - len(lines) / 2)  # so that intervals do not hide each other
        axis.errorbar(shifted, line["value"], errors, fmt=marker + style, color=color, ms=4, lw=1.3, label=label(name))
    for level in (0.95, 0.90):
        axis.axhline(level, color="#555555", lw=0.8, ls=(0, (4, 3)))
        axis.annotate(f"{level:.0%}", (1.0, level), xycoords=("axes fraction", "data"), fontsize=7, va="center")
    axis.set(xlabel="blocks moved to low bits", ylabel="retained quality", title=title(table))
    axis.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axis.set_ylim(0, max(1.05, quality["value"].max() * 1.03))
    figure.legend(loc="outside lower center", ncols=4, frameon=False)
    return figure


def thresholds(limits: pd.DataFrame) -> Figure:
    """The largest share of blocks moved that keeps 95 % and 90 % retained quality, per ordering, with its interval.

    The paper's two ranges (25 to 50 % with its ordering, 5 to 10 % with none) are shaded.

    Args:
        limits: columns ordering, threshold, value, low, high, from `studies.limits`.
    """
    levels = sorted(limits["threshold"].unique(), reverse=True)
    names = list(dict.fromkeys(limits["ordering"]))[::-1]
    figure, axes = canvas(9.5, 1.6 + 0.32 * len(names), 1, len(levels), sharey=True)
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


def far(
    limits: pd.DataFrame,
    areas: pd.DataFrame,
    names: Sequence[str] = ("lim", "zd", "reversed(lim)", "reversed(zd)", "first_to_last", "last_to_first", "random"),
) -> Figure:
    """Every sweep in one picture: until where each ordering keeps the quality, and how much it keeps on the way.

    Left: the largest share of blocks moved that keeps the quality, with the paper's two ranges (25 to 50 % with its ordering, 5
    to 10 % with none) shaded. Right: the mean retained quality while all blocks are moved. Bars are 95 % intervals over windows;
    for random orders the range.

    Args:
        limits: columns sweep, ordering, value, low, high: `compare.limits` of several sweeps at one threshold.
        areas: the same columns, from `claims.areas`.
        names: orderings to draw, each a little below the one before it.
    """
    sweeps = list(dict.fromkeys(limits["sweep"]))
    figure, axes = canvas(10.0, 1.5 + 0.75 * len(sweeps), 1, 2, sharey=True)
    for (text, (low, high)), hatch in zip(PAPER.items(), ("//", ".."), strict=True):
        axes[0][0].axvspan(low, high, facecolor="none", edgecolor="#cccccc", hatch=hatch, lw=0, label=f"paper: {text}")
    for axis, table in zip(axes[0], (limits, areas), strict=True):
        for offset, name in enumerate(names):
            color, _, marker = STYLES.get(name, (RANDOM, "", "D"))
            part = table[table["ordering"] == name].set_index("sweep")
            found = [(position, part.loc[sweep]) for position, sweep in enumerate(sweeps) if sweep in part.index]
            heights = [position + 0.11 * (offset - (len(names) - 1) / 2) for position, _ in found]
            axis.hlines(heights, [row["low"] for _, row in found], [row["high"] for _, row in found], color=color, lw=1.8)
            shown = f"{label(name)} (median and range)" if name == "random" else label(name)
            axis.plot([row["value"] for _, row in found], heights, marker, color=color, ms=4.5, ls="", label=shown)
        axis.grid(axis="y", visible=False)
        for edge in range(1, len(sweeps)):
            axis.axhline(edge - 0.5, color="#dddddd", lw=0.8)
    axes[0][0].set_yticks(range(len(sweeps)), sweeps)
    axes[0][0].set_ylim(len(sweeps) - 0.5, -0.5)
    axes[0][0].set(xlabel="blocks moved with the quality kept", xlim=(-0.02, 1.02))
    axes[0][0].xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes[0][1].set(xlabel="mean retained quality while blocks are moved", xlim=(-0.02, 1.02))
    handles, texts = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, texts, loc="outside lower center", ncols=5, frameon=False)
    return figure


def tasks(answers: pd.DataFrame) -> Figure:
    """Retained accuracy against the share of blocks moved, one panel a task; bars are 95 % intervals over questions.

    Args:
        answers: from `compare.tasks`.
    """
    names = list(dict.fromkeys(answers["task"]))
    figure, axes = canvas(2.6 * len(names) + 0.6, 3.6, 1, len(names), sharey=True)
    for axis, name in zip(axes[0], names, strict=True):
        part = answers[answers["task"] == name].assign(fraction=lambda rows: rows["moved"] / rows["units"])
        band(axis, part[is_random(part["ordering"])], "fraction")
        lines = named(part)
        for position, (ordering, line) in enumerate(lines):
            color, style, marker = STYLES.get(ordering, OTHERS)
            errors = np.clip([line["value"] - line["low"], line["high"] - line["value"]], 0, None)
            shifted = line["fraction"] + 0.012 * (position - len(lines) / 2)
            axis.errorbar(shifted, line["value"], errors, fmt=marker + style, color=color, ms=4, lw=1.2, label=label(ordering))
        axis.axhline(0, color="#333333", lw=0.8)
        axis.set(title=name, xlabel="blocks moved")
        axis.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes[0][0].set_ylabel("retained accuracy (0: chance)")
    handles, texts = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, texts, loc="outside lower center", ncols=4, frameon=False)
    return figure


def rankings(table: pd.DataFrame) -> Figure:
    """Rank correlation with the default reading of a score, one row a variant: settings, calibration text, amount of text.

    Args:
        table: rows with the metric "spearman", of one model.
    """
    table = table.drop_duplicates(["ordering", "calibration"])
    amount = table["calibration"].str.extract(r"(\d+)x")[0].astype(int)
    text = table["calibration"].str.partition("/")[0]
    kind = table["ordering"].str.contains("(", regex=False)
    table = table.assign(kind=kind, text=text, amount=amount).sort_values(["kind", "text", "amount", "ordering"], kind="stable")
    names = [
        row["ordering"] if "(" in row["ordering"] else f"{label(row['ordering'])} on {row['calibration'].partition(' seed')[0]}"
        for row in table.to_dict("records")
    ]
    figure, axes = canvas(7.5, 1.2 + 0.3 * len(names))
    axis = axes[0][0]
    axis.plot(table["value"], range(len(names)), "o", color=STYLES["lim"][0], ms=6)
    axis.axvline(0, color="#333333", lw=0.8)
    axis.set_yticks(range(len(names)), names)
    axis.invert_yaxis()
    axis.set(xlabel="Spearman's rank correlation with the default", xlim=(-1.05, 1.05))
    return figure
