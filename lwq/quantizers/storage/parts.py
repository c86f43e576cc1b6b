"""Whether the parts that a file holds of a matrix are those that its header asks for."""

from collections.abc import Mapping

import torch
from torch import Tensor

from lwq.common.errors import InputError


def number(header: Mapping[str, int], name: str, most: int | None = None) -> int:
    """A number of a header, from 1 to `most`; InputError for anything else."""
    found = header.get(name)
    if type(found) is not int or found < 1 or (most is not None and found > most):
        needed = f"a whole number from 1 {f'to {most} ' if most else ''}is needed"
        raise InputError(f"{name} is {found!r}; {needed}")
    return found


def part(
    tensors: Mapping[str, Tensor],
    name: str,
    dtype: torch.dtype | None,
    shape: tuple[int | None, ...],
) -> Tensor:
    """A part that must be there; InputError where it is not, or of another type or shape.

    dtype: None for any float; a size of None: any.
    """
    if name not in tensors:
        raise InputError(f"{name} is missing; there are {sorted(tensors)}")
    found = tensors[name]
    alike = found.is_floating_point() if dtype is None else found.dtype == dtype
    sizes = zip(shape, found.shape, strict=False)
    fits = found.ndim == len(shape) and all(want in (None, has) for want, has in sizes)
    if not (alike and fits):
        wanted = ["any" if size is None else f"{size:,}" for size in shape]
        kind = "floats" if dtype is None else str(dtype)
        raise InputError(
            f"{name} is {found.dtype} {tuple(found.shape)}; {kind} of the shape "
            f"({', '.join(wanted)}) is needed"
        )
    return found
