"""Sweeps with intervals: how far an ordering goes, the area under its curve, what it gains over
uniform bits, what is left of accuracy on tasks.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from lwq.common.names import nickname
from lwq.report.bootstrap import Interval, Sample, Values, mean, paired

SWEEP = [
    "study",
    "model",
    "fingerprint",
    "units",
    "quantizer",
    "high",
    "low",
    "calibration",
    "judge",
    "dtype",
]
# what plans must share to be compared
SAME = ["model", "fingerprint", "quantizer", "calibration", "judge", "dtype"]
# of a sweep that answers several tasks
ANSWERED = [column for column in SWEEP if column != "judge"]
ENDS = {"original", "uniform"}
RANDOM = "random"  # stands for all random orders together
BEST = "best"  # in place of an ordering: at each size whichever loses least
METRICS = ("perplexity", "kl", "top1")
PLACE = ("ordering", "seed", "moved", "units")  # of a plan in a sweep


def largest_fraction(
    fractions: np.ndarray, nll: Sequence[Values], reference_nll: Values, threshold: float
) -> Interval:
    """The largest measured fraction moved up to which retained quality never falls below
    `threshold`.

    Args:
        fractions: of units moved, ascending (points,).
        nll: mean NLL of each window, one sample a point.
        reference_nll: of the sweep's reference, the all-high plan.
        threshold: of retained quality, such as 0.95.

    Returns:
        The fraction with its paired-bootstrap interval. It is a measured point: the interval cannot
        be finer than the steps. 0 where the first point moved already falls below.
    """
    order = np.argsort(fractions)
    fractions = np.asarray(fractions)[order]

    def statistic(means: np.ndarray) -> np.ndarray:
        quality = np.exp(means[0] - means[1:][order])
        kept = np.cumprod(quality >= threshold, axis=0).sum(axis=0)
        return np.where(kept > 0, fractions[np.maximum(kept - 1, 0)], 0.0)

    return paired(statistic, reference_nll, *nll)


def sweeps(table: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """The rows of each sweep: one study, model, quantizer, pair of widths, texts and arithmetic.

    Unfinished ones are left out: those in which one ordering has more points than another, or none
        between its two ends (ends
    alone say how far another dtype is off).
    """
    for _, part in table[table["metric"].isin(METRICS)].groupby(SWEEP, sort=False):
        points = part[~part["ordering"].isin(ENDS)].groupby("ordering")["moved"].nunique()
        if len(points) and points.max() == points.min() > 2:
            yield part.reset_index(drop=True)


def setting(row: Any) -> str:
    """What readers call the quantizer and the widths of a row, or of the sweep that it belongs to:
    "gptq, 4 to 3 bits".
    """
    return f"{nickname(row['quantizer'])}, {row['high']} to {row['low']} bits"


def area(fractions: np.ndarray, nll: Sequence[Values], reference_nll: Values) -> Interval:
    """Mean retained quality while units are moved: the area under the retained curve, by the
    trapezoid rule.

    The arguments are those of `largest_fraction`; 1 where nothing is lost.
    """
    order = np.argsort(fractions)

    def statistic(means: np.ndarray) -> np.ndarray:
        quality = np.exp(means[0] - means[1:][order])
        return np.trapezoid(quality, np.asarray(fractions)[order], axis=0)

    return paired(statistic, reference_nll, *nll)


def against_uniform(rows: pd.DataFrame, nll: Mapping[str, Sample]) -> dict[str, Interval]:
    """By how many nats per token each plan beats uniform bits of the same true size; below 0 it
    loses.

    Uniform bits of a size between two widths are a straight line between the losses of the two, on
    each window; a size below the lowest or above the highest width is left out.

    Args:
        rows: those of one sweep, one a plan.
        nll: from `nll_by_id`.

    Returns:
        id -> gain, for the plans that are not uniform themselves; empty where there are no two
        widths to draw a line through.
    """
    uniform = rows[rows["ordering"] == "uniform"].sort_values("true_bits")
    if len(uniform) < 2:
        return {}
    sizes, losses = uniform["true_bits"].to_numpy(), [nll[key].values for key in uniform["id"]]
    found = {}
    for row in rows[~rows["ordering"].isin(ENDS)].to_dict("records"):
        above = int(np.searchsorted(sizes, row["true_bits"]))
        if 0 < above < len(sizes):
            share = (row["true_bits"] - sizes[above - 1]) / (sizes[above] - sizes[above - 1])
            own = nll[row["id"]]
            line = (1 - share) * losses[above - 1] + share * losses[above]
            found[row["id"]] = mean(Sample(line, own.documents) - own)
    return found


def by_id(windows: pd.DataFrame, column: str) -> dict[str, Sample]:
    """id -> that column of windows.parquet in the order of its rows, without the rows that lack it,
    and their documents.
    """
    kept = windows[windows[column].notna()]
    codes, ids = pd.factorize(kept["id"])
    order = np.argsort(codes, kind="stable")
    cuts = np.cumsum(np.bincount(codes))[:-1]
    values, documents = (
        np.split(kept[name].to_numpy(np.float64)[order], cuts) for name in (column, "document")
    )
    return {
        str(key): Sample(own, None if np.isnan(places).any() else places)
        for key, own, places in zip(ids, values, documents, strict=False)
    }


def nll_by_id(windows: pd.DataFrame) -> dict[str, Sample]:
    """id -> mean NLL of each window, from windows.parquet."""
    return by_id(windows, "nll")


def limits(
    table: pd.DataFrame, windows: pd.DataFrame, thresholds: tuple[float, ...] = (0.95, 0.90)
) -> pd.DataFrame:
    """How far each ordering goes: the largest fraction moved that keeps each threshold of retained
    quality.

    Args:
        table: rows of one study, model, quantizer and pair of widths.
        windows: the arrays behind them.
        thresholds: of retained quality, relative to the all-high plan.

    Returns:
        Columns ordering, seed, threshold, value, low, high, step (the smallest share that was
        measured).
        The random orders stand as one line each, and together as "random": their median, lowest and
        highest value.
    """
    rows = table[table["metric"] == "perplexity"]
    nll = nll_by_id(windows)
    truth = nll[rows[(rows["ordering"] == "uniform") & (rows["moved"] == 0)].iloc[0]["id"]]
    found = []
    for ordering, points in rows[~rows["ordering"].isin(["original", "uniform"])].groupby(
        "ordering", sort=False
    ):
        fractions = (points["moved"] / points["units"]).to_numpy()
        losses = [nll[key] for key in points["id"]]
        for threshold in thresholds:
            kept = largest_fraction(fractions, losses, truth, threshold)
            step = fractions[fractions > 0].min()
            found.append((ordering, points["seed"].iloc[0], threshold, *kept, step))
    columns = ["ordering", "seed", "threshold", "value", "low", "high", "step"]
    frame = pd.DataFrame(found, columns=columns)
    randoms = frame[frame["seed"].notna()]
    if len(randoms):
        together = (
            randoms.groupby("threshold")["value"]
            .agg(value="median", low="min", high="max")
            .reset_index()
        )
        together = together.assign(step=randoms["step"].min())
        together = together.assign(ordering=RANDOM, seed=None)
        frame = pd.concat([frame, together[columns]], ignore_index=True)
    return frame.sort_values(
        ["threshold", "value"], ascending=False, kind="stable", ignore_index=True
    )


def share(value: float, step: float) -> str:
    """A share of blocks of `limits`, as text; nothing was measured between none and the first
    `step`.
    """
    return f"{value:.0%}" if value else f"< {step:.0%}"


def span(value: Interval, step: float, form: str) -> str:
    """A share of `limits` with its ends in `form`, such as "[{}, {}]"; without them where all three
    are the same.
    """
    own, low, high = (share(number, step) for number in value)
    return own if low == own == high else f"{own} {form.format(low, high)}"


def tasks(table: pd.DataFrame, windows: pd.DataFrame) -> pd.DataFrame:
    """Retained accuracy of each plan and task: (accuracy − chance) / (accuracy of the all-high plan
    − chance).

    A task is left out where the all-high plan itself is not clearly better than chance: nothing can
    be retained of that.

    Args:
        table: rows of one study, model, quantizer and pair of widths.
        windows: the arrays behind them.

    Returns:
        Columns task, ordering, seed, moved, units, accuracy, value, low, high, id; the interval is
        paired over items.
    """
    rows = table[table["metric"] == "accuracy"]
    chance = table[table["metric"] == "chance"].set_index("id")["value"]
    correct = by_id(windows, "correct")
    found = []
    for (judge, *_), part in rows.groupby(["judge", "calibration", "fingerprint"]):
        all_high = part.loc[part["moved"] == 0, "id"]
        if all_high.empty:  # not measured yet
            continue
        truth, guess = correct[all_high.iloc[0]], float(chance[all_high.iloc[0]])
        above = mean(truth.values - guess)
        # some four standard errors: of less, a share means nothing
        if above.value <= 2 * (above.value - above.low):
            continue
        for row in part[part["moved"] > 0].to_dict("records"):
            kept = _retained_accuracy(truth, correct[row["id"]], guess)
            place = (str(judge).split()[0], *(row[key] for key in PLACE))
            found.append((*place, row["value"], *kept, row["id"]))
    return pd.DataFrame(
        found,
        columns=["task", *PLACE, "accuracy", "value", "low", "high", "id"],
    )


def _retained_accuracy(reference: Sample, correct: Sample, chance: float) -> Interval:
    # a rare draw in which the reference only guesses
    with np.errstate(divide="ignore", invalid="ignore"):
        return paired(lambda means: (means[1] - chance) / (means[0] - chance), reference, correct)
