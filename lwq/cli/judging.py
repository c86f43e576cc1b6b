"""How good is a model, or a plan?"""

from pathlib import Path
from typing import Annotated, Any

import typer

from lwq.cli import arguments
from lwq.cli.app import app
from lwq.cli.options import (
    Dtype,
    Length,
    Model,
    Nsamples,
    Quantizer,
    Remote,
    Seed,
    Seqlen,
    Stream,
    Text,
    Windows,
)
from lwq.cli.printing import (
    show_answers,
    show_losses,
)
from lwq.common.errors import InputError


@app.command()
def eval(
    context: typer.Context,
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
    """Perplexity on a text, or accuracy on tasks, with 95 % intervals.

    Judging windows of the text, no document of which calibrates; intervals are over documents or
    items.
    """
    from functools import partial

    from lwq.engine import apply
    from lwq.engine import tasks as multiple_choice
    from lwq.exporters import opened
    from lwq.inputs import texts
    from lwq.studies import checks

    if not tasks:
        arguments.unused(context, "no questions without --tasks", "items", "hub")
    if not plan:
        arguments.unused(
            context, "nothing is calibrated without --plan", "calibrate", "nsamples", "seqlen"
        )
    if tasks:
        arguments.unused(context, "--tasks ask questions of their own", "text", "windows", "length")
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
    judging = None if drawn else texts.draw(text, tokenizer, windows, length, "judge", seed)
    truth = _truth(load(reference), judging, (loaded, tokenizer)) if reference else None
    if made is not None:
        apply.quantize_(
            loaded,
            made,
            arguments.calibration(packer, tokenizer, calibrate, nsamples, seqlen, seed),
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
    return reference(other[0], judging.windows, documents=judging.documents)
