"""A matrix with most weights at zero: which ones are kept, and their values."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lwq.common.errors import InputError
from lwq.contracts import Shape
from lwq.quantizers.storage import parts
from lwq.quantizers.storage.bits import pack, packed_bytes, unpack


@dataclass(frozen=True)
class Sparse:
    """A bitmap and the values of the weights that it marks.

    Attributes:
        mask: bool (out_features, in_features).
        values: float16 (kept,), row after row.
    """

    mask: Tensor
    values: Tensor

    @property
    def shape(self) -> Shape:
        return int(self.mask.shape[0]), int(self.mask.shape[1])

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The weights, (out_features, in_features)."""
        return torch.zeros(self.shape, dtype=dtype, device=self.mask.device).masked_scatter_(
            self.mask, self.values.to(dtype)
        )

    def tensors(self) -> dict[str, Tensor]:
        """What a file holds; `read` is the inverse."""
        return {"mask": pack(self.mask.to(torch.uint8), 1), "values": self.values}

    def header(self) -> dict[str, int]:
        """The numbers that `read` needs beside the tensors."""
        return {"rows": self.shape[0], "columns": self.shape[1]}

    @property
    def nbytes(self) -> int:
        """Bytes of `tensors()`."""
        return sum(tensor.nbytes for tensor in self.tensors().values())

    @property
    def resident_bytes(self) -> int:
        """Bytes in memory, where a bit of the mask takes one."""
        return self.mask.nbytes + self.values.nbytes

    def require_sound(self, name: str) -> None:
        """Raise InputError, in the name of the quantizer, unless each mark has its value."""
        if (marked := int(self.mask.sum())) != len(self.values):
            raise InputError(f"{name}: {len(self.values)} values for {marked} marks; give one each")

    @classmethod
    def shape_of(cls, tensors: Mapping[str, Tensor], about: Mapping[str, int]) -> Shape:
        rows, columns = parts.number(about, "rows"), parts.number(about, "columns")
        parts.part(tensors, "mask", torch.uint8, (packed_bytes(rows * columns, 1),))
        parts.part(tensors, "values", None, (None,))
        cls.read(tensors, about).require_sound("values")
        return rows, columns

    @classmethod
    def read(cls, tensors: Mapping[str, Tensor], about: Mapping[str, int]) -> "Sparse":
        mask = unpack(tensors["mask"], 1, (about["rows"], about["columns"]))
        return cls(mask.bool(), tensors["values"])
