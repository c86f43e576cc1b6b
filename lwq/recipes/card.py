"""The card of a compressed model: what it is, what was lost, how to load it."""

from collections.abc import Mapping

from lwq.common import strips
from lwq.common.markup import code, line, markdown
from lwq.common.version import VERSION
from lwq.recipes.compressed import Compressed, loading


def card(made: Compressed, asked: Mapping[str, str], model: str) -> str:
    """The README of the folder, in Markdown."""
    rows = [line.cells() for line in made.lines]
    head = list(rows[0])
    guard = made.plan.provenance.get("guard", {})
    said = [f"- {markdown(key)}: {code(value)}" for key, value in asked.items()]
    return "\n".join(
        [
            f"# {markdown(model)}, compressed by lwq {VERSION}",
            "",
            f"Bits of {len(made.plan.bits)} units: "
            + strips.counted(made.plan.bits.values())
            + ". `plan.json` has them one by one.",
            "",
            f"| {' | '.join(map(markdown, head))} |",
            f"|{'---|' * len(head)}",
            *(f"| {' | '.join(map(markdown, row.values()))} |" for row in rows),
            "",
            f"Judged on {markdown(made.judge)}, beside the untouched model; 95 % intervals over "
            f"documents. {markdown(made.advice)}",
            "",
            "## How it was made",
            "",
            *said,
            f"- guard: {code(guard)}",
            "",
            "## How to load it",
            "",
            "```",
            loading(made.target, line(made.folder.name)),
            "```",
            "",
            f"The licence is that of {markdown(model)}. Quality was measured on a few thousand "
            "tokens of one text: judge it on yours before you rely on it.",
            "",
        ]
    )
