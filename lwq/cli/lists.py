"""What there is, and getting it."""

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated

import typer

from lwq.cli.app import app
from lwq.cli.printing import show
from lwq.common.errors import InputError

Line = tuple[str | float, ...]  # a name, what else is known of it, and what it is


def _methods(table: Mapping[str, type]) -> Iterator[tuple[str, str]]:
    for name, cls in table.items():
        yield name, " ".join(inspect.cleandoc(cls.__doc__ or "").split("\n\n")[0].split())


def _scorers() -> Iterator[Line]:
    """With what each costs: what its docstring says of that, up to the first break."""
    from lwq.scorers import SCORERS

    for name, says in _methods(SCORERS):
        cost = re.search(r"\bCosts ([^.,;:]+)", " ".join(str(SCORERS[name].__doc__).split()))
        yield name, cost[1].replace("`", "") if cost else "", says


def _allocators() -> Iterator[Line]:
    from lwq.allocators import ALLOCATORS

    return _methods(ALLOCATORS)


def _quantizers() -> Iterator[Line]:
    from lwq.quantizers import QUANTIZERS

    return _methods(QUANTIZERS)


def _formats() -> Iterator[Line]:
    from lwq.exporters import EXPORTERS

    return ((name, cls().says) for name, cls in EXPORTERS.items())


def _models() -> Iterator[Line]:
    """With millions of weights, and megabytes of them in float32, as they lie in the cache."""
    from lwq.inputs import catalogue
    from lwq.studies import sizes

    notes = {
        "toy": "4 random blocks, made in code",
        **{name: entry.note for name, entry in catalogue.MODELS.items()},
        **{
            name: f"llama of {catalogue.rung(name)} blocks, trained here in minutes"
            for name in catalogue.LADDER
        },
    }
    for name, note in notes.items():
        weights = sizes.of(name).parameters / 1e6
        yield name, weights, 4 * weights, note


def _texts() -> Iterator[Line]:
    from lwq.inputs import catalogue, texts

    yield "toy", "seeded grammar, made in code"
    for name, entry in catalogue.TEXTS.items():
        yield name, entry.note
    for name, (path, *_) in texts.HUB.items():
        yield name, f"{path} (needs a hub and lwq's extra 'hub')"


def _tasks() -> Iterator[Line]:
    from lwq.engine import tasks
    from lwq.inputs import catalogue

    return ((name, catalogue.TASKS[name].note) for name in tasks.STOCK)


def _studies() -> Iterator[Line]:
    from lwq.studies import grid

    return iter(grid.names().items())


KINDS: dict[str, Callable[[], Iterator[Line]]] = {
    "scorers": _scorers,
    "allocators": _allocators,
    "quantizers": _quantizers,
    "formats": _formats,
    "models": _models,
    "texts": _texts,
    "tasks": _tasks,
    "studies": _studies,
}
# between the name and what it is
HEADS = {"models": ["weights (M)", "MB in float32"], "scorers": ["costs"]}


@app.command("list")
def list_(
    kind: Annotated[str, typer.Argument(help=" | ".join(KINDS), show_default=False)] = "",
) -> None:
    """What can be asked for, one line each."""
    from lwq.common.names import pick

    if not kind:
        raise InputError(f"list what? Name one of {', '.join(KINDS)}")

    lines = [list(line) for line in pick(KINDS, "kind", kind)()]
    show(kind, ["name", *HEADS.get(kind, []), "what it is"], lines)


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
