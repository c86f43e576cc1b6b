"""What a runtime can hold, as constraints on a budget: solved for, not refused afterwards."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lwq.common.errors import InputError
from lwq.common.names import pick, spec
from lwq.contracts import DROPPED, KEPT, Budget, Layout, Option
from lwq.contracts.layout import Sizer
from lwq.contracts.methods import Quantizer
from lwq.exporters import named
from lwq.quantizers import QUANTIZERS, RECOMMENDED


@dataclass(frozen=True)
class Target:
    """A runtime.

    Attributes:
        format: what it reads, as `lwq.export` takes it.
        quantizer: one whose options it holds.
        widths: to choose from, where nobody names others.
    """

    format: str
    quantizer: str
    widths: tuple[Option, ...]


TARGETS: dict[str, Target] = {
    "lwq": Target("lwq", RECOMMENDED, (2, 3, 4, 5, 6, 8)),
    # symmetric, and widths that every version of compressed-tensors packs alike
    "transformers": Target("compressed-tensors", "gptq(sym=True, clip=True)", (2, 4, 8)),
    "vllm": Target("compressed-tensors(target='vllm')", "gptq(sym=True, clip=True)", (4, 8, 16)),
    "llama.cpp": Target("gguf", "ggml", (2, 3, 4, 5, 6, 8)),
    "mlx": Target("mlx", RECOMMENDED, (2, 3, 4, 5, 6, 8)),
}


@dataclass(frozen=True)
class Constraints:
    """What a format leaves open, as `Budget` and `lwq.allocate` take it.

    Attributes:
        options: unit -> the options that can be written.
        groups: unit -> the group whose members get one option.
        sizer: counts the bytes that are written.
    """

    options: Mapping[str, tuple[Option, ...]]
    groups: Mapping[str, str]
    sizer: Sizer


def constraints(format: Any, layout: Layout, quantizer: Quantizer) -> Constraints:
    """What `format`, a name in EXPORTERS or an exporter, holds of a model, unit by unit."""
    exporter = named(format)
    return Constraints(
        {unit: exporter.options(layout, unit, quantizer) for unit in layout.units},
        exporter.groups(layout),
        exporter.sizer(quantizer),
    )


def budget(
    target: str,
    layout: Layout,
    quantizer: Quantizer,
    limit: str,
    amount: float,
    widths: tuple[Option, ...] | None = None,
    beside: int = 0,
) -> Budget:
    """A budget whose every plan the runtime holds, in the bytes of its format.

    Args:
        target: a name in TARGETS.
        limit, amount: as `Budget` has them.
        widths: to choose from; None: those of the target that the quantizer has. A unit that can
            have none of them gets 16 bits.
        beside: see `Budget`.

    Raises InputError for an unknown target, a quantizer or an option that no unit can have there,
    or a limit that no plan reaches.
    """
    runtime: Target = pick(TARGETS, "target", target)
    held = constraints(runtime.format, layout, quantizer)
    there = (*quantizer.levels, *quantizer.outside.levels, KEPT)
    wanted = widths or tuple(option for option in runtime.widths if option in there)
    _require_something(target, held, layout, quantizer)
    _require_widths(target, held, quantizer, wanted, own=widths is None)
    options = {
        unit: tuple(option for option in own if option in wanted) or (16,)
        for unit, own in held.options.items()
    }
    return Budget(
        layout,
        wanted,
        held.sizer,
        limit,
        amount,
        options=options,
        groups=held.groups,
        beside=beside,
    )


def _require_something(
    target: str, held: Constraints, layout: Layout, quantizer: Quantizer
) -> None:
    """Raise InputError for a quantizer of which the target holds nothing in blocks."""
    inner = [unit for unit in layout.units if unit not in layout.outside]
    if any(set(held.options[unit]) - {DROPPED, KEPT} for unit in inner):
        return
    runtime = TARGETS[target]
    why = named(runtime.format).fault(layout, inner[0], quantizer.levels[0], quantizer)
    raise InputError(
        f"{target} holds nothing that {spec(QUANTIZERS, quantizer)} makes ({why}); its own is "
        f"{runtime.quantizer!r}"
    )


def _require_widths(
    target: str, held: Constraints, quantizer: Quantizer, widths: tuple[Option, ...], own: bool
) -> None:
    """Raise InputError for widths that no unit can have; `own`: they are the target's, and two are
    enough.
    """
    somewhere = {option for options in held.options.values() for option in options}
    gone = [width for width in widths if width not in somewhere]
    if len(widths) - len(gone) < 2 if own else gone:
        raise InputError(
            f"bits={list(widths)}: of {spec(QUANTIZERS, quantizer)} {target} holds {gone} nowhere "
            f"in this model; name options with bits=… out of {sorted(somewhere, key=str)}"
        )
