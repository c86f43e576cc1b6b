"""Results table -> Figure, one function a figure. Nothing is read, saved or measured here."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from lwq import compare
from lwq.contracts import Scores

# Okabe and Ito's colours are told apart by colour-blind readers; line style and marker say the same again for grey print
STYLES = {
    "lim": ("#0072B2", "-", "o"),
    "zd": ("#D55E00", "-", "s"),
    "reversed(lim)": ("#56B4E9", "--", "o"),
    "reversed(zd)": ("#E69F00", "--", "s"),
    "first_to_last": ("#009E73", ":", "^"),
    "last_to_first": ("#CC79A7", ":", "v"),
}
OTHERS = ("#000000", "-.", "D")
RANDOM, UNIFORM = "#999999", "#000000"
MARKERS = ["o", "s", "^", "D", "v", "P", "X", "*", "<"]
DROPS = ("lim", "zd", "block_drop", "angular", "deepest")
RATES = ("uniform", "owl", "dlp", "lamp")
WIDTHS = (0, 1, 2, 3, 4, 5, 6, 7, 8, 16)
METRICS = {"perplexity": "perplexity / reference", "kl": "KL divergence (nats/token)", "top1": "top-1 agreement"}
PAPER = {"our ordering": (0.25, 0.50), "no specific ordering": (0.05, 0.10)}
LABELS = {"lim": "LIM", "zd": "ZD", "reversed(lim)": "LIM reversed", "reversed(zd)": "ZD reversed"}


def label(ordering: str) -> str:
    """What an ordering is called on an axis."""
    return LABELS.get(ordering, ordering.replace("_", " "))


def is_random(ordering: pd.Series) -> pd.Series:
    """Which rows belong to random orders."""
    return ordering.str.startswith("random")


def _figure(width: float, height: float, rows: int = 1, columns: int = 1, **options: Any) -> tuple[Figure, np.ndarray]:
    sns.set_theme(style="whitegrid", context="paper", font="DejaVu Sans")
    mpl.rcParams["svg.hashsalt"] = "lwq"  # the same table gives the same bytes
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def curves(table: pd.DataFrame) -> Figure:
    """Perplexity ratio, KL and top-1 agreement against the share of blocks moved and against true bits.

    One line an ordering; random orders are a band from the worst to the best with their median. On the right, uniform bits
    of the same true size stand as black crosses: a mixed plan is worth something where it beats the line between them.

    Args:
        table: rows of one study, model, quantizer and pair of widths.
    """
    figure, axes = _figure(9.5, 9.5, 3, 2, sharey="row")
    for row, (metric, name) in enumerate(METRICS.items()):
        part = _points(table, metric)
        for axis, x in zip(axes[row], ("fraction", "true_bits"), strict=True):
            _band(axis, part[is_random(part["ordering"])], x)
            for ordering, line in _named(part):
                color, style, marker = STYLES.get(ordering, OTHERS)
                axis.plot(line[x], line["value"], style, color=color, marker=marker, ms=4, lw=1.4, label=label(ordering))
            if x == "true_bits":
                uniform = part[part["ordering"] == "uniform"].sort_values(x)
                axis.plot(uniform[x], uniform["value"], "x:", color=UNIFORM, ms=7, lw=0.8, label="uniform bits")
            if metric != "top1":
                axis.set_yscale("log")
        axes[row][0].set_ylabel(name)
    axes[-1][0].set_xlabel("blocks moved to low bits")
    axes[-1][1].set_xlabel("true bits per weight (scales and zeros counted)")
    for left, right in axes:
        left.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        right.invert_xaxis()
    handles, names = axes[0][1].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=4, frameon=False)
    figure.suptitle(_title(table))
    return figure


def _title(table: pd.DataFrame) -> str:
    first = table.iloc[0]
    quantizer = first["quantizer"].partition("(")[0]
    return f"{first['model']}, {quantizer}, {first['high']} to {first['low']} bits ({first['n']} judging windows)"


def _points(table: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Rows of one metric, without the untouched model, with the share moved; perplexity relative to the all-high plan."""
    part = table[(table["metric"] == metric) & (table["ordering"] != "original")].copy()
    part["fraction"] = part["moved"] / part["units"]
    if metric == "perplexity":
        part["value"] /= all_high(part)["value"]
    return part


def all_high(table: pd.DataFrame) -> pd.Series:
    """The row of the sweep's reference: every block at the high width."""
    return table[(table["ordering"] == "uniform") & (table["moved"] == 0)].iloc[0]


def _named(part: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    lines = part[~is_random(part["ordering"]) & (part["ordering"] != "uniform")]
    order = [*STYLES, *sorted(set(lines["ordering"]) - set(STYLES))]
    return [(name, lines[lines["ordering"] == name].sort_values("moved")) for name in order if name in set(lines["ordering"])]


def _band(axis: Axes, part: pd.DataFrame, x: str) -> None:
    if part.empty:
        return
    seeds = part["ordering"].nunique()
    grouped = part.groupby("moved").agg(x=(x, "mean"), low=("value", "min"), high=("value", "max"), middle=("value", "median"))
    axis.fill_between(grouped["x"], grouped["low"], grouped["high"], color=RANDOM, alpha=0.3, lw=0)
    axis.plot(grouped["x"], grouped["middle"], color=RANDOM, lw=1.6, label=f"random ({seeds} orders, median and range)")


def thresholds(limits: pd.DataFrame) -> Figure:
    """The largest share of blocks moved that keeps 95 % and 90 % retained quality, per ordering, with its interval.

    The paper's two ranges (25 to 50 % with its ordering, 5 to 10 % with none) are shaded.

    Args:
        limits: columns ordering, threshold, value, low, high, from `studies.limits`.
    """
    levels = sorted(limits["threshold"].unique(), reverse=True)
    names = list(dict.fromkeys(limits["ordering"]))[::-1]
    figure, axes = _figure(9.5, 1.6 + 0.32 * len(names), 1, len(levels), sharey=True)
    for axis, level in zip(axes[0], levels, strict=True):
        for (text, (low, high)), hatch in zip(PAPER.items(), ("//", ".."), strict=True):
            axis.axvspan(low, high, facecolor="none", edgecolor="#bbbbbb", hatch=hatch, lw=0, label=f"paper: {text}")
        part = limits[limits["threshold"] == level].set_index("ordering").loc[names]
        for position, (name, row) in enumerate(part.iterrows()):
            color, _, marker = STYLES.get(str(name), (RANDOM, "-", ".") if "random" in str(name) else OTHERS)
            axis.plot([row["low"], row["high"]], [position] * 2, color=color, lw=2.5)
            axis.plot(row["value"], position, marker, color=color, ms=7)
        axis.set(title=f"at least {level:.0%} retained quality", xlabel="blocks moved", xlim=(-0.02, 1.02))
        axis.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axis.set_yticks(range(len(names)), [label(name) for name in names])
    handles, texts = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, texts, loc="outside lower center", ncols=2, frameon=False)
    return figure


def strip(scores: Mapping[str, Scores]) -> Figure:
    """The blocks in the order of the forward pass, coloured by their rank under each score.

    Dark keeps its bits longest; the number in a cell is the place at which the block is moved (1 = first). Ranks, because
    scores have units of their own.
    """
    table = pd.DataFrame({label(name): _places(score) for name, score in scores.items()}).T
    figure, axes = _figure(max(6.0, 1.6 + 0.3 * table.shape[1]), 1.2 + 0.34 * len(table))
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


def plans(bits: Mapping[str, Mapping[str, int]]) -> Figure:
    """Plans as strips of coloured blocks: one row a plan, one cell a block, its width written in it.

    Args:
        bits: label -> (unit -> width), all over the same units.
    """
    table = pd.DataFrame({name: list(plan.values()) for name, plan in bits.items()}).T
    codes = table.apply(lambda row: row.map(WIDTHS.index))
    figure, axes = _figure(max(6.0, 1.6 + 0.28 * table.shape[1]), 0.9 + 0.36 * len(table))
    axis = axes[0][0]
    colors = sns.color_palette("cividis_r", len(WIDTHS))  # one colour a width, the same in every figure
    look = {"annot_kws": {"size": 7}, "linewidths": 0.8, "cbar": False}
    sns.heatmap(codes, ax=axis, cmap=colors, vmin=0, vmax=len(WIDTHS) - 1, annot=table, fmt="d", **look)
    axis.set(xlabel="block (first to last); the number is its bit width", ylabel="")
    axis.tick_params(axis="y", rotation=0)
    axis.tick_params(axis="x", rotation=0, labelsize=7)
    return figure


def retained_curve(table: pd.DataFrame, windows: pd.DataFrame) -> Figure:
    """Retained quality (reference perplexity / plan perplexity) against blocks moved, with 95 % intervals over windows.

    Args:
        table: rows of one study, model, quantizer and pair of widths.
        windows: the arrays behind them.
    """
    figure, axes = _figure(9.5, 4.6)
    axis = axes[0][0]
    part = _points(table, "perplexity")
    nll = compare.nll_by_id(windows)
    truth = nll[all_high(part)["id"]]
    quality = part.assign(value=[np.exp(truth.mean() - nll[key].mean()) for key in part["id"]])
    _band(axis, quality[is_random(quality["ordering"])], "fraction")
    lines = _named(quality)
    for position, (name, line) in enumerate(lines):
        color, style, marker = STYLES.get(name, OTHERS)
        ends = [compare.retained(truth, nll[key]) for key in line["id"]]
        errors = np.clip([[e.value - e.low for e in ends], [e.high - e.value for e in ends]], 0, None)
        shifted = line["fraction"] + 0.004 * (position - len(lines) / 2)  # so that intervals do not hide each other
        axis.errorbar(shifted, line["value"], errors, fmt=marker + style, color=color, ms=4, lw=1.3, label=label(name))
    for level in (0.95, 0.90):
        axis.axhline(level, color="#555555", lw=0.8, ls=(0, (4, 3)))
        axis.annotate(f"{level:.0%}", (1.0, level), xycoords=("axes fraction", "data"), fontsize=7, va="center")
    axis.set(xlabel="blocks moved to low bits", ylabel="retained quality", title=_title(table))
    axis.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axis.set_ylim(0, max(1.05, quality["value"].max() * 1.03))
    figure.legend(loc="outside lower center", ncols=4, frameon=False)
    return figure


def scale_curves(table: pd.DataFrame, windows: pd.DataFrame, names: Sequence[str] = ("lim", "zd")) -> Figure:
    """Retained quality against the share of blocks moved: one panel an ordering, one line a model, darker with more blocks.

    Args:
        table: rows of one study, quantizer and pair of widths, of several models.
        windows: the arrays behind them.
        names: orderings to draw; random orders are drawn as their median.
    """
    nll = compare.nll_by_id(windows)
    depths = table.groupby("model")["units"].first().sort_values(kind="stable")
    colors = sns.color_palette("cividis_r", len(depths) + 1)[1:]
    panels = [name for name in names if (table["ordering"] == name).any()] + ["random"]
    figure, axes = _figure(3.4 * len(panels), 3.9, 1, len(panels), sharey=True)
    for axis, name in zip(axes[0], panels, strict=True):
        for color, marker, (model, depth) in zip(colors, MARKERS * len(depths), depths.items(), strict=False):
            rows = _points(table[table["model"] == model], "perplexity")
            truth = nll[all_high(rows)["id"]]
            rows = rows.assign(value=[np.exp(truth.mean() - nll[key].mean()) for key in rows["id"]])
            chosen = rows[is_random(rows["ordering"]) if name == "random" else rows["ordering"] == name]
            line = chosen.groupby("fraction")["value"].median()
            axis.plot(line.index, line, marker=marker, color=color, ms=4, lw=1.5, label=f"{model} ({depth} blocks)")
        axis.set(title="random orders (median)" if name == "random" else label(name), xlabel="blocks moved to low bits")
        axis.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes[0][0].set(ylabel="retained quality", ylim=(0, None))
    handles, texts = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, texts, loc="outside lower center", ncols=4, frameon=False)
    first = table.iloc[0]
    figure.suptitle(f"{first['quantizer'].partition('(')[0]}, {first['high']} to {first['low']} bits")
    return figure


def scale_areas(areas: pd.DataFrame) -> Figure:
    """Mean retained quality while blocks are moved, against the number of blocks; bars are 95 % intervals over windows.

    Args:
        areas: from `claims.areas`, of one pair of widths.
    """
    figure, axes = _figure(7.0, 4.2)
    axis = axes[0][0]
    for offset, name in enumerate(dict.fromkeys(areas["ordering"])):
        part = areas[areas["ordering"] == name]
        color, style, marker = STYLES.get(name, (RANDOM, "-", ".") if name == "random" else OTHERS)
        part = part.sort_values("units")
        errors = np.clip([part["value"] - part["low"], part["high"] - part["value"]], 0, None)
        axis.errorbar(
            part["units"] * 1.015**offset, part["value"], errors, fmt=marker + style, color=color, ms=5, label=label(name)
        )
    depths = sorted(areas["units"].unique())
    axis.set_xscale("log", base=2)
    axis.set_xticks(depths, [str(depth) for depth in depths])
    axis.minorticks_off()
    axis.set(xlabel="blocks of the model", ylabel="mean retained quality", ylim=(0, None))
    figure.legend(loc="outside lower center", ncols=5, frameon=False)
    return figure


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
    figure, axes = _figure(9.5, 5.2, 1, 2, sharey=True)
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
    for axis, family in zip(axes[0], families, strict=True):
        drawn = [(name, kind, line.sort_values("true_bits")) for name, kind, line in family if len(line)]
        colors = sns.color_palette("colorblind", max(len(drawn), 1))
        for color, marker, (name, kind, line) in zip(colors, MARKERS * 3, drawn, strict=False):
            style = "--" if kind in ("dropped", "pruned") else "-"
            axis.plot(
                line["true_bits"], line["value"], style, marker=marker, color=color, ms=4, lw=1.4, label=f"{kind}: {label(name)}"
            )
        axis.set(xlabel="stored bits per weight (everything counted)")
        axis.invert_xaxis()
        axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2, frameon=False, fontsize=7)
    axes[0][0].set(ylabel="retained quality", ylim=(0, 1.05))
    figure.suptitle(f"{rows.iloc[0]['model']}: whole blocks (left), single weights and knapsack (right)")
    return figure


def pruning_gaps(gaps: pd.DataFrame, names: Sequence[str] = ("lim", "zd")) -> Figure:
    """How much more dropping loses than quantizing at the same bytes; above zero, quantizing wins.

    Args:
        gaps: from `claims.gaps`, of one model and quantizer.
        names: orderings to draw, one panel each.
    """
    figure, axes = _figure(8.0, 4.2, 1, len(names), sharey=True)
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


def gains(gains: pd.DataFrame) -> Figure:
    """By how much the loss falls when a score decides, at the same bytes; right of zero, it helps. Grey dots: random orders.

    Args:
        gains: from `claims.gains`, of one model.
    """
    panels = list(gains.groupby(["quantizer", "way", "moved"], sort=False))
    columns = min(3, len(panels))
    figure, axes = _figure(3.3 * columns, 2.3 * -(-len(panels) // columns), -(-len(panels) // columns), columns, sharey=True)
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


def tasks(answers: pd.DataFrame) -> Figure:
    """Retained accuracy against the share of blocks moved, one panel a task; bars are 95 % intervals over questions.

    Args:
        answers: from `compare.tasks`.
    """
    names = list(dict.fromkeys(answers["task"]))
    figure, axes = _figure(2.6 * len(names) + 0.6, 3.6, 1, len(names), sharey=True)
    for axis, name in zip(axes[0], names, strict=True):
        part = answers[answers["task"] == name].assign(fraction=lambda rows: rows["moved"] / rows["units"])
        _band(axis, part[is_random(part["ordering"])], "fraction")
        lines = _named(part)
        for position, (ordering, line) in enumerate(lines):
            color, style, marker = STYLES.get(ordering, OTHERS)
            errors = np.clip([line["value"] - line["low"], line["high"] - line["value"]], 0, None)
            shifted = line["fraction"] + 0.012 * (position - len(lines) / 2)
            axis.errorbar(shifted, line["value"], errors, fmt=marker + style, color=color, ms=4, lw=1.2, label=label(ordering))
        axis.axhline(0, color="#333333", lw=0.8)
        axis.set(title=name, xlabel="blocks moved")
        axis.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes[0][0].set_ylabel("retained accuracy (0: chance)")
    handles, texts = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, texts, loc="outside lower center", ncols=4, frameon=False)
    return figure


def rankings(table: pd.DataFrame) -> Figure:
    """Rank correlation with the default reading of a score, one row a variant: settings, calibration text, amount of text.

    Args:
        table: rows with the metric "spearman", of one model.
    """
    table = table.drop_duplicates(["ordering", "calibration"])
    names = [
        row["ordering"] if "(" in row["ordering"] else f"{label(row['ordering'])} on {row['calibration'].partition(' seed')[0]}"
        for row in table.to_dict("records")
    ]
    figure, axes = _figure(7.5, 1.2 + 0.3 * len(names))
    axis = axes[0][0]
    axis.plot(table["value"], range(len(names)), "o", color=STYLES["lim"][0], ms=6)
    axis.axvline(0, color="#333333", lw=0.8)
    axis.set_yticks(range(len(names)), names)
    axis.invert_yaxis()
    axis.set(xlabel="Spearman's rank correlation with the default", xlim=(-1.05, 1.05))
    return figure


def far(limits: pd.DataFrame, names: Sequence[str] = ("lim", "zd", "reversed(lim)", "reversed(zd)", "random")) -> Figure:
    """How far each ordering goes in every sweep: the largest share of blocks moved that keeps the quality, with its interval.

    The paper's two ranges (25 to 50 % with its ordering, 5 to 10 % with none) are shaded.

    Args:
        limits: columns sweep, ordering, value, low, high: `compare.limits` of several sweeps at one threshold.
        names: orderings to draw, each a little below the one before it.
    """
    sweeps = list(dict.fromkeys(limits["sweep"]))
    figure, axes = _figure(8.5, 1.4 + 0.62 * len(sweeps))
    axis = axes[0][0]
    for (text, (low, high)), hatch in zip(PAPER.items(), ("//", ".."), strict=True):
        axis.axvspan(low, high, facecolor="none", edgecolor="#cccccc", hatch=hatch, lw=0, label=f"paper: {text}")
    for offset, name in enumerate(names):
        color, _, marker = STYLES.get(name, (RANDOM, "", "D"))
        part = limits[limits["ordering"] == name].set_index("sweep")
        found = [(position, part.loc[sweep]) for position, sweep in enumerate(sweeps) if sweep in part.index]
        heights = [position + 0.14 * (offset - (len(names) - 1) / 2) for position, _ in found]
        axis.hlines(heights, [row["low"] for _, row in found], [row["high"] for _, row in found], color=color, lw=1.8)
        shown = f"{label(name)} (median and range)" if name == "random" else label(name)
        axis.plot([row["value"] for _, row in found], heights, marker, color=color, ms=5, label=shown)
    axis.set_yticks(range(len(sweeps)), sweeps)
    axis.set_ylim(len(sweeps) - 0.5, -0.5)
    axis.grid(axis="y", visible=False)
    axis.set(xlabel="blocks moved", xlim=(-0.02, 1.02))
    axis.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    figure.legend(loc="outside lower center", ncols=4, frameon=False)
    return figure
