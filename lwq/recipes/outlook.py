"""What a compression takes, before it starts: time by stage, memory, disk."""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from lwq import models
from lwq.contracts import DROPPED, KEPT, Budget, Option, Shape, Size
from lwq.contracts.layout import matrix_bytes
from lwq.contracts.methods import Quantizer
from lwq.inputs.texts import WindowSpec
from lwq.recipes.recommend import Recipe
from lwq.scorers.fisher import FisherKL
from lwq.statistics.sums import MatrixStats
from lwq.studies.forecast import REACHED, speed
from lwq.studies.memory import PROCESSES, Peak
from lwq.studies.sizes import Sizes

ROWS, COLUMNS = 512, 256  # of the slice of a matrix that is rounded to see how long it takes
LOOKED = 16  # windows that the guard mostly needs
NUMBER = 100  # operations to turn one logit into its part of a loss
ROUNDED = 8  # bytes of a weight of the matrix that is rounded: in float32, and what it becomes
WRITTEN = 100e6  # bytes a second, hashed, written and read back


@dataclass(frozen=True)
class Outlook:
    """An estimate; half or twice of it is to be expected.

    Attributes:
        seconds: stage -> on this machine as busy as it is now.
        memory: bytes at the peak.
        disk: bytes of the bank in the cache and of the folder.
    """

    seconds: Mapping[str, float]
    memory: float
    disk: float

    @property
    def total(self) -> float:
        """Seconds of all stages."""
        return sum(self.seconds.values())

    def __str__(self) -> str:
        stages = ", ".join(f"{stage} {took(one)}" for stage, one in self.seconds.items())
        return (
            f"about {took(self.total)} ({stages}), {self.memory / 1e9:.1f} GB of memory, "
            f"{self.disk / 1e9:.2f} GB of disk"
        )


@dataclass(frozen=True)
class Work:
    """What is to be done.

    Attributes:
        head: weights that make the logits; a streamed model holds them beside one block.
        vocabulary: logits a token.
        judge: windows that the table is measured on.
        streamed: whether memory holds one block at a time.
    """

    budget: Budget
    packer: Quantizer
    recipe: Recipe
    head: int
    vocabulary: int
    judge: WindowSpec
    streamed: bool = False

    @classmethod
    def of(
        cls,
        model: Any,
        budget: Budget,
        packer: Quantizer,
        recipe: Recipe,
        judge: WindowSpec,
        streamed: bool = False,
    ) -> "Work":
        """That of one model."""
        vocabulary = models.vocabulary(model)
        head = vocabulary * int(model.get_input_embeddings().weight.shape[1])
        return cls(budget, packer, recipe, head, vocabulary, judge, streamed)

    @property
    def inner(self) -> int:
        """Weights of the blocks' matrices."""
        layout = self.budget.layout
        return layout.total - sum(map(layout.weights, layout.outside))

    def outlook(self, wide: int = 4) -> Outlook:
        """The estimate; about a second of trials. `wide`: bytes of a weight in memory."""
        rate = speed() * REACHED
        options = [one for one in self.budget.offered if one not in (DROPPED, KEPT)]
        packing, unpacking = self._rounded(options, rate)
        once = unpacking / max(len(options), 1)  # the weights of one plan
        windows = (LOOKED * self.recipe.length) * self.recipe.guard
        judged = self.judge.n * self.judge.length
        seconds = {
            "quantize": packing + self._passes(len(options)) / rate,
            "score": unpacking + self._scoring(len(options)) / rate,
            "guard": 3 * self._measuring(windows) / rate + 4 * once * self.recipe.guard,
            "judge": 4 * self._measuring(judged) / rate + 3 * once,
            "write": self._written() / WRITTEN,
        }
        return Outlook(seconds, self._memory(options, wide), self._banked(options))

    def _passes(self, options: int) -> float:
        """Operations of the passes that collect what the quantizer needs."""
        if not self.packer.needs:
            return 0
        count = 2 * options if self.packer.inputs == "uniform" else 1
        gram = 0
        if "gram" in self.packer.needs:
            gram = sum(columns**2 for _, columns in self._shapes()) // 2
        return count * (2 * self.inner + gram) * self.recipe.nsamples * self.recipe.seqlen

    def _scoring(self, options: int) -> float:
        """Operations of two passes forward, one back, and one product for each option."""
        scored = min(FisherKL.windows, self.recipe.nsamples) * self.recipe.seqlen
        return 2 * (self.inner + self.head) * scored * (4 + options)

    def _measuring(self, tokens: int) -> float:
        return (2 * (self.inner + self.head) + NUMBER * self.vocabulary) * tokens

    def _shapes(self) -> list[Shape]:
        units = self.budget.layout.units.values()
        return [shape for names in units for shape in names.values()]

    def _rounded(self, options: list[Option], rate: float) -> tuple[float, float]:
        """Seconds to round and to unpack every matrix at each option that differs."""
        packing = unpacking = 0.0
        known: dict[tuple[bool, Shape, Option], tuple[float, float]] = {}
        layout = self.budget.layout
        for unit, names in layout.units.items():
            beyond = unit in layout.outside
            packer = self.packer.outside if beyond else self.packer
            for shape in names.values():
                part = _slice(shape)
                own = {packer.same(shape, one) for one in self._own(unit, options)}
                for option in own:
                    if (beyond, part, option) not in known:
                        known[beyond, part, option] = _tried(packer, part, option)
                    pack, unpack = known[beyond, part, option]
                    share = shape[0] * shape[1] / (part[0] * part[1])
                    packing += pack * share + _solved(packer, shape) / rate
                    unpacking += unpack * share
        return packing, unpacking

    def _banked(self, options: list[Option]) -> float:
        """Every matrix at every option, and the folder."""
        layout, total = self.budget.layout, self._written()
        for unit, names in layout.units.items():
            packer = self.packer.outside if unit in layout.outside else self.packer
            own = self._own(unit, options)
            total += sum(matrix_bytes(s, o, packer) for s in names.values() for o in own)
        return total

    def _own(self, unit: str, options: list[Option]) -> list[Option]:
        return [option for option in options if option in self.budget.choices[unit]]

    def _written(self) -> float:
        if self.budget.limit == "max_bytes":
            return float(self.budget.amount)
        bits = {unit: own[0] for unit, own in self.budget.choices.items()}
        return float(Size.of(self.budget.layout, bits, self.budget.quantizer).total_bytes)

    def _memory(self, options: list[Option], wide: int) -> float:
        """As of a study that measures plans of so many widths, or where embeddings are rounded."""
        layout, recipe = self.budget.layout, self.recipe
        size = Sizes(
            blocks=max(len(layout.rest) - 1, 1),
            parameters=layout.total + sum(layout.rest.values()),
            vocabulary=self.vocabulary,
            width=self.head // self.vocabulary,
            in_blocks=self.inner + sum(layout.rest.values()) - layout.rest[""],
        )
        peak = Peak(
            size,
            wide,
            wide,
            self.streamed,
            len(options),
            "gram" in self.packer.needs,
            recipe.nsamples * recipe.seqlen,
            self.judge.n,
            self.judge.length,
        )
        rounded = ROUNDED * max(map(layout.weights, layout.outside), default=0)
        weights = size.largest if self.streamed else size.parameters
        return max(peak.working(), PROCESSES + wide * weights + rounded)


def _slice(shape: Shape) -> Shape:
    """A part of a matrix that is rounded as the whole is: blocks and groups divide it alike."""
    rows, columns = shape
    two = columns & -columns  # the largest power of 2 that divides a row
    if two >= COLUMNS:
        return min(rows, ROWS), COLUMNS
    odd = COLUMNS // two - 1 | 1
    return min(rows, ROWS), min(columns, two * odd)


def _tried(packer: Quantizer, shape: Shape, option: Option) -> tuple[float, float]:
    """Seconds to round and to unpack a matrix of random weights."""
    draw = torch.Generator().manual_seed(0)
    weight = torch.randn(shape, generator=draw) / shape[1] ** 0.5
    inputs = torch.randn(2 * shape[1], shape[1], generator=draw)
    squares, wanted = inputs.square().sum(0), packer.needs
    stats = MatrixStats(
        tokens=len(inputs),
        gram=inputs.T @ inputs if "gram" in wanted else None,
        square_sum=squares if "input_norms" in wanted else None,
        total=inputs.sum(0) if "input_means" in wanted else None,
        magnitude=inputs.abs().sum(0) if "input_means" in wanted else None,
    )
    start = time.perf_counter()
    made = packer(weight, option, stats)
    middle = time.perf_counter()
    made.dequantize()
    return middle - start, time.perf_counter() - middle


def _solved(packer: Quantizer, shape: Shape) -> float:
    """Operations of a column solver beyond those that grow with the columns alone: the factor of
    the Gram matrix, and what the rest of a row makes up for.
    """
    return shape[1] ** 2 * (shape[0] + shape[1]) if "gram" in packer.needs else 0


def took(seconds: float) -> str:
    """`48 s`, `3 min`, `2.5 h`."""
    if seconds < 90:
        return f"{math.ceil(seconds)} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
