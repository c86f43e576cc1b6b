"""Quantize blocks, or drop them: both at the same stored bytes."""

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lwq.common.names import nickname
from lwq.report import intervals
from lwq.report.figures import style
from lwq.report.figures.style import Look, label

# one colour for all orders that are no scores of claims; the caption tells them apart
DROPS = {
    "block_drop": Look("#777777", "--", "D"),
    "angular": Look("#777777", "--", "<"),
    "deepest": Look("#777777", "--", ">"),
}
MASKS = {"magnitude": "#999933", "wanda": "#332288"}
RATES = {"uniform": ("-", "o"), "owl": ("--", "s"), "dlp": (":", "^"), "lamp": ("-.", "D")}
PRUNED = {
    "blocks": ("dropping", "blocks dropped or quantized by {}"),
    "weights": ("pruning", "single weights pruned, blocks quantized by {}"),
}
KNAPSACK = Look("#661100", "-", "*")


class Line(NamedTuple):
    """Rows that are joined, what the legend says of them and of all alike, (colour, line style,
    marker), and what stands at the smaller end.
    """

    text: str
    look: Look
    rows: pd.DataFrame
    note: str = ""


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
    figure, axes = style.canvas(9.5, 5.4, 1, len(drawn), sharey=True)
    for axis, (text, lines) in zip(axes[0], drawn.items(), strict=True):
        for line in lines:
            color, dashes, marker = line.look
            x, y = line.rows["true_bits"].to_numpy(), line.rows["value"].to_numpy()
            axis.plot(x, y, dashes, marker=marker, color=color, ms=4.5, lw=1.4, label=line.text)
            if line.note:
                place = (x[0], y[0])
                axis.annotate(line.note, place, (4, -3), color=color, **_NOTE)
        _uniform(axis, rows)
        axis.set(xlabel="stored bits per weight (everything counted)", title=text)
        axis.invert_xaxis()
    axes[0][0].set(ylabel="retained quality (better ↑)", ylim=(0, 1.1))
    found = [axis.get_legend_handles_labels() for axis in axes[0]]
    pairs = [pair for marks, texts in found for pair in zip(texts, marks, strict=True)]
    one = dict(pairs[::-1])  # of alike lines the mark of the first
    one = {text: one[text] for text, _ in pairs}
    look = {"ncols": 4, "frameon": False, "fontsize": 8, "handlelength": 3.2}
    figure.legend(one.values(), one.keys(), loc="outside lower center", **look)
    figure.suptitle(
        f"{rows.iloc[0]['model']}, {nickname(rows[rows['low'] == 0].iloc[0]['quantizer'])}"
    )
    return figure


_NOTE: dict[str, Any] = {"textcoords": "offset points", "fontsize": 8}
OTHER = "dropped: other orders"


def _blocks(rows: pd.DataFrame) -> list[Line]:
    """Whole blocks: dropped in some order, or quantized from 16 bits in that of the first score."""
    drops, moves = rows[rows["way"] == "drop"], rows[rows["way"] == "same size"]
    met = style.labels(drops)
    scores = [name for name in style.order(met) if name not in DROPS]
    looks = {name: look._replace(line="--") for name, look in style.looks(scores).items()} | DROPS
    dropped = [
        Line(
            OTHER if name in DROPS else f"dropped: {label(name)}",
            looks[name],
            drops[drops["ordering"] == name],
        )
        for name in [*scores, *DROPS]
        if name in met
    ]
    quantized = [
        Line(
            f"quantized by {label(name)} to the bits written",
            style.WIDTHS.get(bits, style.OTHERS),
            part,
            f"to {bits}",
        )
        for name in style.scores(style.labels(moves))[:1]
        for bits, part in moves[moves["ordering"] == name].groupby(moves["low"].astype(int))
    ]
    return dropped + quantized[::-1]


def _masks(rows: pd.DataFrame) -> list[Line]:
    """Single weights: one colour a mask, one line style a rule for the rates of layers."""
    thinned = rows[rows["family"] == "mask"].assign(mask=rows["quantizer"].map(nickname))
    found = dict(list(thinned.groupby(["mask", "ordering"])))
    masks = dict.fromkeys([*MASKS, *thinned["mask"]])
    rates = dict.fromkeys([*RATES, *thinned["ordering"]])
    colors = {**{mask: style.COLORS[place % 8 + 2][0] for place, mask in enumerate(masks)}, **MASKS}
    return [
        Line(
            f"pruned: {mask}",
            Look(colors[mask], *RATES.get(rate, (style.OTHERS.line, "P"))),
            found[mask, rate],
        )
        for mask in masks
        for rate in rates
        if (mask, rate) in found
    ]


def _knapsack(rows: pd.DataFrame) -> list[Line]:
    """Plans that may drop or quantize each block."""
    found = rows[rows["way"] == "knapsack"]
    return [Line("drop or quantize: knapsack", KNAPSACK, found)] if len(found) else []


def _uniform(axis: Axes, rows: pd.DataFrame) -> None:
    """All blocks at one width, with the width beside each cross."""
    ends = rows[(rows["way"] == "uniform") & rows["avg_bits"].between(1, 15)]
    axis.plot(
        ends["true_bits"],
        ends["value"],
        "x",
        color=style.UNIFORM,
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


def pruning_gaps(gaps: pd.DataFrame) -> Figure:
    """How much more pruning loses than quantizing at the same bytes; above zero, quantizing wins.

    One row of panels for whole blocks and one for single weights, where the table holds them. The
    axis is linear up to 0.1 nats on either side of zero and logarithmic beyond.

    Args:
        gaps: from `gaps`, of one model and quantizer.
    """
    names = style.scores(style.labels(gaps))
    kinds = list(dict.fromkeys(gaps["pruned"]))
    figure, axes = style.canvas(
        max(9.0, 4.5 * len(names)),
        1.2 + 3.4 * len(kinds),
        len(kinds),
        len(names),
        sharex=True,
        sharey="row",
    )
    widths = sorted(gaps["bits"].unique(), reverse=True)
    for row, kind in zip(axes, kinds, strict=True):
        table, (verb, text) = gaps[gaps["pruned"] == kind], PRUNED[kind]
        for axis, name in zip(row, names, strict=True):
            for position, bits in enumerate(widths):
                color, dashes, marker = style.WIDTHS.get(bits, style.OTHERS)
                part = table[(table["ordering"] == name) & (table["bits"] == bits)].sort_values(
                    "true_bits"
                )
                x = part["true_bits"] + 0.09 * (position - (len(widths) - 1) / 2)
                look = {"fmt": marker + dashes, "color": color, "ms": 4, "lw": 1.2, "capsize": 2}
                axis.errorbar(
                    x, part["value"], style.whiskers(part), **look, label=f"against {bits} bits"
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
    style.plain(row[0])
    for text, offset, va in (("quantizing wins", 6, "bottom"), (f"{verb} wins", -6, "top")):
        place = {"xycoords": row[-1].get_yaxis_transform(), "textcoords": "offset points", "va": va}
        row[-1].annotate(text, (1.0, 0.0), (6, offset), rotation=90, fontsize=8, **place)
