"""What each kind of method offers: every attribute that a caller reads. One protocol a kind.

A method is a frozen dataclass that is called; its settings are its fields. What inherits from its
protocol takes over the defaults below; anything else that has all of the attributes will do.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from lwq.common.errors import InputError
from lwq.contracts.layout import DROPPED, KEPT, Layout, Option, Shape, Sizer
from lwq.contracts.plan import Budget, Plan
from lwq.contracts.results import Losses
from lwq.contracts.scores import Costs, Scores

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

Harm = Mapping[Option, float]


class Scorer(Protocol):
    """`scorer(model, stats)` -> unit -> importance, higher = keeps more bits; or unit -> harms.

    Attributes:
        needs: statistics that the pass collects for it; none: no windows are needed.
        granularity: of its units: "block", "group" or "matrix".
    """

    @property
    def needs(self) -> frozenset[str]:
        return frozenset()

    @property
    def granularity(self) -> str:
        return "block"

    def __call__(self, model: "nn.Module", stats: Any) -> Mapping[str, float | Harm]: ...


class Allocator(Protocol):
    """`allocator(scores, budget, objective)` -> unit -> option, within the budget.

    Attributes:
        searches: whether it measures plans, so that it must be handed an objective.
    """

    @property
    def searches(self) -> bool:
        return False

    def __call__(
        self, scores: Scores | Costs, budget: Budget, objective: "Objective | None" = None
    ) -> Mapping[str, Option]: ...


@runtime_checkable
class Storage(Protocol):
    """A quantized matrix as it is stored: every part with its own width.

    Attributes:
        shape: (out_features, in_features).
        nbytes: bytes of `tensors()`.
        resident_bytes: bytes in memory.
    """

    @property
    def shape(self) -> Shape: ...

    @property
    def nbytes(self) -> int: ...

    @property
    def resident_bytes(self) -> int: ...

    def dequantize(self, dtype: "torch.dtype" = ...) -> "Tensor":
        """The weights that it stands for, (out_features, in_features)."""

    def tensors(self) -> "dict[str, Tensor]":
        """What a file holds; `read` is the inverse."""

    def header(self) -> dict[str, int]:
        """The numbers that `read` needs beside the tensors."""

    @classmethod
    def shape_of(cls, tensors: "dict[str, Tensor]", header: dict[str, int]) -> Shape:
        """The shape of what `read` makes of them; InputError where a part is missing, or is not of
        the size that the others ask for.
        """

    @classmethod
    def read(cls, tensors: "dict[str, Tensor]", header: dict[str, int]) -> "Storage": ...

    def require_sound(self, name: str) -> None:
        """Raise InputError, in the name of the quantizer, where it cannot be stored."""


@dataclass(frozen=True)
class Grid:
    """The uniform grid that an option rounds to, for formats that hold nothing else.

        ŵ = (q − z) · s,    0 ≤ q < 2^bits,    one s and one z for each group of each row

    Attributes:
        group_size: input columns that share a scale; −1 for a whole row.
        zeros: what z is: "none" (2^(bits − 1) throughout: symmetric), "codes" (a code for each
            group) or "numbers" (any number).
        scale_dtype: that s is stored in, and z where it is a number.
    """

    bits: int
    group_size: int
    zeros: str
    scale_dtype: str

    def groups(self, shape: Shape) -> int:
        """Groups in a row."""
        return 1 if self.group_size == -1 else -(-shape[1] // self.group_size)


class Quantizer(Protocol):
    """`quantizer(weight, option, stats)` -> Storage; weight (out_features, in_features).

    Attributes:
        needs: statistics of the matrix that it reads.
        levels: its options beside 0 and 16: whole widths, fractions, or levels with a name.
        inputs: which prefix makes the inputs behind `needs`: "full", "quantized" or "uniform";
            see `GPTQ`.
        outside: the quantizer of embeddings and head, which has no `needs`; itself, or another.
        family: what is done to weights: "grid" (all on few levels) or "mask" (most are zero).
        slow: whether a matrix takes longer to round than to read back, so that scorers keep it in
            the bank for whoever asks next.
    """

    @property
    def inputs(self) -> str:
        return "full"

    @property
    def family(self) -> str:
        return "grid"

    @property
    def needs(self) -> frozenset[str]:
        return frozenset()

    @property
    def levels(self) -> tuple[Option, ...]: ...

    @property
    def slow(self) -> bool:
        return bool(self.needs)

    @property
    def outside(self) -> "Quantizer":
        """What rounds embeddings and head, of which no statistics are collected."""
        return self

    def nominal(self, option: Option) -> float:
        """Bits a weight that `option` stands for: scales and zeros are not in it, weights that are
        kept beside are. With more of them a large matrix never takes fewer bytes.
        """
        if isinstance(option, str):
            raise InputError(
                f"{type(self).__name__} does not say how many bits a weight {option!r} has; "
                "give it a method nominal(option) -> bits"
            )
        return float(option)

    def grid(self, option: Option) -> Grid | None:
        """The uniform grid of `option`; None where it stores anything else (outliers, masks)."""
        return None

    def same(self, shape: Shape, option: Option) -> Option:
        """The first option that makes of a matrix what `option` makes of it: mostly itself."""
        return option

    def nbytes(self, shape: Shape, option: Any) -> int:
        """Stored bytes of a matrix, of all parts; InputError for a shape that does not suit it."""
        ...

    def __call__(self, weight: "Tensor", option: Any, stats: Any) -> Storage: ...


class Objective(Protocol):
    """`objective(bits)` -> Losses on the tune split, until its limit of forward passes is spent.

    Attributes:
        left: forward passes of the whole model that may still be spent.
    """

    @property
    def left(self) -> float: ...

    def __call__(self, bits: Mapping[str, Option]) -> Losses: ...

    def many(self, plans: Iterable[Mapping[str, Option]], share: float = 1.0) -> list[Losses]:
        """Losses of several plans, which share work, on the first `share` of the windows."""
        ...


class Exporter(Protocol):
    """`exporter(model, packed, plan, folder)` -> the folder, which another program loads.

    Attributes:
        says: one line: what is written and who reads it.
    """

    @property
    def says(self) -> str: ...

    def sizer(self, quantizer: Quantizer) -> Sizer:
        """What counts the bytes of tensors that the format writes: `plan.size(sizer).total_bytes`
        equals them. Its own where the format packs as the quantizer does.
        """
        return quantizer

    def nbytes(self, plan: Plan, quantizer: Quantizer) -> int:
        """Bytes of the tensors that it will write for `plan`; headers and settings come on top."""
        return plan.size(self.sizer(quantizer)).total_bytes + self.beyond(plan.layout)

    def beyond(self, layout: Layout, model: Any = None) -> int:
        """Bytes that it writes beyond those of `sizer`: where what no plan reaches is wider than 16
        bits, or begins at round places. `model`: counted tensor by tensor.
        """
        return 0

    def fault(self, layout: Layout, unit: str, option: Option, quantizer: Quantizer) -> str:
        """Why the format cannot hold `option` of `unit`; "" where it can."""
        own = self.options(layout, unit, quantizer)
        return "" if option in own else f"{unit}: {option!r} is none of {list(own)[:9]}"

    def options(self, layout: Layout, unit: str, quantizer: Quantizer) -> tuple[Option, ...]:
        """The options of `unit` that the format holds, as `Budget.options` takes them."""
        packer = quantizer.outside if unit in layout.outside else quantizer
        return (*packer.levels, KEPT) if unit in layout.outside else (DROPPED, *packer.levels, KEPT)

    def groups(self, layout: Layout) -> dict[str, str]:
        """Unit -> the group whose members must have one option, as `Budget.groups` takes them."""
        return {}

    def require(self, plan: Plan, quantizer: Quantizer) -> None:
        """Raise InputError, before any work, for a plan that the format cannot hold."""

    def require_model(self, model: Any, tokenizer: Any) -> None:
        """Raise InputError, before any work, for a model or a tokenizer that it has no words
        for.
        """
        return  # most have words for all

    def __call__(
        self,
        model: Any,
        packed: Iterator[tuple[str, Storage]],
        plan: Plan,
        folder: Path,
    ) -> Path: ...
