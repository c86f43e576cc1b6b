"""What a quantizer would change: W_b − W of each matrix at each option."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from lwq import models
from lwq.common.errors import InputError
from lwq.common.names import build, spec
from lwq.contracts import DROPPED, KEPT, Option, Plan
from lwq.contracts.methods import Quantizer, Storage
from lwq.engine.apply import require_fit
from lwq.engine.bank import Bank
from lwq.engine.store import Store
from lwq.quantizers import QUANTIZERS
from lwq.quantizers.shared.contract import require_true
from lwq.statistics.sums import MatrixStats

WIDTHS = (8, 6, 5, 4, 3, 2)
ROWS = 4096


class Rounding:
    """The rounding of one quantizer, for the time of a pass.

    What is quick is rounded when it is asked for, and kept, packed, until `leave`; what is slow is
    rounded beforehand, in as few forward passes as can be, and comes from the bank.

    Attributes:
        quantizer: built of its text.
        options: what matrices are tried at; 16 changes nothing.
        own: matrix -> those of them that it is tried at.
        bank: of the model, where the quantizer is slow or `banked` asks for it.
    """

    def __init__(
        self,
        model: nn.Module,
        quantizer: str,
        options: Iterable[Option],
        windows: Tensor | None,
        banked: bool = False,
        outside: bool = False,
        only: Mapping[str, tuple[Option, ...]] | None = None,
    ):
        self.quantizer: Quantizer = build(QUANTIZERS, "quantizer", quantizer)
        self.options = tuple(options)
        if DROPPED in self.options or not self.options:
            raise InputError(
                f"options={self.options}: name widths above 0; what is dropped is no small "
                f"change, and is measured instead (block_drop)"
            )
        self.beyond = models.outside(model) if outside else {}
        self.matrices = {**models.matrices(model), **self.beyond}
        shapes = {name: matrix.shape for name, matrix in self.matrices.items()}
        self._first = {path: name for name, paths in models.places(model).items() for path in paths}
        self.own = {**dict.fromkeys(shapes, self.options), **(only or {})}
        for option in self.options:
            tried = {name: option for name, own in self.own.items() if option in own}
            require_fit(self.quantizer, shapes, tried, self.beyond)
        self._made: dict[tuple[str, Option], Storage] = {}
        self.bank: Bank | None = None
        if self.quantizer.slow or banked:
            self.bank = Bank(model, self.quantizer, windows, Store())
            self._layout = models.layout(model, "matrix", outside)
            self.bank.prepare(self.plan(width) for width in self.options)

    def plan(self, width: Option) -> Plan:
        """Every matrix that is tried at `width` has it, and the others are untouched."""
        text = spec(QUANTIZERS, self.quantizer)
        bits = {name: width if width in self.own[name] else KEPT for name in self._layout.units}
        return Plan(bits, self._layout, text)

    def tries(self, name: str) -> tuple[Option, ...]:
        """The options of a matrix; a tied head goes by its own name, too."""
        return self.own[self._first.get(name, name)]

    def change(self, name: str, option: Option) -> Tensor:
        """W_option − W, float32 (out, in), W as it is in the model now; the block is in memory. A
        tied head goes by its own name, too.
        """
        name = self._first.get(name, name)
        weight = self.matrices[name].view()
        if option != KEPT:
            found = self._packed(name, weight, option).dequantize().float()
        elif self.bank is not None and self.bank.now[name] != KEPT:
            found = self.bank.untouched(name).to(torch.float32, copy=True)
        else:
            return torch.zeros_like(weight, dtype=torch.float32)
        for some, own in zip(found.split(ROWS), weight.split(ROWS), strict=True):
            some.sub_(own)  # in one go, a head of another dtype would be written out as float32
        return found

    def same(self, name: str, option: Option) -> Option:
        """The first option that changes a matrix as `option` does."""
        name = self._first.get(name, name)
        packer = self.quantizer.outside if name in self.beyond else self.quantizer
        return option if option == KEPT else packer.same(self.matrices[name].shape, option)

    def leave(self) -> None:
        """Forget what was rounded when it was asked for."""
        self._made.clear()

    def close(self) -> None:
        """Give the model back as it was."""
        self.leave()
        if self.bank is not None:
            self.bank.release()

    def _packed(self, name: str, weight: Tensor, option: Option) -> Storage:
        if self.bank is not None:
            return self.bank.made(name, option)
        if (name, option) not in self._made:
            try:
                packer = self.quantizer.outside if name in self.beyond else self.quantizer
                made = packer(weight.float(), option, MatrixStats())
                require_true(packer, option, weight.float(), made)
            except InputError as error:
                raise InputError(f"{name}: {error}") from None
            self._made[name, option] = made
        return self._made[name, option]


@contextmanager
def rounding(
    model: nn.Module,
    quantizer: str,
    options: Iterable[Option],
    windows: Tensor | None,
    banked: bool = False,
    outside: bool = False,
    only: Mapping[str, tuple[Option, ...]] | None = None,
) -> Iterator[Rounding]:
    """A Rounding whose model is given back at the end."""
    found = Rounding(model, quantizer, options, windows, banked, outside, only)
    try:
        yield found
    finally:
        found.close()
