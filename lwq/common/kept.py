"""What took long and lies in the cache: found there, or made."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypeVar

from lwq.common import paths
from lwq.common.errors import InputError


class Saved(Protocol):
    """What writes itself into a file."""

    def save(self, path: str | Path) -> None: ...


T = TypeVar("T", bound=Saved)


def kept(place: Path | None, load: Callable[[Path], T], make: Callable[[], T]) -> T:
    """What stands at `place`, else what `make` gives, saved there and read again, as the next run
    will have it. A file that cannot be read counts as missing; with no place nothing is kept.
    """
    if place is None:
        return make()
    if place.is_file():
        try:
            return load(place)
        except InputError:  # damaged: it is made again
            place.unlink(missing_ok=True)
    found = make()
    with paths.replacing(place) as temporary:
        found.save(temporary)
    return load(place)
