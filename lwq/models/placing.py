"""Where a model is to be: whether this machine has the place."""

from typing import Any

import torch

from lwq.common.errors import InputError

SPREAD = ("auto", "balanced", "balanced_low_0", "sequential")  # over what there is, by accelerate


def spreads(device_map: Any) -> bool:
    """Whether `device_map` says of parts of a model where they go, and not of the whole."""
    return isinstance(device_map, dict) or device_map in SPREAD


def require_place(device_map: Any, whole: str = "") -> None:
    """Raise InputError for a device that this machine does not have, or for several where `whole`,
    a kind of model, goes to one.
    """
    if device_map is None:
        return
    if spreads(device_map):
        if whole:
            raise InputError(
                f"device_map={device_map!r} spreads a model, and {whole} goes to one device; name "
                "it ('cpu', 'cuda'), or leave device_map out"
            )
        return
    try:
        torch.empty(0, device=device_map)
    except (RuntimeError, AssertionError, TypeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(
            f"device_map={device_map!r} is no device of this machine ({reason}); leave it out for "
            "the CPU"
        ) from None
