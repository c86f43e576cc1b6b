"""What a layer score adds to methods that are dynamic already."""

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lwq.figures.look import RANDOM, STYLES, canvas, label
from lwq.strategies import nickname


def gains(gains: pd.DataFrame) -> Figure:
    """By how much the loss falls when a score decides, at the same bytes; right of zero, it helps. Grey dots: random orders.

    Args:
        gains: from `claims.gains`, of one model.
    """
    methods = gains["quantizer"].map(nickname)
    rows_of = [[panel for _, panel in part.groupby(["way", "moved"])] for _, part in gains.groupby(methods, sort=False)]
    columns = max(map(len, rows_of))
    figure, axes = canvas(2.2 + 2.3 * columns, 2.4 * len(rows_of), len(rows_of), columns, sharey=True)
    names = [name for name in dict.fromkeys(gains["ordering"]) if not name.startswith("random")][::-1] + ["random"]
    for axis, part in zip(axes.flat, (part for row in rows_of for part in row + [None] * (columns - len(row))), strict=True):
        if part is None:
            axis.set_visible(False)
            continue
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
        first = part.iloc[0]
        axis.set_title(f"{nickname(first['quantizer'])}, {first['way']}, k = {first['moved']}", fontsize=9)
        axis.set_yticks(range(len(names)), [label(name) for name in names])
        axis.tick_params(axis="x", labelsize=7)
        axis.xaxis.set_major_locator(MaxNLocator(4))
    figure.supxlabel("gain over the plain method at the same bytes (nats/token)", fontsize=9)
    return figure
