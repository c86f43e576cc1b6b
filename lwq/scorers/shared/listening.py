"""Scorers that listen to the pass back through the model: one pass for all that ask for the same
gradients.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from lwq.common.errors import InputError
from lwq.common.names import pick
from lwq.scorers.shared.declared import Found
from lwq.statistics.backward import (
    LABELS,
    Gradients,
    Slope,
    backward,
    drawn_now,
    empirical,
    sampled,
)
from lwq.statistics.forward import WINDOWS, Stats
from lwq.statistics.windows import require_windows


@dataclass(frozen=True)
class Source:
    """Which gradients: of log p(y) at every position of some windows.

    Attributes:
        labels: "sampled" draws y from the model itself, so that squares of gradients are the
            Fisher information; "empirical" takes the text's own next token.
        samples: how often y is drawn for each position.
        windows: the first so many of the calibration windows.
        seed: of the draws.
    """

    labels: str = "sampled"
    samples: int = 1
    windows: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        pick(dict.fromkeys(LABELS), "labels", self.labels)
        for name, value in (("samples", self.samples), ("windows", self.windows)):
            if value < 1:
                raise InputError(f"{name}={value}: one or more is needed")
        if self.labels == "empirical" and self.samples > 1:
            raise InputError(
                f"samples={self.samples} with labels='empirical': a text has one next token; "
                f"leave samples out, or take labels='sampled'"
            )

    def drawn(self, windows: Tensor | None) -> Tensor:
        """The windows that run, each `samples` times: (samples · windows, length)."""
        found = require_windows(windows, frozenset({WINDOWS}))
        if self.labels == "empirical" and found.shape[1] < 2:
            raise InputError(
                "windows of one token have no next token, which labels='empirical' read; give "
                "longer windows, or take labels='sampled'"
            )
        return found[: self.windows].repeat(self.samples, 1)

    def slope(self, drawn: Tensor) -> Slope:
        return sampled(self.seed) if self.labels == "sampled" else empirical(drawn)

    def per_window(self, values: Tensor) -> Tensor:
        """The mean over labels drawn, (…, samples · windows) -> (…, windows): what is drawn at one
        window does not err independently of it.
        """
        return values.unflatten(-1, (self.samples, -1)).mean(-2)

    def kept(self, model: nn.Module, drawn: Tensor) -> Slope:
        """`slope` whose labels are those of the model as it is now, whatever becomes of it."""
        sampled_now = self.labels == "sampled"
        return drawn_now(model, drawn, self.seed) if sampled_now else empirical(drawn)

    def scored(self, length: int) -> int:
        """Positions of a window that have a label."""
        return length if self.labels == "sampled" else length - 1


class Listener(Protocol):
    """Takes the gradients of one part after the other, and then says what it found."""

    def add(self, found: Gradients) -> None: ...

    def result(self) -> Found: ...


class GradientScorer(Protocol):
    """A scorer that needs GRADIENTS: `source` says which, and a new `listener` takes them."""

    @property
    def source(self) -> Source: ...

    def listener(self, model: nn.Module, stats: Stats) -> Listener: ...


def listen(
    model: nn.Module,
    stats: Stats,
    scorers: Sequence[GradientScorer],
    source: Source,
    slope: Slope | None = None,
) -> list[Found]:
    """What each of `scorers`, all of one source, finds in one pass back; `slope`: the source's own
    by default.
    """
    windows = source.drawn(stats.windows)
    listeners = [scorer.listener(model, stats) for scorer in scorers]
    for found in backward(model, windows, slope or source.slope(windows)):
        for listener in listeners:
            listener.add(found)
    return [listener.result() for listener in listeners]


def heard(model: nn.Module, stats: Stats, scorer: GradientScorer) -> Found:
    """What one scorer finds in a pass of its own."""
    return listen(model, stats, [scorer], scorer.source)[0]
