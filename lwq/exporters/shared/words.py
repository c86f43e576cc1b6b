"""Codes to words of 32 bits, in the orders that other programs read."""

import torch
from torch import Tensor

from lwq.quantizers.storage.bits import pack

WORD = 32
# width of a code -> (width of a plane, its lowest bit in the code), as GPTQModel's gptq_p has them
PLANES = {
    2: ((2, 0),),
    3: ((2, 0), (1, 2)),
    4: ((4, 0),),
    5: ((4, 0), (1, 4)),
    6: ((4, 0), (2, 4)),
    7: ((4, 0), (2, 4), (1, 6)),
    8: ((8, 0),),
}


def stream(codes: Tensor, bits: int) -> Tensor:
    """One stream of bits a row, lowest bit first: uint8 (rows, n) -> int32 (rows, n · bits / 32); n
    is a multiple of 32.

    At 2, 4 and 8 bits a code lies in one word; at others it may cross into the next.
    """
    # n · bits is a multiple of 32: the stream of a row ends with a word
    return pack(codes, bits).view(torch.int32).reshape(len(codes), -1)


def planes(codes: Tensor, bits: int) -> Tensor:
    """`stream`, where each 32 codes are cut into planes whose fields no word's end divides."""
    blocks = codes.reshape(-1, WORD)  # (rows, n) -> (rows · blocks, 32)
    words = [stream((blocks >> low) & (2**width - 1), width) for width, low in PLANES[bits]]
    return torch.cat(words, 1).reshape(len(codes), -1)


def padded(codes: Tensor, bits: int) -> Tensor:
    """As many whole codes as a word holds, the bits above them zero: uint8 (rows, n) -> int32
    (rows, ceil(n / (32 // bits))).
    """
    each = WORD // bits
    filled = torch.nn.functional.pad(codes, (0, -codes.shape[1] % each))
    # (rows, n) -> (rows, words, each)
    grouped = filled.reshape(len(codes), -1, each).long()
    shifts = torch.arange(each, device=codes.device) * bits
    return (grouped << shifts).sum(-1).to(torch.int32)


def padded_words(count: int, bits: int) -> int:
    """Words that `padded` makes of a row of `count` codes."""
    return -(-count // (WORD // bits))


def dense(codes: Tensor, bits: int) -> Tensor:
    """`stream` of rows of any length: uint8 (rows, n) -> int32 (rows, ceil(n · bits / 32))."""
    filled = torch.nn.functional.pad(codes, (0, -codes.shape[1] % WORD))
    return stream(filled.contiguous(), bits)[:, : dense_words(codes.shape[1], bits)]


def dense_words(count: int, bits: int) -> int:
    """Words that `dense` makes of a row of `count` codes."""
    return -(-count * bits // WORD)
