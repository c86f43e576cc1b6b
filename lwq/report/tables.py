"""The tables of a report by name, as data frames and as text for a paper."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from lwq.common import markup
from lwq.common.errors import InputError
from lwq.common.names import nickname, pick
from lwq.contracts.section import Verdict
from lwq.report import claims, overview
from lwq.report.sections import SECTIONS
from lwq.results import measurements, plans

Lines = Iterable[Mapping[Any, Any]]
BOLD = re.compile(r"\*\*(.+?)\*\*")


OVERALL = ("verdicts", "claims", "models", "uniform")


def tables(
    results_dir: str | Path, studies: Iterable[str] = tuple(SECTIONS)
) -> dict[str, pd.DataFrame]:
    """Name -> table, of everything that the report of a results folder shows as one.

    `verdicts` has every verdict in every setting and `claims` what the settings of a model agree
    on; `models` and `uniform` are of all studies; STUDY.NAME is of one study, those in `studies`.
    Numbers with an interval are text, as in the report; ** marks what is bold there.
    """
    table, windows = measurements.load(results_dir)
    kept = plans.read(results_dir)
    made = {name: SECTIONS[name](table[table["study"] == name], kept, windows) for name in studies}
    verdicts = [verdict for section in made.values() for verdict in section.verdicts]
    uniform = overview.uniform(table)
    found = {
        "verdicts": pd.DataFrame(
            [{**vars(verdict), "ids": " ".join(verdict.ids)} for verdict in verdicts],
            columns=list(Verdict.__dataclass_fields__),
        ),
        "claims": claims.by_model(verdicts),
        "models": _frame(
            {key: line[key] for key in ("model", "note", "units", "judge", "perplexity", "id")}
            for line in overview.models(table)
        ),
        "uniform": pd.DataFrame(
            [[line["model"], line["quantizer"], *line["cells"]] for line in uniform["lines"]],
            columns=["model", "quantizer", *(f"{width} bits" for width in uniform["widths"])],
        ),
    }
    for study, section in made.items():
        for name, lines in section.tables.items():
            found |= dict(_frames(f"{study}.{name}", lines))
    return {name: frame for name, frame in found.items() if len(frame)}


def text(results_dir: str | Path, name: str, form: str) -> str:
    """One table as text; `form` is a name in FORMS. InputError names the tables that there are."""
    write = pick(FORMS, "format", form)
    study, dot, _ = name.partition(".")
    if name not in OVERALL and not (dot and study in SECTIONS):
        raise InputError(
            f"unknown table {name!r}; choose one of {list(OVERALL)}, or STUDY.NAME with one of "
            f"{list(SECTIONS)} (STUDY. alone names its tables)"
        )
    needed = [study] if dot else tuple(SECTIONS) if name in OVERALL[:2] else ()
    return write(pick(tables(results_dir, needed), "table", name))


def _frames(name: str, value: Any) -> Iterator[tuple[str, pd.DataFrame]]:
    """The table in `value`, lines or a mapping that holds some, and those inside its lines."""
    if isinstance(value, Mapping):
        heads = list(value.get("names", []))
        value = [
            {**line, "cells": dict(zip(heads, line["cells"], strict=True))}
            for line in value.get("lines", [])
        ]
    lines = [dict(line) for line in value]
    inner = {key for line in lines for key, cell in line.items() if _is_table(cell)}
    yield name, _frame({key: line[key] for key in line if key not in inner} for line in lines)
    for key in sorted(inner):
        yield (
            f"{name}.{key}",
            _frame({**_place(line), **row} for line in lines for row in line.get(key, [])),
        )


def _is_table(cell: object) -> bool:
    return isinstance(cell, list) and any(isinstance(row, Mapping) for row in cell)


def _place(line: Mapping[Any, Any]) -> dict[Any, Any]:
    """Which line a table inside it belongs to."""
    return {key: line[key] for key in ("model", "quantizer_name", "high", "low") if key in line}


def _frame(lines: Lines) -> pd.DataFrame:
    """One row a line; a mapping in a line becomes a column for each key."""
    return pd.DataFrame([dict(_cells(line)) for line in lines])


def _cells(line: Mapping[Any, Any]) -> Iterator[tuple[str, Any]]:
    for key, cell in line.items():
        if not isinstance(cell, Mapping):
            yield str(key), nickname(cell) if key == "quantizer" else cell
            continue
        for part, value in cell.items():
            nested = isinstance(value, Mapping)
            yield from (
                ((f"{part}, {k}", v) for k, v in value.items()) if nested else [(part, value)]
            )


def _markdown(frame: pd.DataFrame) -> str:
    rows = [list(frame.columns), *frame.itertuples(index=False)]
    lines = [" | ".join(_shown(cell) for cell in row) for row in rows]
    rule = " | ".join("---" for _ in frame.columns)
    return "".join(f"| {line} |\n" for line in [lines[0], rule, *lines[1:]])


def _shown(cell: object) -> str:
    """A cell in Markdown: numbers with the bold that the report marks, and words as they are."""
    value = _plain(cell)
    bare = BOLD.sub(r"\1", value)
    if not any(map(str.isalpha, bare)):
        return value  # numbers, and nothing to obey in them
    return markup.markdown(bare)


def _latex(frame: pd.DataFrame) -> str:
    """A tabular with the rules of the package booktabs."""
    text = frame.map(_plain).to_latex(index=False, escape=True)
    return BOLD.sub(r"\\textbf{\1}", text)


def _csv(frame: pd.DataFrame) -> str:
    plain = frame.map(
        lambda cell: markup.cell(BOLD.sub(r"\1", cell)) if isinstance(cell, str) else cell
    )
    return plain.to_csv(index=False, lineterminator="\n")


def _plain(cell: object) -> str:
    """A number with six figures, anything else as it is."""
    if isinstance(cell, float):
        return "" if pd.isna(cell) else f"{cell:.6g}"
    return str(cell)


FORMS: dict[str, Callable[[pd.DataFrame], str]] = {
    "markdown": _markdown,
    "latex": _latex,
    "csv": _csv,
}
