"""A quantized matrix as llama.cpp stores it: rows of ggml's blocks, of one type."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants
from torch import Tensor

from lwq.common.errors import InputError
from lwq.contracts import Shape
from lwq.quantizers.storage import parts

RUN = 1 << 11  # blocks that are unpacked at once, in the cache of a processor


@dataclass(frozen=True)
class Blocks:
    """Rows of blocks, byte for byte what a GGUF file holds; gguf-py says what they stand for.

    Attributes:
        data: uint8 (out_features, bytes of a row).
        kind: the type of the blocks; its number is that of ggml.
    """

    data: Tensor
    kind: GGMLQuantizationType

    @property
    def shape(self) -> Shape:
        weights, size = GGML_QUANT_SIZES[self.kind]
        return int(self.data.shape[0]), int(self.data.shape[1]) // size * weights

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The weights, (out_features, in_features)."""
        weights, size = GGML_QUANT_SIZES[self.kind]
        blocks = self.data.cpu().reshape(-1, size)
        found = torch.empty(len(blocks), weights, dtype=dtype, device="cpu")
        # blocks know of no rows; gguf-py would hold all of its float32 numbers twice
        for piece, own in zip(blocks.split(RUN), found.split(RUN), strict=True):
            numbers = quants.dequantize(piece.numpy().reshape(1, -1), self.kind)
            own.copy_(torch.from_numpy(numbers).view_as(own))
        return found.view(self.shape).to(self.data.device)

    def tensors(self) -> dict[str, Tensor]:
        """What a file holds; `read` is the inverse."""
        return {"data": self.data}

    def header(self) -> dict[str, int]:
        """The numbers that `read` needs beside the tensors."""
        return {"kind": int(self.kind)}

    @property
    def nbytes(self) -> int:
        """Bytes of `tensors()`."""
        return self.data.nbytes

    @property
    def resident_bytes(self) -> int:
        """Bytes in memory."""
        return self.data.nbytes

    def require_sound(self, name: str) -> None:
        """Raise InputError, in the name of the quantizer, unless the rows are whole blocks."""
        size = GGML_QUANT_SIZES[self.kind][1]
        if self.data.dtype != torch.uint8 or self.data.shape[1] % size:
            raise InputError(
                f"{name}: rows of {self.data.shape[1]} {self.data.dtype}; {self.kind.name} needs "
                f"torch.uint8, {size} a block"
            )

    @classmethod
    def shape_of(cls, tensors: Mapping[str, Tensor], about: Mapping[str, int]) -> Shape:
        kind = parts.number(about, "kind")
        if kind not in list(GGMLQuantizationType):
            raise InputError(f"kind is {kind}, which is no type of ggml that gguf knows")
        parts.part(tensors, "data", torch.uint8, (None, None))
        made = cls.read(tensors, about)
        made.require_sound("data")
        return made.shape

    @classmethod
    def read(cls, tensors: Mapping[str, Tensor], about: Mapping[str, int]) -> "Blocks":
        return cls(tensors["data"], GGMLQuantizationType(about["kind"]))


def row_bytes(columns: int, kind: GGMLQuantizationType) -> int:
    """Bytes of a row of `columns` weights, which the block of `kind` divides."""
    weights, size = GGML_QUANT_SIZES[kind]
    return columns // weights * size
