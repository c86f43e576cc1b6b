"""Units, their sizes, and what bits weigh in bytes."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, TypeAlias

from lwq.common import strips
from lwq.common.errors import InputError
from lwq.common.sizes import readable

Shape: TypeAlias = tuple[int, int]
Option: TypeAlias = int | float | str
"""What a unit is given: 0 (drop), 16 (keep), a whole width, or a level that its quantizer has: a
fraction, or a name such as "4g32". The quantizer says its nominal bits and bytes; nobody else does.
"""

DROPPED, KEPT = 0, 16
GRANULARITIES = ("block", "group", "matrix")


class Sizer(Protocol):
    """What counting bytes needs to know of a quantizer."""

    @property
    def levels(self) -> tuple[Option, ...]: ...

    @property
    def outside(self) -> "Sizer": ...

    def nominal(self, option: Option) -> float: ...

    def nbytes(self, shape: Shape, option: Any) -> int: ...


@dataclass(frozen=True)
class Layout:
    """What scores and plans must know of a model, without the model.

    Attributes:
        model: the name it was loaded by.
        fingerprint: sha256 of its weights, 16 hex digits; in another dtype they are other weights.
        granularity: "block", "group" (matrices of one parent fed by the same tensor) or "matrix".
        units: unit -> matrix -> shape (out_features, in_features), in the order of the forward
            pass.
        rest: block -> number of its weights that no plan reaches (norms, biases, routers); "" ->
            those outside blocks (embeddings, final norm, lm_head; a tied head is counted once).
            They stay at 16 bits.
    """

    model: str
    fingerprint: str
    granularity: str
    units: Mapping[str, Mapping[str, Shape]]
    rest: Mapping[str, int]

    def __post_init__(self) -> None:
        every = [shape for own in self.units.values() for shape in own.values()]
        if not every or min(map(min, every)) < 1:
            raise InputError(f"{self.model!r} has no matrix that a plan reaches, or an empty one")

    @cached_property
    def outside(self) -> frozenset[str]:
        """The units that are in no block: embeddings and head, where they are units."""
        return frozenset(unit for unit in self.units if self.block_of(unit) not in self.rest)

    def weights(self, unit: str) -> int:
        """Number of weights in the matrices of `unit`."""
        return sum(rows * columns for rows, columns in self.units[unit].values())

    @cached_property
    def total(self) -> int:
        """Number of weights that a plan reaches."""
        return sum(map(self.weights, self.units))

    @property
    def coverage(self) -> float:
        """Share of the blocks' weights that a plan reaches, from 0 to 1."""
        left = sum(count for block, count in self.rest.items() if block)
        reached = self.total - sum(map(self.weights, self.outside))
        return reached / (reached + left)

    def block_of(self, unit: str) -> str:
        """The block that `unit` is or is inside of; `unit` where it is in none."""
        return next((place for place in _places(unit) if place in self.rest), unit)

    def require(self, other: "Layout", what: str) -> None:
        """Raise InputError unless `other`, the layout of the model at hand, is the one that `what`
        was made for.
        """
        missing, extra = (
            self.units.keys() - other.units.keys(),
            other.units.keys() - self.units.keys(),
        )
        if missing or extra:
            raise InputError(
                f"this {what} was made for {self.model!r} and does not fit {other.model!r}: "
                f"units that the model lacks: {sorted(missing)[:4] or 'none'}; "
                f"units that the {what} lacks: {sorted(extra)[:4] or 'none'}"
            )
        for unit, shapes in self.units.items():
            if shapes != other.units[unit]:
                raise InputError(
                    f"this {what} was made for {self.model!r} and does not fit {other.model!r}: "
                    f"{unit} has the matrices {_shown(shapes)} in the {what} and "
                    f"{_shown(other.units[unit])} in the model"
                )
        if self.rest != other.rest:
            raise InputError(
                f"this {what} was made for {self.model!r} and does not fit {other.model!r}: they "
                f"have other counts of the weights that stay ({_differing(self.rest, other.rest)})"
            )
        if self.fingerprint != other.fingerprint:
            raise InputError(
                f"this {what} was made for other weights of {self.model!r} (fingerprint "
                f"{self.fingerprint}, the model at "
                f"hand has {other.fingerprint}); another dtype counts as other weights (the same "
                f"--dtype?): load the model "
                f"afresh and in the same dtype, or make a new {what}"
            )


def _shown(shapes: Mapping[str, Shape]) -> str:
    """The first matrices of a unit, for an error."""
    found = [f"{name.rpartition('.')[2]} {tuple(shape)}" for name, shape in shapes.items()]
    return ", ".join(found[:4]) + (" …" if len(found) > 4 else "")


def _differing(one: Mapping[str, int], other: Mapping[str, int]) -> str:
    """The first place where two counts differ, for an error."""
    place = next(key for key in {**one, **other} if one.get(key) != other.get(key))
    return f"{place or 'outside blocks'}: {one.get(place)} and {other.get(place)}"


@dataclass(frozen=True)
class Size:
    """What a plan weighs, under every convention in use, side by side. Bits are per weight.

    Attributes:
        layer_bits: nominal width, mean over units whatever their size (the LWQ paper).
        avg_bits: nominal width, mean over the weights that a plan reaches (EvoPress, Q-Palette).
        true_bits: scales, zeros and outliers counted too (EXL2, ModelOpt, AutoRound).
        model_bits: every stored byte, embeddings and head at 16 bits included (llama.cpp, mlx-lm).
        plan_bytes: stored bytes of the matrices that the plan reaches.
        total_bytes: stored bytes of the whole model.
    """

    layer_bits: float
    avg_bits: float
    true_bits: float
    model_bits: float
    plan_bytes: int
    total_bytes: int

    @classmethod
    def of(cls, layout: Layout, bits: Mapping[str, Option], quantizer: Sizer) -> "Size":
        """Count `bits` (unit -> width) for the packed format of `quantizer`; equals the packed
        tensors to the byte.
        """
        weighed: dict[Any, int] = {}
        plan_bytes = 0
        for unit, matrices in layout.units.items():
            beyond = unit in layout.outside
            packer = quantizer.outside if beyond else quantizer
            for shape in matrices.values():
                key = (beyond, shape, bits[unit])
                if key not in weighed:
                    weighed[key] = matrix_bytes(shape, bits[unit], packer)
                plan_bytes += weighed[key]
        nominal = {unit: nominal_bits(bits[unit], quantizer) for unit in layout.units}
        gone = _gone(bits)
        rest = sum(2 * count for block, count in layout.rest.items() if block not in gone)
        everything = layout.total + sum(layout.rest.values())
        return cls(
            layer_bits=sum(nominal.values()) / len(layout.units),
            avg_bits=sum(b * layout.weights(unit) for unit, b in nominal.items()) / layout.total,
            true_bits=8 * plan_bytes / layout.total,
            model_bits=8 * (plan_bytes + rest) / everything,
            plan_bytes=plan_bytes,
            total_bytes=plan_bytes + rest,
        )

    def _repr_html_(self) -> str:
        """Bits a weight under each convention, then bytes."""
        bits = {
            "nominal bits, mean of units": self.layer_bits,
            "nominal bits": self.avg_bits,
            "true bits (scales and zeros counted)": self.true_bits,
            "bits of the whole model": self.model_bits,
        }
        sizes = {"what the plan reaches": self.plan_bytes, "whole model": self.total_bytes}
        rows = [[name, f"{value:.3f}"] for name, value in bits.items()]
        rows += [[name, readable(value)] for name, value in sizes.items()]
        return strips.table(["size", ""], rows)


def nominal_bits(option: Option, quantizer: Sizer) -> float:
    """Bits a weight that an option is named after, as its quantizer says."""
    return float(option) if option in (DROPPED, KEPT) else quantizer.nominal(option)


def matrix_bytes(shape: Shape, bits: Option, quantizer: Sizer) -> int:
    """Stored bytes of one matrix at `bits`; 0 stores nothing and 16 stores two bytes a weight."""
    if bits == DROPPED:
        return 0
    return 2 * shape[0] * shape[1] if bits == KEPT else quantizer.nbytes(shape, bits)


def inside(unit: str, block: str) -> bool:
    """Whether `unit` is `block` or a part of it."""
    return unit == block or unit.startswith(block + ".")


def dropped(block: str, bits: Mapping[str, Option]) -> bool:
    """Whether every unit of `block` has 0 bits, so that the block is skipped with all that it
    holds.
    """
    widths = [width for unit, width in bits.items() if block and inside(unit, block)]
    return bool(widths) and not any(widths)


def require_whole_drops(blocks: Iterable[str], bits: Mapping[str, Option]) -> None:
    """Raise InputError where only some units of a block have 0 bits: half a block cannot be
    skipped.
    """
    zeros = [unit for unit, width in bits.items() if width == DROPPED]
    for block in blocks if zeros else ():
        if block and any(inside(unit, block) for unit in zeros) and not dropped(block, bits):
            raise InputError(
                f"0 bits for a part of {block!r}: a block is dropped whole; give 0 to all of its "
                "units or to none (granularity='block', or the allocator 'knapsack', which drops "
                "whole blocks), or leave 0 out of bits"
            )


def _gone(bits: Mapping[str, Option]) -> set[str]:
    """The places in which every unit has 0 bits."""
    none = {place for unit, width in bits.items() if width == DROPPED for place in _places(unit)}
    return none - {
        place
        for unit, width in bits.items()
        if none and width != DROPPED
        for place in _places(unit)
    }


def _places(unit: str) -> Iterator[str]:
    """`unit` and everything that it is inside of."""
    while unit:
        yield unit
        unit = unit.rpartition(".")[0]
