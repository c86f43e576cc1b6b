"""Points of a study side by side: processes of this machine, or workers of a Dask cluster; the same
rows either way.
"""

import json
import os
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from lwq.common import paths
from lwq.common.errors import InputError, RunError
from lwq.common.progress import bar, track
from lwq.common.version import VERSION
from lwq.results.measurements import Results
from lwq.studies.grid import Point, environment, run

TRIES = 3  # of a point whose worker died
CORES_A_JOB = 4  # more threads than this gain little on one small model
_one_at_a_time = threading.Lock()


def jobs(points: int, wanted: int = 0) -> int:
    """How many points to run at once: `wanted`, or one for every CORES_A_JOB cores."""
    if wanted < 0:
        raise InputError(
            f"jobs={wanted}; a number of processes is needed, 1 or more (0: chosen "
            f"by the number of cores)"
        )
    return max(1, min(points, wanted or cores() // CORES_A_JOB))


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_processes(points: Sequence[Point], count: int) -> Iterator[Path]:
    """Run `points` in `count` processes that share the cores; yields executed copies as they come.

    A point whose process dies is run again, in a new one; what it had measured until then is looked
    up.
    """
    left = list(points)
    with (
        environment(OMP_NUM_THREADS=str(max(1, cores() // count))),
        bar("points", len(points)) as progress,
    ):
        for attempt in range(1, TRIES + 1):
            try:
                with ProcessPoolExecutor(count, mp_context=get_context("spawn")) as executor:
                    tasks = {executor.submit(_or_end, run, point): point for point in left}
                    for task in as_completed(tasks):
                        yield task.result()
                        left.remove(tasks[task])
                        progress.update()
                return
            except BrokenProcessPool:
                print(
                    f"a worker process died; {len(left)} points go on (try {attempt} of {TRIES})",
                    flush=True,
                )
    raise RunError(
        f"worker processes died {TRIES} times (memory?); run fewer at once with --jobs 1"
    )


def _or_end(run: Callable[..., Path], point: Point) -> Path:
    """In a worker: run a point, or end the process where it is interrupted, or else it would begin
    the next point.
    """
    try:
        return run(point, quiet=True)
    except KeyboardInterrupt:
        os._exit(130)


def on_cluster(points: Sequence[Point], address: str) -> Iterator[Path]:
    """Run `points` on the workers of the Dask scheduler at `address`; yields executed copies as
    they come.

    Nothing but the points and what is measured already travels to a worker, and nothing but rows
    and the executed copy comes back, so that no file system needs to be shared. A worker that dies
    loses its point, which is run again elsewhere.

    Raises InputError where nobody listens at `address`, no worker is there, or a worker has another
    version of lwq.
    """
    try:
        from distributed import Client, as_completed
    except ImportError:
        raise InputError(
            "--dask needs dask.distributed; in a clone of lwq: pip install -e '.[dask]'"
        ) from None
    try:
        client = Client(address, timeout=10)
    except (OSError, ValueError) as error:
        raise InputError(
            f"no Dask scheduler answers at {address!r} ({error}); start one with: dask scheduler"
        ) from None
    with client:
        _require_workers(client, address)
        measured = {
            folder: Results(folder)
            for folder in {point.parameters["results_dir"] for point in points}
        }
        # what is known travels inside each task: scattered, it would live on one worker and die
        # with it
        tasks = {
            client.submit(
                remote,
                point,
                known(point, measured[point.parameters["results_dir"]]),
                pure=False,
                retries=0,
            ): point
            for point in points
        }
        for task in track(as_completed(tasks), "points", len(tasks)):
            point = tasks[task]
            text, records = task.result()
            results = Results(point.parameters["results_dir"])
            for record in records:
                results.add(record)
            paths.writable(point.output.parent, "reports")
            with paths.replacing(point.output) as temporary:
                temporary.write_text(text, encoding="utf-8")
            yield point.output


def known(point: Point, results: Results) -> list[dict[str, Any]]:
    """What is measured already of the models of `point`."""
    models = point.parameters.get("models") or [point.parameters.get("model")]
    return [
        record
        for record in results.found.values()
        if models == [None] or record["row"]["model"] in models
    ]


def remote(point: Point, measured: list[dict[str, Any]]) -> tuple[str, list[dict[str, Any]]]:
    """Run a point in a folder of its own, given what is measured already; returns the executed copy
    and what is new.
    """
    with _one_at_a_time, tempfile.TemporaryDirectory() as folder:
        results = Results(folder)
        for record in measured:
            results.add(record)
        home = point.parameters["results_dir"]
        here = replace(
            point,
            notebook=paths.NOTEBOOKS / point.notebook.name,
            parameters={**point.parameters, "results_dir": folder},
            output=Path(folder) / "executed" / point.output.name,
        )
        text = run(here, quiet=True).read_text(encoding="utf-8")
        before = {record["row"]["id"] for record in measured}
        new = [record for key, record in sorted(Results(folder).found.items()) if key not in before]
        return text.replace(json.dumps(folder)[1:-1], json.dumps(home)[1:-1]), new


def _require_workers(client: Any, address: str) -> None:
    versions = client.run(_version)
    if not versions:
        raise InputError(
            f"the Dask scheduler at {address!r} has no workers; start some with: "
            f"dask worker {address} --nthreads 1"
        )
    if wrong := {worker: version for worker, version in versions.items() if version != VERSION}:
        raise InputError(
            f"workers with another version of lwq than {VERSION}: {wrong}; install "
            f"the same everywhere"
        )


def _version() -> str:
    return VERSION
