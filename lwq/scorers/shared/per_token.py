"""Adds up what a rounding does at each token, part after part of a pass back."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from lwq import models
from lwq.contracts import Option
from lwq.scorers.shared.declared import Found
from lwq.scorers.shared.rounding import Rounding
from lwq.statistics.backward import Gradients
from lwq.statistics.heard import Pair

# a pair, the change of its matrix (out, in) -> a number for each token (tokens,)
Measure = Callable[[Pair, Tensor], Tensor]


def heard_names(model: nn.Module, units: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """unit -> the names that its matrices have in a pass back: a tied pair is heard at both."""
    places = models.places(model)
    return {
        unit: [path for name in names for path in places.get(name, [name])]
        for unit, names in units.items()
    }


class PerToken:
    """Adds up, for each unit, option and token, what `measure` says of a matrix's rounding.

    Memory: one float32 for each unit, option and token.

    Attributes:
        values: unit -> (options, windows, length), on the CPU; 0 where a unit is not tried at an
            option.
    """

    def __init__(
        self,
        units: Mapping[str, list[str]],
        found: Rounding,
        windows: Tensor,
        measure: Measure,
        harms: Callable[[Mapping[str, Tensor]], Found],
    ):
        self.rounding, self.measure, self.harms = found, measure, harms
        self.unit_of = {name: unit for unit, names in units.items() for name in names}
        shape = (len(found.options), *windows.shape)
        self.values = {unit: torch.zeros(shape, dtype=torch.float32) for unit in units}
        self._part = ""

    @torch.no_grad()
    def add(self, found: Gradients) -> None:
        if found.part != self._part:
            self.rounding.leave()
            self._part = found.part
        place = slice(found.first, found.first + found.count)
        for name, pair in found.pairs.items():
            if name not in self.unit_of:
                continue
            values = self.values[self.unit_of[name]]
            rows, said = pair.rows.cpu(), dict[Option, Tensor]()
            for option in self.rounding.tries(name):
                row = self.rounding.options.index(option)
                alike = self.rounding.same(name, option)
                if alike not in said:
                    said[alike] = self.measure(pair, self.rounding.change(name, option)).cpu()
                values[row, place].view(-1).index_add_(0, rows, said[alike])

    def result(self) -> Found:
        self.rounding.close()
        return self.harms(self.values)
