"""Tensors to the safetensors files of a checkpoint, as they come; read back before they count."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from lwq import models
from lwq.common import paths
from lwq.common.errors import InputError, RunError
from lwq.engine.store import checksum
from lwq.models.checkpoint import INDEX, SINGLE
from lwq.quantizers.storage.packed import stored

LIMIT = 2 << 30  # bytes of a file, and so of what waits in memory


class Shards:
    """Writes tensors into files of at most `limit` bytes (or one tensor), with an index.

    `with Shards(folder) as out: out.add(key, tensor)`; leaving it without an error finishes the
    files and reads every tensor again: names, dtypes, shapes and bytes.

    Attributes:
        nbytes: of all tensors so far.
    """

    def __init__(self, folder: Path, limit: int = LIMIT):
        self.folder, self.limit, self.nbytes = folder, limit, 0
        self._waiting: dict[str, Tensor] = {}
        self._files: list[list[str]] = []  # keys of each
        self._sums: dict[str, int] = {}

    def __enter__(self) -> "Shards":
        return self

    def add(self, key: str, tensor: Tensor) -> None:
        """Write `tensor` under `key`; RunError where the disk is full, or the key is taken."""
        if key in self._sums:
            raise RunError(f"{key} was written twice: two tensors of the model have one name")
        # a part of a matrix may be a view of it, which would hold all of it in memory
        kept = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        if self._waiting and sum(t.nbytes for t in self._waiting.values()) + kept.nbytes > (
            self.limit
        ):
            self._flush()
        self._waiting[key] = kept
        self._sums[key] = checksum({key: kept})
        self.nbytes += kept.nbytes

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self._flush()
            self._name()
            self._require_same()

    def _flush(self) -> None:
        with paths.writing(self.folder):
            save_file(self._waiting, self.folder / self._place(len(self._files)), {"format": "pt"})
        self._files.append(list(self._waiting))
        self._waiting.clear()

    def _place(self, number: int, count: int = 0) -> str:
        return f"model-{number + 1:05d}-of-{count:05d}.safetensors"

    def _name(self) -> None:
        """Give the files the names that loaders look for, now that their count is known."""
        count = len(self._files)
        table: dict[str, str] = {}
        for number, keys in enumerate(self._files):
            name = self._place(number, count) if count > 1 else SINGLE
            file = (self.folder / self._place(number)).rename(self.folder / name)
            file.chmod(0o644)  # safetensors lets nobody else read them
            table |= dict.fromkeys(keys, name)
        if count > 1:
            index = {"metadata": {"total_size": self.nbytes}, "weight_map": table}
            with paths.writing(self.folder):
                (self.folder / INDEX).write_text(
                    json.dumps(index, indent=1) + "\n", encoding="utf-8"
                )

    def _require_same(self) -> None:
        found = {}
        try:
            for key, tensor in read(self.folder):
                found[key] = checksum({key: tensor})
        except (OSError, SafetensorError) as error:
            raise RunError(f"{self.folder} does not read back: {error}") from None
        if found != self._sums:
            wrong = sorted(dict(found.items() ^ self._sums.items()))
            raise RunError(f"{self.folder} reads back with other tensors: {wrong[:3]}")


def read(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """(key, tensor) of the safetensors files in `folder`."""
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as content:
            for key in content.keys():  # noqa: SIM118 (not a dict)
                yield key, content.get_tensor(key)


def narrow(tensor: Tensor) -> torch.dtype:
    """The 16 bits that hold a float tensor exactly, else those that come nearest: float16, or
    bfloat16 where a number is too large.
    """
    for dtype in (torch.bfloat16, torch.float16):
        if bool((tensor.to(dtype).to(tensor.dtype) == tensor).all()):
            return dtype
    return torch.bfloat16 if too_large(tensor) else torch.float16


def too_large(tensor: Tensor) -> bool:
    """Whether float16 has no room for a number of a float tensor."""
    return tensor.numel() > 0 and bool(tensor.abs().max() > torch.finfo(torch.float16).max)


def cast(key: str, tensor: Tensor, dtype: torch.dtype, way: str = "dtype='bfloat16'") -> Tensor:
    """What is written of the tensor `key`: floats in `dtype`, anything else as it is.

    Raises InputError, with the setting that is the way out, where a number is too large for it.
    """
    if not tensor.is_floating_point():
        return tensor
    try:
        return stored(tensor, dtype, f"choose {way}")
    except InputError as error:
        raise InputError(f"{key}: {error}") from None


def require_held(
    tensors: Iterable[tuple[str, Tensor]], dtype: torch.dtype, way: str = "dtype='bfloat16'"
) -> None:
    """Raise the InputErrors of `cast` before the work; (key, tensor) of what is not quantized."""
    for key, tensor in tensors if dtype == torch.float16 else ():
        cast(key, tensor, dtype, way)


def write_settings(
    model: Any, folder: Path, dtype: torch.dtype, quantization: dict[str, Any]
) -> None:
    """config.json with how the weights are stored, under the keys that loaders look up; the
    generation settings, and the model's own code.

    quantization: key of config.json -> its value.
    """
    with paths.writing(folder), models.saved_settings(model):
        before = model.config.dtype, model.config.architectures
        model.config.dtype, model.config.architectures = dtype, [type(model).__name__]
        try:
            models.save_settings(model, folder)
        finally:
            model.config.dtype, model.config.architectures = before
        file = folder / "config.json"
        said = json.loads(file.read_text(encoding="utf-8")) | quantization
        file.write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")


def by_parameter(
    model: nn.Module, matrices: Iterable[models.Matrix]
) -> dict[str, list[models.Matrix]]:
    """Tensor of a checkpoint -> those of `matrices` that it is, or holds as slices."""
    found: dict[str, list[models.Matrix]] = {}
    for matrix in matrices:
        found.setdefault(parameter(model, matrix), []).append(matrix)
    return found


def parameter(model: nn.Module, matrix: models.Matrix) -> str:
    """The name, in a checkpoint, of the tensor that `matrix` is, or is a slice of."""
    owner = matrix.name
    if matrix.expert is not None:
        owner = owner.removesuffix(f".{matrix.parameter}.{matrix.expert}")
    return f"{owner}.{matrix.parameter}"
