"""What plans give bits to: blocks, fused groups or matrices; embeddings and head."""

from torch import nn

from lwq.common.names import pick
from lwq.contracts import GRANULARITIES, Layout
from lwq.models.outside import outside as outside_matrices
from lwq.models.settings import name
from lwq.models.structure import blocks, by_block, matrices
from lwq.models.trace import traced
from lwq.models.weights import fingerprint


def units(
    model: nn.Module, granularity: str = "block", outside: bool = False
) -> dict[str, list[str]]:
    """Unit -> names of its matrices. Granularity "block", "group" or "matrix"; see
    `lwq.contracts.Layout`. `outside`: embeddings and head too, each a unit of its own, after those
    of the blocks.
    """
    pick(dict.fromkeys(GRANULARITIES), "granularity", granularity)
    return _inner_units(model, granularity) | {
        key: [key] for key in (outside_matrices(model) if outside else ())
    }


def _inner_units(model: nn.Module, granularity: str) -> dict[str, list[str]]:
    if granularity == "matrix":
        return {key: [key] for key in matrices(model)}
    if granularity == "group":
        return dict(traced(model).groups)
    return by_block(blocks(model), matrices(model))


def layout(
    model: nn.Module, granularity: str = "block", outside: bool = False, known: str = ""
) -> Layout:
    """The units, their sizes and the fingerprint of `model`, as plain data; the arguments are those
    of `units`, and `known` is the fingerprint of the weights where it need not be computed again.

    Raises InputError where the blocks do not run as blocks do; see `traced`.
    """
    traced(model)
    table = matrices(model)
    weights = {
        block_name: sum(p.numel() for p in block.parameters())
        for block_name, block in blocks(model).items()
    }
    sizes = {key: m.shape[0] * m.shape[1] for key, m in table.items()}
    rest = {
        block_name: weights[block_name] - sum(map(sizes.__getitem__, keys))
        for block_name, keys in by_block(weights, table).items()
    }
    beyond = outside_matrices(model) if outside else {}
    reached = sum(m.shape[0] * m.shape[1] for m in beyond.values())
    rest[""] = sum(p.numel() for p in model.parameters()) - sum(weights.values()) - reached
    table |= beyond
    shapes = {
        unit: {key: table[key].shape for key in keys}
        for unit, keys in units(model, granularity, outside).items()
    }
    return Layout(name(model), known or fingerprint(model), granularity, shapes, rest)
