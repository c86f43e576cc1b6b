"""Which commands run, and how those before them ended: a small file each in the cache.

What only this file knows is lost with the cache, and nothing else depends on it.
"""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from lwq.common import paths
from lwq.common.errors import InputError
from lwq.common.hashing import digest

RUNS, DONE, STOPPED = "runs", "done", "stopped"
INTERRUPTED = 130  # exit code of Ctrl-C
KEPT = 20  # runs that are remembered
PLACE = "LWQ_RUNS"  # another folder for them, as for a test's


@dataclass(frozen=True)
class Run:
    """A command that was started.

    Attributes:
        words: as typed, behind `lwq`.
        folder: where.
        started, ended: in UTC, to the second; ended is "" while it runs, and where it was killed.
        outcome: "runs", "done", "stopped" (interrupted or killed: the same command goes on from
            there), or what went wrong.
    """

    words: str
    folder: str
    started: str
    ended: str = ""
    outcome: str = RUNS


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(UTC).isoformat(" ", "seconds").removesuffix("+00:00")


@contextmanager
def noted(words: Sequence[str]) -> Iterator[None]:
    """Inside, the command counts as one that runs; its end is written down. Nothing is noted where
    the cache cannot be written, or the same command runs in this folder already.
    """
    run = Run(" ".join(words), str(Path.cwd()), now())
    try:
        place = _folder() / f"{digest([run.words, run.folder])}.json"
        lock = FileLock(place.with_suffix(".lock"), timeout=0)
        lock.acquire()
    except (InputError, OSError, Timeout):
        yield
        return
    try:
        yield from _followed(run, place)
    finally:
        lock.release()


def _followed(run: Run, place: Path) -> Iterator[None]:
    _write(place, run)
    outcome = STOPPED
    try:
        yield
        outcome = DONE
    except SystemExit as end:
        outcome = DONE if not end.code else STOPPED if end.code == INTERRUPTED else "failed"
        raise
    except Exception as error:
        outcome = f"failed: {error}"
        raise
    finally:
        _write(place, replace(run, ended=now(), outcome=outcome))
        for old in _files()[KEPT:]:
            old.unlink(missing_ok=True)
            old.with_suffix(".lock").unlink(missing_ok=True)


def known() -> list[Run]:
    """The last runs, the newest first; one that was killed is "stopped"."""
    return [_read(place) for place in _files()]


def held(lock: Path) -> bool:
    """Whether a process holds this lock file now."""
    if not lock.is_file():
        return False
    try:
        with FileLock(lock, timeout=0):
            return False
    except Timeout:
        return True


def _read(place: Path) -> Run:
    run = Run(**json.loads(place.read_text(encoding="utf-8")))
    gone = run.outcome == RUNS and not held(place.with_suffix(".lock"))
    return replace(run, outcome=STOPPED) if gone else run


def _write(place: Path, run: Run) -> None:
    with paths.replacing(place) as temporary:
        temporary.write_text(json.dumps(asdict(run)), encoding="utf-8")


def _folder() -> Path:
    return paths.writable(os.environ.get(PLACE) or paths.cache() / "runs", "LWQ_CACHE")


def _files() -> list[Path]:
    return sorted(_folder().glob("[!.]*.json"), key=lambda place: -place.stat().st_mtime)
