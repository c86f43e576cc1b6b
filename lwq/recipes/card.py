"""The card of a compressed model: what it is, what was lost, how to load it."""

from collections.abc import Mapping

from lwq.common import strips
from lwq.common.version import VERSION
from lwq.recipes.compressed import LOAD, Compressed


def card(made: Compressed, asked: Mapping[str, str], model: str) -> str:
    """The README of the folder, in Markdown."""
    rows = [line.cells() for line in made.lines]
    head = list(rows[0])
    table = [head, ["---"] * len(head), *(list(row.values()) for row in rows)]
    guard = made.plan.provenance.get("guard", {})
    said = [f"- {key}: `{value}`" for key, value in asked.items()]
    return "\n".join(
        [
            f"# {model}, compressed by lwq {VERSION}",
            "",
            f"Bits of {len(made.plan.bits)} units: "
            + strips.counted(made.plan.bits.values())
            + ". `plan.json` has them one by one.",
            "",
            *(f"| {' | '.join(row)} |" for row in table),
            "",
            f"Judged on {made.judge}, beside the untouched model; 95 % intervals over documents. "
            f"{made.advice}",
            "",
            "## How it was made",
            "",
            *said,
            f"- guard: `{guard}`",
            "",
            "## How to load it",
            "",
            "```",
            LOAD[made.target].format(folder=made.folder.name),
            "```",
            "",
            f"The licence is that of {model}. Quality was measured on a few thousand tokens of one "
            "text: judge it on yours before you rely on it.",
            "",
        ]
    )
