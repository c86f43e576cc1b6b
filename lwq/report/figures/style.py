"""What the figures share: colours, labels, and the parts of a curve."""

from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from lwq.report import intervals

# Okabe and Ito's colours are told apart by colour-blind readers; line style and marker say the same
# again for grey print
STYLES = {
    "lim": ("#0072B2", "-", "o"),
    "zd": ("#D55E00", "-", "s"),
    "reversed(lim)": ("#56B4E9", "--", "o"),
    "reversed(zd)": ("#E69F00", "--", "s"),
    "first_to_last": ("#009E73", ":", "^"),
    "last_to_first": ("#CC79A7", ":", "v"),
}
OTHERS = ("#000000", "-.", "D")
WIDTHS = {
    8: ("#009E73", "-", "P"),
    4: ("#56B4E9", "-", "X"),
    3: ("#E69F00", "-", "^"),
    2: ("#777777", "-", "v"),
}
RANDOM, UNIFORM = "#999999", "#000000"
MARKERS = ["o", "s", "^", "D", "v", "P", "X", "*", "<"]
# decades of a log axis -> what is labelled
STEPS = {2.5: (1.0,), 1.1: (1.0, 2.0, 5.0), 0.55: (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)}
HIGH = 0.6  # retained quality above which all of a figure must lie for its axis to leave out 0
COLLAPSED = 0.25  # a median retained quality below it makes the axis logarithmic
LABELS = {"lim": "LIM", "zd": "ZD", "reversed(lim)": "LIM reversed", "reversed(zd)": "ZD reversed"}


def label(ordering: str) -> str:
    """What an ordering is called on an axis."""
    return LABELS.get(ordering, ordering.replace("_", " "))


def is_random(ordering: pd.Series) -> pd.Series:
    """Which rows belong to random orders."""
    return ordering.str.startswith("random")


def canvas(
    width: float, height: float, rows: int = 1, columns: int = 1, **options: Any
) -> tuple[Figure, np.ndarray]:
    """A figure of `width` by `height` inches and its axes (rows, columns); `options` go to
    matplotlib's `subplots`.
    """
    sns.set_theme(style="whitegrid", context="paper", font="DejaVu Sans")
    mpl.rcParams["svg.hashsalt"] = "lwq"  # the same table gives the same bytes
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def title(table: pd.DataFrame) -> str:
    """Model, quantizer, widths and windows of a sweep."""
    first = table.iloc[0]
    return f"{first['model']}, {intervals.setting(first)} ({first['n']} judging windows)"


def curve_points(table: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Rows of one metric, without the untouched model, with the share moved; perplexity relative to
    the all-high plan.
    """
    part = table[(table["metric"] == metric) & (table["ordering"] != "original")].copy()
    part["fraction"] = part["moved"] / part["units"]
    if metric == "perplexity":
        part["value"] /= all_high(part)["value"]
    return part


def all_high(table: pd.DataFrame) -> pd.Series:
    """The row of the sweep's reference: every block at the high width."""
    return table[(table["ordering"] == "uniform") & (table["moved"] == 0)].iloc[0]


def named(part: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """(ordering, its points by blocks moved) of every ordering that is not random, in the order of
    STYLES.
    """
    lines = part[~is_random(part["ordering"]) & (part["ordering"] != "uniform")]
    order = [*STYLES, *sorted(set(lines["ordering"]) - set(STYLES))]
    return [
        (name, lines[lines["ordering"] == name].sort_values("moved"))
        for name in order
        if name in set(lines["ordering"])
    ]


def band(axis: Axes, part: pd.DataFrame, x: str) -> None:
    """Random orders as a band from the lowest to the highest, with their median as a line."""
    if part.empty:
        return
    seeds = part["ordering"].nunique()
    grouped = part.groupby("moved").agg(
        x=(x, "mean"), low=("value", "min"), high=("value", "max"), middle=("value", "median")
    )
    axis.fill_between(grouped["x"], grouped["low"], grouped["high"], color=RANDOM, alpha=0.3, lw=0)
    axis.plot(
        grouped["x"],
        grouped["middle"],
        color=RANDOM,
        lw=1.6,
        label=f"random ({seeds} orders, median and range)",
    )


def whiskers(rows: pd.DataFrame) -> np.ndarray:
    """How far each interval reaches below and above its value (2, rows), as matplotlib's `errorbar`
    takes it.
    """
    return np.clip([rows["value"] - rows["low"], rows["high"] - rows["value"]], 0, None)


def plain(axis: Axes) -> None:
    """20 and 0.1, not 2e1 and 1e-1, on the y axis."""
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}".replace("-", "−")))


def log_scale(axis: Axes) -> None:
    """A log y axis with three plain numbers or more; to be called after the drawing."""
    axis.set_yscale("log")
    decades = np.log10(axis.get_ylim()[1] / axis.get_ylim()[0])
    steps = next((found for least, found in STEPS.items() if decades > least), None)
    axis.yaxis.set_major_locator(
        LogLocator(subs=steps) if steps else MaxNLocator(6, steps=[1, 2, 5, 10])
    )
    axis.yaxis.set_minor_locator(NullLocator())
    plain(axis)


def quality_scale(axis: Axes, quality: pd.Series) -> bool:
    """The y axis of retained quality: from 0 (or from just below where all of it is high), or a log
    axis where most of it lies near 0; whether it is one."""
    collapsed = bool(quality.median() < COLLAPSED)
    if collapsed:
        log_scale(axis)
    else:
        worst, best = min(quality.min(), 0.99), max(quality.max(), 1)
        bottom = 1 - 1.2 * (1 - worst) if worst > HIGH else 0
        axis.set_ylim(bottom, best + 0.05 * (best - bottom))
    return collapsed
