"""The kernel that notebooks run in: this interpreter, whatever kernels other environments have put
into Jupyter's folders under the same name.
"""

import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from lwq.common.errors import InputError, RunError

NAME = "python3"  # as notebooks call it
# it listens on this machine alone, and need not warn of others at each start
ARGUMENTS = ["-m", "ipykernel_launcher", "-f", "{connection_file}", "--log-level=ERROR"]


@contextmanager
def own_kernel() -> Iterator[str]:
    """Inside, Jupyter starts this interpreter for a notebook, where JUPYTER_PATH is what this
    yields.

    Raises InputError where the interpreter has no ipykernel, RunError where the kernel died.
    """
    from nbclient.exceptions import DeadKernelError

    if find_spec("ipykernel") is None:
        raise InputError(f"{sys.executable} has no Jupyter kernel; install ipykernel for it")
    with tempfile.TemporaryDirectory(prefix="lwq-kernel-") as folder:
        home = Path(folder) / "kernels" / NAME
        home.mkdir(parents=True)
        about = {"argv": [sys.executable, *ARGUMENTS], "display_name": "Python 3"}
        (home / "kernel.json").write_text(
            json.dumps({**about, "language": "python"}), encoding="utf-8"
        )
        try:
            yield os.pathsep.join([folder, *filter(None, [os.environ.get("JUPYTER_PATH")])])
        except DeadKernelError:
            raise RunError(
                "the notebook's process died without an error of its own, as one does that the "
                "system kills when memory runs out; take a smaller model, fewer windows, "
                "-p dtype=bfloat16 or --jobs 1, and run the same command again: what is measured "
                "is kept"
            ) from None
