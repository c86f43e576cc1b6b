"""The study of kinds of text and of single tokens: where do plans of equal bytes lose?"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from lwq.common.names import nickname
from lwq.contracts.results import APART as APART
from lwq.contracts.results import BLOCKS, FLOOR, TAILS
from lwq.contracts.section import Picture, Section
from lwq.report import claims, figures, intervals
from lwq.report.bootstrap import Interval, Sample, mean
from lwq.report.figures import budgets
from lwq.report.floor import text_of
from lwq.report.sections.which_score import budget_of
from lwq.results.plans import StoredPlan
from lwq.studies import grid

NAME = "where_it_hurts"
KINDS = {"wiki": "wiki", "c4": "web", "code": "code", "multilingual": "multilingual"}
KINDS |= {"tiny": "stories", "technical": "technical"}
PANEL = ["model", "fingerprint", "quantizer", "calibration"]  # what a table and a figure show
RULES: dict[str, claims.Rule] = {}


def compared(table: pd.DataFrame, windows: pd.DataFrame) -> pd.DataFrame:
    """Every plan on every text, and the noise floors.

    Returns:
        A line a plan and text: the columns of its row, `kl`, `perplexity`, `kl_p50`, `kl_p90`,
        `kl_p99`, `text` (its kind), `name`, `low` and `high` (95 % interval of `kl`), and of mixes
        `gain`, `low_gain`, `high_gain`: KL of uniform bits of as many bits less its own, above 0 it
        is better. Texts in the order of KINDS, plans with the fewest bits first.
    """
    kl = intervals.by_id(windows, "kl")
    rows = table[table["way"].isin((APART, FLOOR))]
    values = rows.pivot_table(index="id", columns="metric", values="value")
    rows = rows.drop_duplicates("id").drop(columns=["metric", "value"])
    wide = rows.join(values.reindex(columns=["kl", "perplexity", *TAILS]), on="id")
    lines = [line for _, part in wide.groupby([*PANEL, "judge"]) for line in _beside(part, kl)]
    frame = pd.DataFrame(lines)
    return frame if frame.empty else frame.sort_values(["place", "bits", "mixed", "name"])


def _beside(part: pd.DataFrame, kl: Mapping[str, Sample]) -> Iterator[dict[str, Any]]:
    """The plans of one model, quantizer and text."""
    even = part[part["ordering"] == "uniform"].set_index("avg_bits")["id"]
    for row in part.to_dict("records"):
        text, own, asked = text_of(row["judge"]), kl[row["id"]], budget_of(row)
        value, gain = mean(own), Interval(*[np.nan] * 3)
        if asked in even.index:
            gain = mean(kl[even[asked]] - own)
        yield {
            **{str(key): cell for key, cell in row.items()},
            "text": KINDS.get(text, text),
            "name": _name(row),
            "place": list(KINDS).index(text) if text in KINDS else len(KINDS),
            "bits": round(row["avg_bits"]),
            "mixed": row["ordering"] != "uniform",
            **{"low": value.low, "high": value.high},
            **{"gain": gain.value, "low_gain": gain.low, "high_gain": gain.high},
        }


def _name(row: Mapping[Any, Any]) -> str:
    if row["way"] == FLOOR:
        return FLOOR
    if row["ordering"] == "uniform":
        return f"uniform {row['avg_bits']:g}"
    return budgets.method(str(row["ordering"]), BLOCKS)


def tables(frame: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """One a model and quantizer.

    Returns:
        model, quantizer, names (plans of as many bits), texts (lines of text,
        floor, cells: KL of each of `names`, bold where its interval says better than uniform
        bits), said (what the best mix loses where, as text), plans (all lines, as text).
    """
    for (model, _, quantizer, _), part in frame.groupby(PANEL, sort=False):
        mixed = part[part["gain"].notna()]
        if mixed.empty:
            continue
        even = f"uniform {budget_of(mixed.iloc[0].to_dict()):g}"
        names = [even, *dict.fromkeys(mixed["name"])]
        yield {
            "model": model,
            "quantizer": nickname(str(quantizer)),
            "names": names,
            "texts": [_text(str(text), own, names) for text, own in _texts(part)],
            "said": _said(mixed, even),
            "plans": [_plan(row) for row in part.to_dict("records")],
        }


def _texts(part: pd.DataFrame) -> Iterator[tuple[Any, pd.DataFrame]]:
    yield from part.groupby("text", sort=False)


def _text(text: str, own: pd.DataFrame, names: list[str]) -> dict[str, Any]:
    found = {row["name"]: row for row in own.to_dict("records")}
    return {
        "text": text,
        "floor": _short(found[FLOOR]["kl"]) if FLOOR in found else "–",
        "cells": [_cell(found.get(name)) for name in names],
    }


def _cell(row: Mapping[Any, Any] | None) -> str:
    if row is None:
        return "–"
    return f"**{_short(row['kl'])}**" if row["low_gain"] > 0 else _short(row["kl"])


def _said(mixed: pd.DataFrame, even: str) -> dict[str, str]:
    """Of the mix with the least KL: where it loses most and least, and what its tokens lose."""
    totals = mixed.groupby("name", sort=False)["kl"].mean()
    own = mixed[mixed["name"] == totals.idxmin()].sort_values("kl", kind="stable")
    least, most = own.iloc[0], own.iloc[-1]
    share = own["kl_p99"] / own["kl"]
    return {
        "name": str(most["name"]),
        "even": even,
        "most": str(most["text"]),
        "most_kl": f"{_short(most['kl'])} [{_short(most['low'])}, {_short(most['high'])}]",
        "least": str(least["text"]),
        "least_kl": f"{_short(least['kl'])} [{_short(least['low'])}, {_short(least['high'])}]",
        "p50": _short(most["kl_p50"]),
        "p99": _short(most["kl_p99"]),
        "times": f"{share.min():.0f} to {share.max():.0f}",
        "better": str(int((own["low_gain"] > 0).sum())),
        "worse": str(int((own["high_gain"] < 0).sum())),
        "texts": str(len(own)),
    }


def said(frame: pd.DataFrame) -> str:
    """What `compared` says, a line a model and quantizer, as a notebook prints it."""
    words = (
        "{model}, {quantizer}: {name} loses {most_kl} on {most}, {least_kl} on {least}; "
        "better than {even} on {better} of {texts} texts, worse on {worse}"
    )
    lines = [words.format(**{**panel, **panel["said"]}) for panel in tables(frame)]
    return "\n".join(lines) or "no mix stands beside uniform bits in these rows"


def _plan(row: Mapping[Any, Any]) -> dict[str, str]:
    return {
        "text": row["text"],
        "name": row["name"],
        "kl": f"{_short(row['kl'])} [{_short(row['low'])}, {_short(row['high'])}]",
        **{name: _short(row[name]) for name in TAILS},
        "perplexity": f"{row['perplexity']:.4g}",
        "id": row["id"],
    }


def _short(value: float) -> str:
    """Three figures, without an exponent."""
    return np.format_float_positional(value, 3, fractional=False, trim="-")


def section(table: pd.DataFrame, plans: Mapping[str, StoredPlan], windows: pd.DataFrame) -> Section:
    """All that the report says of the study."""
    frame = compared(table, windows)
    if frame.empty:
        return Section()
    claimed = grid.catalogue()[NAME].get("claims", {})
    return Section(
        claims.verdicts(table, windows, claimed, RULES),
        {"panels": list(tables(frame))},
        figures={"": tuple(_pictures(frame))},
    )


def _pictures(frame: pd.DataFrame) -> Iterator[Picture]:
    for (model, _, quantizer, _), part in frame.groupby(PANEL, sort=False):
        name = f"{model}, {nickname(str(quantizer))}"
        yield Picture(
            figures.by_text,
            (part, name),
            name,
            f"KL by kind of text, above the mean, below quantiles over tokens: {name}.",
            f"study {NAME}, model {model}, quantizer {nickname(str(quantizer))}",
        )
