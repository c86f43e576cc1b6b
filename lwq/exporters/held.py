"""Weights that stay in memory as they were stored, and are unpacked where a module computes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from lwq.quantizers import storage

EIGHT = 8  # rows whose codes fill whole bytes at any width
PANEL = 1 << 19  # weights that are unpacked at once: what is in between stays in the cache


class Part(Protocol):
    """A matrix as it is stored.

    Attributes:
        nbytes: in memory.
        shape: (out, in); InputError where the file does not hold all of it.
    """

    @property
    def nbytes(self) -> int: ...

    @property
    def shape(self) -> tuple[int, ...]: ...

    def whole(self, dtype: torch.dtype) -> Tensor:
        """The weights (out, in)."""

    def rows(self, index: Tensor, dtype: torch.dtype) -> Tensor:
        """Some rows, (len(index), in); index is LongTensor (n,)."""

    def to(self, device: torch.device) -> "Part": ...


@dataclass(frozen=True)
class Plain:
    """A tensor in the dtype of its file."""

    tensor: Tensor

    @property
    def nbytes(self) -> int:
        return self.tensor.nbytes

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.tensor.shape)

    def whole(self, dtype: torch.dtype) -> Tensor:
        return self.tensor.to(dtype)

    def rows(self, index: Tensor, dtype: torch.dtype) -> Tensor:
        return self.tensor[index].to(dtype)

    def to(self, device: torch.device) -> "Plain":
        return Plain(self.tensor.to(device))


class Room:
    """Keeps matrices unpacked, first come, first kept: generation asks for all of them in turn, and
    what leaves for another would be missed in the next round.

    Attributes:
        left: bytes that may still be kept.
    """

    def __init__(self, left: int):
        self.left = left
        self._kept: dict[tuple[int, torch.dtype], Tensor] = {}

    def whole(self, stored: "Stored", dtype: torch.dtype) -> Tensor:
        """The weights of a matrix, kept if there is room."""
        key = id(stored.tensors), dtype
        if key in self._kept:
            return self._kept[key]
        found = stored.made(dtype)
        if found.nbytes <= self.left:
            self.left -= found.nbytes
            self._kept[key] = found
        return found

    def forget(self, stored: "Stored") -> None:
        """Give back what is kept of a matrix that goes elsewhere."""
        for key in [key for key in self._kept if key[0] == id(stored.tensors)]:
            self.left += self._kept.pop(key).nbytes


@dataclass(frozen=True)
class Stored:
    """What `Storage.tensors` and `header` gave.

    Attributes:
        kind: name of the class in STORAGES.
        room: of the model, where matrices may stay unpacked.
    """

    kind: str
    tensors: Mapping[str, Tensor]
    header: Mapping[str, int]
    room: Room

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors.values())

    @cached_property
    def shape(self) -> tuple[int, ...]:
        return storage.shape_of(self.kind, dict(self.tensors), dict(self.header))

    def whole(self, dtype: torch.dtype) -> Tensor:
        return self.room.whole(self, dtype)

    def made(self, dtype: torch.dtype) -> Tensor:
        """The weights, unpacked now."""
        if not self._in_eights:
            made = storage.read(self.kind, dict(self.tensors), dict(self.header))
            return made.dequantize(dtype)
        rows, columns = self.header["rows"], self.header["columns"]
        found = torch.empty(rows, columns, dtype=dtype, device=self.tensors["codes"].device)
        step = max(1, PANEL // (EIGHT * columns))
        eights = torch.arange(rows // EIGHT, device=found.device)
        for some in eights.split(step):
            start = EIGHT * int(some[0])
            found[start : start + EIGHT * len(some)] = self._some(some, dtype)
        return found

    def rows(self, index: Tensor, dtype: torch.dtype) -> Tensor:
        if not self._in_eights:
            return self.whole(dtype)[index]
        some, place = torch.unique(index // EIGHT, return_inverse=True)
        return self._some(some, dtype)[place * EIGHT + index % EIGHT]

    def to(self, device: torch.device) -> "Stored":
        if all(tensor.device == device for tensor in self.tensors.values()):
            return self
        self.room.forget(self)
        moved = {key: tensor.to(device) for key, tensor in self.tensors.items()}
        return Stored(self.kind, moved, self.header, self.room)

    @property
    def _in_eights(self) -> bool:
        """Whether eight rows can be read without the others: codes, scales, zeros and shifts of a
        packed matrix, row after row.
        """
        plain = {"codes", "scales", "zeros", "shifts"}
        return (
            self.kind == "packed"
            and self.tensors.keys() <= plain
            and self.header["rows"] % EIGHT == 0
            and self.tensors["codes"].ndim == 1
        )

    def _some(self, eights: Tensor, dtype: torch.dtype) -> Tensor:
        """The weights of some eights of rows, (8 · len(eights), in)."""
        count = self.header["rows"] // EIGHT

        def cut(tensor: Tensor) -> Tensor:
            own = tensor.reshape(count, -1)[eights]
            # a stream stays one; (rows, groups) stays so
            return own.reshape(-1) if tensor.ndim == 1 else own.reshape(-1, tensor.shape[1])

        cuts = {key: cut(tensor) for key, tensor in self.tensors.items()}
        header = {**self.header, "rows": EIGHT * len(eights)}
        return storage.read(self.kind, cuts, header).dequantize(dtype)


@dataclass(frozen=True)
class Holding:
    """One parameter: one matrix, or a stack of them (experts).

    Attributes:
        parts: the matrices (out, in).
        stacked: whether the parameter has a first dimension of experts.
        transposed: whether the parameter is (in, out).
    """

    parts: tuple[Part, ...]
    stacked: bool = False
    transposed: bool = False
    shape: tuple[int, ...] = field(default=())

    def whole(self, dtype: torch.dtype) -> Tensor:
        if not self.stacked:
            return self.slice(0, dtype)
        return torch.stack([self.slice(i, dtype) for i in range(len(self.parts))])

    def slice(self, number: int, dtype: torch.dtype) -> Tensor:
        found = self.parts[number].whole(dtype)
        return found.T.contiguous() if self.transposed else found

    def rows(self, index: Tensor, dtype: torch.dtype) -> Tensor:
        """Rows of the parameter: (*index.shape, in)."""
        if self.stacked or self.transposed:
            return self.whole(dtype)[index]
        return self.parts[0].rows(index.reshape(-1), dtype).reshape(*index.shape, -1)

    def to(self, device: torch.device) -> "Holding":
        moved = tuple(part.to(device) for part in self.parts)
        return Holding(moved, self.stacked, self.transposed, self.shape)


class Held(Tensor):
    """A parameter that looks like its weights, (out, in) in the model's dtype, and is unpacked by
    whatever computes with it; embeddings unpack the rows that they look up. It cannot be written.
    """

    holding: Holding

    @staticmethod
    def __new__(cls, holding: Holding, dtype: torch.dtype, device: torch.device) -> "Held":
        with torch.inference_mode():  # else views of it cannot be taken inside that mode
            return Tensor._make_wrapper_subclass(cls, holding.shape, dtype=dtype, device=device)

    def __init__(self, holding: Holding, dtype: torch.dtype, device: torch.device):
        self.holding = holding

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]  # torch leaves its own untyped
        return f"Held({tuple(self.shape)}, {self.dtype}, {self.stored_bytes:,} bytes)"

    @property  # type: ignore[override]  # torch declares an attribute
    def data(self) -> "Held":
        return self.detach()  # type: ignore[return-value]  # OWN gives one

    @data.setter
    def data(self, moved: "Held") -> None:  # what `module.to(…)` sets
        self.holding = moved.holding
        Tensor.data.__set__(self, moved)  # type: ignore[attr-defined]  # torch hides that it is one

    @property
    def stored_bytes(self) -> int:
        return sum(part.nbytes for part in self.holding.parts)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # torch declares it without a class
        cls, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if own := OWN.get(func):
            return own(*args, **(kwargs or {}))
        if func._schema.is_mutable and isinstance(args[0], Held):
            raise RuntimeError("a packed weight cannot be written; load the unquantized model")
        plain_args, plain_kwargs = tree_map(_plain, (args, kwargs or {}))
        return func(*plain_args, **plain_kwargs)


def _plain(value: Any) -> Any:
    return value.holding.whole(value.dtype) if isinstance(value, Held) else value


def _again(held: Held, **_: Any) -> Held:
    return Held(held.holding, held.dtype, held.device)


def _moved(
    held: Held, *, dtype: torch.dtype | None = None, device: torch.device | None = None, **_: Any
) -> Held:
    place = torch.device(device or held.device)
    return Held(held.holding.to(place), dtype or held.dtype, place)


def _converted(func: Any, held: Held, *args: Any, **kwargs: Any) -> Held:
    """What `func`, any overload of `Tensor.to`, gives: torch asks for it in place of `_to_copy`
    where a tensor comes from inference mode.
    """
    said = dict(zip((a.name for a in func._schema.arguments[1:]), args, strict=False)) | kwargs
    like = said.get("other")
    return _moved(
        held,
        dtype=said.get("dtype") if like is None else like.dtype,
        device=said.get("device") if like is None else like.device,
    )


def _looked_up(held: Any, index: Any, *args: Any) -> Tensor:
    if not isinstance(held, Held):
        return torch.embedding(held, _plain(index))
    return held.holding.rows(index, held.dtype)


def _selected(held: Held, dim: int, number: int) -> Tensor:
    if dim != 0 or not held.holding.stacked:
        return _plain(held).select(dim, number)
    return held.holding.slice(int(number), held.dtype)


_aten = torch.ops.aten
OWN: dict[Any, Callable[..., Any]] = {
    _aten.detach.default: _again,
    _aten.alias.default: _again,
    _aten.clone.default: _again,
    _aten._to_copy.default: _moved,
    _aten.embedding.default: _looked_up,
    _aten.select.int: _selected,
    **{to: partial(_converted, to) for to in (getattr(_aten.to, o) for o in _aten.to.overloads())},
}
