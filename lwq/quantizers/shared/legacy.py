"""The ggml types that are plain grids of 32 columns, taken apart: scales, zeros and codes.

    a block of Q4_0: d, 16 bytes · Q4_1: d, m, 16 bytes · Q5_0: d, 4 + 16 bytes · Q5_1: d, m,
    4 + 16 bytes · Q8_0: d, 32 bytes

d and m are float16; a byte holds column j and above it column j + 16; the 4 bytes hold the fifth
bits. Source: block_q4_0 and so on in ggml-common.h of ggml (MIT).
"""

import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from torch import Tensor

from lwq.quantizers.storage.ggml import Blocks
from lwq.quantizers.storage.packed import pack

SIZE = 32
# type -> (bits of a code, whether a minimum is stored)
GRIDS = {
    GGMLQuantizationType.Q4_0: (4, False),
    GGMLQuantizationType.Q4_1: (4, True),
    GGMLQuantizationType.Q5_0: (5, False),
    GGMLQuantizationType.Q5_1: (5, True),
    GGMLQuantizationType.Q8_0: (8, False),
}
# stands for a scale of 0: the codes of such a block say nothing
NOTHING = 2.0**-60


def grids(made: Blocks) -> tuple[Tensor, Tensor]:
    """Scales and zeros, float32 (out, groups), with ŵ = (q − zero) · scale."""
    bits, minimum = GRIDS[made.kind]
    numbers = _split(made)[..., : 4 if minimum else 2].contiguous().view(torch.float16).float()
    scales = torch.where(numbers[..., 0] == 0, NOTHING, numbers[..., 0])
    if minimum:
        return scales, -numbers[..., 1] / scales
    return scales, torch.full_like(scales, 2.0 ** (bits - 1))


def with_codes(made: Blocks, codes: Tensor) -> Blocks:
    """The same scales and minima with other codes, uint8 (out, in)."""
    bits, minimum = GRIDS[made.kind]
    old, q = _split(made), codes.reshape(len(codes), -1, SIZE)  # (out, groups, 32)
    parts = [old[..., : 4 if minimum else 2]]
    if bits == 8:
        parts.append(q ^ 128)  # q − 128 as a signed byte
    else:
        if bits == 5:
            parts.append(pack(q >> 4, 1).reshape(*q.shape[:2], 4))
        low = q & 15
        parts.append(low[..., :16] | low[..., 16:] << 4)
    return Blocks(torch.cat(parts, -1).reshape(len(codes), -1), made.kind)


def _split(made: Blocks) -> Tensor:
    """Blocks one by one, uint8 (out, groups, bytes)."""
    return made.data.reshape(len(made.data), -1, GGML_QUANT_SIZES[made.kind][1])
