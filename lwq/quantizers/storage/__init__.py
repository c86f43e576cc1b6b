"""How a quantized matrix is stored: every part with its own width. One dict, one line a storage."""

from torch import Tensor

from lwq.common.names import pick
from lwq.contracts import Shape
from lwq.contracts.methods import Storage
from lwq.quantizers.storage.ggml import Blocks
from lwq.quantizers.storage.packed import Packed
from lwq.quantizers.storage.sparse import Sparse

STORAGES: dict[str, type[Storage]] = {
    "packed": Packed,
    "sparse": Sparse,
    "ggml": Blocks,
}


def name_of(made: Storage) -> str:
    """The name of its class in STORAGES."""
    return next(name for name, kind in STORAGES.items() if kind is type(made))


def read(name: str, tensors: dict[str, Tensor], header: dict[str, int]) -> Storage:
    """A stored matrix from the name of its class, its tensors and its header."""
    return pick(STORAGES, "storage", name).read(tensors, header)


def shape_of(name: str, tensors: dict[str, Tensor], header: dict[str, int]) -> Shape:
    """The shape of what `read` makes of them, without the work; InputError where they are not all
    that it needs.
    """
    return pick(STORAGES, "storage", name).shape_of(tensors, header)
