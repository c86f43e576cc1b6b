"""The command that all others hang from."""

import typer

app = typer.Typer(
    help="Which layers of a language model can go to fewer bits, how far, and at what cost.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
)
