"""Is a quantizer what callers take it for? Asked of every one, where it first works."""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor

from lwq.common.errors import InputError
from lwq.common.tensors import is_finite
from lwq.contracts import Option
from lwq.contracts.methods import Quantizer, Storage
from lwq.quantizers.storage import STORAGES

ASKED = {
    "levels": "the options it offers, such as (2, 3, 4)",
    "nbytes": "a method nbytes(shape, option) -> bytes that it stores of a matrix",
    "needs": "the statistics it reads, such as frozenset({'gram'}); frozenset() for none",
    "inputs": "'full'; see lwq.Quantizer",
    "family": "'grid'; see lwq.Quantizer",
    "grid": "a method grid(option); see lwq.Quantizer",
    "outside": "the quantizer of embeddings and head; see lwq.Quantizer",
    "same": "a method same(shape, option); see lwq.Quantizer",
    "nominal": "a method nominal(option) -> bits a weight; see lwq.Quantizer",
}
OWN = ("levels", "nbytes")  # nobody brings them

# class, settings, option and shape that were found true
_seen: set[tuple[type, str, Option, tuple[int, ...]]] = set()


def require_complete(quantizer: Quantizer) -> None:
    """Raise InputError, saying what to add, where a quantizer lacks something that callers read."""
    own = type(quantizer)
    if lacking := [
        f"{name} ({what})"
        for name, what in ASKED.items()
        if not hasattr(quantizer, name)
        # what the protocol only names
        or (name in OWN and getattr(own, name, None) is getattr(Quantizer, name))
    ]:
        raise InputError(
            f"the quantizer {type(quantizer).__name__} lacks {'; '.join(lacking)}; "
            "levels and nbytes are its own, and `class Mine(lwq.Quantizer)` brings the others"
        )


def require_true(quantizer: Quantizer, option: Option, weight: Tensor, made: Any) -> None:
    """Raise InputError where `made` of `weight` (out, in) is not what `quantizer` said, could not
    be stored so, or has scales, offsets or weights that are not finite.

    The stored bytes must be those of `quantizer.nbytes`. Each setting, option and shape is looked
    at once a process; whether numbers are finite, each time.
    """
    name, shape = type(quantizer).__name__, tuple(weight.shape)
    if not all(map(is_finite, _numbers(made))):
        raise InputError(
            f"{name} made NaN or Inf of a matrix at {option} bits; look at its scales, or give the "
            "matrix another option"
        )
    # a class that was written again is another one
    key = (type(quantizer), repr(quantizer), option, shape)
    if key in _seen:
        return
    if not (isinstance(made, Storage) and type(made) in STORAGES.values()):
        raise InputError(
            f"{name} returned a {type(made).__name__}; return lwq.Packed (codes, scales, bits), "
            "which can be stored"
        )
    if made.shape != shape:
        raise InputError(
            f"{name} made {made.shape} of a matrix of {shape}; keep (out_features, in_features)"
        )
    made.require_sound(name)
    if (stored := made.nbytes) != (said := quantizer.nbytes((shape[0], shape[1]), option)):
        raise InputError(
            f"{name} stores {stored:,} bytes of {shape} at {option} bits, and its nbytes says "
            f"{said:,}; correct nbytes"
        )
    _seen.add(key)


def _numbers(made: Any) -> Iterator[Tensor]:
    """All floating numbers of a storage, whatever its parts."""
    if isinstance(made, Tensor):
        if made.is_floating_point():
            yield made
    elif is_dataclass(made):
        for part in fields(made):
            yield from _numbers(getattr(made, part.name))
