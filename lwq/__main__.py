"""`python -m lwq`: the command line."""

from lwq.cli.commands import main

main()
