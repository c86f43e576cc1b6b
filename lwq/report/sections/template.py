"""A section to be copied: all that the report says of one study, from its rows."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from lwq.contracts.section import Picture, Section
from lwq.report import bootstrap, claims, figures, intervals
from lwq.report.claims import Found, Rule
from lwq.results.plans import StoredPlan
from lwq.studies import grid

NAME = "template"


def costs(table: pd.DataFrame, windows: pd.DataFrame, numbers: Mapping[str, Any]) -> Found:
    """All blocks at 2 bits diverge from the untouched model by more than `nats`; of rows that are
    not there yet, a rule says nothing.
    """
    kl = intervals.by_id(windows, "kl")
    for row in table[(table["metric"] == "kl") & (table["avg_bits"] == 2)].to_dict("records"):
        value = bootstrap.mean(kl[row["id"]])
        verdict = claims.decide(value, numbers["nats"])
        yield row["model"], row["ordering"], verdict, f"{value.value:.6f} nats", (row["id"],)


# name -> rule(table, windows, numbers): the verdict of each setting
RULES: dict[str, Rule] = {"costs": costs}


def section(table: pd.DataFrame, plans: Mapping[str, StoredPlan], windows: pd.DataFrame) -> Section:
    """All that the report says of the study.

    Args:
        table: its rows.
        plans: id -> plan; the column `plan` of the rows names them.
        windows: the arrays behind the rows, for intervals.
    """
    measured = table[table["metric"] == "kl"].sort_values("avg_bits")
    lines = measured[["ordering", "avg_bits", "value", "id"]].to_dict("records")
    claimed = grid.catalogue()[NAME].get("claims", {})
    bits = {
        f"{row['ordering']}, {row['moved']} moved": plans[row["plan"]]["bits"]
        for row in measured.to_dict("records")
        if row["plan"] in plans
    }
    drawn = Picture(figures.plans, (bits,), NAME, "The plans, block by block.", f"study {NAME}")
    return Section(
        verdicts=claims.verdicts(table, windows, claimed, RULES),
        tables={"lines": lines},
        figures={"": [drawn] if bits else []},
    )
