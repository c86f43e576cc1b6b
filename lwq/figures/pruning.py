"""Blocks dropped, quantized or thinned out."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from lwq import compare
from lwq.figures.look import (
    MARKERS,
    canvas,
    label,
)
from lwq.strategies import nickname

DROPS = ("lim", "zd", "block_drop", "angular", "deepest")
RATES = ("uniform", "owl", "dlp", "lamp")


def pruning(table: pd.DataFrame, windows: pd.DataFrame) -> Figure:
    """Retained quality against stored bits: on the left blocks dropped or quantized, on the right single weights too.

    Args:
        table: rows of the pruning study on one model.
        windows: the arrays behind them.
    """
    nll = compare.nll_by_id(windows)
    rows = table[table["metric"] == "perplexity"]
    truth = nll[rows[rows["ordering"] == "original"].iloc[0]["id"]].mean()
    rows = rows.assign(value=[np.exp(truth - nll[key].mean()) for key in rows["id"]])
    families = [
        [(name, "dropped", rows[(rows["low"] == 0) & (rows["ordering"] == name)]) for name in DROPS]
        + [
            (f"{bits} bits", "quantized by LIM", rows[(rows["low"] == bits) & (rows["high"] == 16) & (rows["ordering"] == "lim")])
            for bits in (8, 4, 3, 2)
        ],
        [
            (f"{mask}, {rate}", "pruned", rows[rows["quantizer"].str.startswith(mask) & (rows["ordering"] == rate)])
            for mask in ("magnitude", "wanda")
            for rate in RATES
        ]
        + [("knapsack", "drop or quantize", rows[rows["ordering"] == "knapsack"])],
    ]
    lines = [[(name, kind, part.sort_values("true_bits")) for name, kind, part in family if len(part)] for family in families]
    lines = [drawn for drawn in lines if drawn]
    figure, axes = canvas(9.5, 5.2, 1, len(lines), sharey=True)
    for axis, drawn in zip(axes[0], lines, strict=True):
        colors = sns.color_palette("colorblind", len(drawn))
        for color, marker, (name, kind, line) in zip(colors, MARKERS * 3, drawn, strict=False):
            style = "--" if kind in ("dropped", "pruned") else "-"
            axis.plot(
                line["true_bits"], line["value"], style, marker=marker, color=color, ms=4, lw=1.4, label=f"{kind}: {label(name)}"
            )
        axis.set(xlabel="stored bits per weight (everything counted)")
        axis.invert_xaxis()
        axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2, frameon=False, fontsize=7)
    axes[0][0].set(ylabel="retained quality", ylim=(0, 1.05))
    quantizer = nickname(rows[rows["low"] == 0].iloc[0]["quantizer"])
    figure.suptitle(
        f"{rows.iloc[0]['model']}, {quantizer}: whole blocks{' (left), single weights and knapsack (right)' * (len(lines) > 1)}"
    )
    return figure


def pruning_gaps(gaps: pd.DataFrame, names: Sequence[str] = ("lim", "zd")) -> Figure:
    """How much more dropping loses than quantizing at the same bytes; above zero, quantizing wins.

    Args:
        gaps: from `claims.gaps`, of one model and quantizer.
        names: orderings to draw, one panel each.
    """
    figure, axes = canvas(8.0, 4.2, 1, len(names), sharey=True)
    widths = sorted(gaps["bits"].unique(), reverse=True)
    colors = sns.color_palette("colorblind", len(widths))
    for axis, name in zip(axes[0], names, strict=True):
        for position, (bits, color, marker) in enumerate(zip(widths, colors, MARKERS * 2, strict=False)):
            part = gaps[(gaps["ordering"] == name) & (gaps["bits"] == bits)].sort_values("true_bits")
            errors = np.clip([part["value"] - part["low"], part["high"] - part["value"]], 0, None)
            x = part["true_bits"] + 0.06 * (position - len(widths) / 2)
            axis.errorbar(x, part["value"], errors, fmt=marker + "-", color=color, ms=4, lw=1.3, label=f"against {bits} bits")
        axis.axhline(0, color="#333333", lw=0.9)
        axis.set(title=f"{label(name)} decides", xlabel="stored bits per weight")
        axis.invert_xaxis()
    axes[0][0].set(ylabel="dropping − quantizing (nats/token)")
    handles, texts = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, texts, loc="outside lower center", ncols=4, frameon=False)
    return figure
