"""What is asked of `compress` or `check`: a runtime, a size, whose plan stands beside ours."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from lwq import models
from lwq.allocators import one_limit
from lwq.common.names import build, pick, spec
from lwq.common.sizes import parse_bytes
from lwq.contracts import Budget, Layout, Option, Plan
from lwq.contracts.methods import Exporter, Quantizer
from lwq.exporters import named
from lwq.exporters.reading import plan_from
from lwq.exporters.targets import TARGETS, Target
from lwq.exporters.targets import budget as target_budget
from lwq.inputs import toy
from lwq.inputs.texts import WindowSpec
from lwq.quantizers import QUANTIZERS

LENGTH = 256  # tokens of a judging window, where the model reads as many


@dataclass(frozen=True)
class Wanted:
    """What was asked for, before a model is at hand.

    Attributes:
        target: a name in TARGETS; `exporter` writes its format, and `packer` rounds.
        limit, amount: the budget; an amount of 0 is that of the plan in `like`.
        like: a file with somebody else's plan.
    """

    target: str
    packer: Quantizer
    exporter: Exporter
    limit: str
    amount: float
    like: str | Path | None = None

    @classmethod
    def of(
        cls,
        target: str,
        quantizer: str | Quantizer | None,
        size: str | int | None,
        avg_bits: float | None,
        true_bits: float | None,
        like: str | Path | None,
    ) -> "Wanted":
        """Raises InputError for names that there are not, and more or less than one limit."""
        alone = like is not None and size is None and avg_bits is None and true_bits is None
        given = {"size": size, "avg_bits": avg_bits, "true_bits": true_bits}
        limit, amount = ("max_bytes", 0.0) if alone else _limit(given)
        runtime: Target = pick(TARGETS, "target", target)
        packer: Quantizer = build(QUANTIZERS, "quantizer", quantizer or runtime.quantizer)
        return cls(target, packer, named(runtime.format), limit, amount, like)

    def layout(self, model: nn.Module, known: str = "") -> Layout:
        """That of the units which the budget counts; see `models.layout`."""
        return models.layout(model, "matrix", self.limit == "max_bytes", known)

    def theirs(self, layout: Layout) -> Plan | None:
        """The plan in `like`, made by our quantizer."""
        spoken = spec(QUANTIZERS, self.packer)
        return None if self.like is None else plan_from(self.like, layout, spoken)

    def bytes_or_bits(self, theirs: Plan | None, beyond: int) -> float:
        """The amount of the budget, `beyond` bytes of the format included where it is in bytes."""
        if self.amount or theirs is None or self.limit != "max_bytes":
            return self.amount
        return theirs.size(self.exporter.sizer(self.packer)).total_bytes + beyond

    def budget(
        self, layout: Layout, beyond: int, theirs: Plan | None, bits: tuple[Option, ...] | None
    ) -> Budget:
        """A budget whose every plan the runtime holds; errors are those of `targets.budget`."""
        beside = beyond if self.limit == "max_bytes" else 0
        amount = self.bytes_or_bits(theirs, beyond) - beside
        return target_budget(self.target, layout, self.packer, self.limit, amount, bits, beside)


def _limit(given: Mapping[str, Any]) -> tuple[str, float]:
    """Name and amount, as budgets have them, of the one limit that was given."""
    name, amount = one_limit(given)
    return ("max_bytes", parse_bytes(str(amount))) if name == "size" else (name, amount)


def judging(model: str, config: Any = None) -> WindowSpec:
    """What the table is measured on where nobody says; `config` knows how much the model reads."""
    text = "wiki" if toy.depth(model) is None else "toy"
    context = None if config is None else models.context_length(config)
    return WindowSpec(text, "judge", 16, min(LENGTH, context or LENGTH), 0)
