"""Options that several commands take."""

from typing import Annotated

import typer

Model = Annotated[
    str, typer.Argument(help="toy, a name from `lwq list models`, a hub id or a folder")
]
Text = Annotated[
    str,
    typer.Option(
        help="a name from `lwq list texts`, or the path of a UTF-8 file", rich_help_panel="Data"
    ),
]
Nsamples = Annotated[int, typer.Option(min=1, help="calibration windows", rich_help_panel="Data")]
Seqlen = Annotated[
    int, typer.Option(min=2, help="tokens a calibration window", rich_help_panel="Data")
]
Windows = Annotated[int, typer.Option(min=2, help="judging windows", rich_help_panel="Data")]
Length = Annotated[int, typer.Option(min=2, help="tokens a judging window", rich_help_panel="Data")]
Seed = Annotated[int, typer.Option(help="of the draw of windows", rich_help_panel="Data")]
Dtype = Annotated[
    str, typer.Option(help="float32, bfloat16 or float16", rich_help_panel="Performance")
]
Quantizer = Annotated[
    str | None, typer.Option(help="the plan's, where it is code of yours: a plan runs no code")
]
Stream = Annotated[
    bool,
    typer.Option(
        help="keep the weights on disk, one block in memory", rich_help_panel="Performance"
    ),
]
Remote = Annotated[
    bool, typer.Option(help="run code that a hub repository ships", rich_help_panel="Dangerous")
]
