"""Quantizers: one matrix to codes on a grid. One dict, one line a method.

A quantizer is a frozen dataclass with `levels` (its options) and `nbytes(shape, option)`, called
as `quantizer(weight, option, stats)`; it returns one of STORAGES. `lwq.contracts.methods.Quantizer`
says what else callers read.
"""

from lwq.contracts.methods import Quantizer
from lwq.quantizers.baq import BAQ
from lwq.quantizers.ggml import GGML
from lwq.quantizers.gptq import GPTQ
from lwq.quantizers.hqq import HQQ
from lwq.quantizers.masks import Magnitude, Wanda
from lwq.quantizers.mse import MSE
from lwq.quantizers.owq import OWQ
from lwq.quantizers.quanto import Quanto
from lwq.quantizers.rtn import RTN
from lwq.quantizers.spqr import SpQR
from lwq.quantizers.storage.ggml import Blocks
from lwq.quantizers.storage.packed import Packed
from lwq.quantizers.storage.sparse import Sparse

QUANTIZERS: dict[str, type[Quantizer]] = {
    "rtn": RTN,
    "mse": MSE,
    "quanto": Quanto,
    "gptq": GPTQ,
    "hqq": HQQ,
    "owq": OWQ,
    "spqr": SpQR,
    "baq": BAQ,
    "magnitude": Magnitude,
    "wanda": Wanda,
    "ggml": GGML,
}

RECOMMENDED = "gptq(clip=True)"
"""What packs where nobody names a quantizer and the plan comes from a model; LOG.md has why."""

__all__ = ["QUANTIZERS", "RECOMMENDED", "Blocks", "Packed", "Sparse"]
