"""The numbers of optimum-quanto 0.2.7, the paper's first quantizer."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lwq.common.names import pick
from lwq.contracts import Option
from lwq.contracts.methods import Grid, Quantizer
from lwq.quantizers.storage.bits import packed_bytes
from lwq.quantizers.storage.packed import FLOATS, Packed, finite, stored
from lwq.statistics.sums import MatrixStats


@dataclass(frozen=True)
class Quanto(Quantizer):
    """optimum-quanto's qint8, qint4 and qint2 weights with its default optimizers, bit for bit.

        8 bits, per row:        s = max|w| / 127,              ŵ = clamp(round(w / s), −128, 127) ·
        s 4 and 2 bits, grouped:  s = (max − min) / (2^b − 1),   ŵ = clamp(round((w − min) / s), 0,
            2^b − 1) · s + min

    The group is 128 columns, or the first of 96, 64, 32 that divides the row; rows of 128 or fewer
    columns, and rows that none divides, are one group. min is kept as a number (`shift`), not as a
    code.

    Attributes:
        scale_dtype: the dtype that the arithmetic and the stored scales and shifts have. quanto
            takes the checkpoint's: "float32" here equals quanto on a float32 model, "bfloat16" or
            "float16" on a 16-bit one.

    Source: huggingface/optimum-quanto, `MaxOptimizer`, `AbsmaxOptimizer`, `QModuleMixin`
    (Apache-2.0).
    """

    scale_dtype: str = "float32"

    needs: ClassVar[frozenset[str]] = frozenset()
    levels: ClassVar[tuple[Option, ...]] = (2, 4, 8)

    def __post_init__(self) -> None:
        pick(FLOATS, "scale_dtype", self.scale_dtype)

    def __call__(self, weight: Tensor, bits: int, stats: MatrixStats | None = None) -> Packed:
        w = stored(finite(weight), FLOATS[self.scale_dtype])
        rows, columns = w.shape
        if bits == 8:
            scale = _divisor(w.abs().amax(1, keepdim=True) / 127)
            codes = (w / scale).round().clamp(-128, 127) + 128
            return Packed(codes.byte(), scale, bits)
        w = w.reshape(rows, columns // group_size(columns), -1)
        low, high = w.amin(-1), w.amax(-1)
        scale = _divisor((high - low) / (2**bits - 1))
        codes = ((w + -low.unsqueeze(-1)) / scale.unsqueeze(-1)).round().clamp(0, 2**bits - 1)
        return Packed(codes.reshape(rows, columns).byte(), scale, bits, shifts=-low)

    def grid(self, option: Option) -> Grid | None:
        return Grid(8, -1, "none", self.scale_dtype) if option == 8 else None

    def nbytes(self, shape: tuple[int, int], bits: int) -> int:
        itemsize = FLOATS[self.scale_dtype].itemsize
        if bits == 8:
            return packed_bytes(shape[0] * shape[1], 8) + shape[0] * itemsize
        groups = shape[0] * (shape[1] // group_size(shape[1]))
        return packed_bytes(shape[0] * shape[1], bits) + 2 * groups * itemsize


def group_size(columns: int) -> int:
    """Columns that share a scale at 4 and 2 bits."""
    fitting = (size for size in (128, 96, 64, 32) if columns > 128 and columns % size == 0)
    return next(fitting, columns)


def _divisor(scale: Tensor) -> Tensor:
    """quanto divides by zero where a group is constant; here such a group keeps its constant."""
    return torch.where(scale > 0, scale, torch.ones_like(scale))
