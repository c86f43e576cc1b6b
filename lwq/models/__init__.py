"""Models: load a decoder, find its blocks, matrices and fused groups, run its blocks. The one room
that knows architectures.
"""

from lwq.models.load import DTYPES, cast, load, matrix_shapes
from lwq.models.outside import is_after, is_before, outside, places
from lwq.models.running import drop_, pass_through_, replaced_blocks
from lwq.models.settings import (
    configuration,
    context_length,
    name,
    own_cache_setting,
    reach,
    tokenizer,
)
from lwq.models.state import call
from lwq.models.structure import Matrix, blocks, matrices, module_name
from lwq.models.trace import final_norm, traced
from lwq.models.units import layout, units
from lwq.models.weights import (
    device,
    fingerprint,
    free_bytes,
    free_memory,
    require_finite,
    resident,
    stored,
    streamed,
    vocabulary,
)
from lwq.models.write import save

__all__ = [
    "DTYPES",
    "Matrix",
    "blocks",
    "call",
    "cast",
    "configuration",
    "context_length",
    "device",
    "drop_",
    "final_norm",
    "fingerprint",
    "free_bytes",
    "free_memory",
    "layout",
    "is_after",
    "is_before",
    "load",
    "matrices",
    "matrix_shapes",
    "module_name",
    "name",
    "outside",
    "own_cache_setting",
    "pass_through_",
    "places",
    "reach",
    "replaced_blocks",
    "require_finite",
    "resident",
    "save",
    "stored",
    "streamed",
    "tokenizer",
    "traced",
    "units",
    "vocabulary",
]
