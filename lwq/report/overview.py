"""What the report says of all studies together; numbers are text where the template prints them as
they are.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pandas as pd

from lwq.common.errors import InputError
from lwq.common.names import nickname
from lwq.inputs import catalogue
from lwq.report import bootstrap, intervals

LADDER = "trained by lwq.ladder in float32; the same width, tokens and recipe for all rungs"

BEFORE = ("no act-order", "full inputs")  # remarks of nicknames


def is_rung(model: Any) -> bool:
    """Whether a model is of the depth ladder."""
    return catalogue.rung(str(model)) is not None


def superseded(quantizers: Iterable[str]) -> set[str]:
    """Those with a setting that lwq had before (BEFORE), where the table has them without it."""
    names = {text: nickname(str(text)) for text in set(quantizers)}
    plain = {name for name in names.values() if "(" not in name}
    return {
        text
        for text, name in names.items()
        if name.partition(" (")[0] in plain and any(words in name for words in BEFORE)
    }


def lead(table: pd.DataFrame) -> dict[str, Any]:
    """What was measured: `named` (models), `only` (the model, where there is one), `rungs` (blocks
    of each rung of the ladder), `measurements`.
    """
    depths = table.drop_duplicates("model").set_index("model")["units"]
    named = sorted(name for name in depths.index if not is_rung(name))
    return {
        "named": named,
        "only": named[0] if len(depths) == len(named) == 1 else "",
        "rungs": list(depths.drop(named).sort_values()),
        "measurements": table["id"].nunique(),
    }


def place(model: Any, *more: Any) -> tuple[Any, ...]:
    """Where a line about `model` stands: the ladder last, from shallow to deep; then by `more`."""
    return (
        is_rung(model),
        re.sub(r"\d+", lambda number: number[0].zfill(4), str(model)),
        *more,
    )


def models(table: pd.DataFrame) -> Iterator[dict[Any, Any]]:
    """One line a model: what it is, its blocks, and its perplexity on each judging text,
    untouched.
    """
    rows = table[(table["metric"] == "perplexity") & (table["ordering"] == "original")]
    for (model, judge), part in sorted(
        rows.groupby(["model", "judge"]), key=lambda group: place(*group[0])
    ):
        carried = catalogue.MODELS.get(catalogue.carried(str(model)))
        note = carried.note if carried else LADDER if is_rung(model) else ""
        yield {
            **part.iloc[0].to_dict(),
            "note": note,
            "judge": judge,
            "perplexity": part.iloc[0]["value"],
        }


def few_documents(table: pd.DataFrame, windows: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """One line a judging text whose windows come from few documents: the models that were judged on
    it, and what that says of their intervals.
    """
    documents = {key: sample.documents for key, sample in intervals.nll_by_id(windows).items()}
    rows = table[table["metric"] == "perplexity"]
    for judge, part in rows.groupby("judge", sort=False):
        if remark := bootstrap.remark(documents[part["id"].iloc[0]]):
            yield {"judge": judge, "models": sorted(part["model"].unique()), "remark": remark}


def uniform(table: pd.DataFrame) -> dict[str, Any]:
    """Perplexity with the same width in every block: its widths, and one line a model, quantizer
    and judging text.
    """
    rows = table[
        (table["metric"] == "perplexity")
        & (table["way"] == "uniform")
        & table["avg_bits"].isin(range(2, 9))
    ]
    rows = rows.sort_values("dtype", kind="stable").drop_duplicates(
        ["model", "quantizer", "judge", "avg_bits"]
    )
    untouched = table[(table["metric"] == "perplexity") & (table["ordering"] == "original")]
    truth = untouched.drop_duplicates(["model", "judge", "dtype"]).set_index(
        ["model", "judge", "dtype"]
    )["value"]
    widths = sorted(rows["avg_bits"].unique(), reverse=True)
    texts = rows.groupby(["model", "quantizer"])["judge"].nunique().to_dict()
    lines = []
    groups = sorted(
        rows.groupby(["model", "quantizer", "judge"]),
        key=lambda group: place(group[0][0], nickname(str(group[0][1])), group[0][2]),
    )
    for (model, quantizer, judge), part in groups:
        found = {row["avg_bits"]: row for row in part.to_dict("records")}
        cells = [_beside(found[width], truth) if width in found else "–" for width in widths]
        told = nickname(str(quantizer)) + (f", {judge}" if texts[model, quantizer] > 1 else "")
        lines.append({"model": model, "quantizer": told, "cells": cells})
    return {"widths": [f"{width:.0f}" for width in widths], "lines": lines}


def _beside(row: Mapping[Any, Any], truth: pd.Series) -> str:
    """ "34.35 (79%)": a perplexity, and what it retains of the untouched model's on the same
    text.
    """
    untouched = truth.get((row["model"], row["judge"], row["dtype"]))
    return f"{row['value']:.4g}" + (f" ({untouched / row['value']:.0%})" if untouched else "")


def deviations(table: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """How far the perplexity of each end of a sweep is off that in float32, for finished sweeps in
    any other dtype.

    Raises InputError where float32 was not measured.
    """
    key = ["model", "quantizer", "judge", "ordering", "avg_bits"]
    ends = table[(table["metric"] == "perplexity") & table["ordering"].isin(intervals.ENDS)]
    exact = ends[ends["dtype"] == "float32"].drop_duplicates(key).set_index(key)["value"]
    finished = {
        name
        for sweep in intervals.sweeps(table)
        if (sweep["way"] == "move").any()
        for name in sweep["id"]
    }
    ends = ends[(ends["dtype"] != "float32") & ends["id"].isin(finished)]
    for row in ends.drop_duplicates([*key, "dtype"]).to_dict("records"):
        place = tuple(row[column] for column in key)
        if place not in exact.index:
            raise InputError(
                f"{row['model']}, {row['dtype']}: its deviation from float32 was not "
                f"measured; run the study again"
            )
        what = "untouched" if row["ordering"] == "original" else f"{row['avg_bits']:.0f} bits"
        yield {
            **{str(k): v for k, v in row.items()},
            "what": what,
            "quantizer_name": nickname(row["quantizer"]),
            "deviation": row["value"] / float(exact.loc[[place]].iloc[0]) - 1,
        }
