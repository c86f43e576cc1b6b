"""Where things are: absolute paths, the same from a clone and from an installed wheel.

A wheel carries `notebooks/`, `studies/` and the templates of the report under `lwq/_data/`; a clone
has them at its root.
"""

import errno
import glob
import os
import platform
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import platformdirs
import psutil

from lwq.common.errors import InputError, RunError

PACKAGE = Path(__file__).resolve().parents[1]
IN_CLONE = (PACKAGE.parent / "studies" / "common.yaml").is_file()
DATA = PACKAGE.parent if IN_CLONE else PACKAGE / "_data"  # what ships with the package, read only
WORK = PACKAGE.parent if IN_CLONE else Path.cwd()  # where results and reports are written

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # of a disk without room, however it is limited

NOTEBOOKS = DATA / "notebooks"
STUDIES = DATA / "studies"
TEMPLATES = DATA / "reports"  # report.md.j2, and sections/NAME.md.j2
RESULTS = WORK / "results"
REPORTS = WORK / "reports"


def cache() -> Path:
    """The cache folder: `$LWQ_CACHE`, or `lwq` in the user's cache folder. Read at each call, made
    when missing.
    """
    folder = (
        Path(os.environ.get("LWQ_CACHE") or platformdirs.user_cache_dir("lwq"))
        .expanduser()
        .absolute()
    )
    return writable(folder, "LWQ_CACHE")


def resolve(folder: str | Path) -> Path:
    """An absolute path; a relative one hangs under the clone (or the working folder), whatever the
    caller's folder is.
    """
    return (WORK / Path(folder).expanduser()).absolute()


def writable(folder: str | Path, setting: str = "results_dir") -> Path:
    """Make `folder` if it is missing and prove that a file can be written there.

    Raises InputError, naming `setting` as the way out, so that a long run never ends at its first
    save.
    """
    folder = resolve(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        raise InputError(
            f"cannot write into {folder}: {error.strerror}; choose another folder with {setting}"
        ) from None


def scratch(owner: object, prefix: str) -> Path:
    """A new folder that goes when `owner` does, or after its process was killed; in the cache, as
    the system's temporary folder may live in memory.
    """
    folder = _in_cache(prefix)
    weakref.finalize(owner, shutil.rmtree, folder, ignore_errors=True)
    return folder


@contextmanager
def aside(prefix: str) -> Iterator[Path]:
    """`scratch` that goes when the block ends."""
    folder = _in_cache(prefix)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _in_cache(prefix: str) -> Path:
    with writing(cache()):
        return _own(cache(), prefix)


def _own(parent: Path, prefix: str, suffix: str = "") -> Path:
    """A new folder of this process; those like it of processes of this machine that are no more are
    cleared away.
    """
    own = f"{prefix}{platform.node()}-"
    for left in parent.glob(f"{glob.escape(own)}*{suffix}"):
        number = left.name.removeprefix(own).partition("-")[0]
        if number.isdecimal() and not psutil.pid_exists(int(number)):
            shutil.rmtree(left, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{own}{os.getpid()}-", suffix=suffix, dir=parent))


@contextmanager
def writing(place: str | Path) -> Iterator[None]:
    """Inside, what the disk and the library that writes weights raise is a RunError that names
    `place` and the reason.
    """
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or " ".join(str(error).split())
        raise RunError(
            f"cannot write {place}: {reason}. Nothing half-written stays; make room or choose "
            f"another place, and run the same command again"
        ) from None


def require_room(folder: Path) -> None:
    """Raise InputError where `whole(folder)` could not begin, as for a name that is too long."""
    try:
        with writing(folder):
            shutil.rmtree(_own(folder.parent, f".{folder.name}.", ".part"))
    except RunError as error:
        raise InputError(str(error)) from None


@contextmanager
def whole(folder: Path) -> Iterator[Path]:
    """A folder that becomes `folder`, which is empty or missing, when the block ends well,
    and else vanishes. What a process that was killed left of it is cleared away. Errors name
    `folder`, where the user looks for it, in place of it.
    """
    with writing(folder):
        work = _own(folder.parent, f".{folder.name}.", ".part")
    try:
        yield work
        work.chmod(0o755)
        if folder.exists():
            _remove_empty(folder)
        work.rename(folder)
    except (InputError, RunError) as error:
        raise type(error)(str(error).replace(str(work), str(folder))) from error.__cause__
    except OSError as error:
        if str(work) not in str(error.filename) and error.errno not in FULL:
            raise
        with writing(folder):
            raise
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _remove_empty(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        raise RunError(
            f"{folder} is empty no more: something else wrote into it meanwhile, and that stays; "
            f"choose a new folder, and run the same command again"
        ) from None


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that becomes `path` when the block ends well, and vanishes
    otherwise.

    Readers see the old file or the whole new one, never a part of it.
    """
    with writing(path):
        handle, name = tempfile.mkstemp(
            dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix
        )
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
