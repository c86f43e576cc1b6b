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
Seed = Annotated[
    int, typer.Option(min=0, max=2**63 - 1, help="of the draw of windows", rich_help_panel="Data")
]
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
Size = Annotated[
    str | None,
    typer.Option(
        help="of all tensors as they are written, at most: 95MB, 1.2GiB", rich_help_panel="Budget"
    ),
]
AvgBits = Annotated[
    float | None, typer.Option(help="nominal bits a weight, at most", rich_help_panel="Budget")
]
TrueBits = Annotated[
    float | None, typer.Option(help="stored bits a weight, at most", rich_help_panel="Budget")
]
For = Annotated[str, typer.Option(help="what runs it: lwq, llama.cpp, transformers, vllm, mlx")]
Rounding = Annotated[str | None, typer.Option(help="else the target's own")]
Bits = Annotated[str | None, typer.Option(help="options to choose from; else the target's")]
Like = Annotated[
    str | None,
    typer.Option(
        help="somebody else's plan (.gguf, config.json, exllamav3's .yaml): judged beside ours; "
        "its bytes are the budget where none is given"
    ),
]
Guard = Annotated[
    bool, typer.Option(help="of a model: measure the plan against uniform bits, keep the better")
]
