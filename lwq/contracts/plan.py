"""What allocators are given, and what they make."""

import math
import re
from collections.abc import Hashable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cached_property
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from lwq.common import strips
from lwq.common.errors import InputError
from lwq.common.hashing import digest
from lwq.common.sizes import readable
from lwq.contracts import shown
from lwq.contracts.files import read_as, write
from lwq.contracts.layout import (
    DROPPED,
    KEPT,
    Layout,
    Option,
    Size,
    Sizer,
    matrix_bytes,
    nominal_bits,
)

BARE = 1000  # a limit of fewer bytes may want its unit
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
        options: unit -> the options that it may have, where they are not `widths`: what a format
            or a kernel can hold of it.
        pinned: unit -> the one option that it gets; neither `widths` nor `least` limits it.
        least: no unit that is free goes below the nominal bits of this option, or is dropped.
        groups: unit -> name of its group; all members of one get the same option.
        beside: bytes of a file that are in no layout; `amount` is without them, messages with them.
    """

    layout: Layout
    widths: tuple[Option, ...]
    quantizer: Sizer
    limit: str
    amount: float
    options: Mapping[str, tuple[Option, ...]] = field(default_factory=dict)
    pinned: Mapping[str, Option] = field(default_factory=dict)
    least: Option | None = None
    groups: Mapping[str, str] = field(default_factory=dict)
    beside: int = 0

    def __post_init__(self) -> None:
        widths = self._own(f"bits={self.widths}", self.widths)
        if len(set(self.widths)) != len(self.widths) or not self.widths:
            raise InputError(f"bits={self.widths}: name each width once, at least one")
        options = sorted(widths, key=self._place, reverse=True)
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
        self._require_constraints()
        self._require_reach()

    @cached_property
    def choices(self) -> Mapping[str, tuple[Option, ...]]:
        """Unit -> the options that it may have, those with the most bits first.

        Raises InputError where a unit is left with none.
        """
        common = self._above_least(self.widths)
        found = dict.fromkeys(self.layout.units, common)
        if DROPPED in common:  # a model needs its embeddings and its head
            kept = tuple(option for option in common if option != DROPPED)
            found |= dict.fromkeys(self.layout.outside, kept)
        found |= {unit: self._above_least(own) for unit, own in self.options.items()}
        found |= {unit: (option,) for unit, option in self.pinned.items()}
        if self.groups:
            found = _joined(found, self.groups)
        if self._constrained and any(DROPPED in own for own in found.values()):
            found = _whole_drops(found, self.layout)
        if none := [unit for unit, own in found.items() if not own]:
            raise InputError(
                f"no option is left for {none[:4]} of bits={self.widths}: least={self.least!r}, "
                f"options, pinned units, their groups and their blocks leave none in common; "
                "loosen one of them"
            )
        return found

    @cached_property
    def offered(self) -> tuple[Option, ...]:
        """Every option that some unit may have, those with the most bits first."""
        distinct = {option for own in set(self.choices.values()) for option in own}
        return tuple(sorted(distinct, key=self._place, reverse=True))

    @property
    def _constrained(self) -> bool:
        return bool(self.options or self.pinned or self.groups) or self.least is not None

    def _above_least(self, options: tuple[Option, ...]) -> tuple[Option, ...]:
        floor = 0.0 if self.least is None else self.nominal(self.least)
        kept = (option for option in options if self.nominal(option) >= floor)
        return tuple(sorted(kept, key=self._place, reverse=True))

    def _require_constraints(self) -> None:
        """Raise InputError for a constraint on what is no unit, or to what is no option."""
        named = {"options": self.options, "pinned": self.pinned, "groups": self.groups}
        for name, constraint in named.items():
            if unknown := [unit for unit in constraint if unit not in self.layout.units]:
                raise InputError(
                    f"{name}: {unknown[:4]} are no units of {self.layout.model!r}; its units are "
                    f"{list(self.layout.units)[:4]} …"
                )
        if unnamed := [unit for unit, name in self.groups.items() if not isinstance(name, str)]:
            raise InputError(f"groups: the group of {unnamed[0]} is no name; give text")
        self._own(f"least={self.least!r}", () if self.least is None else (self.least,))
        pinned = {unit: self._own(f"pinned {unit}", (one,))[0] for unit, one in self.pinned.items()}
        options = {unit: self._own(f"options of {unit}", own) for unit, own in self.options.items()}
        object.__setattr__(self, "pinned", pinned)
        object.__setattr__(self, "options", options)

    def _own(self, place: str, options: tuple[Option, ...]) -> tuple[Option, ...]:
        """The quantizer's own spelling of `options`: 4.0 and numpy's 4 become its 4."""
        own = {option: option for option in (DROPPED, *self.quantizer.levels, KEPT)}
        if bad := [one for one in options if not isinstance(one, Hashable) or one not in own]:
            raise InputError(
                f"{place}: {bad} out of range; this quantizer offers "
                f"{list(own)} (0 drops, 16 keeps)"
            )
        return tuple(own[option] for option in options)

    def nominal(self, option: Option) -> float:
        """Bits a weight that `option` is named after."""
        return nominal_bits(option, self.quantizer)

    def _place(self, option: Option) -> tuple[float, float]:
        """By nominal bits; options of equal bits by their bytes a weight in the first matrix whose
        shape suits them.
        """
        every = (shape for own in self.layout.units.values() for shape in own.values())
        for rows, columns in every:
            with suppress(InputError):
                stored = matrix_bytes((rows, columns), option, self.quantizer)
                return self.nominal(option), stored / (rows * columns)
        return self.nominal(option), 0.0

    def _require_reach(self) -> None:
        low, high = self.range()
        exact = self.limit == "moved"
        if not (
            math.isfinite(self.amount) and low <= self.amount and (not exact or self.amount <= high)
        ):
            name = "size" if self.limit == "max_bytes" else self.limit
            advice = f"move {low} to {high} units" if exact else self._more(low + self.beside)
            shown = (amount + self.beside for amount in (self.amount, low, high))
            asked, least, most = map(self._said, shown)
            reach = f"bits={self.widths} span {least} to {most}"
            raise InputError(f"{name}={asked} is out of reach: {reach}; {advice}")
        if exact and self.amount != int(self.amount):
            raise InputError(f"moved={self.amount:g} must be a whole number of units")

    def _more(self, least: float) -> str:
        """What to do where the limit is below `least`, beside included."""
        in_bytes = self.limit == "max_bytes"
        advice = f"allow at least {readable(int(least), up=True) if in_bytes else least}"
        if min(map(self.nominal, self.quantizer.levels)) < min(map(self.nominal, self.widths)):
            advice += ", or offer fewer bits"
        asked = self.amount + self.beside
        if in_bytes and 0 < asked < BARE and asked * 10**6 >= least:
            advice += f"; did you mean {asked:.0f}MB?"
        return advice

    def _said(self, amount: float) -> str:
        """An amount for a reader: bytes with their unit."""
        whole = self.limit == "max_bytes" and math.isfinite(amount)
        return readable(int(amount)) if whole else f"{amount:g}"

    def spent(self, bits: Mapping[str, Option]) -> float:
        """The amount that an allocation uses, in the unit of the limit."""
        if self.limit == "moved":
            return sum(option != self.choices[unit][0] for unit, option in bits.items())
        size = Size.of(self.layout, bits, self.quantizer)
        return size.total_bytes if self.limit == "max_bytes" else getattr(size, self.limit)

    def range(self) -> tuple[float, float]:
        """The smallest and largest amounts that the widths can reach."""
        ends = [
            self.spent({unit: own[place] for unit, own in self.choices.items()})
            for place in (-1, 0)
        ]
        return min(ends), max(ends)

    def holds(self, bits: Mapping[str, Option]) -> bool:
        """Whether an allocation stays within the limit (`moved` asks for exactly that many)."""
        spent = self.spent(bits)
        return spent == self.amount if self.limit == "moved" else spent <= self.amount * (1 + 1e-12)


def _joined(
    choices: Mapping[str, tuple[Option, ...]], groups: Mapping[str, str]
) -> dict[str, tuple[Option, ...]]:
    """Each member of a group with the options that all members may have."""
    shared: dict[str, tuple[Option, ...]] = {}
    for unit, group in groups.items():
        own = choices[unit]
        shared[group] = tuple(option for option in shared.get(group, own) if option in own)
    return {**choices, **{unit: shared[group] for unit, group in groups.items()}}


def _whole_drops(
    choices: Mapping[str, tuple[Option, ...]], layout: Layout
) -> dict[str, tuple[Option, ...]]:
    """A block goes whole or not at all: 0 is open to each of its units or to none, and is all that
    is open where one of them must go.
    """
    own: dict[str, list[tuple[Option, ...]]] = {}
    for unit, options in choices.items():
        own.setdefault(layout.block_of(unit), []).append(options)
    gone = {block for block, found in own.items() if (DROPPED,) in found}
    stay = {block for block, found in own.items() if not all(DROPPED in one for one in found)}

    def open_to(block: str, option: Option) -> bool:
        return block not in stay if option == DROPPED else block not in gone

    return {
        unit: tuple(option for option in options if open_to(layout.block_of(unit), option))
        for unit, options in choices.items()
    }


@dataclass(frozen=True)
class Plan:
    """Bits for each unit of one model, and everything needed to apply and to repeat it.

    Attributes:
        bits: unit -> option; 0 drops the block, 16 keeps the weights.
        layout: the model that it was made for; any other is refused.
        quantizer: the quantizer with its settings, as text that builds it again.
        provenance: scorer, allocator, budget, data, seed.
    """

    bits: Mapping[str, Option]
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

    def __repr__(self) -> str:
        return (
            f"Plan of {self.layout.model}: {strips.counted(self.bits.values())} "
            f"({self.quantizer}; id {self.id})"
        )

    def _repr_html_(self) -> str:
        """A strip of its units, darker with more bits, and what each option weighs by name."""
        looks = {unit: (str(o), strips.shade(shown.bits(o))) for unit, o in self.bits.items()}
        rows = [
            [
                str(option),
                f"{len(units):,}",
                f"{sum(map(self.layout.weights, units)):,}",
                readable(int(sum(map(self.layout.weights, units)) * shown.bits(option) / 8)),
            ]
            for option, units in self._by_option().items()
        ]
        return (
            strips.line(f"{self.layout.model}, {self.quantizer}, plan {self.id}")
            + shown.units(self.layout, looks, "bits")
            + strips.table(["bits", "units", "weights", "nominal size"], rows)
        )

    def _by_option(self) -> dict[Option, list[str]]:
        """Option -> its units, the most bits first."""
        found: dict[Option, list[str]] = {}
        for unit, option in self.bits.items():
            found.setdefault(option, []).append(unit)
        return dict(sorted(found.items(), key=lambda entry: -shown.bits(entry[0])))

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
