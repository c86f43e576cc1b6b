"""What a layer score adds to methods that are dynamic already."""

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lwq.figures.look import RANDOM, STYLES, canvas, label


def gains(gains: pd.DataFrame) -> Figure:
    """By how much the loss falls when a score decides, at the same bytes; right of zero, it helps. Grey dots: random orders.

    Args:
        gains: from `claims.gains`, of one model.
    """
    panels = list(gains.groupby(["quantizer", "way", "moved"], sort=False))
    columns = min(3, len(panels))
    figure, axes = canvas(3.3 * columns, 2.3 * -(-len(panels) // columns), -(-len(panels) // columns), columns, sharey=True)
    names = [name for name in dict.fromkeys(gains["ordering"]) if not name.startswith("random")][::-1] + ["random"]
    for axis, ((quantizer, way, moved), part) in zip(axes.flat, panels, strict=False):
        for position, name in enumerate(names):
            rows = part[part["ordering"].str.startswith("random") if name == "random" else part["ordering"] == name]
            color, _, marker = STYLES.get(name, (RANDOM, "", "."))
            if name == "random":
                axis.plot(rows["value"], [position] * len(rows), marker, color=color, ms=7)
                continue
            for row in rows.to_dict("records"):
                axis.plot([row["low"], row["high"]], [position] * 2, color=color, lw=2.2)
                axis.plot(row["value"], position, marker, color=color, ms=6)
        axis.axvline(0, color="#333333", lw=0.9)
        axis.set_title(f"{str(quantizer).partition('(')[0]}, {way}, k = {moved}", fontsize=9)
        axis.set_yticks(range(len(names)), [label(name) for name in names])
        axis.tick_params(axis="x", labelsize=7)
        axis.xaxis.set_major_locator(MaxNLocator(5))
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    figure.supxlabel("gain over the plain method at the same bytes (nats/token)", fontsize=9)
    return figure
