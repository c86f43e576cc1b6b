"""What was typed after a command -> what it stands for, or an InputError before the work starts."""

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lwq.common.errors import InputError

if TYPE_CHECKING:
    import typer


def out_file(path: Path) -> Path:
    """Where a file will be written, absolute; InputError, before the work, where it cannot be."""
    from lwq.common import paths

    target = path.expanduser().absolute()
    if target.is_dir():
        raise InputError(f"--out {path} is a folder; name a file, such as {path / 'out.json'}")
    if target.exists() and not os.access(target, os.W_OK):
        raise InputError(f"--out {path} may not be written; choose another file")
    paths.writable(target.parent, "--out")
    return target


def unused(context: "typer.Context", why: str, *names: str) -> None:
    """Raise InputError for options of the running command that were typed and would be ignored."""
    typed = []
    for option in context.command.params:
        source = context.get_parameter_source(option.name or "")
        if option.name in names and source is not None and source.name == "COMMANDLINE":
            off = context.params[option.name] is False
            typed.append((option.secondary_opts if off else option.opts)[0])
    if typed:
        raise InputError(f"{' '.join(typed)}: {why}; leave it out")


def plan_in(file: Path, quantizer: str | None) -> tuple[Any, Any]:
    """A plan and its quantizer. `quantizer` names code that the plan may ask for; InputError where
    it is another quantizer.
    """
    from lwq.common.names import build, rebuild, spec
    from lwq.contracts import Plan
    from lwq.quantizers import QUANTIZERS

    plan = Plan.load(file)
    given = build(QUANTIZERS, "quantizer", quantizer)
    packer = rebuild(QUANTIZERS, "quantizer", plan.quantizer)
    named = quantizer is None or (
        ":" in quantizer and "(" not in quantizer and type(given) is type(packer)
    )
    if not named and given != packer:
        raise InputError(
            f"--quantizer {spec(QUANTIZERS, given)} is not the plan's, {plan.quantizer}: sizes "
            f"and widths of {file} are for that "
            "one; make the plan with --quantizer"
        )
    return plan, packer


def options(text: str | None) -> tuple[int | float | str, ...] | None:
    """The options of --bits: whole numbers as int, and names as they are; None where it is left
    out.
    """
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if bad := [part for part in parts if not re.fullmatch(r"[\w.]+", part)]:
        raise InputError(
            f"--bits {text!r}: {bad} are no options; numbers or names with commas are needed, such "
            "as 4,2 or 3.25,3 or 4g32,3"
        )
    return tuple(_option(part) for part in parts)


def _option(text: str) -> int | float | str:
    try:
        return int(text) if text.isdecimal() else float(text)
    except ValueError:
        return text


def is_scores(source: str) -> bool:
    """Whether `source` is a file of scores; anything else is the name of a model."""
    path = Path(source).expanduser()
    return path.suffix == ".json" or path.is_file()


def require_one(like: str | None = None, **limits: Any) -> None:
    """Raise InputError, in the words of the shell, unless exactly one limit was given; none will
    do beside somebody else's plan.
    """
    from lwq.allocators import one_limit

    if like is None or any(value is not None for value in limits.values()):
        one_limit(limits, lambda name: f"--{name.replace('_', '-')}")


def pair(text: str) -> tuple[str, Any]:
    """`name=value` of -p."""
    import yaml

    name, equals, value = text.partition("=")
    if not equals:
        raise InputError(f"-p {text!r}: write name=value")
    try:
        return name, _value(value.strip())
    except yaml.YAMLError as error:
        reason = getattr(error, "problem", None) or error
        raise InputError(
            f"-p {text!r}: the value is not YAML ({reason}); close its brackets, or "
            f"put it in quotes"
        ) from None


def _value(text: str) -> Any:
    """YAML, where a list may hold calls: `[rtn, gptq(group_size=64, sym=True)]` has two
    items.
    """
    import yaml

    from lwq.common.names import split

    if text.startswith("[") and text.endswith("]") and "(" in text:
        return [yaml.safe_load(item) for item in split(text[1:-1])]
    return yaml.safe_load(text)


def calibration(
    packer: Any, tokenizer: Any, text: str, nsamples: int, seqlen: int, seed: int
) -> Any:
    """Calibration windows, where the quantizer needs them."""
    from lwq.inputs.texts import windows

    return windows(text, tokenizer, nsamples, seqlen, "calibrate", seed) if packer.needs else None
