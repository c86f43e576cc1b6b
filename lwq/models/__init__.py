"""Models: load a decoder, find its blocks, matrices and fused groups, run its blocks. The one room
that knows architectures.
"""

from lwq.models.load import DTYPES, cast, load
from lwq.models.structure import (
    Matrix,
    blocks,
    configuration,
    device,
    drop_,
    final_norm,
    fingerprint,
    free_bytes,
    free_memory,
    layout,
    matrices,
    name,
    own_cache_setting,
    replaced_blocks,
    require_finite,
    resident,
    streamed,
    units,
    vocabulary,
)

__all__ = [
    "DTYPES",
    "Matrix",
    "blocks",
    "cast",
    "configuration",
    "device",
    "drop_",
    "final_norm",
    "fingerprint",
    "free_bytes",
    "free_memory",
    "layout",
    "load",
    "matrices",
    "name",
    "own_cache_setting",
    "replaced_blocks",
    "require_finite",
    "resident",
    "streamed",
    "units",
    "vocabulary",
]
