"""The same verbs in the shell. Heavy imports wait until a command runs, so that `lwq --help`
answers at once.
"""

import io
import sys
from contextlib import nullcontext

# each adds its commands to the app
from lwq.cli import (  # isort: skip (the order of --help)
    lists,
    models,
    compressing,
    judging,
    studies,
    status,
    cache,
)
from lwq.cli.app import app
from lwq.common import runs
from lwq.common.errors import InputError, RunError

__all__ = ["app", "cache", "compressing", "judging", "lists", "main", "models", "status", "studies"]

HELP = {"-h", "--help"}


def main() -> None:
    """Entry point. Exit codes: 0 done, 1 failed, 2 bad input (nothing was started), 130
    interrupted.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # any terminal, whatever it can show
            stream.reconfigure(errors="replace")
    words = sys.argv[1:]
    long = bool(words) and words[0] in status.NOTED and not HELP & set(words)
    try:
        with runs.noted(words) if long else nullcontext():
            app(standalone_mode=True)
    except InputError as error:
        print(f"lwq: {error}", file=sys.stderr)
        sys.exit(2)
    except RunError as error:
        print(f"lwq: {error}", file=sys.stderr)
        sys.exit(1)
    except SystemExit as end:
        if end.code == 130:  # what typer makes of Ctrl-C
            print(
                "lwq: interrupted; run the same command again (studies and compress go on from "
                "here)",
                file=sys.stderr,
            )
        raise
