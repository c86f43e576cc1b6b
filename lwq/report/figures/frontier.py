"""Size against quality: what was measured, beside uniform bits of the same bytes."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lwq.report.beside import Arena
from lwq.report.figures import style
from lwq.report.intervals import RANDOM
from lwq.studies import grid

MB = 1e6
BEST = style.Look("#000000", "-", "*")
MIXES = style.Look("#117733", "", "^")


def frontier(arena: Arena, mixes: pd.DataFrame, shown: tuple[str, ...]) -> Figure:
    """KL (log axis) against the bytes of the whole file; lower left is better.

    Black crosses are uniform bits; the dotted line between them is straight here, as in every
    comparison with uniform bits of the same bytes. Bars are 95 % intervals.

    Args:
        arena: from `beside.arenas`.
        mixes: files of llama.cpp's own, with columns mix, imatrix, bytes, kl, low, high.
        shown: methods to draw, the best first.
    """
    figure, axes = style.canvas(6.4, 4.6)
    axis = axes[0][0]
    claimed = {style.label(name) for name in grid.claimed()}
    scores = [str(name).partition(" + ")[0] for name in arena.plans["ordering"].unique()]
    looks = style.looks([*grid.claimed(), *scores])
    known = {style.label(name): look for name, look in looks.items()} | {
        RANDOM: style.Look(style.RANDOM, "", ".")
    }
    for place, method in enumerate(shown[::-1], start=1):
        part = arena.plans[arena.plans["method"] == method]
        star = place == len(shown) and method not in claimed
        look = BEST if star else known.get(method.partition(" + ")[0], BEST)
        _points(axis, part, look, method, place)
    _uniform(axis, arena)
    _mixes(axis, mixes)
    style.log_scale(axis)
    axis.set(xlabel="whole file (MB)", ylabel="KL to the untouched model (nats/token)")
    clear = {"facecolor": "white", "edgecolor": "none", "pad": 1}  # of a noise floor behind it
    axis.annotate("better ↙", (0.015, 0.03), xycoords="axes fraction", fontsize=10, bbox=clear)
    axis.set_title(arena.name)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure


_NOTE: dict[str, Any] = {"textcoords": "offset points", "fontsize": 8}


def _mixes(axis: Axes, mixes: pd.DataFrame) -> None:
    """Hollow without an importance matrix, full with one; named at the upper of both."""
    color, _, marker = MIXES
    for imatrix, part in mixes.groupby("imatrix"):
        face, said = (color, "with") if imatrix else ("white", "without")
        axis.plot(
            part["bytes"] / MB,
            part["kl"],
            marker,
            color=color,
            mfc=face,
            ms=7,
            label=f"llama.cpp {said} imatrix",
        )
    for row in mixes.sort_values("kl").drop_duplicates("mix", keep="last").to_dict("records"):
        axis.annotate(row["mix"], (row["bytes"] / MB, row["kl"]), (5, 4), color=color, **_NOTE)


def _points(axis: Axes, part: pd.DataFrame, look: style.Look, name: str, place: int) -> None:
    color, _, marker = look
    ends = np.clip([part["kl"] - part["low_kl"], part["high_kl"] - part["kl"]], 0, None)
    axis.errorbar(
        part["total_bytes"] / MB,
        part["kl"],
        ends,
        fmt=marker,
        color=color,
        ms=9 if marker == "*" else 5,
        lw=1,
        label=name,
        zorder=2 + place,
    )


def _uniform(axis: Axes, arena: Arena) -> None:
    rows = arena.uniform.set_index("id")
    bent = {key for line in arena.lines.values() for key in line.ids}
    named = (rows["avg_bits"] % 1 == 0) & (~rows["whole"] | rows.index.isin(bent))
    for line in arena.lines.values():
        corners = rows.loc[list(line.ids)]
        axis.plot(line.sizes / MB, corners["kl"], ":", color=style.UNIFORM, lw=1.2)
    axis.plot(
        rows["total_bytes"] / MB, rows["kl"], "x", color=style.UNIFORM, ms=7, label="uniform bits"
    )
    for row in rows[named].to_dict("records"):
        place = (row["total_bytes"] / MB, row["kl"])
        axis.annotate(f"{row['avg_bits']:.0f} bits", place, (5, 4), **_NOTE)
