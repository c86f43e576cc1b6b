"""Retained quality of models of several depths."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from lwq import compare
from lwq.figures.look import (
    MARKERS,
    OTHERS,
    RANDOM,
    STYLES,
    all_high,
    canvas,
    is_random,
    label,
    points,
)
from lwq.strategies import nickname


def scale_curves(table: pd.DataFrame, windows: pd.DataFrame, names: Sequence[str] = ("lim", "zd")) -> Figure:
    """Retained quality against the share of blocks moved: one panel an ordering, one line a model, darker with more blocks.

    Args:
        table: rows of one study, quantizer and pair of widths, of several models.
        windows: the arrays behind them.
        names: orderings to draw; random orders are drawn as their median.
    """
    nll = compare.nll_by_id(windows)
    depths = table.groupby("model")["units"].first().sort_values(kind="stable")
    colors = sns.color_palette("cividis_r", len(depths) + 1)[1:]
    panels = [name for name in names if (table["ordering"] == name).any()] + ["random"]
    figure, axes = canvas(3.4 * len(panels), 3.9, 1, len(panels), sharey=True)
    for axis, name in zip(axes[0], panels, strict=True):
        for color, marker, (model, depth) in zip(colors, MARKERS * len(depths), depths.items(), strict=False):
            rows = points(table[table["model"] == model], "perplexity")
            truth = nll[all_high(rows)["id"]]
            rows = rows.assign(value=[np.exp(truth.mean() - nll[key].mean()) for key in rows["id"]])
            chosen = rows[is_random(rows["ordering"]) if name == "random" else rows["ordering"] == name]
            line = chosen.groupby("fraction")["value"].median()
            axis.plot(line.index, line, marker=marker, color=color, ms=4, lw=1.5, label=f"{model} ({depth} blocks)")
        axis.set(title="random orders (median)" if name == "random" else label(name), xlabel="blocks moved to low bits")
        axis.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes[0][0].set(ylabel="retained quality", ylim=(0, None))
    handles, texts = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, texts, loc="outside lower center", ncols=4, frameon=False)
    first = table.iloc[0]
    figure.suptitle(f"{nickname(first['quantizer'])}, {first['high']} to {first['low']} bits")
    return figure


def scale_areas(areas: pd.DataFrame) -> Figure:
    """Mean retained quality while blocks are moved, against the number of blocks; bars are 95 % intervals over windows.

    Args:
        areas: from `claims.areas`, of one pair of widths.
    """
    figure, axes = canvas(7.0, 4.2)
    axis = axes[0][0]
    for offset, name in enumerate(dict.fromkeys(areas["ordering"])):
        part = areas[areas["ordering"] == name]
        color, style, marker = STYLES.get(name, (RANDOM, "-", ".") if name == "random" else OTHERS)
        part = part.sort_values("units")
        errors = np.clip([part["value"] - part["low"], part["high"] - part["value"]], 0, None)
        axis.errorbar(
            part["units"] * 1.015**offset, part["value"], errors, fmt=marker + style, color=color, ms=5, label=label(name)
        )
    depths = sorted(areas["units"].unique())
    axis.set_xscale("log", base=2)
    axis.set_xticks(depths, [str(depth) for depth in depths])
    axis.minorticks_off()
    axis.set(xlabel="blocks of the model", ylabel="mean retained quality", ylim=(0, None))
    figure.legend(loc="outside lower center", ncols=5, frameon=False)
    return figure
