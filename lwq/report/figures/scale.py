"""Retained quality of models of several depths."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from lwq.common.names import nickname
from lwq.report import intervals
from lwq.report.figures.style import (
    MARKERS,
    OTHERS,
    RANDOM,
    STYLES,
    all_high,
    canvas,
    curve_points,
    is_random,
    label,
    quality_scale,
    whiskers,
)


def scale_curves(
    table: pd.DataFrame, windows: pd.DataFrame, names: Sequence[str] = ("lim", "zd")
) -> Figure:
    """Retained quality against the share of blocks moved: one panel an ordering, one line a model,
    darker with more blocks.

    The axis is logarithmic where most of the curves lies near 0.

    Args:
        table: rows of one study, quantizer and pair of widths, of several models.
        windows: the arrays behind them.
        names: orderings to draw; random orders are drawn as their median.
    """
    nll = intervals.nll_by_id(windows)
    drawn = []
    depths = table.groupby("model")["units"].first().sort_values(kind="stable")
    colors = sns.color_palette("cividis_r", len(depths) + 1)[1:]
    panels = [name for name in names if (table["ordering"] == name).any()] + ["random"]
    figure, axes = canvas(3.4 * len(panels), 3.9, 1, len(panels), sharey=True)
    for axis, name in zip(axes[0], panels, strict=True):
        for color, marker, (model, depth) in zip(
            colors, MARKERS * len(depths), depths.items(), strict=False
        ):
            rows = curve_points(table[table["model"] == model], "perplexity")
            truth = nll[all_high(rows)["id"]]
            rows = rows.assign(value=[np.exp(truth.mean() - nll[key].mean()) for key in rows["id"]])
            chosen = rows[
                is_random(rows["ordering"]) if name == "random" else rows["ordering"] == name
            ]
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
            title="random orders (median)" if name == "random" else label(name),
            xlabel="blocks moved to low bits",
        )
        axis.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes[0][0].set(ylabel="retained quality")
    quality_scale(axes[0][0], pd.concat(drawn))
    handles, texts = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, texts, loc="outside lower center", ncols=2, frameon=False)
    figure.suptitle(intervals.setting(table.iloc[0]))
    return figure


def scale_areas(areas: pd.DataFrame) -> Figure:
    """Mean retained quality while blocks are moved, against the number of blocks; bars are 95 %
    intervals over windows.

    Points are joined on the ladder, whose rungs differ in depth alone. For random orders: median
    and range.

    Args:
        areas: from `claims.areas`, of one quantizer and pair of widths.
    """
    figure, axes = canvas(7.5, 4.6)
    axis = axes[0][0]
    models = areas.groupby("units")["model"].unique()
    # so that intervals do not hide each other
    step = (models.index.max() / models.index.min()) ** 0.012
    names = sorted(set(areas["ordering"]), key=[*STYLES, *areas["ordering"]].index)
    for position, name in enumerate(names):
        part = areas[areas["ordering"] == name].sort_values("units")
        color, style, marker = STYLES.get(name, (RANDOM, "-", ".") if name == "random" else OTHERS)
        look = {
            "fmt": marker + style * bool(part["model"].str.startswith("ladder-").all()),
            "color": color,
            "ms": 5,
            "capsize": 2,
        }
        x = part["units"] * step ** (position - (len(names) - 1) / 2)
        shown = "random (median and range)" if name == "random" else label(name)
        axis.errorbar(x, part["value"], whiskers(part), **look, label=shown)
    axis.set_xscale("log", base=2)
    texts = [
        "\n".join([str(depth), *(name.rpartition("/")[2] for name in found)])
        for depth, found in models.items()
    ]
    axis.set_xticks(models.index, texts)
    axis.minorticks_off()
    axis.set(xlabel="blocks of the model", ylabel="mean retained quality")
    quality_scale(axis, pd.concat([areas["low"], areas["high"]]))
    first = areas.iloc[0]
    axis.set_title(f"{nickname(first['quantizer'])}, {first['pair']} bits")
    figure.legend(loc="outside lower center", ncols=5, frameon=False)
    return figure
