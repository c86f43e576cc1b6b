"""The same verbs in the shell. Heavy imports wait until a command runs, so that `lwq --help`
answers at once.
"""

import io
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from lwq.cli import arguments
from lwq.cli.printing import (
    show,
    show_answers,
    show_compressed,
    show_guard,
    show_losses,
    show_plan,
    show_scores,
    show_size,
)
from lwq.common.errors import InputError, RunError

app = typer.Typer(
    help="Which layers of a language model can go to fewer bits, how far, and at what cost.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
)

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
KINDS = ("scorers", "allocators", "quantizers", "formats", "models", "texts", "tasks", "studies")
LONG = 1000  # hours of a study that nobody waits for


def main() -> None:
    """Entry point. Exit codes: 0 done, 1 failed, 2 bad input (nothing was started), 130
    interrupted.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # any terminal, whatever it can show
            stream.reconfigure(errors="replace")
    try:
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
                "lwq: interrupted; run the same command again (a study goes on from here)",
                file=sys.stderr,
            )
        raise


@app.command("list")
def list_(kind: Annotated[str, typer.Argument(help=" | ".join(KINDS))]) -> None:
    """What can be asked for, one line each."""
    from lwq import allocators, exporters, quantizers, scorers
    from lwq.common.names import pick
    from lwq.engine import tasks as questions
    from lwq.inputs import catalogue, texts
    from lwq.studies import grid

    def first_lines(table: dict[str, type]) -> dict[str, str]:
        return {name: (cls.__doc__ or "").strip().splitlines()[0] for name, cls in table.items()}

    tables: dict[str, dict[str, str]] = {
        "scorers": first_lines(scorers.SCORERS),
        "allocators": first_lines(allocators.ALLOCATORS),
        "quantizers": first_lines(quantizers.QUANTIZERS),
        "formats": {name: cls().says for name, cls in exporters.EXPORTERS.items()},
        "models": {
            "toy": "4 random blocks, made in code",
            **{name: entry.note for name, entry in catalogue.MODELS.items()},
            **{
                name: f"llama of {catalogue.rung(name)} blocks, trained here in minutes"
                for name in catalogue.LADDER
            },
        },
        "texts": {
            "toy": "seeded grammar, made in code",
            **{name: entry.note for name, entry in catalogue.TEXTS.items()},
            **{
                name: f"{path} (needs a hub and lwq's extra 'hub')"
                for name, (path, *_) in texts.HUB.items()
            },
        },
        "tasks": {name: catalogue.TASKS[name].note for name in questions.STOCK},
        "studies": grid.names(),
    }
    found = pick(tables, "kind", kind)
    show(kind, ["name", "what it is"], [[name, note] for name, note in found.items()])


@app.command()
def fetch(
    names: Annotated[list[str], typer.Argument(help="models, texts or tasks")],
    verify: Annotated[bool, typer.Option(help="hash what is in the cache again")] = False,
) -> None:
    """Bring models, texts and tasks into the cache, checked by sha256."""
    from lwq.inputs import resolve

    for name in names:
        print(f"{name}: {resolve.fetch(name)}")
        if verify:
            resolve.verify(name)


@app.command()
def score(
    model: Model,
    out: Annotated[
        Path, typer.Option(help="where the scores go (JSON)", rich_help_panel="Output")
    ] = Path("scores.json"),
    scorer: Annotated[
        str,
        typer.Option(
            help="a name, a call such as 'random(seed=3)', or yours: my.py:Mine; by default the "
            "first of `lwq list scorers`"
        ),
    ] = "",
    text: Text = "c4",
    nsamples: Nsamples = 64,
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
    strategy = build(scorers.SCORERS, "scorer", scorer or next(iter(scorers.SCORERS)))
    checks.require_text(text)
    loaded, tokenizer = models.load(
        model, dtype, trust_remote_code=trust_remote_code, stream=stream
    )
    spec = WindowSpec(text, "calibrate", nsamples, seqlen, seed)
    windows = spec.draw(tokenizer) if strategy.needs else None
    scores = scorers.score(loaded, strategy, windows, data=str(spec) if windows is not None else "")
    scores.save(target)
    show_scores(f"{scores.scorer} on {model}", scores)
    print(f"{scores.cost['seconds']} s; written to {target}")


@app.command()
def plan(
    source: Annotated[
        str,
        typer.Argument(
            help="scores from `lwq score` or saved lwq.Costs (JSON), or a model, which the default "
            "recipe scores then",
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
    avg_bits: Annotated[
        float | None, typer.Option(help="nominal bits a weight, at most", rich_help_panel="Budget")
    ] = None,
    true_bits: Annotated[
        float | None, typer.Option(help="stored bits a weight, at most", rich_help_panel="Budget")
    ] = None,
    max_bytes: Annotated[
        int | None, typer.Option(help="bytes of the whole model, at most", rich_help_panel="Budget")
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(help="of the whole model, at most: 95MB, 1.2GiB", rich_help_panel="Budget"),
    ] = None,
    moved: Annotated[
        int | None,
        typer.Option(help="units that leave the highest width", rich_help_panel="Budget"),
    ] = None,
    quantizer: Annotated[
        str,
        typer.Option(help="a name, a call such as 'gptq(group_size=128)', or yours: my.py:Mine"),
    ] = "gptq",
    allocator: Annotated[
        str | None,
        typer.Option(
            help="a name from `lwq list allocators`, or yours: my.py:Mine; else chosen by the "
            "number of options"
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option(help="where the plan goes (JSON)", rich_help_panel="Output")
    ] = Path("plan.json"),
    guard: Annotated[
        bool,
        typer.Option(help="of a model: measure the plan against uniform bits, keep the better"),
    ] = True,
    stream: Stream = False,
    dtype: Dtype = "float32",
    dry_run: Annotated[
        bool, typer.Option(help="show the sizes, write nothing", rich_help_panel="Output")
    ] = False,
) -> None:
    """Turn scores, or a model, into bits for each layer under a size budget."""
    from lwq import quantizers
    from lwq.common.names import build

    options, target = arguments.options(bits), None if dry_run else arguments.out_file(out)
    limits = {"moved": moved, "avg_bits": avg_bits, "true_bits": true_bits, "max_bytes": max_bytes}
    if size is not None:
        limits["max_bytes"] = arguments.size(size, max_bytes)
    if arguments.is_scores(source):
        made = _planned(Path(source), options, quantizer, allocator, limits)
    else:
        made = _recommended(source, options, quantizer, allocator, limits, guard, dtype, stream)
    show_plan(made, build(quantizers.QUANTIZERS, "quantizer", made.quantizer))
    if target is None:
        print("dry run: nothing written")
        return
    made.save(target)
    print(f"written to {target}")


def _planned(
    scores: Path,
    options: tuple[Any, ...] | None,
    quantizer: str,
    allocator: str | None,
    limits: dict[str, Any],
) -> Any:
    """A plan from a file of scores; no model and no torch."""
    from lwq import allocators
    from lwq.contracts import load_scores

    return allocators.allocate(load_scores(scores), None, options, quantizer, allocator, **limits)


def _recommended(
    model: str,
    options: tuple[Any, ...] | None,
    quantizer: str,
    allocator: str | None,
    limits: dict[str, Any],
    guard: bool,
    dtype: str,
    stream: bool,
) -> Any:
    """A plan from a model by the default recipe, with what the guard found said."""
    from lwq import allocators, models
    from lwq.recipes.allocate import allocate

    allocators.one_limit(limits)
    if allocator is not None:
        raise InputError("--allocator goes with scores; `lwq score MODEL` makes some first")
    loaded, _ = models.load(model, dtype, stream=stream)
    made = allocate(None, loaded, options, quantizer, **limits, guard=guard)
    if guard:
        show_guard(made.provenance["guard"])
    return made


@app.command()
def compress(
    model: Model,
    out: Annotated[Path, typer.Option(help="a new folder", rich_help_panel="Output")],
    size: Annotated[
        str | None,
        typer.Option(help="of all that is written: 95MB, 1.2GiB", rich_help_panel="Budget"),
    ] = None,
    avg_bits: Annotated[
        float | None, typer.Option(help="nominal bits a weight, at most", rich_help_panel="Budget")
    ] = None,
    true_bits: Annotated[
        float | None, typer.Option(help="stored bits a weight, at most", rich_help_panel="Budget")
    ] = None,
    target: Annotated[
        str, typer.Option(help="what runs it: lwq, llama.cpp, transformers, vllm, mlx")
    ] = "lwq",
    quantizer: Annotated[str | None, typer.Option(help="else the target's own")] = None,
    bits: Annotated[str | None, typer.Option(help="options to choose from; else all")] = None,
    guard: Annotated[
        bool, typer.Option(help="measure the plan against uniform bits, keep the better")
    ] = True,
    nsamples: Nsamples = 16,
    seqlen: Seqlen = 512,
    dtype: Dtype = "float32",
    stream: Stream = False,
    trust_remote_code: Remote = False,
) -> None:
    """From a model to a smaller one that other programs run: score, plan, guard, quantize, judge,
    export.
    """
    from lwq.recipes import compress as recipes
    from lwq.recipes.recommend import Recipe

    made = recipes.compress(
        model,
        out,
        size=size,
        avg_bits=avg_bits,
        true_bits=true_bits,
        target=target,
        quantizer=quantizer,
        bits=arguments.options(bits),
        recipe=Recipe(guard=guard, nsamples=nsamples, seqlen=seqlen),
        dtype=dtype,
        stream=stream,
        trust_remote_code=trust_remote_code,
    )
    show_compressed(made)


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
    loaded, tokenizer = models.load(
        model, dtype, trust_remote_code=trust_remote_code, stream=stream
    )
    calibration = _calibration(packer, tokenizer, text, nsamples, seqlen, seed)
    errors = export(loaded, made, target, tokenizer, calibration, format)
    show(
        "relative error ‖W − Ŵ‖ / ‖W‖",
        ["unit", "bits", "error"],
        [[unit, made.bits[unit], e] for unit, e in errors.items()],
    )
    show_size(made, packer)
    print(f"written to {target}")


@app.command()
def eval(
    model: Model,
    text: Text = "wiki",
    reference: Annotated[
        str | None, typer.Option(help="a second model; adds KL and top-1 agreement against it")
    ] = None,
    tasks: Annotated[
        str | None, typer.Option(help="multiple-choice tasks instead of a text: hellaswag,arc_easy")
    ] = None,
    items: Annotated[
        int, typer.Option(min=1, help="questions of each task, a seeded sample")
    ] = 300,
    hub: Annotated[
        bool, typer.Option(help="lm-eval's own questions, from a hub, in place of the carried ones")
    ] = False,
    plan: Annotated[
        Path | None,
        typer.Option(help="applied first, in memory; it may drop blocks", rich_help_panel="Plan"),
    ] = None,
    quantizer: Quantizer = None,
    calibrate: Annotated[
        str, typer.Option(help="its calibration text, a name or a file", rich_help_panel="Plan")
    ] = "c4",
    nsamples: Nsamples = 64,
    seqlen: Seqlen = 512,
    windows: Windows = 32,
    length: Length = 256,
    seed: Seed = 0,
    dtype: Dtype = "float32",
    stream: Stream = False,
    trust_remote_code: Remote = False,
) -> None:
    """Perplexity on the judging split of a text, or accuracy on tasks, with 95 % intervals over
    windows or items.
    """
    from functools import partial

    from lwq.engine import apply
    from lwq.engine import tasks as multiple_choice
    from lwq.exporters import opened
    from lwq.inputs import texts
    from lwq.studies import checks

    if quantizer and not plan:
        raise InputError("--quantizer: eval quantizes by a plan; name it with --plan")
    if tasks and reference:
        raise InputError(
            "--tasks and --reference: answers are not compared with a second model; "
            "leave out one of the two"
        )
    if reference:
        checks.require_model(reference)
    for name in (text, calibrate):
        checks.require_text(name)
    made, packer = arguments.plan_in(plan, quantizer) if plan else (None, None)
    names = [name.strip() for name in tasks.split(",")] if tasks else []
    drawn = {name: multiple_choice.questions(name, items, seed, hub) for name in names}
    load = partial(opened.load, dtype=dtype, trust_remote_code=trust_remote_code, stream=stream)
    loaded, tokenizer = load(model)
    judging = None if drawn else texts.windows(text, tokenizer, windows, length, "judge", seed)
    truth = _truth(load(reference), judging, (loaded, tokenizer)) if reference else None
    if made is not None:
        apply.quantize_(
            loaded, made, _calibration(packer, tokenizer, calibrate, nsamples, seqlen, seed)
        )
    title = f"{model} with {plan}" if plan else model
    if judging is None:
        show_answers(
            f"{title}, {items} items of each task", multiple_choice.ask(loaded, tokenizer, drawn)
        )
    else:
        show_losses(f"{title} on {text}/judge, {windows} x {length} tokens", loaded, judging, truth)


def _truth(other: tuple[Any, Any], judging: Any, judged: tuple[Any, Any]) -> Any:
    """The reference's answers; InputError where it reads other tokens than the model that is
    judged.
    """
    from lwq import models
    from lwq.engine.evaluate import reference

    sizes = [models.vocabulary(model) for model, _ in (other, judged)]
    if sizes[0] != sizes[1] or other[1].get_vocab() != judged[1].get_vocab():
        raise InputError(
            f"--reference {models.name(other[0])!r} has a vocabulary of {sizes[0]:,} tokens that "
            f"is not the {sizes[1]:,} of "
            f"{models.name(judged[0])!r}; KL compares models with the same one, such as the model "
            f"that this one was made from"
        )
    return reference(other[0], judging)


@app.command()
def study(
    name: Annotated[str, typer.Argument(help="from `lwq list studies`")],
    size: Annotated[str, typer.Option(help="smoke, quick, laptop or paper")] = "smoke",
    parameter: Annotated[
        list[str],
        typer.Option(
            "-p",
            help="notebook parameter as name=value, the value in YAML; results_dir starts at the "
            "clone, other paths here",
        ),
    ] = [],  # noqa: B006
    dry_run: Annotated[
        bool, typer.Option(help="check the parameters and print the points, run nothing")
    ] = False,
    tflops: Annotated[
        float | None,
        typer.Option(
            help="speed that the estimate assumes, 1e12 operations a second; measured if not given"
        ),
    ] = None,
    jobs: Annotated[
        int,
        typer.Option(
            help="points at once in processes that share the cores; 0: one for 4 cores",
            rich_help_panel="Performance",
        ),
    ] = 0,
    dask: Annotated[
        str | None,
        typer.Option(
            help="address of a Dask scheduler, such as tcp://host:8786",
            rich_help_panel="Performance",
        ),
    ] = None,
) -> None:
    """Run a study's notebook through papermill; what is measured already is not measured again."""
    from lwq.results.measurements import Results
    from lwq.studies import grid, pool

    if tflops is not None and not tflops > 0:
        raise InputError(
            f"--tflops {tflops:g}: a speed above 0 is needed, such as 0.1 for a few "
            f"cores or 100 for a large GPU"
        )
    points = grid.points(name, size, dict(arguments.pair(text) for text in parameter))
    count = pool.jobs(len(points), jobs)
    _show_estimate(name, points, tflops)
    for number, point in enumerate(points, start=1):
        shown = ", ".join(
            f"{key}={value}" for key, value in point.parameters.items() if key != "results_dir"
        )
        print(f"[{number}/{len(points)}] {name}: {shown or 'defaults of the notebook'}", flush=True)
        if not (dry_run or dask or count > 1):
            print(f"      executed copy: {grid.run(point)}", flush=True)
    if dry_run:
        print("dry run: nothing was run")
        return
    if dask or count > 1:
        for copy in pool.on_cluster(points, dask) if dask else pool.in_processes(points, count):
            print(f"      executed copy: {copy}", flush=True)
    tables = {
        str(Results(folder).write())
        for folder in {point.parameters["results_dir"] for point in points}
    }
    print(f"rows: {', '.join(sorted(tables))}")


def _show_estimate(name: str, points: list[Any], tflops: float | None) -> None:
    from lwq.studies import forecast, grid

    known = grid.known_models()
    folders = {point.parameters["results_dir"] for point in points}
    measured = {folder: forecast.measured(folder) for folder in folders}
    speeds: dict[str, float] = {}
    rows, hours, memory, plans, done, finished = [], 0.0, 0.0, 0, 0, True
    for number, point in enumerate(points, start=1):
        parameters = grid.full(point)
        found = forecast.of_point(point, measured[point.parameters["results_dir"]])
        dtype = parameters.get("judge_dtype") or parameters.get("dtype", "float32")
        if dtype not in speeds:
            speeds[dtype] = tflops * 1e12 if tflops else forecast.speed(dtype)
        took = found.seconds(speeds[dtype]) / 3600
        hours, memory = hours + took, max(memory, found.memory)
        plans, done = plans + found.plans, done + found.measured
        finished &= found.finished
        who = parameters.get("models") or [parameters["model"]]
        names = ", ".join(one if one in known else f"{one} (as if 7B)" for one in who)
        count = f"{found.measured} of {found.plans}"
        rows.append([number, names, count, f"{took:.2f}", f"{found.memory / forecast.GIB:.1f}"])
    where = f"at {tflops:g} TFLOPS" if tflops else f"on {forecast.device()}"
    title = "nothing left" if finished else f"{hours:,.1f} hours left {where}"
    show(
        f"{name}: {done} of {plans} plans measured, {title}",
        ["point", "model", "plans measured", "hours left", "GiB"],
        rows,
    )
    if not finished and memory > (free := forecast.free()):
        print(
            f"memory: a point needs {memory / forecast.GIB:.1f} GiB, and "
            f"{free / forecast.GIB:.1f} GiB are free here"
        )
    if hours > LONG:
        print(
            f"time: more than {LONG:,} hours {where}; this size is meant for a GPU: --tflops 100 "
            f"gives the time on one, -p dtype=bfloat16 halves it"
        )


@app.command()
def report(
    size: Annotated[
        str, typer.Option(help="whose results: smoke, quick, laptop or paper")
    ] = "laptop",
) -> None:
    """Build report.md, report.html and the figures from the results tables; needs no model."""
    from lwq.common import paths
    from lwq.report import page as builder
    from lwq.studies import grid

    results, reports = grid.folders(size)
    print(f"report: {builder.build(results, reports)}")
    if results == paths.RESULTS:
        builder.put_into_readme(paths.WORK / "README.md", reports)


def _calibration(
    packer: Any, tokenizer: Any, text: str, nsamples: int, seqlen: int, seed: int
) -> Any:
    """Calibration windows, where the quantizer needs them."""
    from lwq.inputs.texts import windows

    return windows(text, tokenizer, nsamples, seqlen, "calibrate", seed) if packer.needs else None
