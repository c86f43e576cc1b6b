"""Differences with intervals: paired bootstrap over windows, retained quality, how far an ordering
goes.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from lwq.common.errors import InputError
from lwq.common.names import nickname

RESAMPLES = 9999
CONFIDENCE = 0.95
SEED = 0
RUN = 4  # neighbouring windows that are taken together where their dependence is measured
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
# of a sweep that answers several tasks
ANSWERED = [column for column in SWEEP if column != "judge"]
ENDS = {"original", "uniform"}
RANDOM = "random"  # stands for all random orders together
BEST = "best"  # in place of an ordering: at each size whichever loses least
METRICS = ("perplexity", "kl", "top1")
PLACE = ("ordering", "seed", "moved", "units")  # of a plan in a sweep


class Interval(NamedTuple):
    """A value and the ends of its 95 % interval."""

    value: float
    low: float
    high: float


def paired(statistic: Callable[..., np.ndarray], *arrays: np.ndarray) -> Interval:
    """`statistic(*arrays, axis)` and its percentile bootstrap interval; windows are drawn together
    across arrays.

    Args:
        statistic: takes arrays with windows along `axis` and reduces that axis.
        arrays: one value a window each (windows,), in the same order of windows.

    Raises:
        InputError: for arrays of different lengths, or fewer than two windows.
    """
    lengths = {len(array) for array in arrays}
    if len(lengths) != 1 or lengths.pop() < 2:
        raise InputError(
            f"paired values are needed, two windows or more: lengths "
            f"{[len(array) for array in arrays]}"
        )
    value = float(statistic(*arrays, axis=-1))
    result = stats.bootstrap(
        arrays,
        statistic,
        paired=True,
        vectorized=True,
        n_resamples=RESAMPLES,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(SEED),
    )
    ends = result.confidence_interval
    if not np.isfinite([value, ends.low, ends.high]).all():
        raise InputError(
            f"a statistic of {value:g} [{ends.low:g}, {ends.high:g}] cannot be estimated from "
            f"{len(arrays[0])} values"
        )
    return Interval(value, float(ends.low), float(ends.high))


def retained(reference_nll: np.ndarray, nll: np.ndarray) -> Interval:
    """Retained quality: reference perplexity / perplexity, so that 0.95 means 5 % worse; 1 for
    equal losses.

    Both arguments hold one mean NLL (nats per token) a window, on the same windows.
    """
    return paired(
        lambda ref, new, axis: np.exp(ref.mean(axis) - new.mean(axis)), reference_nll, nll
    )


def mean(values: np.ndarray) -> Interval:
    """The mean over windows."""
    return paired(lambda v, axis: v.mean(axis), values)


def largest_fraction(
    fractions: np.ndarray, nll: np.ndarray, reference_nll: np.ndarray, threshold: float
) -> Interval:
    """The largest measured fraction moved up to which retained quality never falls below
    `threshold`.

    Args:
        fractions: of units moved, ascending (points,).
        nll: mean NLL of each point on each window (points, windows).
        reference_nll: of the sweep's reference, the all-high plan (windows,).
        threshold: of retained quality, such as 0.95.

    Returns:
        The fraction with its paired-bootstrap interval. It is a measured point: the interval cannot
        be finer than the steps. 0 where the first point moved already falls below.
    """
    order = np.argsort(fractions)
    fractions, nll = np.asarray(fractions)[order], np.asarray(nll)[order]

    def statistic(index: np.ndarray, axis: int) -> np.ndarray:
        chosen = index.astype(int)
        quality = np.exp(
            reference_nll[chosen].mean(axis)
            - nll[:, chosen].mean(axis=axis if axis < 0 else axis + 1)
        )
        kept = np.cumprod(quality >= threshold, axis=0).sum(axis=0)
        return np.where(kept > 0, fractions[np.maximum(kept - 1, 0)], 0.0)

    return paired(statistic, np.arange(len(reference_nll)))


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


def area(fractions: np.ndarray, nll: np.ndarray, reference_nll: np.ndarray) -> Interval:
    """Mean retained quality while units are moved: the area under the retained curve, by the
    trapezoid rule.

    The arguments are those of `largest_fraction`; 1 where nothing is lost.
    """
    order = np.argsort(fractions)
    fractions, nll = np.asarray(fractions)[order], np.asarray(nll)[order]

    def statistic(index: np.ndarray, axis: int) -> np.ndarray:
        chosen = index.astype(int)
        quality = np.exp(
            reference_nll[chosen].mean(axis)
            - nll[:, chosen].mean(axis=axis if axis < 0 else axis + 1)
        )
        return np.trapezoid(quality, fractions, axis=0)

    return paired(statistic, np.arange(len(reference_nll)))


def against_uniform(rows: pd.DataFrame, nll: Mapping[str, np.ndarray]) -> dict[str, Interval]:
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
    sizes, losses = uniform["true_bits"].to_numpy(), np.stack([nll[key] for key in uniform["id"]])
    found = {}
    for row in rows[~rows["ordering"].isin(ENDS)].to_dict("records"):
        above = int(np.searchsorted(sizes, row["true_bits"]))
        if 0 < above < len(sizes):
            share = (row["true_bits"] - sizes[above - 1]) / (sizes[above] - sizes[above - 1])
            found[row["id"]] = mean(
                (1 - share) * losses[above - 1] + share * losses[above] - nll[row["id"]]
            )
    return found


def by_id(windows: pd.DataFrame, column: str) -> dict[str, np.ndarray]:
    """id -> that column of windows.parquet in the order of its rows, without the rows that lack
    it.
    """
    kept = windows[windows[column].notna()]
    codes, ids = pd.factorize(kept["id"])
    values = kept[column].to_numpy()[np.argsort(codes, kind="stable")]
    return (
        dict(zip(map(str, ids), np.split(values, np.cumsum(np.bincount(codes))[:-1]), strict=True))
        if len(ids)
        else {}
    )


def nll_by_id(windows: pd.DataFrame) -> dict[str, np.ndarray]:
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
        losses = np.stack([nll[key] for key in points["id"]])
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
        above = mean(truth - guess)
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


def _retained_accuracy(reference: np.ndarray, correct: np.ndarray, chance: float) -> Interval:
    # a rare draw in which the reference only guesses
    with np.errstate(divide="ignore", invalid="ignore"):
        return paired(
            lambda ref, new, axis: (new.mean(axis) - chance) / (ref.mean(axis) - chance),
            reference,
            correct,
        )


class Dependence(NamedTuple):
    """How far neighbouring windows are from independent.

    Attributes:
        correlation: of the differences of neighbouring windows, mean over plans.
        wider: standard error from runs of `RUN` windows over that from single ones, median over
            plans.
    """

    correlation: float
    wider: float


def dependence(table: pd.DataFrame, windows: pd.DataFrame) -> Dependence | None:
    """What a bootstrap over single windows leaves out, from the differences between the plans of
    sweeps and their all-high plan.

    None where there are too few windows to tell.
    """
    nll, correlations, ratios = nll_by_id(windows), [], []
    for sweep in sweeps(table):
        rows = sweep[sweep["metric"] == "perplexity"]
        truth = nll[rows[(rows["ordering"] == "uniform") & (rows["moved"] == 0)].iloc[0]["id"]]
        if len(truth) < 4 * RUN:
            continue
        for key in rows.loc[~rows["ordering"].isin(ENDS) & (rows["moved"] > 0), "id"]:
            off = nll[key] - truth
            runs = off[: len(off) // RUN * RUN].reshape(-1, RUN).mean(axis=1)
            correlations.append(np.corrcoef(off[:-1], off[1:])[0, 1])
            ratios.append(stats.sem(runs) / stats.sem(off))
    return (
        Dependence(float(np.nanmean(correlations)), float(np.nanmedian(ratios))) if ratios else None
    )
