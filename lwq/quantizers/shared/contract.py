"""Is a quantizer what callers take it for? Asked of every one, where it first works."""

from typing import Any

import torch
from torch import Tensor

from lwq.common.errors import InputError
from lwq.contracts import Width
from lwq.quantizers.storage.packed import Packed
from lwq.quantizers.storage.sparse import Sparse

ASKED = {
    "levels": "the widths it offers, such as (2, 3, 4)",
    "needs": "the statistics it reads, such as frozenset({'gram'}); frozenset() for none",
    "nbytes": "a method nbytes(shape, bits) -> bytes that it stores of a matrix",
}

# class, settings, width and shape that were found true
_seen: set[tuple[type, str, Width, tuple[int, ...]]] = set()


def require_complete(quantizer: Any) -> None:
    """Raise InputError, saying what to add, where a quantizer lacks something that callers read."""
    if lacking := [
        f"{name} ({what})" for name, what in ASKED.items() if not hasattr(quantizer, name)
    ]:
        raise InputError(f"the quantizer {type(quantizer).__name__} lacks {'; '.join(lacking)}")


def require_true(quantizer: Any, bits: Width, weight: Tensor, made: Any) -> None:
    """Raise InputError where `made` of `weight` (out, in) is not what `quantizer` said, or could
    not be stored so.

    Codes must be uint8 and below 2^bits (2^width in a column of its own width), and the stored
    bytes those of `quantizer.nbytes`. Each setting, width and shape is looked at once a process.
    """
    name, shape = type(quantizer).__name__, tuple(weight.shape)
    # a class that was written again is another one
    key = (type(quantizer), repr(quantizer), bits, shape)
    if key in _seen:
        return
    if not isinstance(made, Packed | Sparse):
        raise InputError(
            f"{name} returned a {type(made).__name__}; return lwq.Packed (codes, "
            f"scales, bits), which can be stored"
        )
    if tuple(made.shape) != shape:
        raise InputError(
            f"{name} made {tuple(made.shape)} of a matrix of {shape}; keep "
            f"(out_features, in_features)"
        )
    if isinstance(made, Packed):
        _require_codes(name, made)
    if (stored := made.nbytes) != (said := quantizer.nbytes(shape, bits)):
        raise InputError(
            f"{name} stores {stored:,} bytes of {shape} at {bits} bits, and its nbytes says "
            f"{said:,}; correct nbytes"
        )
    _seen.add(key)


def _require_codes(name: str, made: Packed) -> None:
    if made.codes.dtype != torch.uint8:
        raise InputError(
            f"{name}: codes are {made.codes.dtype}; round them and store them as torch.uint8"
        )
    # a number, or (in,)
    highest = 2**made.bits - 1 if made.widths is None else (2 ** made.widths.int() - 1).byte()
    if bool((made.codes > highest).any()):
        raise InputError(
            f"{name}: a code of {int(made.codes.max())} does not fit {made.bits} "
            f"bits; clamp to 0 … 2^bits − 1"
        )
