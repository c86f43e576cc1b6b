"""studies/NAME.yaml -> checked parameters -> papermill. A notebook runs without this file too."""

import contextlib
import math
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from lwq.common import paths, progress, user_code
from lwq.common.errors import InputError, RunError
from lwq.common.hashing import digest
from lwq.common.names import pick
from lwq.studies import checks, kernel


@dataclass(frozen=True)
class Point:
    """One notebook run.

    Attributes:
        study: its name, that of its file in studies/.
        notebook: the source, never written to.
        parameters: what papermill injects; every name is declared in the notebook.
        output: where the executed copy goes.
    """

    study: str
    notebook: Path
    parameters: dict[str, Any]
    output: Path


COMMON = "common"  # the file beside the studies with what they share


NEEDED = {"about", "notebook", "sizes"}  # of a study


@cache
def _read(path: Path) -> dict[str, Any]:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise InputError(f"{path} is not YAML: {error}") from None


def _study(path: Path) -> dict[str, Any]:
    found = _read(path)
    if lacking := sorted(NEEDED - found.keys()):
        raise InputError(f"{path} lacks {lacking}; studies/template.yaml shows them")
    if not (paths.NOTEBOOKS / found["notebook"]).is_file():
        raise InputError(
            f"{path}: notebook: {found['notebook']} is not in {paths.NOTEBOOKS}; write the name of "
            "the file there, such as 50_mine.ipynb"
        )
    return found


def catalogue() -> dict[str, dict[str, Any]]:
    """Study -> what its file says, in the order of their notebooks."""
    files = [path for path in paths.STUDIES.glob("*.yaml") if path.stem != COMMON]
    found = {path.stem: _study(path) for path in files}
    return dict(sorted(found.items(), key=lambda entry: entry[1]["notebook"]))


def claims() -> dict[str, dict[str, Any]]:
    """Claim -> what is written down about it, and its `study`, in the order of their places."""
    found = {
        key: {"study": name, **claim}
        for name, study in catalogue().items()
        for key, claim in study.get("claims", {}).items()
    }
    return dict(sorted(found.items(), key=lambda entry: entry[1]["place"]))


def claimed() -> list[str]:
    """The scores that claims are about, in the order in which the claims name them."""
    named = [claim.get("numbers", {}).get("orderings", []) for claim in claims().values()]
    return list(dict.fromkeys(name for names in named for name in names))


def names() -> dict[str, str]:
    """Study -> what it asks."""
    return {name: study["about"] for name, study in catalogue().items()}


def sizes() -> list[str]:
    """The sizes that studies may have."""
    return list(_read(paths.STUDIES / f"{COMMON}.yaml")["sizes"])


def folders(size: str) -> tuple[Path, Path]:
    """(results, reports) of a size."""
    entry = pick(_read(paths.STUDIES / f"{COMMON}.yaml")["sizes"], "size", size)
    return paths.resolve(entry["results"]), paths.resolve(entry["reports"])


def points(study: str, size: str = "smoke", overrides: dict[str, Any] | None = None) -> list[Point]:
    """The runs of a study at a size, with `overrides` in each; checked, nothing started.

    Paths in `overrides` start at the current folder, `results_dir` at the clone of lwq.

    Raises:
        InputError: for an unknown study or size, a parameter that the notebook does not declare or
            cannot use as it is, or a results folder that cannot be written.
    """
    entry = pick(catalogue(), "study", study)
    results, reports = folders(size)
    grid = pick(entry["sizes"], f"size of {study}", size)
    notebook = paths.NOTEBOOKS / entry["notebook"]
    found = []
    for chosen in grid:
        parameters = {"results_dir": str(results), **chosen, **checks.placed(overrides or {})}
        check(notebook, parameters)
        paths.writable(parameters["results_dir"])
        name = digest(
            {**parameters, "results_dir": os.path.relpath(parameters["results_dir"], paths.WORK)}
        )
        output = reports / "notebooks" / f"{notebook.stem}-{name}.ipynb"
        found.append(Point(study, notebook, parameters, output))
    return found


def full(point: Point) -> dict[str, Any]:
    """All parameters of a point: those given, and the notebook's own values for the others."""
    return {**_declared(point.notebook), **point.parameters}


def _declared(notebook: Path) -> dict[str, Any]:
    """Parameter -> the value that it has in the notebook."""
    return _declared_then(notebook, notebook.stat().st_mtime_ns)


@cache
def _declared_then(notebook: Path, written: int) -> dict[str, Any]:
    """The same of the file as it was `written`: all points of a study share it."""
    import papermill

    return {
        name: yaml.safe_load(entry["default"])
        for name, entry in papermill.inspect_notebook(str(notebook)).items()
    }


def check(notebook: Path, parameters: dict[str, Any]) -> None:
    """Raise InputError unless every parameter is declared in the notebook, is like its own value
    there, and can be.
    """
    declared = _declared(notebook)
    for name, value in parameters.items():
        default = pick(declared, f"parameter of {notebook.name}", name)
        if not _plain(value):
            raise InputError(
                f"parameter {name}={value!r}: only numbers, text, true/false and "
                f"lists of them go into a notebook"
            )
        checks.require_type(name, value, default)
    checks.require_possible({**declared, **parameters})


def _plain(value: Any) -> bool:
    if isinstance(value, list):
        return all(map(_plain, value))
    return (
        value is None
        or type(value) in (bool, int, str)
        or (type(value) is float and math.isfinite(value))
    )


def run(point: Point, quiet: bool = False) -> Path:
    """Execute one point; returns the executed copy. `quiet` hides the notebook's own progress bars.

    The copy appears under its name only when every cell has run. A failed run leaves
    `….failed.ipynb` beside it, with the error at its top, and raises.
    """
    from filelock import FileLock, Timeout

    paths.writable(point.output.parent, "reports")
    # its file stays: unlinked, two could hold it
    lock = FileLock(point.output.with_suffix(".lock"), timeout=0)
    try:
        # no debugger hints, figures inline whatever backend the caller chose, and the caller's own
        # files found from his folder
        with (
            lock,
            environment(
                PYDEVD_DISABLE_FILE_VALIDATION="1",
                MPLBACKEND=None,
                **({progress.LINES: "1"} if progress.plain() else {}),
                **{user_code.FOLDER: str(user_code.folder())},
            ),
        ):
            _execute(point, quiet)
    except Timeout:
        raise InputError(
            f"{point.output.name} is being run by another process; wait for it, or stop it"
        ) from None
    return point.output


def _execute(point: Point, quiet: bool) -> None:
    import papermill
    from papermill.exceptions import PapermillExecutionError

    partial = point.output.with_suffix(".partial.ipynb")
    try:
        with (
            kernel.own_kernel() as jupyter_path,
            environment(JUPYTER_PATH=jupyter_path),
            paths.writing(point.output),  # papermill saves after each cell
        ):
            papermill.execute_notebook(
                str(point.notebook),
                str(partial),
                point.parameters,
                kernel_name=kernel.NAME,
                cwd=str(paths.WORK),
                progress_bar=False,
                stderr_file=None if quiet else sys.stderr,  # the notebook's own bars
            )
        _publish(partial, point.output)
    except PapermillExecutionError as error:
        failed = point.output.with_suffix(".failed.ipynb")
        os.replace(partial, failed)
        raise RunError(
            f"{point.study} failed in cell {error.exec_count}: {error.ename}: "
            f"{error.evalue} (see {failed})"
        ) from None
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def environment(**settings: str | None) -> Iterator[None]:
    """Inside, these environment variables have these values (None: they are not set)."""
    before = {key: os.environ.get(key) for key in settings}
    try:
        _set(settings)
        yield
    finally:
        _set(before)


def _set(settings: Mapping[str, str | None]) -> None:
    for key, value in settings.items():
        if value is None:
            os.environ.pop(key, None)
        else:
            os.environ[key] = value


def _publish(partial: Path, output: Path) -> None:
    """Keep what a reader wants of an executed notebook: no progress bars, no times, no paths of
    this machine.
    """
    import nbformat

    notebook = nbformat.read(partial, as_version=4)
    notebook.metadata.pop("papermill", None)
    for number, cell in enumerate(notebook.cells):
        cell.metadata.pop("papermill", None)
        cell.metadata.pop("execution", None)
        cell["id"] = f"cell-{number:02d}"
        if cell.cell_type == "code":
            cell.outputs = [out for out in cell.outputs if out.get("name") != "stderr"]
    with paths.replacing(output) as temporary:
        nbformat.write(notebook, temporary)
