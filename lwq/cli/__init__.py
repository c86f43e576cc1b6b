"""The same verbs in the shell."""

from lwq.cli.commands import main

__all__ = ["main"]
