"""What the figures share: colours, labels, and the parts of a curve."""

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, TypeAlias

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from lwq.report import intervals
from lwq.studies import grid


class Look(NamedTuple):
    """How a line is drawn."""

    color: str
    line: str
    marker: str


Looks: TypeAlias = Mapping[str, Look]

# Colours that colour-blind readers tell apart, for a score and for its reverse: the first two pairs
# are Okabe and Ito's, the others Tol's. Line style and marker say the same again for grey print.
COLORS = (
    ("#0072B2", "#56B4E9"),
    ("#D55E00", "#E69F00"),
    *((color, "") for color in ("#332288", "#882255", "#117733", "#AA4499", "#999933")),
    *((color, "") for color in ("#661100", "#44AA99", "#6699CC")),
)
MARKERS = ("o", "s", "D", "P", "X", "*", "<", ">", "p", "h", "d")
POSITIONAL = {
    "first_to_last": Look("#009E73", ":", "^"),
    "last_to_first": Look("#CC79A7", ":", "v"),
}
OTHERS = Look("#000000", "-.", "D")
WIDTHS = {
    8: Look("#009E73", "-", "P"),
    4: Look("#56B4E9", "-", "X"),
    3: Look("#E69F00", "-", "^"),
    2: Look("#777777", "-", "v"),
}
RANDOM, UNIFORM, FAINT = "#999999", "#000000", "#666666"
# decades of a log axis -> what is labelled
STEPS = {
    2.5: (1.0,),
    1.1: (1.0, 2.0, 5.0),
    0.55: (1.0, 1.5, 2.0, 3.0, 5.0, 7.0),
    0.35: (1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0),
}
RECIPE = "fisher_kl"  # the score of the default recipe
HIGH = 0.6  # retained quality above which all of a figure must lie for its axis to leave out 0
COLLAPSED = 0.25  # a median retained quality below it makes the axis logarithmic
ACRONYM = 3  # letters of a name that is written in capitals, at most
NO_SCORE = {*intervals.ENDS, *POSITIONAL, "plain", intervals.RANDOM, intervals.BEST}


def turned(ordering: str) -> str | None:
    """The score whose reverse an ordering is; None where it is none."""
    found = re.fullmatch(r"reversed\((.+)\)", ordering)
    return found[1] if found else None


def label(ordering: str) -> str:
    """What an ordering is called on an axis."""
    if score := turned(ordering):
        return f"{label(score)} reversed"
    if ordering.isalpha() and len(ordering) <= ACRONYM:
        return ordering.upper()
    return ordering.replace("_", " ")


def is_random(rows: pd.DataFrame) -> pd.Series:
    """Which rows belong to random orders."""
    return rows["seed"].notna()


def labels(rows: pd.DataFrame) -> list[str]:
    """The orderings of `rows` but for random ones."""
    return list(rows.loc[~is_random(rows), "ordering"].unique())


def scores(names: Iterable[str]) -> list[str]:
    """The scores among orderings: those of claims first, in the order of the claims, then by name.
    Reverses and positional orders are none.
    """
    met = set(names) - NO_SCORE
    named = [name for name in grid.claimed() if name in met]
    return [*named, *sorted(name for name in met - {*named} if not turned(name))]


def order(names: Iterable[str]) -> list[str]:
    """Orderings as figures and tables have them: scores, their reverses, positional orders."""
    met = set(names)
    found = scores(met)
    reverses = [name for name in met if turned(name)]
    known = [*found, *sorted({str(turned(name)) for name in reverses} - {*found})]
    return [
        *found,
        *sorted(reverses, key=lambda name: known.index(str(turned(name)))),
        *(name for name in POSITIONAL if name in met),
    ]


def looks(names: Iterable[str]) -> Looks:
    """A look of its own for each ordering, the same for the same set of scores.

    The scores of claims, and that of the default recipe, always have the same. From there on, a
    score has the next colour and marker; where the colours begin again, the markers go on, so that
    no two pairs are alike before 110 scores. A reverse is lighter and dashed.
    """
    claimed = grid.claimed()
    base = {name: turned(name) or name for name in order(names) if name not in POSITIONAL}
    more = sorted(set(base.values()) - {*claimed}, key=lambda name: (name != RECIPE, name))
    places = {score: place for place, score in enumerate([*claimed, *more])}
    found = {name: _look(places[score], name != score) for name, score in base.items()}
    return {**found, **POSITIONAL}


def _look(place: int, reverse: bool) -> Look:
    color, light = COLORS[place % len(COLORS)]
    marker = MARKERS[place % len(MARKERS)]
    return Look(light or _lighter(color), "--", marker) if reverse else Look(color, "-", marker)


def _lighter(color: str) -> str:
    """Half way to white."""
    red, green, blue = to_rgb(color)
    return to_hex(((1 + red) / 2, (1 + green) / 2, (1 + blue) / 2))


def canvas(
    width: float, height: float, rows: int = 1, columns: int = 1, **options: Any
) -> tuple[Figure, np.ndarray]:
    """A figure of `width` by `height` inches and its axes (rows, columns); `options` go to
    matplotlib's `subplots`.
    """
    sns.set_theme(style="whitegrid", context="paper", font="DejaVu Sans")
    mpl.rcParams["svg.hashsalt"] = "lwq"  # the same table gives the same bytes
    figure = Figure(figsize=(width, height), layout="constrained")
    mpl.rcParams["text.parse_math"] = False  # a name with two $ is a name
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
    """(ordering, its points by blocks moved) of every ordering that is not random, in `order`."""
    names = order(labels(part))
    return [(name, part[part["ordering"] == name].sort_values("moved")) for name in names]


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


def noise_floor(figure: Figure, value: float) -> None:
    """A thin grey line at the KL that another arithmetic alone costs, in the first axes."""
    axis = figure.axes[0]
    axis.axhline(value, color=FAINT, lw=0.9, ls=":", zorder=1)
    place: dict[str, Any] = {"xycoords": axis.get_yaxis_transform(), "textcoords": "offset points"}
    axis.annotate("noise floor", (1, value), (-3, 2), **place, ha="right", fontsize=8, color=FAINT)
    log_scale(axis)


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
