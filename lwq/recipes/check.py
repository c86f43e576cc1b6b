"""Can this model become that small for that program, and what will it take? No weights are read."""

import html
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import pandas as pd
from torch import nn

from lwq import models
from lwq.common.errors import InputError
from lwq.common.names import build, pick, spec
from lwq.contracts import KEPT, Budget, Layout, Option, Size
from lwq.contracts.methods import Exporter, Quantizer
from lwq.exporters import named
from lwq.exporters.targets import TARGETS
from lwq.exporters.targets import budget as target_budget
from lwq.inputs import resolve
from lwq.inputs.texts import WindowSpec
from lwq.quantizers import QUANTIZERS
from lwq.recipes.compress import uniform_bits
from lwq.recipes.outlook import Outlook, Work
from lwq.recipes.recommend import Recipe
from lwq.recipes.wanted import Wanted, judging


@dataclass(frozen=True)
class Checked:
    """What `check` found.

    Attributes:
        model, target, quantizer: what was asked for.
        blocks: names of the decoder blocks.
        layout: matrices and their shapes; its fingerprint is unknown.
        stays: what stays at 16 bits -> (its weights, why).
        limit, amount: the budget, in bytes without `beyond`.
        reach: the smallest and the largest amount that plans of the target can have.
        beyond: bytes of the format that no plan changes, in a budget of bytes.
        sizes: "all 4" -> what uniform plans weigh, from the largest; where the format has them.
        targets: target -> "" where it can hold a plan of this size, else why not.
        outlook: time, memory and disk of `compress`.
    """

    model: str
    target: str
    quantizer: str
    blocks: int
    layout: Layout
    stays: Mapping[str, tuple[int, str]]
    limit: str
    amount: float
    reach: tuple[float, float]
    beyond: int
    sizes: Mapping[str, Size]
    targets: Mapping[str, str]
    outlook: Outlook = field(compare=False)

    @property
    def table(self) -> pd.DataFrame:
        """Bytes and bits of uniform plans, under every convention."""
        rows = [
            {
                "": name,
                "MB": f"{(size.total_bytes + self.beyond) / 1e6:,.2f}",
                "layer bits": f"{size.layer_bits:.3f}",
                "nominal bits": f"{size.avg_bits:.3f}",
                "true bits": f"{size.true_bits:.3f}",
                "bits of the whole model": f"{size.model_bits:.3f}",
            }
            for name, size in self.sizes.items()
        ]
        return pd.DataFrame(rows)

    def lines(self) -> Iterator[str]:
        """What was found, in words."""
        yield (
            f"{self.model}: {self.blocks} blocks, {len(self.layout.units)} matrices of "
            f"{self.layout.total:,} weights that a plan reaches"
        )
        for name, (weights, why) in self.stays.items():
            yield f"stays at 16 bits: {name}, {weights:,} weights ({why})"
        low, high = (_said(self.limit, end + self.beyond) for end in self.reach)
        yield (
            f"{self.target} ({self.quantizer}): {low} to {high} can be reached, "
            f"{_said(self.limit, self.amount + self.beyond)} is asked for"
        )
        if self.limit != "max_bytes" and self.amount > KEPT:
            yield "16 bits a weight is all there is: so large a limit asks for nothing"
        yield f"compress takes {self.outlook}"
        for name, why in self.targets.items():
            yield f"{name}: {why or 'can hold a plan of this size'}"

    def _repr_html_(self) -> str:
        told = "".join(f"<li>{html.escape(line)}</li>" for line in self.lines())
        return f"<ul>{told}</ul>" + self.table.to_html(index=False, escape=True)


def check(
    model: str | PathLike[str],
    *,
    size: str | int | None = None,
    avg_bits: float | None = None,
    true_bits: float | None = None,
    target: str = "lwq",
    quantizer: str | Quantizer | None = None,
    bits: tuple[Option, ...] | None = None,
    like: str | Path | None = None,
    recipe: Recipe | None = None,
    judge: WindowSpec | None = None,
    dtype: str = "float32",
    stream: bool = False,
    trust_remote_code: bool = False,
) -> Checked:
    """What `compress` would do with the same arguments, in seconds: the configuration and the
    headers of the weights are read, and no weights.

    Raises the InputErrors that `compress` raises before its work, but for weights that are no
    finite numbers.
    """
    model = resolve.said(model)
    wanted = Wanted.of(target, quantizer, size, avg_bits, true_bits, like)
    packer, exporter, limit = wanted.packer, wanted.exporter, wanted.limit
    recipe, wide = recipe or Recipe(), pick(models.DTYPES, "dtype", dtype).itemsize
    found, tokenizer = models.stand_in(model, trust_remote_code)
    exporter.require_model(found, tokenizer)
    layout = wanted.layout(found, known="unknown")
    beyond = exporter.beyond(layout, found) if limit == "max_bytes" else 0
    theirs = wanted.theirs(layout)
    amount = wanted.bytes_or_bits(theirs, beyond)
    targets = {name: _why_not(name, found, tokenizer, layout, limit, amount) for name in TARGETS}
    try:
        budget = wanted.budget(layout, beyond, theirs, bits)
        recipe.require(budget)
    except InputError as error:
        held = [name for name, why in targets.items() if not why]
        raise InputError(
            f"target {target}: {error}. Targets that hold it: {held or 'none'}"
        ) from None
    judge = judge or judging(model, found.config)
    _require_readable(judge, tokenizer)
    work = Work.of(found, budget, packer, recipe, judge, stream)
    return Checked(
        model=models.name(found),
        target=target,
        quantizer=spec(QUANTIZERS, packer),
        blocks=len(models.blocks(found)),
        layout=layout,
        stays=dict(_stays(found, layout, budget, exporter, packer)),
        limit=limit,
        amount=budget.amount,
        reach=budget.range(),
        beyond=beyond,
        sizes={
            name: Size.of(layout, bits, budget.quantizer)
            for name, bits in uniform_bits(budget).items()
        },
        targets=targets,
        outlook=work.outlook(wide),
    )


def _require_readable(judge: WindowSpec, tokenizer: Any) -> None:
    """Raise InputError for windows that the model cannot read."""
    if judge.length > (limit := int(tokenizer.model_max_length)):
        raise InputError(f"windows of {judge.length} tokens, and the model reads {limit} at most")


def _stays(
    model: nn.Module, layout: Layout, budget: Budget, exporter: Exporter, packer: Quantizer
) -> Iterator[tuple[str, tuple[int, str]]]:
    """What stays at 16 bits -> (weights, why)."""
    beyond = models.outside(model)
    if not layout.outside:
        for name, matrix in beyond.items():
            weights = matrix.shape[0] * matrix.shape[1]
            yield name, (weights, "embeddings and head get bits where the limit is a size")
    inside = sum(count for block, count in layout.rest.items() if block)
    held = 0 if layout.outside else sum(m.shape[0] * m.shape[1] for m in beyond.values())
    yield "norms, biases, routers", (inside + layout.rest[""] - held, "no matrices of a plan")
    alike: dict[str, list[str]] = {}
    for unit, own in budget.choices.items():
        if own == (KEPT,):
            why = exporter.fault(layout, unit, budget.widths[-1], packer)
            # told once for all of which the same is true
            alike.setdefault(why.removeprefix(f"{unit}: "), []).append(unit)
    for why, units in alike.items():
        name = units[0] if len(units) == 1 else f"{units[0]} and {len(units) - 1} more"
        yield name, (sum(map(layout.weights, units)), why)


def _why_not(
    target: str, model: nn.Module, tokenizer: Any, layout: Layout, limit: str, amount: float
) -> str:
    """Why a target cannot hold the model at this size; "" where it can."""
    runtime = TARGETS[target]
    exporter = named(runtime.format)
    packer: Quantizer = build(QUANTIZERS, "quantizer", runtime.quantizer)
    try:
        exporter.require_model(model, tokenizer)
        beyond = exporter.beyond(layout, model) if limit == "max_bytes" else 0
        target_budget(target, layout, packer, limit, amount - beyond, beside=beyond)
    except InputError as error:
        return str(error)
    return ""


def _said(limit: str, amount: float) -> str:
    return f"{amount / 1e6:,.2f} MB" if limit == "max_bytes" else f"{limit} {amount:.4g}"
