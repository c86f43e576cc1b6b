"""The command that all others hang from."""

from typing import Annotated

import typer

from lwq.common.version import VERSION

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"lwq {VERSION}")
        raise typer.Exit


@app.callback()
def lwq(
    version: Annotated[
        bool,
        typer.Option("--version", help="print it and end", callback=_show_version, is_eager=True),
    ] = False,
) -> None:
    """Which layers of a language model can go to fewer bits, how far, and at what cost."""
