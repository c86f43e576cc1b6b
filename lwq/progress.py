"""Progress bars, in one place: tqdm on standard error, with an estimate, quiet for work under half a second."""

import sys
from collections.abc import Iterable, Iterator, Sized
from typing import Any, TypeVar

from tqdm import tqdm

Item = TypeVar("Item")


def bar(label: str, total: int | None = None, **options: Any) -> tqdm:
    """A bar to be advanced with `.update(n)`; use it as a context manager. In a pipe it prints a line every 10 seconds."""
    every = 0.2 if sys.stderr.isatty() or "ipykernel" in sys.modules else 10.0
    return tqdm(total=total, desc=label, delay=0.5, mininterval=every, dynamic_ncols=True, file=sys.stderr, **options)


def track(items: Iterable[Item], label: str, total: int | None = None, leave: bool = True) -> Iterator[Item]:
    """Iterate over `items` behind a bar, which goes away at the end unless `leave`."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    with bar(label, total, leave=leave) as progress:
        for item in items:
            yield item
            progress.update()
