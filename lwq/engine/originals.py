"""Weights as they were before plans changed them: in memory while they are few, else on disk."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from lwq.common import paths

MEMORY = 1 << 30


class Originals(Mapping[str, Tensor]):
    """Matrix -> its weights (out, in) as they were when they were kept.

    Memory: `memory` bytes. What comes after goes into a folder that lives as long as this object
    does, a file a matrix, and is read from there each time.

    Attributes:
        memory: bytes, see above.
        held: of those, how many are taken.
    """

    def __init__(self, memory: int = MEMORY):
        self.memory, self.held = memory, 0
        self._here: dict[str, Tensor] = {}
        self._there: dict[str, Path] = {}
        self._folder: Path | None = None

    def keep(self, name: str, weight: Tensor) -> None:
        """Keep a copy of `weight`, a view of the model, unless `name` has one."""
        if name in self:
            return
        if self.held + weight.nbytes <= self.memory:
            self._here[name] = weight.clone()
            self.held += weight.nbytes
            return
        if self._folder is None:
            self._folder = paths.scratch(self, "originals-")
        file = self._folder / f"{len(self._there)}.safetensors"
        with paths.writing(file):
            save_file({"weight": weight.contiguous()}, file)
        self._there[name] = file

    def __getitem__(self, name: str) -> Tensor:
        return self._here[name] if name in self._here else load_file(self._there[name])["weight"]

    def __iter__(self) -> Iterator[str]:
        yield from self._here
        yield from self._there

    def __len__(self) -> int:
        return len(self._here) + len(self._there)
