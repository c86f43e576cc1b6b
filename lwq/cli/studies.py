"""Studies and their report."""

from typing import Annotated, Any

import typer

from lwq.cli import arguments
from lwq.cli.app import app
from lwq.cli.printing import (
    show,
)
from lwq.common.errors import InputError

LONG = 1000  # hours of a study that nobody waits for


@app.command()
def study(
    name: Annotated[str, typer.Argument(help="from `lwq list studies`")],
    size: Annotated[str, typer.Option(help="smoke, quick, laptop or paper")] = "smoke",
    parameter: Annotated[
        list[str],
        typer.Option(
            "-p",
            help="notebook parameter as name=value, the value in YAML; results_dir starts at the "
            "clone, other paths here",
        ),
    ] = [],  # noqa: B006
    dry_run: Annotated[
        bool, typer.Option(help="check the parameters and print the points, run nothing")
    ] = False,
    tflops: Annotated[
        float | None,
        typer.Option(
            help="speed that the estimate assumes, 1e12 operations a second; measured if not given"
        ),
    ] = None,
    jobs: Annotated[
        int,
        typer.Option(
            help="points at once in processes that share the cores; 0: one for 4 cores",
            rich_help_panel="Performance",
        ),
    ] = 0,
    dask: Annotated[
        str | None,
        typer.Option(
            help="address of a Dask scheduler, such as tcp://host:8786",
            rich_help_panel="Performance",
        ),
    ] = None,
) -> None:
    """Run a study's notebook through papermill; what is measured already is not measured again."""
    from lwq.results.measurements import Results
    from lwq.studies import grid, pool

    if tflops is not None and not tflops > 0:
        raise InputError(
            f"--tflops {tflops:g}: a speed above 0 is needed, such as 0.1 for a few "
            f"cores or 100 for a large GPU"
        )
    points = grid.points(name, size, dict(arguments.pair(text) for text in parameter))
    count = pool.jobs(len(points), jobs)
    _show_estimate(name, points, tflops)
    for number, point in enumerate(points, start=1):
        shown = ", ".join(
            f"{key}={value}" for key, value in point.parameters.items() if key != "results_dir"
        )
        print(f"[{number}/{len(points)}] {name}: {shown or 'defaults of the notebook'}", flush=True)
        if not (dry_run or dask or count > 1):
            print(f"      executed copy: {grid.run(point)}", flush=True)
    if dry_run:
        print("dry run: nothing was run")
        return
    if dask or count > 1:
        for copy in pool.on_cluster(points, dask) if dask else pool.in_processes(points, count):
            print(f"      executed copy: {copy}", flush=True)
    tables = {
        str(Results(folder).write())
        for folder in {point.parameters["results_dir"] for point in points}
    }
    print(f"rows: {', '.join(sorted(tables))}")


def _show_estimate(name: str, points: list[Any], tflops: float | None) -> None:
    from lwq.studies import forecast, grid, sizes

    folders = {point.parameters["results_dir"] for point in points}
    measured = {folder: forecast.measured(folder) for folder in folders}
    speeds: dict[str, float] = {}
    rows, hours, memory, plans, done, finished = [], 0.0, 0.0, 0, 0, True
    for number, point in enumerate(points, start=1):
        parameters = grid.full(point)
        found = forecast.of_point(point, measured[point.parameters["results_dir"]])
        dtype = parameters.get("judge_dtype") or parameters.get("dtype", "float32")
        if dtype not in speeds:
            speeds[dtype] = tflops * 1e12 if tflops else forecast.speed(dtype)
        took = found.seconds(speeds[dtype]) / 3600
        hours, memory = hours + took, max(memory, found.memory)
        plans, done = plans + found.plans, done + found.measured
        finished &= found.finished
        who = parameters.get("models") or [parameters["model"]]
        names = ", ".join(one if sizes.of(one).known else f"{one} (as if 7B)" for one in who)
        count = f"{found.measured} of {found.plans}"
        rows.append([number, names, count, f"{took:.2f}", f"{found.memory / forecast.GIB:.1f}"])
    where = f"at {tflops:g} TFLOPS" if tflops else f"on {forecast.device()}"
    title = "nothing left" if finished else f"{hours:,.1f} hours left {where}"
    show(
        f"{name}: {done} of {plans} plans measured, {title}",
        ["point", "model", "plans measured", "hours left", "GiB"],
        rows,
    )
    if not finished and memory > (free := forecast.free()):
        print(
            f"memory: a point needs {memory / forecast.GIB:.1f} GiB, and "
            f"{free / forecast.GIB:.1f} GiB are free here"
        )
    if hours > LONG:
        print(
            f"time: more than {LONG:,} hours {where}; this size is meant for a GPU: --tflops 100 "
            f"gives the time on one, -p dtype=bfloat16 halves it"
        )


@app.command()
def report(
    size: Annotated[
        str, typer.Option(help="whose results: smoke, quick, laptop or paper")
    ] = "laptop",
    table: Annotated[
        str | None,
        typer.Option(
            help="print one table instead: verdicts, claims, models, uniform, or STUDY.NAME",
            rich_help_panel="One table",
        ),
    ] = None,
    format: Annotated[
        str, typer.Option(help="markdown, latex or csv", rich_help_panel="One table")
    ] = "markdown",
    notebooks: Annotated[
        bool,
        typer.Option(
            "--notebooks",
            help="run the notebooks at laptop size from the tracked tables instead",
        ),
    ] = False,
) -> None:
    """Build report.md, report.html and the figures from the results tables; needs no model."""
    from lwq.common import paths
    from lwq.report import page as builder
    from lwq.report import tables
    from lwq.studies import grid, pages

    results, reports = grid.folders(size)
    if notebooks:
        for page in pages.make():
            print(f"page: {page}", flush=True)
        return
    if table is not None:
        print(tables.text(results, table, format), end="")
        return
    print(f"report: {builder.build(results, reports)}")
    if results == paths.RESULTS:
        builder.put_into_readme(paths.WORK / "README.md", reports)
