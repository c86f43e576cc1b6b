"""Blocks dropped, quantized or thinned out."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lwq.common.names import nickname
from lwq.report import intervals
from lwq.report.figures.style import OTHERS, STYLES, UNIFORM, WIDTHS, canvas, label, plain, whiskers

# beside the colours of look.py, Tol's for colour-blind readers, so that no two lines of the figure
# share one
DROPS = {
    "lim": (STYLES["lim"][0], "--", "o"),
    "zd": (STYLES["zd"][0], "--", "s"),
    "block_drop": ("#000000", "--", "D"),
    "angular": ("#882255", "--", "<"),
    "deepest": ("#CC79A7", "--", ">"),
}
MASKS = {"magnitude": "#999933", "wanda": "#332288"}
RATES = {"uniform": ("-", "o"), "owl": ("--", "s"), "dlp": (":", "^"), "lamp": ("-.", "D")}
PRUNED = {
    "blocks": ("dropping", "blocks dropped or quantized by {}"),
    "weights": ("pruning", "single weights pruned, blocks quantized by {}"),
}
KNAPSACK = ("#661100", "-", "*")


class Line(NamedTuple):
    """Rows that are joined, what the legend says of them, and (colour, line style, marker)."""

    text: str
    look: tuple[str, str, str]
    rows: pd.DataFrame


def pruning(table: pd.DataFrame, windows: pd.DataFrame) -> Figure:
    """Retained quality against stored bits: on the left blocks dropped or quantized, on the right
    single weights too.

    The right panel is drawn where there are rows for it. Black crosses: all blocks at one width.

    Args:
        table: rows of the pruning study on one model and quantizer, and those of masks.
        windows: the arrays behind them.
    """
    nll = intervals.nll_by_id(windows)
    rows = table[table["metric"] == "perplexity"].sort_values("true_bits")
    truth = nll[rows[rows["ordering"] == "original"].iloc[0]["id"]].mean()
    rows = rows.assign(value=[np.exp(truth - nll[key].mean()) for key in rows["id"]])
    right = {"single weights": _masks(rows), "knapsack": _knapsack(rows)}
    drawn = {
        "whole blocks": _blocks(rows),
        " and ".join(text for text, lines in right.items() if lines): sum(right.values(), []),
    }
    drawn = {text: lines for text, lines in drawn.items() if lines}
    figure, axes = canvas(9.5, 5.4, 1, len(drawn), sharey=True)
    for axis, (text, lines) in zip(axes[0], drawn.items(), strict=True):
        for line in lines:
            color, style, marker = line.look
            x, y = line.rows["true_bits"], line.rows["value"]
            axis.plot(x, y, style, marker=marker, color=color, ms=4.5, lw=1.4, label=line.text)
        _uniform(axis, rows)
        axis.set(xlabel="stored bits per weight (everything counted)", title=text)
        axis.invert_xaxis()
        axis.legend(
            loc="upper center",
            bbox_to_anchor=(0.5, -0.14),
            ncols=2,
            frameon=False,
            fontsize=7,
            handlelength=3.2,
        )
    axes[0][0].set(ylabel="retained quality", ylim=(0, 1.1))
    figure.suptitle(
        f"{rows.iloc[0]['model']}, {nickname(rows[rows['low'] == 0].iloc[0]['quantizer'])}"
    )
    return figure


def _blocks(rows: pd.DataFrame) -> list[Line]:
    """Whole blocks: dropped in some order, or quantized from 16 bits in the order of LIM."""
    dropped = [
        Line(f"dropped: {label(name)}", look, rows[(rows["low"] == 0) & (rows["ordering"] == name)])
        for name, look in DROPS.items()
    ]
    chosen = rows[(rows["low"] > 1) & (rows["high"] == 16) & (rows["ordering"] == "lim")]
    quantized = [
        Line(f"quantized by LIM: {bits} bits", WIDTHS.get(bits, OTHERS), part)
        for bits, part in chosen.groupby(chosen["low"].astype(int))
    ]
    return [line for line in dropped if len(line.rows)] + quantized[::-1]


def _masks(rows: pd.DataFrame) -> list[Line]:
    """Single weights: one colour a mask, one line style a rule for the rates of layers."""
    lines = [
        Line(
            f"pruned: {mask}, {rate}",
            (color, *look),
            rows[rows["quantizer"].str.startswith(mask) & (rows["ordering"] == rate)],
        )
        for mask, color in MASKS.items()
        for rate, look in RATES.items()
    ]
    return [line for line in lines if len(line.rows)]


def _knapsack(rows: pd.DataFrame) -> list[Line]:
    """Plans that may drop or quantize each block."""
    found = rows[rows["ordering"] == "knapsack"]
    return [Line("drop or quantize: knapsack", KNAPSACK, found)] if len(found) else []


def _uniform(axis: Axes, rows: pd.DataFrame) -> None:
    """All blocks at one width, with the width beside each cross."""
    ends = rows[
        (rows["ordering"] == "uniform") & (rows["low"] == 0) & rows["avg_bits"].between(1, 15)
    ]
    axis.plot(
        ends["true_bits"],
        ends["value"],
        "x",
        color=UNIFORM,
        ms=6,
        clip_on=False,
        label="all blocks at the width written",
    )
    for row in ends.to_dict("records"):
        place = (row["true_bits"], row["value"])
        axis.annotate(
            f"{row['avg_bits']:.0f}",
            place,
            (0, 5),
            textcoords="offset points",
            fontsize=7,
            ha="center",
        )


def pruning_gaps(gaps: pd.DataFrame, names: Sequence[str] = ("lim", "zd")) -> Figure:
    """How much more pruning loses than quantizing at the same bytes; above zero, quantizing wins.

    One row of panels for whole blocks and one for single weights, where the table holds them. The
    axis is linear up to 0.1 nats on either side of zero and logarithmic beyond.

    Args:
        gaps: from `claims.gaps`, of one model and quantizer.
        names: orderings to draw, one column each.
    """
    kinds = list(dict.fromkeys(gaps["pruned"]))
    figure, axes = canvas(
        9.0, 1.2 + 3.4 * len(kinds), len(kinds), len(names), sharex=True, sharey="row"
    )
    widths = sorted(gaps["bits"].unique(), reverse=True)
    for row, kind in zip(axes, kinds, strict=True):
        table, (verb, text) = gaps[gaps["pruned"] == kind], PRUNED[kind]
        for axis, name in zip(row, names, strict=True):
            for position, bits in enumerate(widths):
                color, style, marker = WIDTHS.get(bits, OTHERS)
                part = table[(table["ordering"] == name) & (table["bits"] == bits)].sort_values(
                    "true_bits"
                )
                x = part["true_bits"] + 0.09 * (position - (len(widths) - 1) / 2)
                look = {"fmt": marker + style, "color": color, "ms": 4, "lw": 1.2, "capsize": 2}
                axis.errorbar(
                    x, part["value"], whiskers(part), **look, label=f"against {bits} bits"
                )
            axis.axhline(0, color="#000000", lw=1.6, zorder=1)
            axis.set(title=text.format(label(name)))
        _sides(row, table, verb)
    axes[0][0].invert_xaxis()
    for axis in axes[-1]:
        axis.set(xlabel="stored bits per weight")
    handles, texts = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, texts, loc="outside lower center", ncols=4, frameon=False)
    figure.suptitle(f"{gaps.iloc[0]['model']}, {nickname(gaps.iloc[0]['quantizer'])}")
    return figure


def _sides(row: np.ndarray, table: pd.DataFrame, verb: str) -> None:
    """The y axis of a row of panels, with words for its two sides."""
    row[0].set_yscale("symlog", linthresh=0.1)
    row[0].set_ylim(min(-0.5, table["low"].min() * 2), max(0.5, table["high"].max() * 2))
    row[0].set_ylabel(f"{verb} − quantizing (nats/token, log beyond ±0.1)")
    plain(row[0])
    for text, offset, va in (("quantizing wins", 6, "bottom"), (f"{verb} wins", -6, "top")):
        place = {"xycoords": row[-1].get_yaxis_transform(), "textcoords": "offset points", "va": va}
        row[-1].annotate(text, (1.0, 0.0), (6, offset), rotation=90, fontsize=8, **place)
