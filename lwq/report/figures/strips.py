"""Plans and scores as strips of coloured blocks."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from lwq.contracts import Option, Scores
from lwq.report.figures.style import canvas, label

WIDTHS = (0, 1, 2, 3, 4, 5, 6, 7, 8, 16)


def strip(scores: Mapping[str, Scores]) -> Figure:
    """The blocks in the order of the forward pass, coloured by their rank under each score.

    Dark keeps its bits longest; the number in a cell is the place at which the block is moved (1 =
    first). Ranks, because scores have units of their own.
    """
    table = pd.DataFrame({label(name): _places(score) for name, score in scores.items()}).T
    figure, axes = canvas(max(6.0, 1.6 + 0.3 * table.shape[1]), 1.2 + 0.34 * len(table))
    axis = axes[0][0]
    sns.heatmap(
        table,
        ax=axis,
        cmap="cividis_r",
        annot=table.astype(int),
        fmt="d",
        annot_kws={"size": 6.5},
        linewidths=0.6,
        cbar_kws={"label": "moved first … last", "ticks": []},
    )
    axis.set(xlabel="block (first to last)", ylabel="")
    axis.tick_params(axis="y", rotation=0)
    axis.tick_params(axis="x", rotation=0, labelsize=7)
    return figure


def _places(score: Scores) -> dict[int, int]:
    """Block number -> place in the order in which blocks are moved, from 1."""
    place = {unit: rank for rank, unit in enumerate(score.order(), start=1)}
    return {index: place[unit] for index, unit in enumerate(score)}


def plans(
    bits: Mapping[str, Mapping[str, Option]], nominal: Mapping[Option, float] | None = None
) -> Figure:
    """Plans as strips of coloured blocks: one row a plan, one cell a block, its width written in
    it.

    Args:
        bits: label -> (unit -> option), all over the same units.
        nominal: bits a weight of options that are no numbers, as their quantizer says
            (`quantizer.nominal`).
    """
    table = pd.DataFrame({name: list(plan.values()) for name, plan in bits.items()}).T
    # between the colours of two whole widths
    known = nominal or {}
    numbers = table.map(lambda option: float(known.get(option, option)))
    codes = numbers.apply(lambda row: np.interp(row, WIDTHS, range(len(WIDTHS))))
    figure, axes = canvas(max(6.0, 1.6 + 0.28 * table.shape[1]), 0.9 + 0.36 * len(table))
    axis = axes[0][0]
    # one colour a width, the same in every figure
    colors = sns.color_palette("cividis_r", len(WIDTHS))
    look = {"annot_kws": {"size": 7}, "linewidths": 0.8, "cbar": False, "fmt": ""}
    texts = table.map(lambda option: option if isinstance(option, str) else f"{option:g}")
    ends = {"vmin": 0, "vmax": len(WIDTHS) - 1}
    sns.heatmap(codes, ax=axis, cmap=colors, annot=texts, **ends, **look)
    axis.set(xlabel="block (first to last); the number is its bit width", ylabel="")
    axis.tick_params(axis="y", rotation=0)
    axis.tick_params(axis="x", rotation=0, labelsize=7)
    return figure
