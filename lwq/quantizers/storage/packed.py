"""A quantized matrix: everything that must be stored, each part with its own width, and its exact
size.
"""

import math
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from lwq.common.errors import InputError
from lwq.common.tensors import is_finite
from lwq.quantizers.storage import parts
from lwq.quantizers.storage.bits import pack, packed_bytes, unpack

T = TypeVar("T")
FLOATS = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


@dataclass(frozen=True)
class Exact:
    """Weights that are stored in 16 bits beside the codes.

    Attributes:
        index: int32 (n,): numbers of whole input columns, or positions in the flattened matrix,
            ascending.
        values: float16 (out_features, n) for columns, (n,) for single weights.
    """

    index: Tensor
    values: Tensor

    @property
    def whole_columns(self) -> bool:
        return self.values.ndim == 2

    def write_(self, weight: Tensor) -> None:
        """Put the values where they belong in `weight`, (out_features, in_features)."""
        values, index = self.values.to(weight.dtype), self.index.long()
        if self.whole_columns:
            weight[:, index] = values
        else:
            weight.view(-1)[index] = values


@dataclass(frozen=True)
class Packed:
    """Codes on an affine grid, one scale and one offset for each group of inputs of each output
    row.

        ŵ = (q − zero) · scale     or, where the offset is a number instead of a code,     ŵ = q ·
        scale − shift

    Attributes:
        codes: uint8 (out_features, in_features), each below 2^bits.
        scales: (out_features, groups), in the dtype that is stored; or, where scales are quantized
            themselves, a Packed of shape (groups, out_features).
        bits: stored bits of a code.
        zeros: (out_features, groups); uint8 are codes and stored in `bits` bits, floats are stored
            as they are, a Packed has shape (groups, out_features); None where it is 2^(bits − 1)
            throughout (symmetric).
        shifts: (out_features, groups), in the dtype that is stored, instead of zeros.
        widths: uint8 (in_features,), the width of each column's codes where they differ; `bits` is
            their mean. With r = (2^bits − 1) / (2^width − 1) a column's step is its group's scale ·
            r, and its zero round(zero / r): the group's range in as many steps as the column has.
        exact: weights stored in 16 bits instead; the codes of whole columns among them are not
            stored.
    """

    codes: Tensor
    scales: "Tensor | Packed"
    bits: int
    zeros: "Tensor | Packed | None" = None
    shifts: Tensor | None = None
    widths: Tensor | None = None
    exact: Exact | None = None

    @property
    def shape(self) -> tuple[int, int]:
        return int(self.codes.shape[0]), int(self.codes.shape[1])

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The weights that the codes stand for, (out_features, in_features)."""
        scales, zeros = _opened(self.scales), _opened(self.zeros)
        assert scales is not None
        groups = scales.shape[1]
        work = (
            torch.promote_types(scales.dtype, torch.float32)
            if self.shifts is None
            else scales.dtype
        )
        codes = self.codes.reshape(self.shape[0], groups, -1).to(work)  # a copy: written below
        scales = scales.to(work).unsqueeze(-1)
        if self.shifts is not None:
            values = codes.mul_(scales).sub_(self.shifts.unsqueeze(-1))
        elif self.widths is not None:
            assert zeros is not None
            ratio = width_ratio(self.widths, self.bits).reshape(groups, -1)
            values = (codes - (zeros.to(work).unsqueeze(-1) / ratio).round()) * (scales * ratio)
        elif zeros is not None:
            values = codes.sub_(zeros.to(work).unsqueeze(-1)).mul_(scales)
        else:
            values = codes.sub_(2 ** (self.bits - 1)).mul_(scales)
        weight = values.reshape(self.shape).to(dtype)
        if self.exact is not None:
            self.exact.write_(weight)
        return weight

    def tensors(self) -> dict[str, Tensor]:
        """What a file holds: codes packed bit by bit, everything else as it is. `read` is the
        inverse.
        """
        stored = {
            "codes": self._stream(),
            **_parts("scales", self.scales, None),
            **_parts("zeros", self.zeros, self.bits),
        }
        if self.shifts is not None:
            stored["shifts"] = self.shifts
        if self.widths is not None:
            stored["widths"] = self.widths
        if self.exact is not None:
            stored |= {"exact.index": self.exact.index, "exact.values": self.exact.values}
        return stored

    def header(self) -> dict[str, int]:
        """The numbers that `read` needs beside the tensors."""
        found = {"bits": self.bits, "rows": self.shape[0], "columns": self.shape[1]}
        for name, part in (("scales", self.scales), ("zeros", self.zeros)):
            if isinstance(part, Packed):
                found |= {f"{name}.{key}": value for key, value in part.header().items()}
        return found

    def require_sound(self, name: str) -> None:
        """Raise InputError, in the name of the quantizer, unless codes are uint8 and below 2^bits
        (2^width in a column of its own width).
        """
        if self.codes.dtype != torch.uint8:
            raise InputError(
                f"{name}: codes are {self.codes.dtype}; round them and store them as torch.uint8"
            )
        # a number, or (in,)
        highest = 2**self.bits - 1 if self.widths is None else (2 ** self.widths.int() - 1).byte()
        if bool((self.codes > highest).any()):
            raise InputError(
                f"{name}: a code of {int(self.codes.max())} does not fit {self.bits} bits; "
                "clamp to 0 … 2^bits − 1"
            )

    @property
    def nbytes(self) -> int:
        """Bytes of `tensors()`."""
        return sum(tensor.nbytes for tensor in self.tensors().values())

    @property
    def resident_bytes(self) -> int:
        """Bytes in memory, where a code takes one."""
        parts = [
            self.codes,
            self.shifts,
            self.widths,
            *((self.exact.index, self.exact.values) if self.exact else ()),
        ]
        nested = [part for part in (self.scales, self.zeros) if part is not None]
        return sum(part.nbytes for part in parts if part is not None) + sum(
            part.resident_bytes if isinstance(part, Packed) else part.nbytes for part in nested
        )

    def _stream(self) -> Tensor:
        codes, widths = self.codes, self.widths
        if self.exact is not None and self.exact.whole_columns:
            stays = _complement(self.exact.index, self.shape[1])
            codes, widths = codes[:, stays], None if widths is None else widths[stays]
        if widths is None:
            return pack(codes, self.bits)
        return _joined([(codes[:, widths == width], width) for width in _distinct(widths)])

    @classmethod
    def shape_of(cls, tensors: dict[str, Tensor], header: dict[str, int]) -> tuple[int, int]:
        rows, columns = parts.number(header, "rows"), parts.number(header, "columns")
        bits = parts.number(header, "bits", 8)
        groups = _groups(tensors, header, (rows, columns))
        _require_offsets(tensors, header, (rows, groups), bits)
        stays = torch.arange(columns, device="cpu")
        if "exact.index" in tensors or "exact.values" in tensors:
            stays = _require_exact(tensors, (rows, columns))
        total = bits * len(stays)
        if "widths" in tensors:
            widths = parts.part(tensors, "widths", torch.uint8, (columns,))
            if not 1 <= int(widths.min()) <= int(widths.max()) <= 8:
                raise InputError(f"widths run to {int(widths.max())}; each is from 1 to 8")
            total = int(widths[stays].sum())
        parts.part(tensors, "codes", torch.uint8, (packed_bytes(rows * total, 1),))
        return rows, columns

    @classmethod
    def read(cls, tensors: dict[str, Tensor], header: dict[str, int]) -> "Packed":
        """What `tensors()` and `header()` describe."""
        rows, columns, bits, device = (
            header["rows"],
            header["columns"],
            header["bits"],
            tensors["codes"].device,
        )
        exact = (
            Exact(tensors["exact.index"], tensors["exact.values"])
            if "exact.index" in tensors
            else None
        )
        stays = (
            _complement(exact.index, columns)
            if exact and exact.whole_columns
            else torch.arange(columns, device=device)
        )
        codes = torch.zeros(rows, columns, dtype=torch.uint8, device=device)
        widths, stream = tensors.get("widths"), tensors["codes"]
        if widths is None and len(stays) == columns:
            codes = unpack(stream, bits, (rows, columns))
        elif widths is None:
            codes[:, stays] = unpack(stream, bits, (rows, len(stays)))
        else:
            owners = [(stays[widths[stays] == width], width) for width in _distinct(widths[stays])]
            runs = _apart(stream, [rows * len(own) * width for own, width in owners])
            for (own, width), run in zip(owners, runs, strict=True):
                codes[:, own] = unpack(run, width, (rows, len(own)))
        scales = _read_part("scales", tensors, header)
        zeros = _read_part("zeros", tensors, header)
        assert scales is not None
        if isinstance(zeros, Tensor) and not zeros.is_floating_point():
            zeros = unpack(zeros, bits, (rows, scales.shape[1]))
        return cls(codes, scales, bits, zeros, tensors.get("shifts"), widths, exact)


def _groups(tensors: dict[str, Tensor], header: dict[str, int], shape: tuple[int, int]) -> int:
    """Groups in a row, by the scales of a file; InputError where they are none of this matrix."""
    rows, columns = shape
    if _is_nested("scales", tensors, header):
        groups, own = _inner_shape("scales", tensors, header)
    else:
        own, groups = parts.part(tensors, "scales", None, (rows, None)).shape
    if own != rows or not groups or columns % groups:
        raise InputError(
            f"scales are of {own} rows in {groups} groups; {rows} rows are needed, and groups that "
            f"divide {columns} columns"
        )
    return groups


def _require_offsets(
    tensors: dict[str, Tensor], header: dict[str, int], grid: tuple[int, int], bits: int
) -> None:
    """Raise InputError for zeros or shifts of a file that are not those of `grid`, (rows,
    groups).
    """
    if _is_nested("zeros", tensors, header):
        if (found := _inner_shape("zeros", tensors, header)[::-1]) != grid:
            raise InputError(f"zeros are of the shape {found}; {grid} is needed")
    elif "zeros" in tensors and tensors["zeros"].is_floating_point():
        parts.part(tensors, "zeros", None, grid)
    elif "zeros" in tensors:
        parts.part(tensors, "zeros", torch.uint8, (packed_bytes(math.prod(grid), bits),))
    if "shifts" in tensors:
        parts.part(tensors, "shifts", None, grid)


def _require_exact(tensors: dict[str, Tensor], shape: tuple[int, int]) -> Tensor:
    """The columns of which a file holds codes; InputError where its exact weights are none of this
    matrix.
    """
    index = parts.part(tensors, "exact.index", torch.int32, (None,))
    whole = "exact.values" in tensors and tensors["exact.values"].ndim == 2
    parts.part(tensors, "exact.values", None, (shape[0], len(index)) if whole else (len(index),))
    places = shape[1] if whole else math.prod(shape)
    if len(index) and not 0 <= int(index.min()) <= int(index.max()) < places:
        raise InputError(f"exact.index runs to {int(index.max())}; there are {places:,} places")
    return _complement(index if whole else index[:0], shape[1])


def _is_nested(name: str, tensors: dict[str, Tensor], header: dict[str, int]) -> bool:
    """Whether scales or zeros are quantized themselves, by any trace of it."""
    return any(key.startswith(f"{name}.") for key in (*tensors, *header))


def _inner_shape(name: str, tensors: dict[str, Tensor], header: dict[str, int]) -> tuple[int, int]:
    """The shape of scales or zeros that are quantized themselves, (groups, rows)."""
    try:
        return Packed.shape_of(_inner(name, tensors), _inner(name, header))
    except InputError as error:
        raise InputError(f"{name}: {error}") from None


def _opened(part: "Tensor | Packed | None") -> Tensor | None:
    return part.dequantize().T if isinstance(part, Packed) else part


def _parts(name: str, part: "Tensor | Packed | None", bits: int | None) -> dict[str, Tensor]:
    if part is None:
        return {}
    if isinstance(part, Packed):
        return {f"{name}.{key}": tensor for key, tensor in part.tensors().items()}
    return {name: part if bits is None or part.is_floating_point() else pack(part, bits)}


def _read_part(
    name: str, tensors: dict[str, Tensor], header: dict[str, int]
) -> "Tensor | Packed | None":
    if f"{name}.bits" not in header:
        return tensors.get(name)
    return Packed.read(_inner(name, tensors), _inner(name, header))


def _inner(name: str, table: dict[str, T]) -> dict[str, T]:
    """What stands under `name.` in a table, without it."""
    start = f"{name}."
    return {key.removeprefix(start): v for key, v in table.items() if key.startswith(start)}


def _distinct(widths: Tensor) -> list[int]:
    return sorted(set(widths.tolist()))


def _joined(runs: list[tuple[Tensor, int]]) -> Tensor:
    """(codes, width) of several runs as one stream, each after the other without a gap."""
    streams = [pack(codes, width) for codes, width in runs]
    counts = [codes.numel() * width for codes, width in runs]
    if not any(count % 8 for count in counts):
        return torch.cat(streams)
    bits = [unpack(own, 1, (count,)) for own, count in zip(streams, counts, strict=True)]
    return pack(torch.cat(bits), 1)


def _apart(stream: Tensor, counts: list[int]) -> list[Tensor]:
    """The streams that `_joined` put together; counts: bits of each."""
    if not any(count % 8 for count in counts):
        return list(stream.split([count // 8 for count in counts]))
    return [pack(run, 1) for run in unpack(stream, 1, (sum(counts),)).split(counts)]


def _complement(index: Tensor, count: int) -> Tensor:
    """The numbers below `count` that are not in `index`, ascending."""
    stays = torch.ones(count, dtype=torch.bool, device=index.device)
    stays[index.long()] = False
    return stays.nonzero()[:, 0]


def finite(weight: Tensor) -> Tensor:
    """`weight` itself; InputError where it holds NaN or Inf."""
    if not is_finite(weight):
        bad = (~torch.isfinite(weight)).nonzero()
        raise InputError(
            f"the weights hold {len(bad)} NaN or Inf values, the first at {bad[0].tolist()}; "
            f"repair the checkpoint, or load it "
            "with dtype='float32' or 'bfloat16' if its weights overflow in float16"
        )
    return weight


WAY = (
    "keep the matrix at 16 bits, or use a quantizer with scale_dtype='bfloat16' or 'float32', such "
    "as rtn"
)


def stored(values: Tensor, dtype: torch.dtype, way: str = WAY) -> Tensor:
    """`values` in `dtype`; InputError, with the way out, where one of them is too large for it."""
    found = values.to(dtype)
    if found is not values and not is_finite(found):
        raise InputError(
            f"a value of {values.abs().max().item():.6g} is to be stored in "
            f"{str(dtype).removeprefix('torch.')}, which holds "
            f"no more than {torch.finfo(dtype).max:.6g}; {way}"
        )
    return found


def width_ratio(widths: Tensor, bits: int) -> Tensor:
    """(2^bits − 1) / (2^width − 1) of each column, float32."""
    return (2**bits - 1) / (2.0 ** widths.float() - 1)
