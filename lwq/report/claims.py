"""Claims and their verdicts: what a rule of a section finds, and what all settings agree on."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeAlias

import pandas as pd

from lwq.common.names import pick
from lwq.contracts.section import Verdict
from lwq.report.bootstrap import Interval
from lwq.studies import grid

HOLDS, FAILS, UNDECIDED = "holds", "does not hold", "undecided"
SPLIT = "in part"  # of several settings: it holds in some and does not in others
SAID = {HOLDS: "hold", FAILS: "do not", UNDECIDED: "undecided"}  # of several settings

Found: TypeAlias = Iterator[tuple[str, str, str, str, tuple[str, ...]]]
"""Of each setting: model, setting, verdict, number, ids; the fields of a `Verdict`."""
Rule: TypeAlias = Callable[[pd.DataFrame, pd.DataFrame, Mapping[str, Any]], Found]
"""`rule(table, windows, numbers)`, with the rows of the study and the numbers of the claim."""


def decide(value: Interval, threshold: float = 0.0) -> str:
    """Whether an interval lies above `threshold` (holds), below it (does not hold), or on both
    sides.
    """
    if value.low > threshold:
        return HOLDS
    return FAILS if value.high < threshold else UNDECIDED


def verdicts(
    table: pd.DataFrame,
    windows: pd.DataFrame,
    claims: Mapping[str, Mapping[str, Any]],
    rules: Mapping[str, Rule],
) -> list[Verdict]:
    """The verdict of every claim in every setting that the table holds.

    Args:
        table: rows of the study that the claims belong to.
        windows: the arrays behind them.
        claims: key -> what the file of the study says about it.
        rules: name -> the rule that a claim may name.
    """
    return [
        Verdict(key, *parts)
        for key, claim in claims.items()
        for parts in pick(rules, f"rule of claim {key!r}", claim["rule"])(
            table, windows, claim.get("numbers", {})
        )
    ]


def said(study: str, rules: Mapping[str, Rule], table: pd.DataFrame, windows: pd.DataFrame) -> str:
    """The verdicts that rows of a study have by its rules, a line each, as a notebook prints them.

    Args:
        study: a name in studies/.
        rules: the RULES of its section.
        table, windows: rows, and the arrays behind them.
    """
    found = verdicts(table, windows, grid.catalogue()[study].get("claims", {}), rules)
    lines = [
        f"({v.claim}) {v.model}, {v.setting}: {v.verdict.upper()}\n    {v.number}" for v in found
    ]
    return "\n".join(lines) or "no claim of this study has a verdict on these rows"


def by_model(found: Iterable[Verdict]) -> pd.DataFrame:
    """One line a claim and model: what all settings agree on, "in part" where it holds in some and
    does not in others, else "undecided"; how many say what, and an example of each.

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
        agreed = SPLIT if {HOLDS, FAILS} <= groups.keys() else UNDECIDED
        if len(groups) == 1:
            (agreed,) = groups
        counts = ", ".join(f"{len(group)} {SAID[word]}" for word, group in groups.items())
        examples = "; ".join(
            f"{group.iloc[0]['setting']}: {group.iloc[0]['number']} ({word})"
            for word, group in groups.items()
        )
        lines.append(
            (claim, model, agreed, f"all {len(part)}" if len(groups) == 1 else counts, examples)
        )
    return pd.DataFrame(lines, columns=["claim", "model", "verdict", "settings", "number"])
