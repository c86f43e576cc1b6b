"""What an experiment may keep in memory, and what it is expected to take at its peak."""

from dataclasses import dataclass

from lwq.engine import evaluate, originals, room
from lwq.studies.sizes import Sizes

GIB = 1 << 30
WIDE = 4 * GIB  # a model that takes more in float32 is read from disk for the ends of a sweep
# libraries, buffers and figures of the notebook's process and of the one that started it
PROCESSES = 1.25 * GIB
SQUARES = 3  # Gram matrices of the widest input, with factors and inverse
INNER = 4  # times the width that the widest matrix reads, about


def streams(parameters: float) -> bool:
    """Whether a model is so large that its float32 twin stays on disk."""
    return 4 * parameters > WIDE


@dataclass(frozen=True)
class Peak:
    """The peak of an experiment.

    Attributes:
        size: of the model.
        wide, judged: bytes of a number, in the weights that are scored and quantized and in those
            that are judged.
        streamed: whether the weights stay on disk.
        widths: to how many the blocks are quantized.
        sums: whether the quantizer needs Gram matrices.
        read: tokens of the calibration windows.
        windows, length: of the judging windows.
    """

    size: Sizes
    wide: int
    judged: int
    streamed: bool
    widths: int
    sums: bool
    read: int
    windows: int
    length: int

    def bytes(self) -> float:
        """At the worst moment: scoring, measuring, or measuring the ends in float32."""
        return max(self.working(), PROCESSES + self._ends())

    def working(self) -> float:
        """Where nothing is measured again in float32."""
        return PROCESSES + max(self._scoring(), self._measuring())

    def _scoring(self) -> float:
        # a block as one vector, and in float64
        block = (self.wide + 8) * self.size.in_blocks / self.size.blocks
        return self._held(self.wide, self.streamed) + block + self._read()

    def _measuring(self) -> float:
        exact = 0.0 if self.wide == self.judged else self._held(self.wide, self.streamed)
        return exact + self._swept(self.judged, self.streamed, self.widths) + self._read()

    def _ends(self) -> float:
        if self.judged == 4:
            return 0.0
        streamed = self.streamed or (self.wide != 4 and streams(self.size.parameters))
        return self._swept(4, streamed, 2)

    def _held(self, number: int, streamed: bool) -> float:
        return number * (self.size.largest if streamed else self.size.parameters)

    def _swept(self, number: int, streamed: bool, widths: int) -> float:
        """A model of `number` bytes a weight with its originals, its bank, its reference and the
        states between its blocks.
        """
        size, tokens = self.size, self.windows * self.length
        kept = 0 if streamed else min(number * size.in_blocks, originals.MEMORY)
        packed = min(widths * size.in_blocks, room.bank(int(number * size.parameters), streamed))
        answers = self.windows * (self.length - 1) * size.vocabulary * number
        limit = room.reference(streamed)
        states = tokens * size.width * number
        head = size.vocabulary * size.width * number
        reference = answers if answers <= limit else states + head
        between = min(size.blocks * states, room.states(streamed))
        return self._held(number, streamed) + kept + packed + reference + between + self._logits()

    def _logits(self) -> float:
        """Of one forward pass, and of one window in float32 with what is computed of it."""
        batch = min(self.windows * self.length, max(self.length, evaluate.TOKENS))
        return self.size.vocabulary * 4 * (batch + 2 * self.length)

    def _read(self) -> float:
        """Calibration: hidden states before and after a block, and Gram matrices."""
        squares = SQUARES * 4 * (INNER * self.size.width) ** 2 if self.sums else 0
        return 2 * self.wide * self.read * self.size.width + squares
