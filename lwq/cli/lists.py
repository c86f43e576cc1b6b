"""What there is, and getting it."""

from typing import Annotated

import typer

from lwq.cli.app import app
from lwq.cli.printing import (
    show,
)

KINDS = ("scorers", "allocators", "quantizers", "formats", "models", "texts", "tasks", "studies")


@app.command("list")
def list_(kind: Annotated[str, typer.Argument(help=" | ".join(KINDS))]) -> None:
    """What can be asked for, one line each."""
    from lwq import allocators, exporters, quantizers, scorers
    from lwq.common.names import pick
    from lwq.engine import tasks as questions
    from lwq.inputs import catalogue, texts
    from lwq.studies import grid

    def first_lines(table: dict[str, type]) -> dict[str, str]:
        return {name: (cls.__doc__ or "").strip().splitlines()[0] for name, cls in table.items()}

    tables: dict[str, dict[str, str]] = {
        "scorers": first_lines(scorers.SCORERS),
        "allocators": first_lines(allocators.ALLOCATORS),
        "quantizers": first_lines(quantizers.QUANTIZERS),
        "formats": {name: cls().says for name, cls in exporters.EXPORTERS.items()},
        "models": {
            "toy": "4 random blocks, made in code",
            **{name: entry.note for name, entry in catalogue.MODELS.items()},
            **{
                name: f"llama of {catalogue.rung(name)} blocks, trained here in minutes"
                for name in catalogue.LADDER
            },
        },
        "texts": {
            "toy": "seeded grammar, made in code",
            **{name: entry.note for name, entry in catalogue.TEXTS.items()},
            **{
                name: f"{path} (needs a hub and lwq's extra 'hub')"
                for name, (path, *_) in texts.HUB.items()
            },
        },
        "tasks": {name: catalogue.TASKS[name].note for name in questions.STOCK},
        "studies": grid.names(),
    }
    found = pick(tables, "kind", kind)
    show(kind, ["name", "what it is"], [[name, note] for name, note in found.items()])


@app.command()
def fetch(
    names: Annotated[list[str], typer.Argument(help="models, texts or tasks")],
    verify: Annotated[bool, typer.Option(help="hash what is in the cache again")] = False,
) -> None:
    """Bring models, texts and tasks into the cache, checked by sha256."""
    from lwq.inputs import resolve

    for name in names:
        print(f"{name}: {resolve.fetch(name)}")
        if verify:
            resolve.verify(name)
