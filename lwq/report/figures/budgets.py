"""What plans of all sizes lose, how far scores agree, and a plan matrix by matrix."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lwq.contracts import Option
from lwq.contracts.results import BLOCKS, WHOLE
from lwq.report.figures import style
from lwq.report.figures.strips import WIDTHS
from lwq.studies import grid

PLAIN = (BLOCKS, WHOLE)  # ways that the axis says
STAR = "*"  # the default recipe, as in the figure of whole files
SHOWN = 6  # methods that get a line of their own, best first


def method(ordering: str, way: str) -> str:
    """What a score and an allocator are called: "LIM + topk", "fisher kl + knapsack, group
    sizes".
    """
    score, plus, allocator = ordering.partition(" + ")
    return f"{style.label(score)}{plus}{allocator}" + ("" if way in PLAIN else f", {way}")


def size_curves(frame: pd.DataFrame, uniform: pd.DataFrame, title: str) -> Figure:
    """KL against stored megabytes, and below it the same over the KL of uniform bits of the same
    bytes, on log scales: uniform bits black, random orders grey, the best methods and the scores of
    claims each with a line.

    Args:
        frame: plans with `ordering`, `way`, `seed`, `total_bytes`, `kl` and `ratio`.
        uniform: uniform plans, with `total_bytes` and `kl`.
    """
    figure, axes = style.canvas(7.5, 6.4, rows=2, sharex=True)
    above, below = axes[:, 0]
    chance = style.is_random(frame)
    for own, look in _lines(frame[~chance]):
        _draw(above, own, "kl", **look)
        _draw(below, own, "ratio", **{**look, "label": None})
    dots: dict[str, Any] = {"ls": "", "marker": ".", "color": style.RANDOM}
    if chance.any():
        _draw(above, frame[chance], "kl", **dots, label="random orders")
        _draw(below, frame[chance], "ratio", **dots)
    uniform = _around(uniform, frame["total_bytes"])
    if len(uniform):
        _draw(above, uniform, "kl", color=style.UNIFORM, marker="x", ms=5, label="uniform")
    below.axhline(1, color=style.UNIFORM, lw=1.3)
    for axis in (above, below):
        style.log_scale(axis)
    above.set(ylabel="KL to the untouched model\n(nats/token)")
    below.set(xlabel="stored size (MB)", ylabel="the same, over uniform's\nof the same bytes")
    above.set_title(title, fontsize=9)
    figure.legend(loc="outside right center", frameon=False, fontsize=7.5)
    return figure


def _lines(frame: pd.DataFrame) -> Iterator[tuple[pd.DataFrame, dict[str, Any]]]:
    """Plans and the look of each method that gets a line."""
    methods = sorted(
        frame.groupby(["ordering", "way"], sort=False),
        # of one that no uniform bits stand beside nobody knows: last
        key=lambda entry: float(np.nan_to_num(np.log(entry[1]["ratio"]).mean(), nan=np.inf)),
    )
    claimed = {f"{score} + topk" for score in grid.claimed()}
    best = methods[:SHOWN]
    best += [entry for entry in methods[SHOWN:] if entry[0][0] in claimed]
    scores = [str(ordering).partition(" + ")[0] for (ordering, _), _ in best]
    looks = style.looks([*grid.claimed(), *scores])
    names = [(str(ordering), str(way)) for (ordering, way), _ in best]
    markers = _markers(names, looks)
    for name, (_, own) in zip(names, best, strict=True):
        color, marker = looks[name[0].partition(" + ")[0]].color, markers[name]
        look = {"color": color, "marker": marker, "ms": 8 if marker == STAR else 4, "lw": 1.3}
        yield own, {**look, "label": method(*name)}


def _markers(names: list[tuple[str, str]], looks: style.Looks) -> dict[tuple[str, str], str]:
    """The default recipe and the scores of claims have the same in every figure; of the others no
    two are alike.
    """
    fixed = {f"{score} + topk": looks[score].marker for score in grid.claimed()}
    fixed[f"{style.RECIPE} + look"] = STAR
    rest = iter([marker for marker in style.MARKERS if marker not in fixed.values()])
    return {name: fixed.get(name[0]) or next(rest) for name in sorted(names)}


def _draw(axis: Axes, plans: pd.DataFrame, column: str, **look: Any) -> None:
    plans = plans.sort_values("total_bytes")
    axis.plot(plans["total_bytes"] / 1e6, plans[column], **look)


def _around(uniform: pd.DataFrame, sizes: pd.Series) -> pd.DataFrame:
    """Uniform plans of these sizes, and the next one on either side."""
    own = uniform["total_bytes"]
    low = own[own <= sizes.min()].max()
    high = own[own >= sizes.max()].min()
    return uniform[~(own < low) & ~(own > high)]


def correlations(frame: pd.DataFrame, title: str) -> Figure:
    """Spearman's rank correlation of each score with each other, as a square of numbers."""
    side = 1.8 + 0.36 * len(frame)
    figure, axes = style.canvas(side + 0.8, side)
    sns.heatmap(
        frame,
        ax=axes[0][0],
        cmap="vlag",
        vmin=-1,
        vmax=1,
        annot=len(frame) <= 25,
        fmt=".1f",
        annot_kws={"size": 6},
        linewidths=0.4,
        cbar_kws={"label": "rank correlation"},
    )
    axes[0][0].tick_params(labelsize=7)
    axes[0][0].set_title(title, fontsize=9)
    return figure


def plan_map(bits: Mapping[str, Option], title: str) -> Figure:
    """A plan by block (down) and kind of matrix (across); the number is the option."""
    table = _by_kind(bits)
    codes = table.map(lambda option: _code(option))
    figure, axes = style.canvas(1.8 + 0.75 * table.shape[1], 1.4 + 0.19 * len(table))
    sns.heatmap(
        codes,
        ax=axes[0][0],
        cmap=sns.color_palette("cividis_r", len(WIDTHS)),
        vmin=0,
        vmax=len(WIDTHS) - 1,
        annot=table.map(_said),
        fmt="",
        annot_kws={"size": 6.5},
        linewidths=0.5,
        cbar=False,
    )
    axes[0][0].grid(visible=False)
    axes[0][0].set(xlabel="", ylabel="block")
    axes[0][0].tick_params(labelsize=7)
    axes[0][0].tick_params(axis="y", rotation=0)
    axes[0][0].set_title(title, fontsize=9)
    return figure


def _said(option: Option | None) -> str:
    """An option in its cell; a column with gaps holds whole widths as floats."""
    if option is None or pd.isna(option):
        return ""
    return option if isinstance(option, str) else f"{option:g}"


def _by_kind(bits: Mapping[str, Option]) -> pd.DataFrame:
    """Block or place (rows) x kind of matrix (columns) -> option; None where there is none."""
    cells: dict[str, dict[str, Option]] = {}
    for unit, option in bits.items():
        *_, kind = unit.split(".")
        number = next((part for part in unit.split(".") if part.isdigit()), "outside")
        cells.setdefault(number, {})[kind] = option
    return pd.DataFrame(cells).T.astype(object)


def _code(option: Option | float) -> float:
    """Place between the colours of two whole widths; NaN of none."""
    if isinstance(option, str):
        option = float(option.partition("g")[0])
    return float(np.interp(option, WIDTHS, range(len(WIDTHS)))) if option == option else np.nan
