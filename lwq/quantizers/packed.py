"""A quantized matrix: everything that must be stored, each part with its own width, and its exact size."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

FLOATS = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


@dataclass(frozen=True)
class Packed:
    """Codes on an affine grid, one scale and one offset for each group of inputs of each output row.

        ŵ = (q − zero) · scale     or, where the offset is a number instead of a code,     ŵ = q · scale − shift

    Attributes:
        codes: uint8 (out_features, in_features), each below 2^bits.
        scales: (out_features, groups), in the dtype that is stored.
        bits: stored bits of a code.
        zeros: (out_features, groups); uint8 are codes and stored in `bits` bits, floats are stored as they are; None where
            it is 2^(bits − 1) throughout (symmetric).
        shifts: (out_features, groups), in the dtype that is stored, instead of zeros.
    """

    codes: Tensor
    scales: Tensor
    bits: int
    zeros: Tensor | None = None
    shifts: Tensor | None = None

    @property
    def shape(self) -> tuple[int, int]:
        return int(self.codes.shape[0]), int(self.codes.shape[1])

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The weights that the codes stand for, (out_features, in_features)."""
        groups = self.scales.shape[1]
        work = torch.promote_types(self.scales.dtype, torch.float32) if self.shifts is None else self.scales.dtype
        codes = self.codes.reshape(self.shape[0], groups, -1).to(work)
        scales = self.scales.to(work).unsqueeze(-1)
        if self.shifts is not None:
            values = codes * scales - self.shifts.unsqueeze(-1)
        elif self.zeros is not None:
            values = (codes - self.zeros.to(work).unsqueeze(-1)) * scales
        else:
            values = (codes - 2 ** (self.bits - 1)) * scales
        return values.reshape(self.shape).to(dtype)

    def tensors(self) -> dict[str, Tensor]:
        """What a file holds: codes and zeros packed bit by bit, scales and shifts as they are."""
        stored = {"codes": pack(self.codes, self.bits), "scales": self.scales}
        if self.zeros is not None:
            stored["zeros"] = self.zeros if self.zeros.is_floating_point() else pack(self.zeros, self.bits)
        if self.shifts is not None:
            stored["shifts"] = self.shifts
        return stored

    @property
    def nbytes(self) -> int:
        """Bytes of `tensors()`."""
        count = packed_bytes(self.codes.numel(), self.bits) + self.scales.nbytes
        if self.zeros is not None:
            count += self.zeros.nbytes if self.zeros.is_floating_point() else packed_bytes(self.zeros.numel(), self.bits)
        return count + (0 if self.shifts is None else self.shifts.nbytes)


def packed_bytes(count: int, bits: int) -> int:
    """Bytes that `count` codes of `bits` bits take when packed."""
    return math.ceil(count * bits / 8)


def pack(codes: Tensor, bits: int) -> Tensor:
    """uint8 codes to a dense bit stream, lowest bit first: uint8 (ceil(count · bits / 8),)."""
    if bits == 8:
        return codes.reshape(-1).clone()
    flat = torch.nn.functional.pad(codes.reshape(-1), (0, -codes.numel() % 8))
    words, mask = flat.view(torch.int64), 2**bits - 1  # eight codes, one a byte, pushed together
    packed = words & mask
    for place in range(1, 8):
        packed |= (words >> ((8 - bits) * place)) & (mask << (bits * place))
    return packed.view(torch.uint8).reshape(-1, 8)[:, :bits].reshape(-1)[: packed_bytes(codes.numel(), bits)].clone()


def unpack(stream: Tensor, bits: int, shape: tuple[int, ...]) -> Tensor:
    """The inverse of `pack`: uint8 codes of `shape`."""
    if bits == 8:
        return stream.clone().reshape(shape)
    count = math.prod(shape)
    padded = torch.zeros(math.ceil(count / 8), 8, dtype=torch.uint8)
    padded[:, :bits] = torch.nn.functional.pad(stream, (0, len(padded) * bits - len(stream))).reshape(-1, bits)
    words, mask = padded.view(torch.int64), 2**bits - 1
    codes = words & mask
    for place in range(1, 8):
        codes |= (words & (mask << (bits * place))) << ((8 - bits) * place)
    return codes.view(torch.uint8).reshape(-1)[:count].reshape(shape)
