"""How plans and scores look in a notebook: a strip of their units, block by block."""

import re
from collections.abc import Mapping

from lwq.common import strips
from lwq.contracts.layout import KEPT, Layout, Option


def units(layout: Layout, looks: Mapping[str, tuple[str, float]], what: str) -> str:
    """A strip with a column a block and a row a kind of unit; embeddings and head stand below.

    Args:
        looks: unit -> (text in its cell, shade from 0 to 1).
        what: of the unit the text is, said over it: "bits".
    """
    cells = []
    for unit, (text, shade) in looks.items():
        block = layout.block_of(unit)
        row = "" if unit == block else unit.removeprefix(f"{block}.")
        if unit not in layout.outside:
            cells.append(strips.Cell(row, block, text, shade, f"{unit}: {what} {text}"))
    beyond = [f"{unit}: {what} {looks[unit][0]}" for unit in looks if unit in layout.outside]
    return strips.strip(cells) + "".join(map(strips.line, beyond))


def ranks(layout: Layout, order: list[str]) -> str:
    """A strip of places in the order of moves: 1 moves first, dark keeps its bits longest."""
    last = max(len(order) - 1, 1)
    found = {unit: (str(place + 1), place / last) for place, unit in enumerate(order)}
    return units(layout, {unit: found[unit] for unit in layout.units}, "moved as number")


def bits(option: Option) -> float:
    """The bits that an option is coloured by: its number, or the first number in its name."""
    if isinstance(option, str):
        number = re.search(r"\d+", option)
        return float(number[0]) if number else float(KEPT)
    return float(option)
