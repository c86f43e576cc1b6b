"""Quantized matrices on disk: one safetensors file each, named after everything that decides its
content.
"""

import contextlib
import os
import zlib
from collections.abc import Mapping
from pathlib import Path

import torch
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lwq.common import paths
from lwq.contracts.methods import Storage
from lwq.quantizers import storage

LIMIT = 20 << 30
CHECKSUM = "crc32"
STORAGE = "storage"  # what read and write call the name of the class


def default() -> Path:
    """`bank` in the cache."""
    return paths.cache() / "bank"


class Store:
    """A folder of quantized matrices under a byte limit; what was used longest ago goes first.

    A file is written whole or not at all, and one that cannot be read, or whose checksum is wrong
    or missing, counts as missing, so that any number of processes may share the folder and any of
    them may be killed.

    Attributes:
        folder: where the files are; the default is `bank` in the cache.
        limit: bytes; kept by `prune`.
    """

    def __init__(self, folder: str | Path | None = None, limit: int = LIMIT):
        self.folder = paths.writable(folder or default(), "the bank's folder")
        self.limit = limit

    def get(self, key: str) -> Storage | None:
        """What was put under `key`, or None."""
        path = self._path(key)
        try:
            with safe_open(path, framework="pt") as file:
                tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 (not a dict)
                written = file.metadata() or {}
            kind = written.pop(STORAGE)
            about = {name: int(value) for name, value in written.items()}
            if about.pop(CHECKSUM, None) != checksum(tensors, {STORAGE: kind, **about}):
                raise ValueError("not what was written")
            os.utime(path)
        except (OSError, ValueError, KeyError, SafetensorError):
            path.unlink(missing_ok=True)  # damaged: it will be made again
            return None
        return storage.read(kind, tensors, about)

    def put(self, key: str, packed: Storage) -> None:
        """Keep `packed` under `key`."""
        path = self._path(key)
        with paths.writing(path):
            path.parent.mkdir(exist_ok=True)
        with paths.replacing(path) as temporary:
            tensors = {name: tensor.contiguous() for name, tensor in packed.tensors().items()}
            about: dict[str, int | str] = {STORAGE: storage.name_of(packed), **packed.header()}
            about[CHECKSUM] = checksum(tensors, about)
            save_file(tensors, temporary, {name: str(value) for name, value in about.items()})

    def __contains__(self, key: str) -> bool:
        return self._path(key).is_file()

    def lock(self, name: str) -> FileLock:
        """Held by the process that quantizes for `name`, so that a second one waits and then
        reads.
        """
        return FileLock(self.folder / f"{name}.lock")

    def prune(self) -> None:
        """Delete what was used longest ago until the rest is within the limit."""
        files = []
        for path in self.folder.glob("*/*.safetensors"):
            with contextlib.suppress(OSError):  # another process was faster
                files.append((path.stat().st_mtime_ns, path.stat().st_size, path))
        excess = sum(size for _, size, _ in files) - self.limit
        for _, size, path in sorted(files):
            if excess <= 0:
                return
            path.unlink(missing_ok=True)
            excess -= size

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.safetensors"


def checksum(tensors: Mapping[str, Tensor], about: Mapping[str, int | str] | None = None) -> int:
    """CRC-32 over the names, dtypes, shapes and bytes of `tensors`, and over `about`."""
    total = zlib.crc32(repr(sorted((about or {}).items())).encode())
    for name, tensor in sorted(tensors.items()):
        total = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), total)
        total = zlib.crc32(
            tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data, total
        )
    return total
