"""The paper's claims: what each table says, and the verdict by a rule that was written down before the run.

Everything here is computed from table.csv and windows.parquet. The rules and their numbers stand in studies.yaml.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from lwq import compare
from lwq.compare import Interval
from lwq.strategies import nickname

HOLDS, FAILS, UNDECIDED = "holds", "does not hold", "undecided"
RANDOM = "random"
ONE_MORE = "one bit more"
WAYS = {0: "outlier budget", 1: ONE_MORE, 2: "base bits"}  # by how far apart the base widths of a plan are


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
    """Whether an interval lies above `threshold` (holds), below it (does not hold), or on both sides."""
    if value.low > threshold:
        return HOLDS
    return FAILS if value.high < threshold else UNDECIDED


def verdicts(table: pd.DataFrame, windows: pd.DataFrame, claims: Mapping[str, Mapping[str, Any]]) -> list[Verdict]:
    """The verdict of every claim in every setting that the table holds; `claims` is that part of studies.yaml."""
    found = []
    for key, claim in claims.items():
        rows = table[table["study"] == claim["study"]]
        found += [Verdict(key, *parts) for parts in RULES[claim["rule"]](rows, windows, claim.get("numbers", {}))]
    return found


def by_model(found: Iterable[Verdict]) -> pd.DataFrame:
    """One line a claim and model: what all settings agree on, else "undecided"; how many say what, and an example of each."""
    frame = pd.DataFrame([vars(verdict) for verdict in found], columns=list(Verdict.__dataclass_fields__))
    lines = []
    for (claim, model), part in frame.groupby(["claim", "model"], sort=False):
        groups = {word: part[part["verdict"] == word] for word in (HOLDS, FAILS, UNDECIDED) if (part["verdict"] == word).any()}
        agreed = next(iter(groups)) if len(groups) == 1 else UNDECIDED
        counts = ", ".join(f"{word} in {len(group)}" for word, group in groups.items())
        examples = "; ".join(f"{group.iloc[0]['setting']}: {group.iloc[0]['number']} ({word})" for word, group in groups.items())
        lines.append((claim, model, agreed, f"{counts} of {len(part)} settings", examples))
    return pd.DataFrame(lines, columns=["claim", "model", "verdict", "settings", "number"])


def _setting(row: pd.Series) -> str:
    return f"{nickname(row['quantizer'])} {row['high']} to {row['low']} bits"


Found = Iterator[tuple[str, str, str, str, tuple[str, ...]]]


def far(table: pd.DataFrame, windows: pd.DataFrame, numbers: Mapping[str, Any]) -> Found:
    """Claim (a): the ordering keeps `quality` until `share` of the units has moved, and random orders only until `baseline`."""
    for sweep in compare.sweeps(table):
        limits = compare.limits(sweep, windows, (numbers["quality"],)).set_index("ordering")
        if RANDOM not in limits.index:
            continue
        chance = limits.loc[RANDOM]
        for ordering in [name for name in numbers["orderings"] if name in limits.index]:
            limit = Interval(*limits.loc[ordering, ["value", "low", "high"]])
            verdict = UNDECIDED
            if limit.low >= numbers["share"] and chance["value"] <= numbers["baseline"]:
                verdict = HOLDS
            elif limit.high < numbers["share"] or chance["value"] >= limit.value:
                verdict = FAILS
            text = (
                f"{ordering.upper()} until {limit.value:.0%} [{limit.low:.0%}, {limit.high:.0%}], "
                f"random until {chance['value']:.0%} ({chance['low']:.0%} to {chance['high']:.0%})"
            )
            behind = (sweep["ordering"] == ordering) | sweep["ordering"].str.startswith(RANDOM)
            ids = sweep[behind & (sweep["metric"] == "perplexity")]["id"]
            yield sweep["model"].iloc[0], f"{_setting(sweep.iloc[0])}, {ordering}", verdict, text, tuple(ids)


def headline(table: pd.DataFrame, windows: pd.DataFrame, numbers: Mapping[str, Any]) -> Found:
    """The headline: `quality` of the untouched model is kept at `avg_bits` nominal bits or less."""
    nll = compare.nll_by_id(windows)
    for sweep in compare.sweeps(table):
        rows = sweep[sweep["metric"] == "perplexity"]
        original = rows[rows["ordering"] == "original"].iloc[0]["id"]
        for ordering in numbers["orderings"]:
            fits = rows[(rows["ordering"] == ordering) & (rows["avg_bits"] <= numbers["avg_bits"])]
            near = fits[fits["avg_bits"] > numbers["avg_bits"] - 0.25]
            if near.empty:
                continue
            best = near.sort_values("avg_bits").iloc[-1]
            kept = compare.retained(nll[original], nll[best["id"]])
            size = f"{best['avg_bits']:.2f} ({best['true_bits']:.2f} true) bits"
            text = f"{kept.value:.1%} [{kept.low:.1%}, {kept.high:.1%}] at {size}"
            setting = f"{_setting(best)}, {ordering}"
            yield sweep["model"].iloc[0], setting, decide(kept, numbers["quality"]), text, (original, best["id"])


def gains(table: pd.DataFrame, windows: pd.DataFrame) -> pd.DataFrame:
    """Claim (b): by how many nats per token the loss falls when an ordering decides, at the same bytes; above 0 it helps.

    The plain method has the same settings in every block. Where some blocks get one bit more, its loss at those bytes is read
    from the straight line between its two widths.

    Returns:
        Columns model, quantizer, way ("base bits", "one bit more" or "outlier budget"), moved (k of the way), ordering, value,
        low, high, plain, id.
    """
    nll = compare.nll_by_id(windows)
    rows = table[(table["metric"] == "perplexity") & (table["ordering"] != "original")]
    found = []
    for (model, quantizer, *_), part in rows.groupby(["model", "quantizer", "judge", "dtype"], sort=False):
        plain = part[part["ordering"].isin(["uniform", "plain"])].sort_values("true_bits")
        if plain.empty:
            continue
        truth = plain.iloc[0]["id"]
        between = compare.against_uniform(part, nll)
        for row in part.drop(plain.index).to_dict("records"):
            way, k = WAYS[row["high"] - row["low"]], row["moved"]
            gain = compare.mean(nll[truth] - nll[row["id"]])
            if way == ONE_MORE:
                gain, k = between[row["id"]], row["units"] - row["moved"]
            found.append((model, quantizer, way, k, row["ordering"], *gain, truth, row["id"]))
    return pd.DataFrame(found, columns=["model", "quantizer", "way", "moved", "ordering", "value", "low", "high", "plain", "id"])


def helps(table: pd.DataFrame, windows: pd.DataFrame, numbers: Mapping[str, Any]) -> Found:
    """Claim (b): the gain's interval lies above 0, and the gain above that of the median random order."""
    found = gains(table, windows)
    for _, part in found.groupby(["model", "quantizer", "way", "moved"], sort=False):
        chance = part.loc[part["ordering"].str.startswith(RANDOM), "value"].median()
        for row in part[part["ordering"].isin(numbers["orderings"])].to_dict("records"):
            gain = Interval(row["value"], row["low"], row["high"])
            verdict = decide(gain)
            if verdict == HOLDS and not gain.value > chance:
                verdict = UNDECIDED
            text = f"{gain.value:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}] nats/token, random {chance:+.3f}"
            setting = f"{nickname(row['quantizer'])}, {row['way']}, k = {row['moved']}, {row['ordering']}"
            yield row["model"], setting, verdict, text, (row["plain"], row["id"])


def gaps(table: pd.DataFrame, windows: pd.DataFrame) -> pd.DataFrame:
    """Claim (c): how many nats per token dropping blocks loses beyond quantizing, in one ordering, at the same bytes.

    Each plan with dropped blocks is set against the largest plan of the same ordering, for each low width, that is no larger,
    and smaller by less than a block.

    Returns:
        Columns model, quantizer, bits (the low width), ordering, dropped, true_bits, value, low, high, drop, quantized (row ids).
    """
    nll = compare.nll_by_id(windows)
    rows = table[(table["metric"] == "perplexity") & (table["high"] == 16) & ~table["ordering"].isin(compare.ENDS)]
    found = []
    for (model, quantizer, ordering), part in rows.groupby(["model", "quantizer", "ordering"], sort=False):
        for drop in part[part["low"] == 0].to_dict("records"):
            size, block = drop["true_bits"] + 1e-9, 16 / drop["units"]
            alike = part[(part["low"] != 0) & (part["true_bits"] <= size) & (part["true_bits"] > size - block)]
            for bits, plans in alike.groupby("low"):
                plan = plans.sort_values("true_bits").iloc[-1]
                gap = compare.mean(nll[drop["id"]] - nll[plan["id"]])
                place = (model, quantizer, bits, ordering, drop["moved"], drop["true_bits"])
                found.append((*place, *gap, drop["id"], plan["id"]))
    return pd.DataFrame(
        found,
        columns=[
            "model",
            "quantizer",
            "bits",
            "ordering",
            "dropped",
            "true_bits",
            "value",
            "low",
            "high",
            "drop",
            "quantized",
        ],
    )


def crossings(gaps: pd.DataFrame) -> pd.DataFrame:
    """Where dropping stops losing more than quantizing, on the way from large to small.

    Args:
        gaps: from `gaps`.

    Returns:
        Columns model, quantizer, bits, ordering, most, least (true bits of the sizes compared), wins (who does at the most
        bits), at (true bits at which the other begins to win, between two sizes by a straight line; NaN where none does).
    """
    found = []
    for place, part in gaps.groupby(["model", "quantizer", "bits", "ordering"], sort=False):
        part = part.sort_values("true_bits", ascending=False)
        sizes, values = part["true_bits"].to_numpy(), part["value"].to_numpy()
        turned = np.flatnonzero((values > 0) != (values[0] > 0))
        at = np.nan
        if len(turned):
            i = turned[0]
            at = sizes[i] + (sizes[i - 1] - sizes[i]) * values[i] / (values[i] - values[i - 1])
        found.append((*place, sizes[0], sizes[-1], "quantizing" if values[0] > 0 else "dropping", at))
    return pd.DataFrame(found, columns=["model", "quantizer", "bits", "ordering", "most", "least", "wins", "at"])


def cheaper(table: pd.DataFrame, windows: pd.DataFrame, numbers: Mapping[str, Any]) -> Found:
    """Claim (c): quantizing to one of `bits` loses less than dropping at every size (holds), at none, or it depends."""
    found = gaps(table, windows)
    found = found[found["bits"].isin(numbers["bits"]) & found["ordering"].isin(numbers["orderings"])]
    for _, part in found.groupby(["model", "quantizer", "bits", "ordering"], sort=False):
        ranked = part.sort_values("value").to_dict("records")
        each = {decide(Interval(row["value"], row["low"], row["high"])) for row in ranked}
        verdict = each.pop() if len(each) == 1 else UNDECIDED
        if numbers.get("expected") == "dropping":  # the exception: here the claim expects dropping to be no worse
            verdict = {HOLDS: FAILS, FAILS: HOLDS}.get(verdict, verdict)
        least, most = ranked[0], ranked[-1]
        text = (
            f"dropping loses {least['value']:+.2f} [{least['low']:+.2f}, {least['high']:+.2f}] nats/token more at "
            f"{least['true_bits']:.1f} bits to {most['value']:+.2f} at {most['true_bits']:.1f}"
        )
        setting = f"{nickname(least['quantizer'])}, {least['bits']} bits, {least['ordering']}"
        yield least["model"], setting, verdict, text, (*part["drop"], *part["quantized"])


def areas(table: pd.DataFrame, windows: pd.DataFrame) -> pd.DataFrame:
    """Claim (d): the mean retained quality while blocks are moved, for each model and ordering.

    Returns:
        Columns model, units, quantizer, pair, ordering, value, low, high, ids; random orders together as their median.
    """
    nll = compare.nll_by_id(windows)
    found = []
    for sweep in compare.sweeps(table):
        rows = sweep[sweep["metric"] == "perplexity"]
        truth = nll[rows[(rows["ordering"] == "uniform") & (rows["moved"] == 0)].iloc[0]["id"]]
        first = rows.iloc[0]
        place = (first["model"], first["units"], first["quantizer"], f"{first['high']} to {first['low']}")
        for ordering, points in rows[~rows["ordering"].isin(compare.ENDS)].groupby("ordering", sort=False):
            losses = np.stack([nll[key] for key in points["id"]])
            found.append(
                (
                    *place,
                    ordering,
                    *compare.area((points["moved"] / points["units"]).to_numpy(), losses, truth),
                    tuple(points["id"]),
                )
            )
    frame = pd.DataFrame(found, columns=["model", "units", "quantizer", "pair", "ordering", "value", "low", "high", "ids"])
    chance = frame[frame["ordering"].str.startswith(RANDOM)]
    grouped = chance.groupby(["model", "units", "quantizer", "pair"], sort=False)["value"]
    together = grouped.agg(value="median", low="min", high="max").reset_index().assign(ordering=RANDOM)
    together["ids"] = [()] * len(together)
    return pd.concat([frame[~frame["ordering"].str.startswith(RANDOM)], together], ignore_index=True)


def grows(table: pd.DataFrame, windows: pd.DataFrame, numbers: Mapping[str, Any]) -> Found:
    """Claim (d): Spearman's correlation of depth and area over models, its interval from each area's own (normal) interval."""
    found = areas(table, windows)
    found = found[found["ordering"].isin(numbers["orderings"])]
    for name, pattern in numbers["groups"].items():
        group = found[found["model"].str.contains(pattern)]
        for (pair, ordering), part in group.groupby(["pair", "ordering"], sort=False):
            if part["units"].nunique() < 3:
                continue
            trend = _trend(part)
            text = f"Spearman {trend.value:+.2f} [{trend.low:+.2f}, {trend.high:+.2f}] over {len(part)} models"
            ids = tuple(key for keys in part["ids"] for key in keys)
            yield name, f"{pair} bits, {ordering}", decide(trend), text, ids


def _trend(part: pd.DataFrame) -> Interval:
    units, sd = rankdata(part["units"]), (part["high"] - part["low"]) / (2 * 1.96)
    draws = np.random.default_rng(compare.SEED).normal(part["value"], sd, (compare.RESAMPLES, len(part)))
    ranks = rankdata(np.vstack([part["value"], draws]), axis=1)
    spearman = _correlation(ranks, units)
    low, high = np.quantile(spearman[1:], [0.025, 0.975])
    return Interval(float(spearman[0]), float(low), float(high))


def _correlation(rows: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Pearson's correlation of each row with `values`."""
    rows, values = rows - rows.mean(1, keepdims=True), values - values.mean()
    return rows @ values / np.sqrt((rows**2).sum(1) * (values**2).sum())


RULES: dict[str, Callable[..., Found]] = {
    "far": far,
    "headline": headline,
    "helps": helps,
    "cheaper": cheaper,
    "grows": grows,
}
