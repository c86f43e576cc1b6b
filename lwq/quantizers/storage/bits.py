"""Codes of a few bits in one stream of bytes, without gaps between them."""

import math
from functools import cache

import torch
from torch import Tensor

from lwq.common.errors import InputError


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
    return (
        packed.view(torch.uint8)
        .reshape(-1, 8)[:, :bits]
        .reshape(-1)[: packed_bytes(codes.numel(), bits)]
        .clone()
    )


def unpack(stream: Tensor, bits: int, shape: tuple[int, ...]) -> Tensor:
    """The inverse of `pack`: uint8 codes of `shape`; InputError for a stream of another length."""
    count = math.prod(shape)
    if len(stream) != (needed := packed_bytes(count, bits)):
        raise InputError(
            f"{len(stream):,} bytes of codes; {count:,} of {bits} bits need {needed:,}: the file "
            "is damaged, or its header is another's"
        )
    if bits == 8:
        return stream.clone().reshape(shape)
    padded = stream.new_zeros(math.ceil(count / 8), 8)
    padded[:, :bits] = torch.nn.functional.pad(
        stream, (0, len(padded) * bits - len(stream))
    ).reshape(-1, bits)
    codes = padded.view(torch.int64)  # eight codes in the low bits of each
    for together in (4, 2, 1):  # the upper half of so many codes moves to the next 32, 16, 8 bits
        low, high = _spread(bits, together)
        upper = (codes << ((8 - bits) * together)).bitwise_and_(high)
        codes.bitwise_and_(low).bitwise_or_(upper)
    return padded.view(torch.uint8).reshape(-1)[:count].reshape(shape)


@cache
def _spread(bits: int, together: int) -> tuple[int, int]:
    """What stays, and what has come, where runs of 2 · `together` codes of `bits` are halved."""
    run = (1 << bits * together) - 1
    low = sum(run << 16 * together * place for place in range(4 // together))
    high = low << 8 * together
    return low, high - (1 << 64) if high >> 63 else high
