"""What rooms ask of any tensor."""

import math

import torch
from torch import Tensor


def is_finite(values: Tensor) -> bool:
    """Neither NaN nor Inf. A finite sum has finite parts, and takes a fraction of the exact test's
    time.
    """
    values = values.detach()
    return math.isfinite(float(values.sum(dtype=torch.float32))) or bool(
        torch.isfinite(values).all()
    )
