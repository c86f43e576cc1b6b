"""Quantizers: one matrix to codes on a grid. One dict, one line a method.

A quantizer is a frozen dataclass with `needs` (statistics), `levels` (widths) and `nbytes(shape, bits)`, called as
`quantizer(weight, bits, stats)`; it returns a Packed.
"""

from lwq.quantizers.baq import BAQ
from lwq.quantizers.gptq import GPTQ
from lwq.quantizers.hqq import HQQ
from lwq.quantizers.owq import OWQ
from lwq.quantizers.packed import Packed
from lwq.quantizers.quanto import Quanto
from lwq.quantizers.rtn import RTN
from lwq.quantizers.spqr import SpQR

QUANTIZERS: dict[str, type] = {
    "rtn": RTN,
    "quanto": Quanto,
    "gptq": GPTQ,
    "hqq": HQQ,
    "owq": OWQ,
    "spqr": SpQR,
    "baq": BAQ,
}

__all__ = ["QUANTIZERS", "Packed"]
