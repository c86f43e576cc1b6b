"""Progress, in one place: a bar on standard error where it is a terminal or a notebook, elsewhere a
plain line every 10 seconds; quiet for work under half a second.
"""

import os
import sys
import warnings
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from importlib import import_module
from typing import Any, TypeVar

from tqdm import TqdmWarning, tqdm

if "ipykernel" in sys.modules:
    # other libraries take their bars from there; without ipywidgets it warns when it is first read
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TqdmWarning)
        import_module("tqdm.auto")

Item = TypeVar("Item")

LINES = (
    "LWQ_PROGRESS_LINES"  # set: plain lines, whoever reads them, as where a study runs a notebook
)
EVERY = 10.0  # seconds from one plain line to the next
KNOWN = "{desc}: {n_fmt} of {total_fmt} ({percentage:.0f} %), {elapsed} gone, {remaining} left"
OPEN = "{desc}: {n_fmt}, {elapsed} gone"


class Lines:
    """A file to which tqdm writes whole lines: nothing is drawn over, empty or said twice."""

    encoding = "utf-8"
    last = ""

    def write(self, text: str) -> None:
        line = text.replace("\x1b[A", "").strip("\r\n ")
        if line and line != self.last:
            self.last = line
            sys.stderr.write(f"{line}\n")

    def flush(self) -> None:
        sys.stderr.flush()


def bar(label: str, total: int | None = None, **options: Any) -> tqdm:
    """A bar to be advanced with `.update(n)`; use it as a context manager."""
    shared = {"total": total, "desc": label, "delay": 0.5, **options}
    if plain():
        shared["bar_format"] = OPEN if total is None else KNOWN
        return tqdm(file=Lines(), mininterval=EVERY, miniters=1, **shared)
    return tqdm(file=sys.stderr, mininterval=0.2, dynamic_ncols=True, **shared)


def plain() -> bool:
    """Whether nobody watches: standard error is neither a terminal nor a notebook's."""
    notebook = type(sys.stderr).__module__.startswith("ipykernel")
    return LINES in os.environ or not (notebook or sys.stderr.isatty())


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
