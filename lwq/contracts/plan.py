"""What allocators are given, and what they make."""

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from lwq.common.errors import InputError
from lwq.common.hashing import digest
from lwq.contracts.files import read_as, write
from lwq.contracts.layout import (
    DROPPED,
    KEPT,
    Layout,
    Option,
    Size,
    Sizer,
    Width,
    matrix_bytes,
    nominal_bits,
)

WHOLE = (DROPPED, *range(1, 9), KEPT)  # widths of a quantizer without fractions


@dataclass(frozen=True)
class Budget:
    """What an allocator may spend: the widths to choose from and exactly one limit.

    Attributes:
        layout: the units and their sizes.
        widths: the options to choose from, those with the most bits first.
        quantizer: counts the bytes.
        limit: "moved" (units below the highest width), "avg_bits", "true_bits" or "max_bytes" (the
            whole model).
        amount: the value of that limit.
    """

    layout: Layout
    widths: tuple[Width, ...]
    quantizer: Sizer
    limit: str
    amount: float

    LIMITS = ("moved", "avg_bits", "true_bits", "max_bytes")

    def __post_init__(self) -> None:
        own: dict[Option, Option] = {
            option: option for option in (DROPPED, *self.quantizer.levels, KEPT)
        }
        if bad := [width for width in self.widths if width not in own]:
            raise InputError(
                f"bits={self.widths}: {bad} out of range; this quantizer offers "
                f"{list(own)} (0 drops, 16 keeps)"
            )
        if len(set(self.widths)) != len(self.widths) or not self.widths:
            raise InputError(f"bits={self.widths}: name each width once, at least one")
        # 4.0 and numpy's 4 become the quantizer's 4
        options = sorted((own[width] for width in self.widths), key=self._place, reverse=True)
        object.__setattr__(self, "widths", tuple(options))
        if not isinstance(self.amount, Real):
            raise InputError(
                f"{self.limit}={self.amount!r} is no number; give one, such as {self.limit}=3"
            )
        object.__setattr__(
            self,
            "amount",
            int(self.amount) if isinstance(self.amount, Integral) else float(self.amount),
        )
        self._require_reach()

    def nominal(self, option: Option) -> float:
        """Bits a weight that `option` is named after."""
        return nominal_bits(option, self.quantizer)

    def _place(self, option: Option) -> tuple[float, int]:
        """By nominal bits; options of equal bits by their bytes in the first matrix."""
        shapes = (shape for matrices in self.layout.units.values() for shape in matrices.values())
        shape = next(shapes, (0, 0))
        return self.nominal(option), matrix_bytes(shape, option, self.quantizer)

    def _require_reach(self) -> None:
        low, high = self.range()
        exact = self.limit == "moved"
        if not (
            math.isfinite(self.amount) and low <= self.amount and (not exact or self.amount <= high)
        ):
            advice = (
                f"move {low} to {high} units"
                if exact
                else f"allow at least {low}, or offer fewer bits"
            )
            reach = f"bits={self.widths} span {low:g} to {high:g}"
            raise InputError(f"{self.limit}={self.amount:g} is out of reach: {reach}; {advice}")
        if exact and self.amount != int(self.amount):
            raise InputError(f"moved={self.amount:g} must be a whole number of units")

    def spent(self, bits: Mapping[str, Width]) -> float:
        """The amount that an allocation uses, in the unit of the limit."""
        if self.limit == "moved":
            return sum(width != self.widths[0] for width in bits.values())
        size = Size.of(self.layout, bits, self.quantizer)
        return size.total_bytes if self.limit == "max_bytes" else getattr(size, self.limit)

    def range(self) -> tuple[float, float]:
        """The smallest and largest amounts that the widths can reach."""
        ends = [
            self.spent(dict.fromkeys(self.layout.units, width))
            for width in (self.widths[-1], self.widths[0])
        ]
        return min(ends), max(ends)

    def holds(self, bits: Mapping[str, Width]) -> bool:
        """Whether an allocation stays within the limit (`moved` asks for exactly that many)."""
        spent = self.spent(bits)
        return spent == self.amount if self.limit == "moved" else spent <= self.amount * (1 + 1e-12)


@dataclass(frozen=True)
class Plan:
    """Bits for each unit of one model, and everything needed to apply and to repeat it.

    Attributes:
        bits: unit -> option; 0 drops the block, 16 keeps the weights.
        layout: the model that it was made for; any other is refused.
        quantizer: the quantizer with its settings, as text that builds it again.
        provenance: scorer, allocator, budget, data, seed.
    """

    bits: Mapping[str, Width]
    layout: Layout
    quantizer: str
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if wrong := sorted(self.bits.keys() ^ self.layout.units.keys()):
            raise InputError(
                f"a plan has one width for each unit of {self.layout.model!r}; "
                f"missing or unknown: {wrong[:6]}"
            )
        # then 4.0 is 4; beside fractions, as in masks, it stays
        whole = all(option in WHOLE for option in self.bits.values())
        bits = {
            unit: int(option) if whole or isinstance(option, Integral) else option
            for unit, option in self.bits.items()
        }
        object.__setattr__(self, "bits", bits)
        for unit, option in bits.items():
            if not _is_option(option):
                raise InputError(
                    f"{unit}: an option of {option!r} bits; plans hold 0 (drop), 1 to 8, "
                    "16 (keep), or a level of the quantizer's: a fraction, or a name such as '4g32'"
                )

    @property
    def id(self) -> str:
        """12 hex digits that name what the plan does to its model (not how it was found)."""
        return digest(
            [self.layout.fingerprint, self.layout.granularity, self.quantizer, dict(self.bits)]
        )

    def size(self, quantizer: Sizer) -> Size:
        return Size.of(self.layout, self.bits, quantizer)

    def save(self, path: str | Path) -> None:
        write(path, {"lwq": "plan", **asdict(self)})

    @classmethod
    def load(cls, path: str | Path) -> "Plan":
        return read_as(cls, path, "plan")


def _is_option(option: Any) -> bool:
    match option:
        case int():
            return option in WHOLE
        case float():
            return DROPPED < option < KEPT
        case str():
            return bool(re.match("[A-Za-z_]|[0-9]+[A-Za-z_]", option))  # "4" is a number
    return False
