"""Every sweep in one picture: until where, and how much is kept on the way."""

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from lwq.report.figures import style, sweeps
from lwq.report.intervals import RANDOM

HEIGHT = 0.56  # inches of a sweep, so that nine stay below 1,000 pixels
CORNER: dict[str, Any] = {
    "xycoords": "axes fraction",
    "textcoords": "offset points",
    "ha": "right",
    "fontsize": 9,
}


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
    given: style.Looks | None = None,
) -> Figure:
    """Every sweep in one picture: until where each ordering keeps the quality, and how much it
    keeps on the way.

    Left: the largest share of blocks moved that keeps the quality, with the paper's two ranges (25
        to 50 % with its ordering, 5
    to 10 % with none) shaded. Right: the mean retained quality while all blocks are moved. Bars are
    95 % intervals over documents; for random orders the range.

    Args:
        limits: columns sweep, ordering, value, low, high, step: `intervals.limits` of several
            sweeps at one threshold.
        areas: the same columns but step, from `lwq.report.sweeps.areas`.
        given: how each ordering is drawn, where several figures share that.
    """
    met = style.labels(limits)
    seen, names = given or style.looks(met), style.order(met)
    names += [RANDOM] if RANDOM in met else []
    room = min(0.125, 0.875 / len(names))  # of a sweep's height
    shown = list(dict.fromkeys(limits["sweep"]))
    figure, axes = style.canvas(10.5, 2.3 + HEIGHT * len(shown), 1, 2, sharey=True)
    sweeps.paper_ranges(axes[0][0])
    for axis, table in zip(axes[0], (limits, areas), strict=True):
        for offset, name in enumerate(names):
            color, _, marker = seen.get(name, style.Look(style.RANDOM, "", "D"))
            part = table[(table["ordering"] == name) & table["sweep"].isin(shown)]
            heights = [
                shown.index(sweep) + room * (offset - (len(names) - 1) / 2)
                for sweep in part["sweep"]
            ]
            text = f"{style.label(name)}{' (median and range)' * (name == RANDOM)}"
            axis.hlines(heights, part["low"], part["high"], color=color, lw=1.8)
            # a cap at either end, so that an interval without width is seen as one
            for end in ("low", "high"):
                axis.plot(part[end], heights, "|", color=color, ms=8, mew=1.2)
            axis.plot(part["value"], heights, marker, color=color, ms=3.8, ls="", label=text)
            if axis is axes[0][0]:
                _too_early(axis, part, heights, color, marker)
        axis.grid(axis="y", visible=False)
        for edge in range(1, len(shown)):
            axis.axhline(edge - 0.5, color="#dddddd", lw=0.8)
    left, right = axes[0]
    left.set_yticks(range(len(shown)), shown)
    left.set_ylim(len(shown) - 0.5, -0.5)
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
    left.xaxis.set_tick_params(labeltop=True)
    right.xaxis.set_tick_params(labeltop=True)
    for axis in axes[0]:
        axis.annotate("better →", (1, 1), (0, 22), **CORNER)
    handles, texts = left.get_legend_handles_labels()
    look = {"frameon": False, "handlelength": 3, "handleheight": 1.2}
    figure.legend(handles, texts, loc="outside lower center", ncols=5, **look)
    return figure
