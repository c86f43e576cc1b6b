"""The ggml types that are affine grids, taken apart: scales, zeros and codes.

A block is 32 columns (Q4_0 to Q8_0) or 256 (the K types); its scales and minima stay as ggml chose
them, and only its codes are written anew. Where they stand:

    Q4_0 Q4_1 Q5_0 Q5_1    after the scales; a byte holds column j and above it column j + 16; of
                           Q5, 4 bytes of fifth bits before
    Q8_0                   after the scale, a signed byte each
    Q4_K Q5_K              at the end; 32 bytes hold 64 columns, j and above it j + 32; of Q5, 32
                           bytes of fifth bits before: bit n of byte j is of column 32 n + j
    Q2_K Q3_K              32 bytes hold 128 columns, four planes of 32 by two bits; of Q3, 32 bytes
                           of third bits at the start, laid out as the fifth of Q5_K
    Q6_K                   at the start, 64 bytes of low halves hold 128 columns, j and above it
                           j + 64; then 32 bytes of upper bits hold 128, four planes by two bits

Source: block_q4_0 … block_q6_K in ggml-common.h of ggml (MIT).
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from torch import Tensor

from lwq.quantizers.storage.bits import pack
from lwq.quantizers.storage.ggml import Blocks

Kind = GGMLQuantizationType
# stands for a scale of 0: the codes of such a block say nothing
NOTHING = 2.0**-60


def grids(made: Blocks) -> tuple[Tensor, Tensor]:
    """Scale and zero of each weight, float32 (out, in), with ŵ = (q − zero) · scale."""
    nothing = torch.zeros(made.shape, dtype=torch.uint8, device=made.data.device)
    low = with_codes(made, nothing).dequantize()
    scales = with_codes(made, nothing + 1).dequantize().sub_(low)
    scales[scales == 0] = NOTHING
    return scales, -low / scales


def with_codes(made: Blocks, codes: Tensor) -> Blocks:
    """The same scales and minima with other codes, uint8 (out, in)."""
    columns, size = GGML_QUANT_SIZES[made.kind]
    old = made.data.reshape(-1, size)
    new = LAYOUTS[made.kind](old, codes.reshape(-1, columns))
    return replace(made, data=new.reshape(made.data.shape))


def _four(old: Tensor, q: Tensor) -> Tensor:
    return torch.cat([old[:, :-16], _nibbles(q, 16)], 1)


def _five(old: Tensor, q: Tensor) -> Tensor:
    return torch.cat([old[:, :-20], pack(q >> 4, 1).reshape(-1, 4), _nibbles(q & 15, 16)], 1)


def _eight(old: Tensor, q: Tensor) -> Tensor:
    return torch.cat([old[:, :2], q ^ 128], 1)  # q − 128 as a signed byte


def _four_k(old: Tensor, q: Tensor) -> Tensor:
    return torch.cat([old[:, :16], _nibbles(q, 32)], 1)


def _five_k(old: Tensor, q: Tensor) -> Tensor:
    return torch.cat([old[:, :16], _planes(q >> 4, 8, 1), _nibbles(q & 15, 32)], 1)


def _two_k(old: Tensor, q: Tensor) -> Tensor:
    return torch.cat([old[:, :16], _planes(q, 4, 2), old[:, 80:]], 1)


def _three_k(old: Tensor, q: Tensor) -> Tensor:
    return torch.cat([_planes(q >> 2, 8, 1), _planes(q & 3, 4, 2), old[:, 96:]], 1)


def _six_k(old: Tensor, q: Tensor) -> Tensor:
    return torch.cat([_nibbles(q & 15, 64), _planes(q >> 4, 4, 2), old[:, 192:]], 1)


def _nibbles(q: Tensor, reach: int) -> Tensor:
    """Codes of 4 bits, (blocks, columns) -> (blocks, columns / 2): j and above it j + reach."""
    pairs = q.reshape(len(q), -1, 2, reach)
    return (pairs[:, :, 0] | pairs[:, :, 1] << 4).reshape(len(q), -1)


def _planes(q: Tensor, count: int, bits: int) -> Tensor:
    """`count` planes of 32 columns, one above the other: (blocks, columns) -> (blocks, bytes)."""
    planes = q.reshape(len(q), -1, count, 32)
    shifts = torch.arange(0, 8, bits, dtype=torch.uint8, device=q.device)[:count, None]
    return (planes << shifts).sum(2, dtype=torch.uint8).reshape(len(q), -1)


LAYOUTS: dict[Kind, Callable[[Tensor, Tensor], Tensor]] = {
    Kind.Q4_0: _four,
    Kind.Q4_1: _four,
    Kind.Q5_0: _five,
    Kind.Q5_1: _five,
    Kind.Q8_0: _eight,
    Kind.Q2_K: _two_k,
    Kind.Q3_K: _three_k,
    Kind.Q4_K: _four_k,
    Kind.Q5_K: _five_k,
    Kind.Q6_K: _six_k,
}
