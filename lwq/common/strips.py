"""What a notebook shows of plans and scores: strips of coloured cells and small tables in HTML, and
a line of digits where there is no HTML. Every text is escaped; colours are those of the figures.
"""

import html
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

WIDTHS = (0, 1, 2, 3, 4, 5, 6, 7, 8, 16)
# cividis, from few bits (light) to many (dark): told apart by lightness alone
COLOURS = (
    *("#e7d150", "#cebc63", "#b6a96f", "#9d9576", "#878478"),
    *("#727374", "#5e636f", "#48526c", "#2f426d", "#013271"),
)
BOX = "padding:0 .25em;min-width:1.1em;text-align:center;font:11px monospace;border:1px solid #fff"


class Cell(NamedTuple):
    """A cell of a strip.

    Attributes:
        row, column: where it stands; rows and columns come in the order in which they are met.
        text: inside it.
        shade: its colour, from 0 (light) to 1 (dark).
        title: what the pointer says over it.
    """

    row: str
    column: str
    text: str
    shade: float
    title: str


def shade(bits: float) -> float:
    """Where a number of bits a weight lies in the colours, from 0 to 1."""
    if bits >= WIDTHS[-1]:
        return 1.0
    ends = enumerate(pairwise(WIDTHS))
    left, (low, high) = next(found for found in ends if found[1][0] <= bits < found[1][1])
    return (left + (bits - low) / (high - low)) / (len(WIDTHS) - 1)


def strip(cells: Iterable[Cell]) -> str:
    """A table of coloured cells, the number of its column in the title of each cell alone."""
    cells = list(cells)
    rows = list(dict.fromkeys(cell.row for cell in cells))
    columns = list(dict.fromkeys(cell.column for cell in cells))
    found = {(cell.row, cell.column): cell for cell in cells}
    lines = [
        f'<tr><th style="text-align:right;font:11px monospace">{html.escape(row)}</th>'
        + "".join(_box(found.get((row, column))) for column in columns)
        + "</tr>"
        for row in rows
    ]
    return f'<table style="border-collapse:collapse;border:none">{"".join(lines)}</table>'


def _box(cell: Cell | None) -> str:
    if cell is None:
        return "<td></td>"
    back = COLOURS[round(cell.shade * (len(COLOURS) - 1))]
    front = "#fff" if cell.shade > 0.45 else "#000"
    return (
        f'<td title="{html.escape(cell.title)}" style="{BOX};background:{back};color:{front}">'
        f"{html.escape(cell.text)}</td>"
    )


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of texts: the first column to the left, the others to the right."""
    head = "".join(f"<th>{html.escape(column)}</th>" for column in columns)
    body = "".join(
        "<tr>" + "".join(_entry(text, place) for place, text in enumerate(row)) + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _entry(text: str, place: int) -> str:
    return f'<td style="text-align:{"right" if place else "left"}">{html.escape(text)}</td>'


def line(text: str) -> str:
    """A paragraph."""
    return f"<p>{html.escape(text)}</p>"


def digits(bits: Iterable[float]) -> list[str]:
    """A digit a block in tens, fifty a line: nominal bits, rounded; "." is a block that is dropped
    and "#" one of 16 bits.
    """
    found = "".join(_digit(value) for value in bits)
    tens = [found[first : first + 10] for first in range(0, len(found), 10)]
    return [" ".join(tens[first : first + 5]) for first in range(0, len(tens), 5)]


def _digit(bits: float) -> str:
    return "." if bits == 0 else "#" if bits > 9 else f"{bits:.0f}"


def counted(options: Iterable[object]) -> str:
    """`26 at 4, 4 at 8`: how many of each, the fewest bits first."""
    found: dict[str, int] = {}
    for option in options:
        found[str(option)] = found.get(str(option), 0) + 1
    ordered: Mapping[str, int] = dict(sorted(found.items(), key=lambda item: (len(item[0]), item)))
    return ", ".join(f"{count} at {option}" for option, count in ordered.items())
