"""The paper's claims: what each table says, and the verdict by a rule of studies.yaml.

Everything here is computed from table.csv and windows.parquet. The rules and their numbers stand in
studies.yaml.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import permutations
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from lwq.common.names import nickname
from lwq.report import intervals
from lwq.report.intervals import Interval

HOLDS, FAILS, UNDECIDED = "holds", "does not hold", "undecided"
SAID = {HOLDS: "hold", FAILS: "do not", UNDECIDED: "undecided"}  # of several settings
RANDOM = "random"
BEST = "best"  # in place of an ordering: at each size whichever loses least
ONE_MORE = "one bit more"
TEXTS = ["calibration", "judge", "dtype"]
SAME = ["model", "fingerprint", "quantizer", *TEXTS]  # what plans must share to be compared
MASKS = ("magnitude", "wanda")  # quantizers that prune single weights
SIZE = 0.2  # bits by which the size of a mask may differ from that of a plan with dropped blocks
# by how far apart the base widths of a plan are
WAYS = {0: "outlier budget", 1: ONE_MORE, 2: "base bits"}


@dataclass(frozen=True)
class Verdict:
    """What one setting says about one claim.

    Attributes:
        claim: its key in studies.yaml.
        model: the model, or what stands for several.
        setting: quantizer, widths and score.
        verdict: "holds", "does not hold" or "undecided".
        number: the number that decides, as text.
        ids: of the rows behind it.
    """

    claim: str
    model: str
    setting: str
    verdict: str
    number: str
    ids: tuple[str, ...]


def decide(value: Interval, threshold: float = 0.0) -> str:
    """Whether an interval lies above `threshold` (holds), below it (does not hold), or on both
    sides.
    """
    if value.low > threshold:
        return HOLDS
    return FAILS if value.high < threshold else UNDECIDED


def verdicts(
    table: pd.DataFrame, windows: pd.DataFrame, claims: Mapping[str, Mapping[str, Any]]
) -> list[Verdict]:
    """The verdict of every claim in every setting that the table holds; `claims` is that part of
    studies.yaml.
    """
    found = []
    for key, claim in claims.items():
        rows = table[table["study"] == claim["study"]]
        found += [
            Verdict(key, *parts)
            for parts in RULES[claim["rule"]](rows, windows, claim.get("numbers", {}))
        ]
    return found


def by_model(found: Iterable[Verdict]) -> pd.DataFrame:
    """One line a claim and model: what all settings agree on, else "undecided"; how many say what,
    and an example of each.

    The example is the first setting of each verdict, in the order of the table.
    """
    frame = pd.DataFrame(
        [vars(verdict) for verdict in found], columns=list(Verdict.__dataclass_fields__)
    )
    lines = []
    for (claim, model), part in frame.groupby(["claim", "model"], sort=False):
        groups = {
            word: part[part["verdict"] == word]
            for word in (HOLDS, FAILS, UNDECIDED)
            if (part["verdict"] == word).any()
        }
        agreed = next(iter(groups)) if len(groups) == 1 else UNDECIDED
        counts = ", ".join(
            f"{(part['verdict'] == word).sum()} {said}" for word, said in SAID.items()
        )
        examples = "; ".join(
            f"{group.iloc[0]['setting']}: {group.iloc[0]['number']} ({word})"
            for word, group in groups.items()
        )
        lines.append(
            (claim, model, agreed, f"all {len(part)}" if len(groups) == 1 else counts, examples)
        )
    return pd.DataFrame(lines, columns=["claim", "model", "verdict", "settings", "number"])


Found = Iterator[tuple[str, str, str, str, tuple[str, ...]]]


def how_far(table: pd.DataFrame, windows: pd.DataFrame, numbers: Mapping[str, Any]) -> Found:
    """Claim (a): the ordering keeps `quality` until `share` of the units has moved, and random
    orders only until `baseline`.
    """
    for sweep in intervals.sweeps(table):
        limits = intervals.limits(sweep, windows, (numbers["quality"],)).set_index("ordering")
        if RANDOM not in limits.index:
            continue
        chance = dict(limits.loc[RANDOM])
        for ordering in [name for name in numbers["orderings"] if name in limits.index]:
            limit = Interval(*limits.loc[ordering, ["value", "low", "high"]])
            verdict = UNDECIDED
            if limit.low >= numbers["share"] and chance["value"] <= numbers["baseline"]:
                verdict = HOLDS
            elif limit.high < numbers["share"] or chance["value"] >= limit.value:
                verdict = FAILS
            until = intervals.span(limit, chance["step"], "[{}, {}]")
            others = intervals.span(
                Interval(*limits.loc[RANDOM, ["value", "low", "high"]]),
                chance["step"],
                "({} to {})",
            )
            text = f"{ordering.upper()} close until {until}, median random order until {others}"
            behind = (sweep["ordering"] == ordering) | sweep["ordering"].str.startswith(RANDOM)
            ids = sweep[behind & (sweep["metric"] == "perplexity")]["id"]
            yield (
                sweep["model"].iloc[0],
                f"{intervals.setting(sweep.iloc[0])}, {ordering}",
                verdict,
                text,
                tuple(ids),
            )


def headline(table: pd.DataFrame, windows: pd.DataFrame, numbers: Mapping[str, Any]) -> Found:
    """The headline: `quality` of the untouched model is kept at `avg_bits` nominal bits or less."""
    nll = intervals.nll_by_id(windows)
    for sweep in intervals.sweeps(table):
        rows = sweep[sweep["metric"] == "perplexity"]
        original = rows[rows["ordering"] == "original"].iloc[0]["id"]
        for ordering in numbers["orderings"]:
            fits = rows[(rows["ordering"] == ordering) & (rows["avg_bits"] <= numbers["avg_bits"])]
            near = fits[fits["avg_bits"] > numbers["avg_bits"] - 0.25]
            if near.empty:
                continue
            best = near.sort_values("avg_bits").iloc[-1]
            kept = intervals.retained(nll[original], nll[best["id"]])
            size = f"{best['avg_bits']:.2f} ({best['true_bits']:.2f} true) bits"
            text = f"{kept.value:.1%} [{kept.low:.1%}, {kept.high:.1%}] at {size}"
            setting = f"{intervals.setting(best)}, {ordering}"
            yield (
                sweep["model"].iloc[0],
                setting,
                decide(kept, numbers["quality"]),
                text,
                (original, best["id"]),
            )


def gains(table: pd.DataFrame, windows: pd.DataFrame) -> pd.DataFrame:
    """Claim (b): by how many nats per token the loss falls when an ordering decides, at the same
    bytes; above 0 it helps.

    The plain method has the same settings in every block. Where some blocks get one bit more, its
    loss at those bytes is read from the straight line between its two widths.

    Returns:
        Columns model, quantizer, way ("base bits", "one bit more" or "outlier budget"), moved (k of
        the way), ordering, value, low, high, plain, id.
    """
    nll = intervals.nll_by_id(windows)
    rows = table[(table["metric"] == "perplexity") & (table["ordering"] != "original")]
    found = []
    for (model, _, quantizer, *_), part in rows.groupby(SAME, sort=False):
        alike = part["ordering"].isin(["uniform", "plain"])
        between = intervals.against_uniform(part, nll)
        for row in part[~alike].to_dict("records"):
            way, k = WAYS[row["high"] - row["low"]], row["moved"]
            plain = part[alike & (part["low"] == (row["high"] + row["low"]) // 2)]
            plain = plain.iloc[(plain["true_bits"] - row["true_bits"]).abs().argsort()[:1]]
            if plain.empty or (way == ONE_MORE and row["id"] not in between):
                continue
            truth = plain.iloc[0]["id"]
            gain = intervals.mean(nll[truth] - nll[row["id"]])
            if way == ONE_MORE:
                gain, k = between[row["id"]], row["units"] - row["moved"]
            found.append((model, quantizer, way, k, row["ordering"], *gain, truth, row["id"]))
    return pd.DataFrame(
        found,
        columns=[
            "model",
            "quantizer",
            "way",
            "moved",
            "ordering",
            "value",
            "low",
            "high",
            "plain",
            "id",
        ],
    )


def helps(table: pd.DataFrame, windows: pd.DataFrame, numbers: Mapping[str, Any]) -> Found:
    """Claim (b): the gain's interval lies above 0, and the gain above that of the median random
    order.
    """
    found = gains(table, windows)
    for _, part in found.groupby(["model", "quantizer", "way", "moved"], sort=False):
        randoms = part.loc[part["ordering"].str.startswith(RANDOM), "value"]
        if randoms.empty:
            continue
        chance = randoms.median()
        beside = f"random orders {chance:+.3f} ({randoms.min():+.3f} to {randoms.max():+.3f})"
        for row in part[part["ordering"].isin(numbers["orderings"])].to_dict("records"):
            gain = Interval(row["value"], row["low"], row["high"])
            verdict = decide(gain)
            if verdict == HOLDS and not gain.value > chance:
                verdict = UNDECIDED
            text = (
                f"saves {gain.value:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}] nats/token, {beside}"
            )
            setting = (
                f"{nickname(row['quantizer'])}, {row['way']}, k = {row['moved']}, {row['ordering']}"
            )
            yield row["model"], setting, verdict, text, (row["plain"], row["id"])


def gaps(table: pd.DataFrame, windows: pd.DataFrame) -> pd.DataFrame:
    """Claim (c): how many nats per token pruning loses beyond quantizing, in one ordering, at the
    same bytes.

    Each plan with dropped blocks is set against the largest plan of the same ordering, for each low
    width, that is no larger, and smaller by less than a block. Single weights are pruned by
    whichever mask and layer rates lose least at that size. With the ordering "best", either side
    has whichever ordering loses least there.

    Returns:
        Columns model, quantizer, pruned ("blocks" or "weights"), bits (the low width), ordering,
        dropped (blocks at that size), true_bits, value, low, high, drop, quantized (row ids).
    """
    nll = intervals.nll_by_id(windows)
    plans = (table["high"] == 16) & ~table["ordering"].isin([*intervals.ENDS, "knapsack"])
    rows = table[(table["metric"] == "perplexity") & plans]
    thinned = table[(table["metric"] == "perplexity") & table["quantizer"].str.startswith(MASKS)]
    found = []
    for (model, weights, quantizer, *texts), group in rows.groupby(SAME, sort=False):
        masks = thinned[
            (thinned[["model", "fingerprint", *TEXTS]] == [model, weights, *texts]).all(axis=1)
        ]
        for ordering, part in [*group.groupby("ordering", sort=False), (BEST, group)]:
            first = "value" if ordering == BEST else "size"
            ranked = part.assign(size=-part["true_bits"]).sort_values(first, kind="stable")
            for drop in (
                ranked[ranked["low"] == 0]
                .drop_duplicates("moved")
                .sort_values("moved")
                .to_dict("records")
            ):
                key = (model, quantizer, ordering, drop["moved"])
                found += [(*key, "blocks", *gap) for gap in _against(drop, ranked, nll)]
                alike = masks[(masks["true_bits"] - drop["true_bits"]).abs() < SIZE]
                if len(alike):
                    best = alike.sort_values("value").iloc[0].to_dict() | {"units": drop["units"]}
                    found += [(*key, "weights", *gap) for gap in _against(best, ranked, nll)]
    place = ["model", "quantizer", "ordering", "dropped", "pruned"]
    return pd.DataFrame(
        found, columns=[*place, "bits", "true_bits", "value", "low", "high", "drop", "quantized"]
    )


def _against(
    pruned: Mapping[Any, Any], ranked: pd.DataFrame, nll: Mapping[str, np.ndarray]
) -> Iterator[tuple[Any, ...]]:
    """(bits, true_bits, gap, low, high, ids) of a pruned plan against the first of `ranked` that is
    as large, one a low width.
    """
    size, block = pruned["true_bits"] + 1e-9, 16 / pruned["units"]
    alike = ranked[
        (ranked["low"] != 0) & (ranked["true_bits"] <= size) & (ranked["true_bits"] > size - block)
    ]
    for bits, plans in alike.groupby("low"):
        plan = plans.iloc[0]
        gap = intervals.mean(nll[pruned["id"]] - nll[plan["id"]])
        yield bits, pruned["true_bits"], *gap, pruned["id"], plan["id"]


def crossings(gaps: pd.DataFrame) -> pd.DataFrame:
    """Who loses less at the same bytes, in runs of sizes from large to small.

    Args:
        gaps: from `gaps`.

    Returns:
        Columns model, quantizer, pruned, bits, ordering, wins ("quantizing", "pruning", or
        "neither" where an interval holds 0), most, least (true bits of the first and last size of
        the run).
    """
    found = []
    for place, part in gaps.groupby(
        ["model", "quantizer", "pruned", "bits", "ordering"], sort=False
    ):
        part = part.sort_values("true_bits", ascending=False)
        wins = np.select([part["low"] > 0, part["high"] < 0], ["quantizing", "pruning"], "neither")
        for _, run in part.groupby(np.cumsum(np.append(True, wins[1:] != wins[:-1]))):
            sizes = run["true_bits"].to_numpy()
            found.append((*place, wins[part.index.get_loc(run.index[0])], sizes[0], sizes[-1]))
    return pd.DataFrame(
        found, columns=["model", "quantizer", "pruned", "bits", "ordering", "wins", "most", "least"]
    )


def cheaper(table: pd.DataFrame, windows: pd.DataFrame, numbers: Mapping[str, Any]) -> Found:
    """Claim (c): quantizing to one of `bits` loses less than pruning at every size (holds), at
    none, or it depends.
    """
    found = gaps(table, windows)
    found = found[(found["pruned"] == numbers["pruned"]) & found["bits"].isin(numbers["bits"])]
    found = found[found["ordering"].isin(numbers["orderings"])]
    for _, part in found.groupby(["model", "quantizer", "bits", "ordering"], sort=False):
        ranked = part.sort_values("value").to_dict("records")
        each = {decide(Interval(row["value"], row["low"], row["high"])) for row in ranked}
        verdict = each.pop() if len(each) == 1 else UNDECIDED
        # the exception: here the claim expects dropping to be no worse
        if numbers.get("expected") == "dropping":
            verdict = {HOLDS: FAILS, FAILS: HOLDS}.get(verdict, verdict)
        least, most = ranked[0], ranked[-1]
        wins = sum(row["low"] > 0 for row in ranked)
        text = (
            f"quantizing loses less at {wins} of {len(ranked)} sizes; pruning minus quantizing: "
            f"least {least['value']:+.2f} "
            f"[{least['low']:+.2f}, {least['high']:+.2f}] nats/token (at {least['true_bits']:.1f} "
            f"bits), "
            f"most {most['value']:+.2f} (at {most['true_bits']:.1f})"
        )
        setting = f"{nickname(least['quantizer'])}, {least['bits']} bits, {least['ordering']}"
        yield least["model"], setting, verdict, text, (*part["drop"], *part["quantized"])


def areas(table: pd.DataFrame, windows: pd.DataFrame) -> pd.DataFrame:
    """Claim (d): the mean retained quality while blocks are moved, for each model and ordering.

    Returns:
        Columns model, units, quantizer, pair, calibration, judge, dtype, ordering, value, low,
        high, ids; random orders together as their median.
    """
    nll = intervals.nll_by_id(windows)
    found, together = [], []
    for sweep in intervals.sweeps(table):
        rows = sweep[sweep["metric"] == "perplexity"]
        truth = nll[rows[(rows["ordering"] == "uniform") & (rows["moved"] == 0)].iloc[0]["id"]]
        first = rows.iloc[0]
        # without the tokens, which differ between models
        texts = [first[key].partition(" #")[0] for key in TEXTS]
        place = (
            first["model"],
            first["units"],
            first["quantizer"],
            f"{first['high']} to {first['low']}",
            *texts,
        )
        chance = []
        for ordering, points in rows[~rows["ordering"].isin(intervals.ENDS)].groupby(
            "ordering", sort=False
        ):
            share, losses = (
                (points["moved"] / points["units"]).to_numpy(),
                np.stack([nll[key] for key in points["id"]]),
            )
            area = intervals.area(share, losses, truth)
            if str(ordering).startswith(RANDOM):
                chance.append(area.value)
            else:
                found.append((*place, ordering, *area, tuple(points["id"])))
        if chance:
            together.append((*place, RANDOM, np.median(chance), min(chance), max(chance), ()))
    columns = [
        "model",
        "units",
        "quantizer",
        "pair",
        *TEXTS,
        "ordering",
        "value",
        "low",
        "high",
        "ids",
    ]
    return pd.DataFrame([*found, *together], columns=columns)


class Swept(NamedTuple):
    """A sweep, how far its orderings go (`intervals.limits` at one quality), and the areas under
    their curves (`areas`).
    """

    rows: pd.DataFrame
    limits: pd.DataFrame
    areas: pd.DataFrame


def swept(table: pd.DataFrame, windows: pd.DataFrame, quality: float) -> list[Swept]:
    """Every finished sweep of a table."""
    return [
        Swept(rows, intervals.limits(rows, windows, (quality,)), areas(rows, windows))
        for rows in intervals.sweeps(table)
    ]


def grows(table: pd.DataFrame, windows: pd.DataFrame, numbers: Mapping[str, Any]) -> Found:
    """Claim (d): Spearman's correlation of depth and area over models, its interval from each
    area's own (normal) interval.

    So few models line up by chance: a verdict asks as well that no more than `chance` of all their
        orders are as clear. With
    `same_shares`, areas have the points that all models share, so that a deep model's finer steps
    cannot raise it.
    """
    for name, pattern in numbers["groups"].items():
        rows = table[table["model"].str.contains(pattern)]
        found = areas(_shared(rows) if numbers.get("same_shares") else rows, windows)
        group = found[found["ordering"].isin(numbers["orderings"])]
        for (quantizer, pair, _, _, _, ordering), part in group.groupby(
            ["quantizer", "pair", *TEXTS, "ordering"], sort=False
        ):
            if part["units"].nunique() < 3:
                continue
            trend, (clear, orders) = _trend(part), _luck(part)
            verdict = decide(trend) if clear / orders <= numbers["chance"] else UNDECIDED
            text = (
                f"Spearman {trend.value:+.2f} [{trend.low:+.2f}, {trend.high:+.2f}] over "
                f"{len(part)} models, "
                f"{clear} of their {orders:,} orders as clear on that side"
            )
            ids = tuple(key for keys in part["ids"] for key in keys)
            yield name, f"{nickname(str(quantizer))}, {pair} bits, {ordering}", verdict, text, ids


def _shared(table: pd.DataFrame) -> pd.DataFrame:
    """The rows at shares of blocks moved that every model of the same quantizer and widths has."""
    share = table["moved"] / table["units"]
    place = [table["quantizer"], table["high"], table["low"]]
    having = table["model"].groupby([*place, share]).transform("nunique")
    return table[having == table["model"].groupby(place).transform("nunique")]


def _luck(part: pd.DataFrame) -> tuple[int, int]:
    """How many orders of the models have a correlation as far on the same side, and how many there
    are (a one-sided test).
    """
    units, orders = rankdata(part["units"]), np.array(list(permutations(rankdata(part["value"]))))
    spearman = _correlation(orders, units)  # its first row is the order that was found
    return int((np.sign(spearman[0]) * spearman >= abs(spearman[0]) - 1e-9).sum()), len(orders)


def _trend(part: pd.DataFrame) -> Interval:
    units, sd = rankdata(part["units"]), (part["high"] - part["low"]) / (2 * 1.96)
    draws = np.random.default_rng(intervals.SEED).normal(
        part["value"], sd, (intervals.RESAMPLES, len(part))
    )
    ranks = rankdata(np.vstack([part["value"], draws]), axis=1)
    spearman = _correlation(ranks, units)
    low, high = np.quantile(spearman[1:], [0.025, 0.975])
    return Interval(float(spearman[0]), float(low), float(high))


def _correlation(rows: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Pearson's correlation of each row with `values`."""
    rows, values = rows - rows.mean(1, keepdims=True), values - values.mean()
    return rows @ values / np.sqrt((rows**2).sum(1) * (values**2).sum())


RULES: dict[str, Callable[..., Found]] = {
    "far": how_far,
    "headline": headline,
    "helps": helps,
    "cheaper": cheaper,
    "grows": grows,
}
