"""Progress bars, in one place: tqdm on standard error, with an estimate, quiet for work under half
a second.
"""

import sys
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import Any, TypeVar

from tqdm import tqdm

Item = TypeVar("Item")


def bar(label: str, total: int | None = None, **options: Any) -> tqdm:
    """A bar to be advanced with `.update(n)`; use it as a context manager. In a pipe it prints a
    line every 10 seconds.
    """
    every = 0.2 if sys.stderr.isatty() or "ipykernel" in sys.modules else 10.0
    return tqdm(
        total=total,
        desc=label,
        delay=0.5,
        mininterval=every,
        dynamic_ncols=True,
        file=sys.stderr,
        **options,
    )


def track(
    items: Iterable[Item], label: str, total: int | None = None, leave: bool = True
) -> Iterator[Item]:
    """Iterate over `items` behind a bar, which goes away at the end unless `leave`."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    with bar(label, total, leave=leave) as progress:
        for item in items:
            yield item
            progress.update()


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers' own progress bars and warnings out of the way; ours say more."""
    from transformers import logging

    shown = logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
