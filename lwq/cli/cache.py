"""What lies in the cache, and clearing it."""

import shutil
from pathlib import Path
from typing import Annotated

import typer

from lwq.cli.app import app
from lwq.cli.printing import show
from lwq.common.names import pick
from lwq.common.sizes import readable

HOLDS = {  # folder -> what it is for; all of it comes or is made again
    "models": "carried models, and those of the depth ladder",
    "wheels": "PyPI files of which a part was taken",
    "texts": "carried texts",
    "tasks": "carried tasks",
    "datasets": "the tasks as lm-eval reads them",
    "bank": "quantized matrices; beyond 20 GiB the longest unused go",
    "costs": "what the default recipe scored",
    "plans": "what compress decided, so that a killed one goes on",
    "runs": "the commands that `lwq status` shows",
    "benchmarks": "what `make bench` brought",
}


@app.command()
def cache(
    clear: Annotated[
        list[str] | None, typer.Option(help="a folder to delete, such as bank; more than once")
    ] = None,
) -> None:
    """How much lies in the cache and what for; `--clear bank` gives the room back."""
    from lwq.common import paths

    home = paths.cache()
    chosen = [pick({name: name for name in HOLDS}, "folder", name) for name in clear or []]
    if chosen:
        _require_idle(chosen)
    for name in chosen:
        _empty(home / name)
    lines = [[folder.name, _size(folder), _use(folder)] for folder in sorted(home.glob("[!.]*/"))]
    show(f"{home}, which LWQ_CACHE moves", ["folder", "size", "what for"], lines)
    print(f"{readable(sum(map(_bytes, home.glob('*/'))))} in all")


def _require_idle(chosen: list[str]) -> None:
    """Raise InputError where a command runs that may be reading what is to go."""
    from lwq.common import runs
    from lwq.common.errors import InputError

    if busy := [run for run in runs.known() if run.outcome == runs.RUNS]:
        raise InputError(
            f"--clear {' '.join(chosen)}: lwq {busy[0].words} runs in {busy[0].folder}; "
            "wait for its end, or stop it"
        )


def _empty(folder: Path) -> None:
    """Delete what is in it; the folder stays, which may be a link to another disk."""
    from lwq.common import paths

    with paths.writing(folder):
        for entry in folder.iterdir() if folder.is_dir() else ():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()


def _use(folder: Path) -> str:
    return HOLDS.get(folder.name, "aside for a command that runs, or was killed")


def _size(folder: Path) -> str:
    return readable(_bytes(folder))


def _bytes(folder: Path) -> int:
    files = (path.lstat() for path in folder.rglob("*") if path.is_file())
    return sum(file.st_size for file in files)
