"""Models: load a decoder, find its blocks, matrices and fused groups, run its blocks. The one room
that knows architectures.
"""

from lwq.models.load import DTYPES, cast, load, outline, own_dtypes, stand_in
from lwq.models.outside import is_after, is_before, outside, places
from lwq.models.products import fast, multiplying
from lwq.models.running import drop_, experts_by, pass_through_, replaced_blocks
from lwq.models.settings import (
    configuration,
    context_length,
    name,
    reach,
    save_settings,
    saved_settings,
    tokenizer,
)
from lwq.models.state import UNREADABLE, call, hidden_of
from lwq.models.streaming import give_back
from lwq.models.structure import (
    Matrix,
    blocks,
    expert_inner,
    expert_parts,
    matrices,
    module_name,
    routed,
)
from lwq.models.trace import final_norm, require_heard, traced
from lwq.models.units import layout, units
from lwq.models.weights import (
    device,
    fingerprint,
    free_bytes,
    free_memory,
    nbytes,
    require_finite,
    resident,
    rewrites,
    rewritten_,
    stored,
    streamed,
    tensors,
    vocabulary,
)
from lwq.models.write import save

__all__ = [
    "DTYPES",
    "UNREADABLE",
    "Matrix",
    "blocks",
    "call",
    "cast",
    "configuration",
    "context_length",
    "device",
    "drop_",
    "expert_inner",
    "expert_parts",
    "experts_by",
    "fast",
    "final_norm",
    "fingerprint",
    "free_bytes",
    "free_memory",
    "give_back",
    "hidden_of",
    "layout",
    "is_after",
    "is_before",
    "load",
    "matrices",
    "module_name",
    "multiplying",
    "name",
    "nbytes",
    "outline",
    "outside",
    "own_dtypes",
    "pass_through_",
    "places",
    "reach",
    "replaced_blocks",
    "require_finite",
    "require_heard",
    "resident",
    "rewrites",
    "rewritten_",
    "routed",
    "save",
    "save_settings",
    "saved_settings",
    "tensors",
    "stand_in",
    "stored",
    "streamed",
    "tokenizer",
    "traced",
    "units",
    "vocabulary",
]
