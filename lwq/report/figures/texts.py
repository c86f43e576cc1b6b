"""What plans lose on each kind of text: in the mean, and at the tokens that lose most."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lwq.contracts.results import FLOOR
from lwq.report.figures import style
from lwq.studies import grid

EVEN = ("^", "s", "v", "p", "h")  # of uniform bits, the fewest first
MIXED = ("o", "D", "P", "X", "*")
SPREAD = 0.72  # of the room between two texts that its plans take


def by_text(frame: pd.DataFrame, title: str) -> Figure:
    """KL of each plan on each text, on a log axis: above the mean with its 95 % interval, below the
    median, the 90 and the 99 % quantile over tokens; grey bars: the noise floor.

    Args:
        frame: lines of `where_it_hurts.compared` with `text`, `name`, `way`, `kl`, `low`, `high`,
            `kl_p50`, `kl_p90` and `kl_p99`.
    """
    texts = list(dict.fromkeys(frame["text"]))
    floor = frame[frame["way"] == FLOOR]
    plans = frame[frame["way"] != FLOOR]
    looks = _looks(list(dict.fromkeys(plans["name"])))
    figure, axes = style.canvas(6.0, 6.4, 2, 1, sharex=True)
    above, below = axes[:, 0]
    shifts = np.linspace(-SPREAD / 2, SPREAD / 2, len(looks)) if len(looks) > 1 else [0.0]
    for shift, (name, look) in zip(shifts, looks.items(), strict=True):
        own = plans[plans["name"] == name]
        x = own["text"].map(texts.index) + shift
        _means(above, x, own, look, name)
        _tails(below, x, own, look)
    for axis, column in ((above, "kl"), (below, "kl_p99")):
        for row in floor.to_dict("records"):
            middle = texts.index(row["text"])
            ends = (middle - 0.46, middle + 0.46)
            axis.plot(ends, [row[column]] * 2, color=style.FAINT, lw=1.2, ls=":")
        style.log_scale(axis)
        axis.grid(visible=False, axis="x")
    if len(floor):
        above.plot([], [], color=style.FAINT, lw=1.2, ls=":", label="noise floor (below: its 99 %)")
    above.set(ylabel="mean KL (nats/token, better ↓)")
    below.set(ylabel="KL of tokens: half, 90 %, 99 % below", xlabel="text")
    below.set_xticks(range(len(texts)), texts)
    above.set_title(title, fontsize=10)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure


def _looks(names: list[str]) -> dict[str, style.Look]:
    """Uniform bits black, mixes in the colour of their score; each has a marker of its own."""
    even = sorted(name for name in names if name.startswith("uniform"))
    mixed = [name for name in names if name not in even]
    colors = [color for color, _ in style.COLORS]
    black = {n: style.Look(style.UNIFORM, "", EVEN[i % len(EVEN)]) for i, n in enumerate(even)}
    scores = [name.partition(" + ")[0] for name in mixed]
    order = list(dict.fromkeys([*map(style.label, grid.claimed()), *scores]))
    return black | {
        n: style.Look(colors[order.index(score) % len(colors)], "", MIXED[i % len(MIXED)])
        for i, (n, score) in enumerate(zip(mixed, scores, strict=True))
    }


def _means(axis: Axes, x: pd.Series, own: pd.DataFrame, look: style.Look, name: str) -> None:
    ends = np.clip([own["kl"] - own["low"], own["high"] - own["kl"]], 0, None)
    axis.errorbar(x, own["kl"], ends, fmt=look.marker, color=look.color, ms=5, lw=1.1, label=name)


def _tails(axis: Axes, x: pd.Series, own: pd.DataFrame, look: style.Look) -> None:
    axis.vlines(x, own["kl_p50"], own["kl_p99"], color=look.color, lw=1.1)
    for column, size, face in (("kl_p50", 4, "white"), ("kl_p90", 4, None), ("kl_p99", 6, None)):
        axis.plot(x, own[column], look.marker, color=look.color, ms=size, mfc=face or look.color)
