"""Where things are: absolute paths, the same from a clone and from an installed wheel.

A wheel carries `notebooks/`, `studies/` and the templates of the report under `lwq/_data/`; a clone
has them at its root.
"""

import os
import tempfile
from contextlib import contextmanager
from pathlib import Path

import platformdirs

from lwq.common.errors import InputError

PACKAGE = Path(__file__).resolve().parents[1]
IN_CLONE = (PACKAGE.parent / "studies" / "common.yaml").is_file()
DATA = PACKAGE.parent if IN_CLONE else PACKAGE / "_data"  # what ships with the package, read only
WORK = PACKAGE.parent if IN_CLONE else Path.cwd()  # where results and reports are written

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


@contextmanager
def replacing(path: Path):
    """A temporary path beside `path` that becomes `path` when the block ends well, and vanishes
    otherwise.

    Readers see the old file or the whole new one, never a part of it.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
