"""Standard output without what compiled code says there of its own accord."""

import ctypes
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_ONE = threading.Lock()  # of two at a time, one would give back what the other has taken away


@contextmanager
def quiet() -> Iterator[None]:
    """Inside, nothing reaches standard output, C's own buffer included; Python's is written first.

    For calls of milliseconds: what other threads print meanwhile is lost, too.
    """
    if os.name != "posix":
        yield
        return
    flush = ctypes.CDLL(None).fflush
    with _ONE:
        if sys.stdout is not None and not sys.stdout.closed:
            sys.stdout.flush()
        flush(None)
        try:
            kept = os.dup(1)
        except OSError:  # closed: nothing can reach it
            yield
            return
        nowhere = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, 1)
            yield
        finally:
            flush(None)
            os.dup2(kept, 1)
            os.close(kept)
            os.close(nowhere)
