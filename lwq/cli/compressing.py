"""From a model to a folder that other programs run, in one command, and whether that can be."""

from pathlib import Path
from typing import Annotated, Any

import typer

from lwq.cli import arguments
from lwq.cli.app import app
from lwq.cli.options import (
    AvgBits,
    Bits,
    Dtype,
    For,
    Guard,
    Like,
    Model,
    Nsamples,
    Remote,
    Rounding,
    Seqlen,
    Size,
    Stream,
    TrueBits,
)
from lwq.cli.printing import show_checked, show_compressed
from lwq.common.errors import InputError


@app.command()
def compress(
    model: Model,
    out: Annotated[Path | None, typer.Option(help="a new folder", rich_help_panel="Output")] = None,
    size: Size = None,
    avg_bits: AvgBits = None,
    true_bits: TrueBits = None,
    target: For = "lwq",
    quantizer: Rounding = None,
    bits: Bits = None,
    like: Like = None,
    guard: Guard = True,
    dry_run: Annotated[
        bool, typer.Option(help="what `lwq check` says; write nothing", rich_help_panel="Output")
    ] = False,
    nsamples: Nsamples = 16,
    seqlen: Seqlen = 512,
    dtype: Dtype = "float32",
    stream: Stream = False,
    trust_remote_code: Remote = False,
) -> None:
    """From a model to a smaller one that other programs run.

    Score, plan, guard, quantize, judge, export. Killed, it goes on where it was; run again, it does
    nothing twice.
    """
    from lwq.recipes import check as checking
    from lwq.recipes import compress as compressing
    from lwq.recipes.recommend import Recipe

    limits = {"size": size, "avg_bits": avg_bits, "true_bits": true_bits}
    arguments.require_one(like, **limits)
    asked: dict[str, Any] = {
        **limits,
        "target": target,
        "quantizer": quantizer,
        "bits": arguments.options(bits),
        "like": like,
        "recipe": Recipe(guard=guard, nsamples=nsamples, seqlen=seqlen),
        "dtype": dtype,
        "stream": stream,
        "trust_remote_code": trust_remote_code,
    }
    if dry_run:
        show_checked(checking.check(model, **asked))
        return
    if out is None:
        raise InputError("--out names the folder to be made; --dry-run makes none")
    show_compressed(compressing.compress(model, out, **asked))


@app.command()
def check(
    model: Model,
    size: Size = None,
    avg_bits: AvgBits = None,
    true_bits: TrueBits = None,
    target: For = "lwq",
    quantizer: Rounding = None,
    bits: Bits = None,
    like: Like = None,
    guard: Guard = True,
    nsamples: Nsamples = 16,
    seqlen: Seqlen = 512,
    dtype: Dtype = "float32",
    stream: Stream = False,
    trust_remote_code: Remote = False,
) -> None:
    """What `lwq compress` would do, in seconds and without reading weights.

    Layers, reach, bytes, time, memory, disk, and which targets can hold it.
    """
    from lwq.recipes import check as recipes
    from lwq.recipes.recommend import Recipe

    limits: dict[str, Any] = {"size": size, "avg_bits": avg_bits, "true_bits": true_bits}
    arguments.require_one(like, **limits)
    found = recipes.check(
        model,
        **limits,
        target=target,
        quantizer=quantizer,
        bits=arguments.options(bits),
        like=like,
        recipe=Recipe(guard=guard, nsamples=nsamples, seqlen=seqlen),
        dtype=dtype,
        stream=stream,
        trust_remote_code=trust_remote_code,
    )
    show_checked(found)
