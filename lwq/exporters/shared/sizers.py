"""Counts the bytes of a plan in another format than its quantizer's own."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lwq.contracts import Option, Shape
from lwq.contracts.methods import Quantizer

Weigh = Callable[[Quantizer, Shape, Option], int]


@dataclass(frozen=True)
class InFormat:
    """The options of a quantizer, each with the bytes of a format.

    Attributes:
        weigh: (quantizer, shape, option) -> bytes of the tensors of a matrix.
    """

    quantizer: Quantizer
    weigh: Weigh

    @property
    def levels(self) -> tuple[Option, ...]:
        return self.quantizer.levels

    @property
    def outside(self) -> "InFormat":
        return InFormat(self.quantizer.outside, self.weigh)

    def nominal(self, option: Option) -> float:
        return self.quantizer.nominal(option)

    def nbytes(self, shape: Shape, option: Any) -> int:
        self.quantizer.nbytes(shape, option)  # an InputError where the shape does not suit it
        return self.weigh(self.quantizer, shape, option)
