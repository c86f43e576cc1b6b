"""The study of pruning: quantize blocks, or drop them? Its rule, tables, counts and figures."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from lwq.common.names import nickname
from lwq.contracts.section import Picture, Section
from lwq.report import bootstrap, claims, figures, intervals
from lwq.report.bootstrap import Interval, Sample
from lwq.report.claims import FAILS, HOLDS, UNDECIDED, Found, decide
from lwq.report.figures import style
from lwq.report.figures.style import label
from lwq.report.intervals import BEST, SAME
from lwq.results.plans import StoredPlan
from lwq.studies import grid

NAME = "pruning"
TEXTS = ["calibration", "judge", "dtype"]
SIZE = 0.2  # bits by which the size of a mask may differ from that of a plan with dropped blocks


def gaps(table: pd.DataFrame, windows: pd.DataFrame) -> pd.DataFrame:
    """How many nats per token pruning loses beyond quantizing, in one ordering, at the
    same bytes.

    Each plan with dropped blocks is set against the largest plan of the same ordering, for each low
    width, that is no larger, and smaller by less than a block. Single weights are pruned by
    whichever mask and layer rates lose least at that size. With the ordering "best", either side
    has whichever ordering loses least there.

    Returns:
        Columns model, quantizer, pruned ("blocks" or "weights"), bits (the low width), ordering,
        seed, dropped (blocks at that size), true_bits, value, low, high, drop, quantized (row ids).
    """
    nll = intervals.nll_by_id(windows)
    measured = table[table["metric"] == "perplexity"]
    rows = measured[measured["way"].isin(["drop", "same size"])]
    thinned = measured[measured["family"] == "mask"]
    found = []
    for (model, weights, quantizer, *texts), group in rows.groupby(SAME, sort=False):
        masks = thinned[
            (thinned[["model", "fingerprint", *TEXTS]] == [model, weights, *texts]).all(axis=1)
        ]
        for ordering, part in [*group.groupby("ordering", sort=False), (BEST, group)]:
            first = "value" if ordering == BEST else "size"
            ranked = part.assign(size=-part["true_bits"]).sort_values(first, kind="stable")
            for drop in (
                ranked[ranked["way"] == "drop"]
                .drop_duplicates("moved")
                .sort_values("moved")
                .to_dict("records")
            ):
                seed = None if ordering == BEST else drop["seed"]
                key = (model, quantizer, ordering, seed, drop["moved"])
                found += [(*key, "blocks", *gap) for gap in _against(drop, ranked, nll)]
                alike = masks[(masks["true_bits"] - drop["true_bits"]).abs() < SIZE]
                if len(alike):
                    best = alike.sort_values("value").iloc[0].to_dict() | {"units": drop["units"]}
                    found += [(*key, "weights", *gap) for gap in _against(best, ranked, nll)]
    place = ["model", "quantizer", "ordering", "seed", "dropped", "pruned"]
    return pd.DataFrame(
        found, columns=[*place, "bits", "true_bits", "value", "low", "high", "drop", "quantized"]
    )


def _against(
    pruned: Mapping[Any, Any], ranked: pd.DataFrame, nll: Mapping[str, Sample]
) -> Iterator[tuple[Any, ...]]:
    """(bits, true_bits, gap, low, high, ids) of a pruned plan against the first of `ranked` that is
    as large, one a low width.
    """
    size, block = pruned["true_bits"] + 1e-9, 16 / pruned["units"]
    alike = ranked[
        (ranked["way"] == "same size")
        & (ranked["true_bits"] <= size)
        & (ranked["true_bits"] > size - block)
    ]
    for bits, plans in alike.groupby("low"):
        plan = plans.iloc[0]
        gap = bootstrap.mean(nll[pruned["id"]] - nll[plan["id"]])
        yield bits, pruned["true_bits"], *gap, pruned["id"], plan["id"]


def crossings(gaps: pd.DataFrame) -> pd.DataFrame:
    """Who loses less at the same bytes, in runs of sizes from large to small.

    Args:
        gaps: from `gaps`.

    Returns:
        Columns model, quantizer, pruned, bits, ordering, seed, wins ("quantizing", "pruning", or
        "neither" where an interval holds 0), most, least (true bits of the first and last size of
        the run).
    """
    found = []
    keys = ["model", "quantizer", "pruned", "bits", "ordering", "seed"]
    for place, part in gaps.groupby(keys, sort=False, dropna=False):
        part = part.sort_values("true_bits", ascending=False)
        wins = np.select([part["low"] > 0, part["high"] < 0], ["quantizing", "pruning"], "neither")
        for _, run in part.groupby(np.cumsum(np.append(True, wins[1:] != wins[:-1]))):
            sizes = run["true_bits"].to_numpy()
            found.append((*place, wins[part.index.get_loc(run.index[0])], sizes[0], sizes[-1]))
    return pd.DataFrame(found, columns=[*keys, "wins", "most", "least"])


def cheaper(table: pd.DataFrame, windows: pd.DataFrame, numbers: Mapping[str, Any]) -> Found:
    """Quantizing to one of `bits` loses less than pruning at every size (holds), at
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


def pruned(
    gaps: pd.DataFrame, kind: str, bits: Iterable[int], orderings: Iterable[str]
) -> dict[str, Any]:
    """In how many comparisons who loses less, against one `kind` of pruning, for the
    widths and orderings named.

    Returns:
        comparisons, quantizing, pruning (those whose interval lies on that side), least (the
        smallest gap, nats per token).
    """
    rows = gaps[
        (gaps["pruned"] == kind)
        & gaps["bits"].isin(list(bits))
        & gaps["ordering"].isin(list(orderings))
    ]
    wins = {"quantizing": int((rows["low"] > 0).sum()), "pruning": int((rows["high"] < 0).sum())}
    return {"comparisons": len(rows), **wins, "least": rows["value"].min()}


def best(gaps: pd.DataFrame, numbers: Mapping[str, Any]) -> list[dict[str, Any]]:
    """`pruned` where either side has the order that loses least: one line a model, kind of pruning
    and set of widths.
    """
    found = []
    for model, part in gaps.groupby("model", sort=False):
        for kind, bits in [
            (kind, bits) for kind in ("blocks", "weights") for bits in (numbers["bits"], [2])
        ]:
            line = pruned(part, kind, bits, [BEST])
            if line["comparisons"]:
                found.append(
                    {"model": model, "pruned": kind, "bits": ", ".join(map(str, bits)), **line}
                )
    return found


def crossing_lines(gaps: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """One line a model, quantizer, kind of pruning and width: who loses less at which size, in each
    ordering.
    """
    found = crossings(gaps)
    for (model, quantizer, pruned, bits), part in found.groupby(
        ["model", "quantizer", "pruned", "bits"], sort=False
    ):
        orders = list(_wins(part[~style.is_random(part)]))
        yield {
            "model": model,
            "quantizer": nickname(str(quantizer)),
            "pruned": pruned,
            "bits": bits,
            "orders": orders,
        }


def _wins(part: pd.DataFrame) -> Iterator[str]:
    """ "LIM: quantizing at 14.9 to 10.7, then pruning at 9.6 to 5.3"."""
    for ordering, runs in part.groupby("ordering", sort=False):
        said = [
            f"{run['wins']} at "
            f"{run['most']:.1f}"
            + (f" to {run['least']:.1f}" if run["least"] != run["most"] else "")
            for run in runs.to_dict("records")
        ]
        yield f"{label(str(ordering))}: {', then '.join(said)}"


def section(table: pd.DataFrame, plans: Mapping[str, StoredPlan], windows: pd.DataFrame) -> Section:
    """All that the report says of the study."""
    claimed = grid.catalogue()[NAME]["claims"]
    numbers = claimed["c"]["numbers"]
    found = gaps(table, windows)
    counts = {
        "pruned": pruned(found, "blocks", numbers["bits"], numbers["orderings"]),
        "best": best(found, numbers),
    }
    return Section(
        claims.verdicts(table, windows, claimed, RULES),
        {"crossings": list(crossing_lines(found))},
        counts,
        {"": tuple(_pictures(table, windows, found))},
    )


def _pictures(table: pd.DataFrame, windows: pd.DataFrame, gaps: pd.DataFrame) -> Iterator[Picture]:
    for model, quantizer in (
        table[table["low"] == 0][["model", "quantizer"]].drop_duplicates().itertuples(index=False)
    ):
        rows = table[
            (table["model"] == model)
            & ((table["quantizer"] == quantizer) | (table["family"] == "mask"))
        ]
        own = gaps[(gaps["model"] == model) & (gaps["quantizer"] == quantizer)]
        if not style.scores(style.labels(own)):  # nothing of the same size, or by a score, yet
            continue
        name = f"{model}, {nickname(str(quantizer))}"
        alt = (
            "Retained quality against stored bits when blocks are dropped, quantized or thinned "
            f"out: {name}. Other orders: block_drop (diamonds), angular (◁), deepest first (▷); "
            "layer rates of masks: uniform (solid), OWL (dashed), DLP (dotted), LAMP (dash-dotted)."
        )
        yield Picture(figures.pruning, (rows, windows), name, alt, f"study {NAME}, {name}")
        alt = f"What pruning loses beyond quantizing, at the same bytes: {name}."
        yield Picture(figures.pruning_gaps, (own,), name, alt, f"study {NAME}, {name}")


RULES: dict[str, claims.Rule] = {"cheaper": cheaper}
