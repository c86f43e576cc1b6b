"""How many bytes may be kept in memory beside a model; less where it is read from disk, part by
part, because it does not fit.
"""

from torch import nn

from lwq import models

BANK, LEAST = 4 << 30, 1 << 30  # of quantized weights, at most and in any case
REFERENCE = 4 << 30
STATES = 2 << 30
STREAMED = 1 << 29  # of a reference and of states, beside a streamed model
PACKED = 1 << 28  # of quantized weights, there


def bank(weights: int, streamed: bool) -> int:
    """Bytes of quantized weights: a quarter of what the model has, within limits. A plan changes
    few blocks of the one before it, and what is not here is read from the store.
    """
    return PACKED if streamed else max(LEAST, min(BANK, weights // 4))


def reference(streamed: bool) -> int:
    """Bytes of the reference's answers; above it only hidden states are kept, and the head makes
    the same answers of them once more for each plan.
    """
    return STREAMED if streamed else REFERENCE


def states(streamed: bool) -> int:
    """Bytes of the states between blocks that a sweep keeps."""
    return STREAMED if streamed else STATES


def of_bank(model: nn.Module) -> int:
    """`bank`, of a model."""
    return bank(models.nbytes(model), models.streamed(model) is not None)


def of_reference(model: nn.Module) -> int:
    """`reference`, of a model, and no more than half of what is free."""
    return min(models.free_memory(model) // 2, reference(models.streamed(model) is not None))


def of_states(model: nn.Module) -> int:
    """`states`, of a model."""
    return states(models.streamed(model) is not None)
