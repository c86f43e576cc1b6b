"""Tables of the report as data frames and as text: nothing is lost, no name is obeyed.

pytest tests/test_report_tables.py
"""

import io

import pandas as pd
import pytest

from lwq.report import tables

EVIL = "a|b_c & 50 % <b> ![x](http://y) **z**"
LINES = [
    {"model": "m1", "cells": {"LIM": "**0.9** [0.8, 1.0]", "ZD": "0.5"}, "value": 0.123456789},
    {"model": EVIL, "cells": {"LIM": "0.1", "ZD": "\u2013"}, "value": float("nan")},
]


def only(lines):
    ((name, frame),) = tables._frames("t", lines)
    assert name == "t"
    return frame


def test_cells_of_a_line_become_columns_and_lists_of_lines_become_tables():
    assert list(only(LINES).columns) == ["model", "LIM", "ZD", "value"]
    sweeps = [
        {"model": m, "high": 4, "low": low, "points": [{"moved": k} for k in range(low)]}
        for m, low in (("a", 2), ("b", 3))
    ]
    found = dict(tables._frames("s", sweeps))
    assert list(found) == ["s", "s.points"] and list(found["s"].columns) == ["model", "high", "low"]
    assert found["s.points"]["moved"].tolist() == [0, 1, 0, 1, 2]
    assert found["s.points"]["model"].tolist() == ["a", "a", "b", "b", "b"]
    named = {"names": ["x", "y"], "lines": [{"plan": "p", "cells": ["1", "2"]}]}
    assert only(named).to_dict("records") == [{"plan": "p", "x": "1", "y": "2"}]


def test_csv_comes_back_as_it_was():
    read = pd.read_csv(io.StringIO(tables.FORMS["csv"](only(LINES))))
    assert read["LIM"].tolist() == ["0.9 [0.8, 1.0]", "0.1"]
    assert read["model"][1] == EVIL.replace("**", "") and read["value"][0] == 0.123456789


def test_markdown_has_a_cell_a_column_and_obeys_no_name():
    import markdown

    text = tables.FORMS["markdown"](only(LINES))
    page = markdown.markdown(text, extensions=["tables"])
    assert page.count("<tr>") == 3 and page.count("<td>") == 8 and "<img" not in page
    assert "<strong>0.9</strong>" in page and page.count("<strong>") == 1 and "<b>" not in page


def test_latex_escapes_names_and_keeps_the_bold():
    text = tables.FORMS["latex"](only(LINES))
    assert r"\textbf{0.9}" in text and r"b\_c \& 50 \% " in text
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert len(rows) == 3 and all(row.replace(r"\&", "").count("&") == 3 for row in rows)


@pytest.mark.parametrize("study", tables.SECTIONS)
def test_no_study_is_named_like_a_table_of_all(study):
    assert study not in tables.OVERALL
