"""What a layer score adds to methods that are dynamic already."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from lwq.common.names import nickname
from lwq.report.figures.style import OTHERS, RANDOM, STYLES, canvas, is_random, label

TITLES = {
    "base bits": "{k} blocks up, {k} down",
    "one bit more": "{k} blocks one bit up",
    "outlier budget": "outliers to the upper half",
}


def gains(gains: pd.DataFrame) -> Figure:
    """By how much the loss falls when a score decides, at the same bytes; right of zero, it helps.
    Grey dots: random orders.

    One row of panels a method; one scale for each way in which the score decides.

    Args:
        gains: from `claims.gains`, of one model.
    """
    gains = gains.assign(
        method=gains["quantizer"].map(nickname),
        name=gains["ordering"].mask(is_random(gains["ordering"]), "random"),
    )
    names = sorted(set(gains["name"]), key=_place)
    methods = {
        method: [panel for _, panel in part.groupby(["way", "moved"])]
        for method, part in gains.groupby("method", sort=False)
    }
    columns = max(map(len, methods.values()))
    figure, axes = canvas(
        1.6 + 1.8 * columns, 0.9 + 1.9 * len(methods), len(methods), columns, sharey=True
    )
    for row, (method, panels) in zip(axes, methods.items(), strict=True):
        for axis, panel in zip(row, panels, strict=False):
            _rows(axis, panel, names)
            alike = gains[(gains["method"] == method) & (gains["way"] == panel["way"].iloc[0])]
            left, right = min(alike["low"].min(), 0), max(alike["high"].max(), 0)
            axis.set_xlim(left - 0.05 * (right - left), right + 0.05 * (right - left))
            axis.set_title(
                TITLES[panel["way"].iloc[0]].format(k=panel["moved"].iloc[0]), fontsize=8.5
            )
        for axis in row[len(panels) :]:
            axis.set_visible(False)
        row[0].set_ylabel(method, fontweight="bold")
    axes[0][0].set_yticks(range(len(names)), map(label, names))
    axes[0][0].set_ylim(len(names) - 0.5, -0.5)
    what = (
        "gain over the plain method at the same bytes (nats/token)\neach way has a scale of its own"
    )
    figure.supxlabel(f"{gains.iloc[0]['model']}: {what}", fontsize=9)
    shown = [
        Line2D(
            [],
            [],
            color="#333333",
            lw=2.2,
            marker="o",
            ms=5,
            label="a score, with its 95 % interval",
        ),
        Line2D(
            [],
            [],
            color=RANDOM,
            ls="",
            marker=".",
            ms=5,
            label="a random order (shaded: their range)",
        ),
    ]
    figure.legend(handles=shown, loc="outside upper center", ncols=2, frameon=False)
    return figure


def _place(name: str) -> tuple[bool, str, bool]:
    """Where an ordering stands: each score before its reverse, random orders last."""
    return (
        name == "random",
        name.removeprefix("reversed(").rstrip(")"),
        name.startswith("reversed("),
    )


def _rows(axis: Axes, part: pd.DataFrame, names: list[str]) -> None:
    """One panel: a row an ordering, from top to bottom."""
    for row in part.to_dict("records"):
        position = names.index(row["name"])
        color, _, marker = (
            (RANDOM, "", ".") if row["name"] == "random" else STYLES.get(row["name"], OTHERS)
        )
        if row["name"] != "random":
            axis.plot([row["low"], row["high"]], [position] * 2, color=color, lw=2.2)
        axis.plot(row["value"], position, marker, color=color, ms=5)
    chance = part.loc[part["name"] == "random", "value"]
    if len(chance):
        axis.axvspan(chance.min(), chance.max(), color=RANDOM, alpha=0.2, lw=0)
    axis.axvline(0, color="#333333", lw=0.9)
    axis.tick_params(axis="x", labelsize=7)
    axis.xaxis.set_major_locator(MaxNLocator(4))
