"""Quantizers: one matrix to codes on a grid. One dict, one line a method.

A quantizer is a frozen dataclass with `needs` (statistics), `levels` (widths) and `nbytes(shape,
bits)`, called as `quantizer(weight, bits, stats)`; it returns a Packed, or a Sparse.
"""

from lwq.quantizers.baq import BAQ
from lwq.quantizers.gptq import GPTQ
from lwq.quantizers.hqq import HQQ
from lwq.quantizers.masks import Magnitude, Wanda
from lwq.quantizers.owq import OWQ
from lwq.quantizers.quanto import Quanto
from lwq.quantizers.rtn import RTN
from lwq.quantizers.spqr import SpQR
from lwq.quantizers.storage.packed import Packed
from lwq.quantizers.storage.sparse import Sparse

QUANTIZERS: dict[str, type] = {
    "rtn": RTN,
    "quanto": Quanto,
    "gptq": GPTQ,
    "hqq": HQQ,
    "owq": OWQ,
    "spqr": SpQR,
    "baq": BAQ,
    "magnitude": Magnitude,
    "wanda": Wanda,
}

__all__ = ["QUANTIZERS", "Packed", "Sparse"]
