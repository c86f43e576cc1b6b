"""What is done to one model: score, plan, quantize."""

import math
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from lwq.cli import arguments
from lwq.cli.app import app
from lwq.cli.options import (
    AvgBits,
    Dtype,
    Guard,
    Model,
    Nsamples,
    Quantizer,
    Remote,
    Seed,
    Seqlen,
    Size,
    Stream,
    Text,
    TrueBits,
)
from lwq.cli.printing import (
    show,
    show_guard,
    show_plan,
    show_scores,
    show_size,
)
from lwq.common.errors import InputError
from lwq.common.sizes import parse_bytes, readable

FULL_SIZE = "files as large as the model's: the plan is simulated; --format lwq packs it"
MUCH = 0.1  # of a file that stays at 16 bits, said from here on


@app.command()
def score(
    model: Model,
    out: Annotated[
        Path, typer.Option(help="where the scores go (JSON)", rich_help_panel="Output")
    ] = Path("scores.json"),
    scorer: Annotated[
        str,
        typer.Option(help="a name, a call such as 'random(seed=3)', or yours: my.py:Mine"),
    ] = "fisher_kl",
    text: Text = "c4",
    nsamples: Nsamples = 8,
    seqlen: Seqlen = 512,
    seed: Seed = 0,
    dtype: Dtype = "float32",
    stream: Stream = False,
    trust_remote_code: Remote = False,
) -> None:
    """Score the layers of a model; higher = more important = keeps more bits."""
    from lwq import models, scorers
    from lwq.common.names import build
    from lwq.inputs.texts import WindowSpec
    from lwq.studies import checks

    target = arguments.out_file(out)
    strategy = build(scorers.SCORERS, "scorer", scorer)
    checks.require_text(text)
    loaded, tokenizer = models.load(
        model, dtype, trust_remote_code=trust_remote_code, stream=stream
    )
    spec = WindowSpec(text, "calibrate", nsamples, seqlen, seed)
    windows = spec.draw(tokenizer).windows if strategy.needs else None
    scores = scorers.score(loaded, strategy, windows, data=str(spec) if windows is not None else "")
    scores.save(target)
    show_scores(f"{scores.scorer} on {model}", scores)
    print(f"{scores.cost['seconds']} s; written to {target}")


@app.command()
def plan(
    context: typer.Context,
    source: Annotated[
        str,
        typer.Argument(
            help="scores from `lwq score` or saved lwq.Costs (JSON), or a model, which the default "
            "recipe scores then, or which --from has a plan for",
            metavar="SCORES|MODEL",
        ),
    ],
    bits: Annotated[
        str | None,
        typer.Option(
            help="options to choose from, such as 4,3 or 8,4g32,2 (0 drops, 16 keeps) or 3.25,3; "
            "else the two around the budget, for a model all"
        ),
    ] = None,
    avg_bits: AvgBits = None,
    true_bits: TrueBits = None,
    max_bytes: Annotated[
        int | None, typer.Option(help="bytes of the whole model, at most", rich_help_panel="Budget")
    ] = None,
    size: Size = None,
    moved: Annotated[
        int | None,
        typer.Option(help="units that leave the highest width", rich_help_panel="Budget"),
    ] = None,
    quantizer: Annotated[
        str | None,
        typer.Option(
            help="a name, a call such as 'gptq(group_size=128)', or yours: my.py:Mine; else of "
            "costs the one that they were found with, with --from what comes nearest to the file, "
            "otherwise gptq(clip=True)"
        ),
    ] = None,
    allocator: Annotated[
        str | None,
        typer.Option(
            help="a name from `lwq list allocators`, or yours: my.py:Mine; else chosen by the "
            "number of options"
        ),
    ] = None,
    from_file: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="take over somebody else's plan: a .gguf, a config.json of GPTQ, AutoRound, "
            "compressed-tensors or MLX, a .yaml of exllamav3",
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option(help="where the plan goes (JSON)", rich_help_panel="Output")
    ] = Path("plan.json"),
    guard: Guard = True,
    nsamples: Nsamples = 16,
    seqlen: Seqlen = 512,
    stream: Stream = False,
    dtype: Dtype = "float32",
    trust_remote_code: Remote = False,
    dry_run: Annotated[
        bool, typer.Option(help="show the sizes, write nothing", rich_help_panel="Output")
    ] = False,
) -> None:
    """Turn scores, or a model, into bits for each layer under a size budget."""
    from lwq import quantizers
    from lwq.common.names import build

    options, target = arguments.options(bits), None if dry_run else arguments.out_file(out)
    limits: dict[str, Any] = {
        "moved": moved,
        "avg_bits": avg_bits,
        "true_bits": true_bits,
        "max_bytes": max_bytes,
    }
    if from_file is None:
        arguments.require_one(size=size, **limits)
    if size is not None:
        limits["max_bytes"] = parse_bytes(size)
    recipe = {"guard": guard, "nsamples": nsamples, "seqlen": seqlen}
    read = {"dtype": dtype, "trust_remote_code": trust_remote_code, "stream": stream}
    if from_file is not None:
        arguments.unused(context, "--from takes a plan as it is", "bits", "allocator", *recipe)
        made = _taken_over(from_file, source, quantizer, limits, read)
    elif arguments.is_scores(source):
        arguments.unused(context, "no model is read beside scores", *recipe, *read)
        made = _planned(Path(source), options, quantizer, allocator, limits)
    else:
        made = _recommended(source, options, quantizer, allocator, limits, recipe, read)
    show_plan(made, build(quantizers.QUANTIZERS, "quantizer", made.quantizer))
    if target is None:
        print("dry run: nothing written")
        return
    made.save(target)
    print(f"written to {target}")


def _taken_over(
    file: str, model: str, quantizer: str | None, limits: dict[str, Any], read: dict[str, Any]
) -> Any:
    """The plan that a file of another program holds, for a model of ours."""
    from lwq import models
    from lwq.exporters.reading import plan_from

    if given := [name for name, value in limits.items() if value is not None]:
        raise InputError(f"--from has a size of its own; leave out {given}")
    loaded, _ = models.load(model, **read)
    return plan_from(file, models.layout(loaded, "matrix", True), quantizer)


def _planned(
    scores: Path,
    options: tuple[Any, ...] | None,
    quantizer: str | None,
    allocator: str | None,
    limits: dict[str, Any],
) -> Any:
    """A plan from a file of scores; no model and no torch."""
    from lwq import allocators
    from lwq.common.names import rebuild
    from lwq.contracts import Costs, load_scores
    from lwq.quantizers import QUANTIZERS, RECOMMENDED

    found = load_scores(scores)
    own = found.quantizer if isinstance(found, Costs) else None
    packer = quantizer or rebuild(QUANTIZERS, "quantizer", own or RECOMMENDED)
    made = allocators.allocate(found, None, options, packer, allocator, **limits)
    if own and _written(own) != made.quantizer:
        print(f"the costs were found with {own}, and the plan is for {quantizer}")
    beyond = 2 * found.layout.rest.get("", 0)  # bytes
    if not found.layout.outside and beyond > MUCH * (limits["max_bytes"] or math.inf):
        print(
            f"{readable(beyond)} of it stay at 16 bits, embeddings and head among them: these "
            "scores are of blocks alone; --scorer 'fisher_kl(outside=True)' scores them too"
        )
    return made


def _written(quantizer: str) -> str:
    """A quantizer's text with all its settings, as plans hold it; code that a file names is not
    run, and its text stands.
    """
    from lwq.common.names import rebuild, spec
    from lwq.quantizers import QUANTIZERS

    try:
        return spec(QUANTIZERS, rebuild(QUANTIZERS, "quantizer", quantizer))
    except InputError:
        return quantizer


def _recommended(
    model: str,
    options: tuple[Any, ...] | None,
    quantizer: str | None,
    allocator: str | None,
    limits: dict[str, Any],
    recipe: dict[str, Any],
    read: dict[str, Any],
) -> Any:
    """A plan from a model by the default recipe, with what the guard found said."""
    from lwq import models
    from lwq.recipes.allocate import allocate
    from lwq.recipes.recommend import Recipe

    if allocator is not None:
        raise InputError("--allocator goes with scores; `lwq score MODEL` makes some first")
    loaded, _ = models.load(model, **read)
    settled = Recipe(**recipe)
    made = allocate(None, loaded, options, quantizer, **limits, recipe=settled)
    if settled.guard:
        show_guard(made.provenance["guard"])
    return made


@app.command()
def quantize(
    model: Model,
    plan: Annotated[Path, typer.Argument(help="from `lwq plan`")],
    out: Annotated[Path, typer.Option(help="a new folder", rich_help_panel="Output")],
    quantizer: Quantizer = None,
    format: Annotated[
        str,
        typer.Option(help="a name from `lwq list formats`", rich_help_panel="Output"),
    ] = "dequantized",
    text: Text = "c4",
    nsamples: Nsamples = 64,
    seqlen: Seqlen = 512,
    seed: Seed = 0,
    dtype: Dtype = "float32",
    stream: Stream = False,
    trust_remote_code: Remote = False,
) -> None:
    """Apply a plan to a model and save it."""
    from lwq import models
    from lwq.exporters import export, require_exportable
    from lwq.studies import checks

    made, packer = arguments.plan_in(plan, quantizer)
    _, target = require_exportable(made, out.expanduser().absolute(), format)
    checks.require_text(text)
    if format == "dequantized":
        print(FULL_SIZE, file=sys.stderr)
    loaded, tokenizer = models.load(
        model, dtype, trust_remote_code=trust_remote_code, stream=stream
    )
    calibration = arguments.calibration(packer, tokenizer, text, nsamples, seqlen, seed)
    errors = export(loaded, made, target, tokenizer, calibration, format)
    show(
        "relative error ‖W − Ŵ‖ / ‖W‖",
        ["unit", "bits", "error"],
        [[unit, made.bits[unit], e] for unit, e in errors.items()],
    )
    show_size(made, packer)
    print(f"written to {target}")
