"""CSV files whose texts are texts: no cell is a formula where the file is opened in a spreadsheet,
and each reads back as it was.
"""

import csv
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from lwq.common.markup import cell, from_cell


def write(frame: pd.DataFrame, path: Path) -> None:
    """A table with its texts as cells (`lwq.common.markup.cell`) and its numbers as pandas writes
    them.
    """
    shown = frame.map(lambda value: cell(value) if isinstance(value, str) else value)
    # a carriage return ends a row for readers, and writers quote it only where they quote all texts
    odd = frame.map(lambda value: isinstance(value, str) and "\r" in value).any(axis=None)
    if odd:
        shown.to_csv(path, index=False, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    else:
        shown.to_csv(path, index=False, lineterminator="\n")


def read(path: Path, texts: Iterable[str]) -> pd.DataFrame:
    """What `write` wrote; columns in `texts` hold text, whatever it looks like."""
    texts = list(texts)
    table = pd.read_csv(path, keep_default_na=False, dtype=dict.fromkeys(texts, str))
    found = [name for name in texts if name in table]
    return table.assign(**{name: table[name].map(from_cell) for name in found})
