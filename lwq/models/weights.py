"""The weights of a model, in memory or on disk: where, of what bytes, and whether finite."""

import hashlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import psutil
import torch
from torch import Tensor, nn

from lwq.common.errors import InputError
from lwq.common.progress import track
from lwq.common.tensors import is_finite
from lwq.models import streaming


def vocabulary(model: Any) -> int:
    """Number of tokens that the model can read."""
    return int(model.get_input_embeddings().weight.shape[0])


def resident(model: nn.Module, name: str, save: bool = False) -> AbstractContextManager[None]:
    """Inside, the weights of the block that `name` is, or is inside of, are in memory; `save` keeps
    what was changed.

    Only a model from `load(..., stream=True)` needs it; any other is in memory anyway.
    """
    kept = streamed(model)
    return kept.resident(name, save) if kept else nullcontext()


def streamed(model: nn.Module) -> streaming.Offload | None:
    """Where the weights of a model from `load(..., stream=True)` are; None for any other."""
    return getattr(model, "_offload", None)


def rewritten_(model: nn.Module) -> None:
    """Note that a weight of `model` was replaced for good: what knows the weights before is out of
    date.
    """
    model._rewrites = rewrites(model) + 1  # type: ignore[assignment]  # torch types attributes of a module as tensors or modules


def rewrites(model: nn.Module) -> int:
    """How often lwq replaced a weight of `model` for good, so far."""
    return int(getattr(model, "_rewrites", 0))


def device(model: nn.Module) -> torch.device:
    """Where token ids go."""
    kept = streamed(model)
    return kept.device if kept else next(model.parameters()).device


def free_memory(model: nn.Module) -> int:
    """Bytes that are free where the model computes."""
    return free_bytes(device(model))


def free_bytes(place: torch.device) -> int:
    """Bytes that are free on a GPU, or in this machine."""
    return (
        torch.cuda.mem_get_info(place)[0]
        if place.type == "cuda"
        else psutil.virtual_memory().available
    )


def nbytes(model: nn.Module) -> int:
    """Bytes of all parameters, in memory or not; tied ones count once."""
    return sum(parameter.nbytes for parameter in model.parameters())


def require_finite(model: nn.Module) -> None:
    """Raise InputError naming the first tensor that holds NaN or Inf, how many, and where."""
    kept = streamed(model)
    tensors = (
        track(kept.state(), "check weights", len(model.state_dict()))
        if kept
        else model.named_parameters()
    )
    for key, tensor in tensors:
        if tensor.is_meta or is_finite(tensor):
            continue
        bad = (~torch.isfinite(tensor)).nonzero()
        raise InputError(
            f"{key} holds {len(bad)} NaN or Inf values, the first at "
            f"{bad[0].tolist()}; repair or download it again"
        )


def tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """(key, tensor) of the whole state dict, keys in sorted order; of a streamed model one part at
    a time is in memory.
    """
    kept = streamed(model)
    yield from kept.state() if kept else sorted(model.state_dict(keep_vars=True).items())


def stored(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """(name, tensor) of all that a checkpoint holds, tied tensors once, under their first name; of
    a streamed model one part at a time is in memory.
    """
    kept = streamed(model)
    first = streaming.first_names(model)
    for key, tensor in kept.state() if kept else model.state_dict(keep_vars=True).items():
        if first.get(key, key) == key:
            yield key, tensor.detach()


def fingerprint(model: nn.Module) -> str:
    """16 hex digits of the sha256 over names, types, shapes and values of all parameters."""
    total = hashlib.sha256()
    for key, tensor in tensors(model):
        total.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
        total.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()[:16]
