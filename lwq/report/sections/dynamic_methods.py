"""The study of dynamic methods: does a layer score add to them? Its rule, table and figure."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from lwq.common.names import nickname
from lwq.contracts.section import Picture, Section, Verdict
from lwq.report import bootstrap, claims, intervals
from lwq.report.bootstrap import Interval
from lwq.report.claims import HOLDS, UNDECIDED, Found, decide
from lwq.report.figures import style
from lwq.report.figures.style import label
from lwq.report.intervals import RANDOM, SAME
from lwq.report.line import Line, on_windows
from lwq.results.plans import StoredPlan
from lwq.studies import grid

NAME = "dynamic_methods"
ONE_MORE = "one bit more"
NOTHING = Interval(np.nan, np.nan, np.nan)


def gained(table: pd.DataFrame, windows: pd.DataFrame) -> pd.DataFrame:
    """By how many nats per token the loss falls when an ordering decides, at the same
    bytes; above 0 it helps.

    The plain method has the same settings in every block. Where some blocks get one bit more, its
    loss at those bytes is read from the straight line between its two widths.

    Returns:
        Columns model, quantizer, way ("base bits", "one bit more" or "outlier budget"), moved (k of
        the way), ordering, seed, value, low, high, plain, id.
    """
    nll = intervals.nll_by_id(windows)
    rows = table[(table["metric"] == "perplexity") & (table["way"] != "original")]
    found = []
    for (model, _, quantizer, *_), part in rows.groupby(SAME, sort=False):
        alike = part["way"] == "plain"
        between = intervals.against_uniform(part, nll)
        for row in part[~alike].to_dict("records"):
            way, k = row["way"], row["moved"]
            plain = part[alike & (part["low"] == (row["high"] + row["low"]) // 2)]
            plain = plain.iloc[(plain["true_bits"] - row["true_bits"]).abs().argsort()[:1]]
            if plain.empty or (way == ONE_MORE and row["id"] not in between):
                continue
            truth = plain.iloc[0]["id"]
            gain = bootstrap.mean(nll[truth] - nll[row["id"]])
            if way == ONE_MORE:
                gain, k = between[row["id"]], row["units"] - row["moved"]
            who = (row["ordering"], row["seed"])
            found.append((model, quantizer, way, k, *who, *gain, truth, row["id"]))
    return pd.DataFrame(
        found,
        columns=[
            "model",
            "quantizer",
            "way",
            "moved",
            "ordering",
            "seed",
            "value",
            "low",
            "high",
            "plain",
            "id",
        ],
    )


def above_curve(table: pd.DataFrame, windows: pd.DataFrame) -> dict[str, Interval]:
    """Id of a plan in which some blocks get one bit more -> how much less KL it has than uniform
    bits of its bytes, on the line that is straight in log KL.
    """
    kl = intervals.by_id(windows, "kl")
    rows = table[table["metric"] == "kl"].assign(kl=lambda frame: frame["value"])
    found = {}
    for _, part in rows.groupby(SAME, sort=False):
        uniform = Line.through(part[part["ordering"] == "uniform"])
        for row in part[part["way"] == ONE_MORE].to_dict("records"):
            if (shares := uniform.at(row["total_bytes"])) is not None:
                found[row["id"]] = bootstrap.mean(on_windows(shares, kl) - kl[row["id"]])
    return found


def helps(table: pd.DataFrame, windows: pd.DataFrame, numbers: Mapping[str, Any]) -> Found:
    """The gain's interval lies above 0, and the gain above that of the median random order; with
    one bit more, the interval of the gain in KL over the line straight in log KL, too.
    """
    found, curved = gained(table, windows), above_curve(table, windows)
    for _, part in found.groupby(["model", "quantizer", "way", "moved"], sort=False):
        randoms = part.loc[style.is_random(part), "value"]
        if randoms.empty:
            continue
        chance = randoms.median()
        beside = f"random orders {chance:+.3f} ({randoms.min():+.3f} to {randoms.max():+.3f})"
        for row in part[part["ordering"].isin(numbers["orderings"])].to_dict("records"):
            gain = Interval(row["value"], row["low"], row["high"])
            verdict = decide(gain)
            text, strict = f"saves {gain.signed(3)} nats/token, {beside}", gain
            if row["way"] == ONE_MORE:
                strict = curved.get(row["id"], NOTHING)
                text += f"; in KL, beside the curve, {strict.signed(3)}"
            if verdict == HOLDS and not (gain.value > chance and strict.low > 0):
                verdict = UNDECIDED
            setting = (
                f"{nickname(row['quantizer'])}, {row['way']}, k = {row['moved']}, {row['ordering']}"
            )
            yield row["model"], setting, verdict, text, (row["plain"], row["id"])


def ways(found: Iterable[Verdict], gains: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """One line a model and way in which a score decides: its verdicts, and the random
    orders that gain something.

    Returns:
        Lines of model, way, gaining and scores: label -> in how many of its settings it holds, its
        interval lies above every random order, and it beats its reverse.
    """
    found, scores = list(found), style.scores(style.labels(gains))
    for (model, way), part in gains.groupby(["model", "way"], sort=False):
        chance = part[style.is_random(part)]
        line: dict[str, Any] = {
            "model": model,
            "way": way,
            "gaining": f"{(chance['value'] > 0).sum()} of {len(chance)}",
            "scores": {},
        }
        for score in scores:
            own = [
                v.verdict
                for v in found
                if v.model == model
                and f", {way}, " in v.setting
                and v.setting.endswith(f" {score}")
            ]
            above = beats = 0
            for _, same in part.groupby(["quantizer", "moved"]):
                mine, turned = (
                    same[same["ordering"] == name] for name in (score, f"reversed({score})")
                )
                randoms = same.loc[style.is_random(same), "value"]
                above += len(mine) > 0 and bool(mine["low"].iloc[0] > randoms.max())
                beats += len(mine) > 0 < len(turned) and bool(
                    mine["value"].iloc[0] > turned["value"].iloc[0]
                )
            line["scores"][label(score)] = {
                "settings": len(own),
                "holds": own.count(HOLDS),
                "above": above,
                "beats": beats,
            }
        yield line


def section(table: pd.DataFrame, plans: Mapping[str, StoredPlan], windows: pd.DataFrame) -> Section:
    """All that the report says of the study."""
    found = claims.verdicts(table, windows, grid.catalogue()[NAME]["claims"], RULES)
    frame = gained(table, windows)
    pictures = tuple(_pictures(frame))
    return Section(found, {"ways": list(ways(found, frame))}, figures={"": pictures})


def _pictures(frame: pd.DataFrame) -> Iterator[Picture]:
    for model, part in frame.groupby("model", sort=False):
        alt = (
            "What is gained when a layer score decides inside OWQ, SpQR and BAQ, at the same "
            f"bytes: {model}."
        )
        yield Picture(gains, (part,), str(model), alt, f"study {NAME}, model {model}")


NEAR = 0.1  # nats; the scale of gains is linear up to it, on either side of 0
TICKS = (-10, -1, -NEAR, 0, NEAR, 1)
TITLES = {
    "base bits": "{k} blocks up, {k} down",
    "one bit more": "{k} blocks one bit up",
    "outlier budget": "outliers to the upper half",
}


def gains(gains: pd.DataFrame) -> Figure:
    """By how much the loss falls when a score decides, at the same bytes; right of zero, it helps.
    Grey dots: random orders.

    One row of panels a method, all on one scale.

    Args:
        gains: from `gained`, of one model.
    """
    gains = gains.assign(
        method=gains["quantizer"].map(nickname),
        name=gains["ordering"].mask(style.is_random(gains), RANDOM),
    )
    names = _rows_of(gains["name"])
    methods = {
        method: [panel for _, panel in part.groupby(["way", "moved"])]
        for method, part in gains.groupby("method", sort=False)
    }
    columns = max(map(len, methods.values()))
    figure, axes = style.canvas(
        1.6 + 1.8 * columns,
        0.9 + 1.9 * len(methods),
        len(methods),
        columns,
        sharex=True,
        sharey=True,
    )
    left, right = min(gains["low"].min(), 0), max(gains["high"].max(), 0)
    axes[0][0].set_xscale("symlog", linthresh=NEAR)
    axes[0][0].set_xlim(1.3 * min(left, -NEAR), 1.3 * max(right, NEAR))
    for row, (method, panels) in zip(axes, methods.items(), strict=True):
        for axis, panel in zip(row, panels, strict=False):
            _panel(axis, panel, names, style.looks(names))
            axis.set_title(
                TITLES[panel["way"].iloc[0]].format(k=panel["moved"].iloc[0]), fontsize=8.5
            )
        for axis in row[len(panels) :]:
            axis.set_visible(False)
        row[0].set_ylabel(method, fontweight="bold")
    axes[0][0].set_yticks(range(len(names)), map(label, names))
    axes[0][0].set_ylim(len(names) - 0.5, -0.5)
    what = "gain over the plain method at the same bytes\n(nats/token, log beyond ±0.1); better →"
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
            color=style.RANDOM,
            ls="",
            marker=".",
            ms=5,
            label="a random order (shaded: their range)",
        ),
    ]
    figure.legend(handles=shown, loc="outside upper center", ncols=2, frameon=False)
    return figure


def _rows_of(names: Iterable[str]) -> list[str]:
    """From top to bottom: each score before its reverse, random orders last."""
    met = set(names)
    found = style.order(met)
    found.sort(key=lambda name: (style.turned(name) or name, bool(style.turned(name))))
    return found + [RANDOM] * (RANDOM in met)


def _panel(axis: Axes, part: pd.DataFrame, names: list[str], looks: style.Looks) -> None:
    """One panel: a row an ordering, from top to bottom."""
    for row in part.to_dict("records"):
        position = names.index(row["name"])
        color, _, marker = looks.get(row["name"], style.Look(style.RANDOM, "", "."))
        if row["name"] != RANDOM:
            axis.plot([row["low"], row["high"]], [position] * 2, color=color, lw=2.2)
        axis.plot(row["value"], position, marker, color=color, ms=5)
    chance = part.loc[part["name"] == RANDOM, "value"]
    if len(chance):
        axis.axvspan(chance.min(), chance.max(), color=style.RANDOM, alpha=0.2, lw=0)
    axis.axvline(0, color="#333333", lw=0.9)
    axis.tick_params(axis="x", labelsize=7, labelbottom=True)
    axis.xaxis.set_major_locator(FixedLocator(TICKS))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}".replace("-", "−")))


RULES: dict[str, claims.Rule] = {"helps": helps}
