"""What must hold before a scorer runs a model block by block."""

from torch import Tensor, nn

from lwq.statistics.calls import require_separable
from lwq.statistics.forward import stream


def require_blocks(model: nn.Module, windows: Tensor) -> None:
    """Raise InputError for a block that gives NaN or Inf, by its name, and for a model whose blocks
    hand on more than hidden states (both seen on a few tokens).
    """
    list(stream(model, windows[:1, :8], frozenset(), label="check"))
    require_separable(model, windows)
