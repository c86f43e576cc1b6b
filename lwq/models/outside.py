"""The matrices outside the blocks: embeddings and the head, which weigh more than most blocks."""

from collections.abc import Iterator
from typing import Any

from torch import nn

from lwq.models.structure import Matrix
from lwq.models.trace import traced


def outside(model: nn.Module) -> dict[str, Matrix]:
    """Name -> handle on each matrix that tokens go through on their way in or out.

    These are the embedding, per-layer embeddings where a model has them, and the head; a head that
    is tied to the embedding is the same matrix, and counted once, under the embedding's name. The
    forward order: what comes before the blocks, then the head.
    """
    found: dict[int, tuple[str, nn.Module]] = {}
    for path, module in _tokenwise(model):
        found.setdefault(id(module.weight), (path, module))
    return {path: Matrix(path, module) for path, module in found.values()}


def places(model: Any) -> dict[str, list[str]]:
    """Matrix outside the blocks -> paths of the modules that compute with it."""
    found: dict[str, list[str]] = {}
    first = {id(matrix.module.weight): name for name, matrix in outside(model).items()}
    for path, module in _tokenwise(model):
        found.setdefault(first[id(module.weight)], []).append(path)
    return found


def is_before(model: nn.Module, name: str) -> bool:
    """Whether the matrix `name` is used before the blocks: any but an untied head."""
    return name in traced(model).embeddings


def is_after(model: Any, name: str) -> bool:
    """Whether the matrix `name` is used after the blocks: the head, or what it is tied to."""
    head = model.get_output_embeddings()
    return head is not None and model.get_submodule(name).weight is head.weight


def _tokenwise(model: Any) -> Iterator[tuple[str, Any]]:
    """(path, module) of the token embeddings outside the blocks, and of the head at last."""
    for path in traced(model).embeddings:
        yield path, model.get_submodule(path)
    head = model.get_output_embeddings()
    yield from ((path, module) for path, module in model.named_modules() if module is head)
