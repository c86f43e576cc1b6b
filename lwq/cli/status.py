"""What runs, what is done, and what is left."""

from textwrap import shorten
from typing import Annotated

import typer

from lwq.cli.app import app
from lwq.cli.printing import show

# commands that may take long
NOTED = ("compress", "study", "plan", "quantize", "score", "eval", "report")
SHOWN = 10  # runs
SAID = 80  # letters of what went wrong; all of it stood on standard error


@app.command()
def status(
    size: Annotated[
        str | None,
        typer.Option(help="count the studies of smoke, quick, laptop or paper"),
    ] = None,
    studies: Annotated[
        bool,
        typer.Option("--studies", help="count those of all sizes that have rows: a minute or two"),
    ] = False,
) -> None:
    """What runs now and how the last commands ended; --studies: plans measured and left."""
    _show_commands()
    if size is None and not studies:
        print(
            "studies: `lwq status --studies` counts their plans, `--size quick` those of one size"
        )
        return
    rows = [row for name in _sizes(size) for row in _studies(name)]
    if rows:
        show("studies", ["size", "study", "measured", "left", "now"], rows)
    else:
        print("studies: no rows yet; `lwq list studies` names them")


def _show_commands() -> None:
    """At once: what is counted after them takes long."""
    from lwq.common import runs

    found = runs.known()[:SHOWN]
    lines = [
        [shorten(run.outcome, SAID, placeholder=" …"), f"lwq {run.words}", run.started, run.folder]
        for run in found
    ]
    if lines:
        show("commands, times in UTC", ["", "command", "started", "folder"], lines)
        print(
            "what was stopped: run the same command again; studies and compress go on from where "
            "they were",
            flush=True,
        )
    else:
        print("commands: none noted yet", flush=True)


def _sizes(size: str | None) -> list[str]:
    """Those asked for, or those whose results folder has rows."""
    from lwq.results.measurements import TABLE
    from lwq.studies import grid

    if size is not None:
        return [size]
    folders = {name: grid.folders(name)[0] for name in grid.sizes()}
    return [
        name
        for name, folder in folders.items()
        if (folder / TABLE).is_file() or any((folder / "runs").glob("[!.]*.json"))
    ]


def _studies(size: str) -> list[list[str]]:
    """One line a study of a size."""
    from lwq.common import runs
    from lwq.common.progress import track
    from lwq.studies import forecast, grid

    results, _ = grid.folders(size)
    known, lines = forecast.measured(results), []
    studies = [name for name, entry in grid.catalogue().items() if size in entry["sizes"]]
    for study in track(studies, f"count the plans of size {size}", leave=False):
        points = grid.points(study, size)
        found = [forecast.of_point(point, known) for point in points]
        plans, done = sum(one.plans for one in found), sum(one.measured for one in found)
        asked = sum(one.questions for one in found)
        left = [_counted(plans - done, "plan")] * (plans > done)
        left += [_counted(asked, "question")] * (asked > 0)
        busy = sum(runs.held(point.output.with_suffix(".lock")) for point in points)
        now = f"{busy} of {len(points)} points run" if busy else ""
        lines.append([size, study, f"{done} of {plans}", ", ".join(left) or "nothing", now])
    return lines


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' * (number != 1)}"
