"""What scorers hand over: importance, or harm."""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from itertools import groupby
from pathlib import Path

from lwq.common import strips
from lwq.common.errors import InputError
from lwq.contracts import shown
from lwq.contracts.files import read, read_as, write
from lwq.contracts.layout import Layout, Option

# of a scorer's text: quantizer='NAME(…)' where it was given as text, quantizer=NAME(…) as an object
QUANTIZER = re.compile(
    r"""\bquantizer=(?:(['"])(?P<text>.*?)\1|(?P<call>[^\s,'"(]+\((?:[^()]|\([^()]*\))*\)))"""
)


@dataclass(frozen=True)
class Scores(Mapping[str, float]):
    """Importance of each unit: finite, at least 0, **higher = more important = keeps more bits**.

    Attributes:
        importance: unit -> importance, one entry for each unit of `layout`, in its order.
        layout: the model that was scored.
        scorer: what ran, with its settings, as text that builds it again.
        stderr: unit -> standard error over windows, where the score is sampled.
        data: the calibration text behind it; "" for scores that need none.
        cost: what it took: windows, tokens, seconds.
    """

    importance: Mapping[str, float]
    layout: Layout
    scorer: str
    stderr: Mapping[str, float] = field(default_factory=dict)
    data: str = ""
    cost: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.importance.keys() != self.layout.units.keys():
            wrong = sorted(self.importance.keys() ^ self.layout.units.keys())
            raise InputError(
                f"{self.scorer}: one score for each unit is needed; missing or unknown: {wrong[:6]}"
            )
        found = {unit: _number(self.importance[unit], unit) for unit in self.layout.units}
        object.__setattr__(self, "importance", found)
        for unit, value in found.items():
            if not math.isfinite(value) or value < 0:
                raise InputError(
                    f"{self.scorer}: the score of {unit} is {value}; scores are finite and at "
                    "least 0 (no number or infinite: look at the activations of that block; below "
                    "0: add what makes the least of them 0)"
                )

    def __getitem__(self, unit: str) -> float:
        return self.importance[unit]

    def __iter__(self) -> Iterator[str]:
        return iter(self.importance)

    def __len__(self) -> int:
        return len(self.importance)

    def order(self) -> list[str]:
        """Units from the least to the most important; ties keep the order of the forward pass."""
        return sorted(self.importance, key=self.importance.__getitem__)

    def __repr__(self) -> str:
        first, last = self.order()[:3], self.order()[-3:]
        return (
            f"Scores of {self.layout.model} by {self.scorer}: {len(self)} units, "
            f"moved first {first}, last {last}"
        )

    def _repr_html_(self) -> str:
        """Where each unit stands in the order of moves, and the ends of the order."""
        order = self.order()
        ends = [*order[:3], *order[3:][-3:]]
        rows = [
            [unit, f"{self[unit]:.4g}", f"{self.stderr[unit]:.2g}" if unit in self.stderr else ""]
            for unit in ends
        ]
        return (
            strips.line(f"{self.layout.model}, {self.scorer}; 1 moves first, dark keeps its bits")
            + shown.ranks(self.layout, order)
            + strips.table(["first and last", "importance", "standard error"], rows)
        )

    def save(self, path: str | Path) -> None:
        write(path, {"lwq": "scores", **asdict(self)})

    @classmethod
    def load(cls, path: str | Path) -> "Scores":
        return read_as(cls, path, "scores")


def _number(value: object, unit: str) -> float:
    """A float, as JSON has it; InputError for what is none."""
    try:
        return float(value)  # type: ignore[arg-type]  # which of them are numbers is asked here
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"{unit} has {value!r:.60}; a number is needed") from None


def falling(harm: Mapping[Option, float]) -> dict[Option, float]:
    """The running maximum from the most bits down: noise would let more bits do more harm.

    Options with a name have no order that is known here, and stay. A whole width has none beside
    fractions above it either: of a quantizer that keeps outliers, 3 may be more than 3.25.
    """
    found: dict[Option, float] = {
        option: float(value) for option, value in harm.items() if isinstance(option, str)
    }
    numbers = sorted((o for o in harm if not isinstance(o, str)), reverse=True)
    above = -math.inf  # of the options with more whole bits
    for _, alike in groupby(numbers, key=int):
        running, options = above, list(alike)
        for option in options:
            whole = option == int(option)
            found[option] = max(above if whole else running, float(harm[option]))
            running = max(running, found[option])
        above = running
    return found


@dataclass(frozen=True)
class Costs(Mapping[str, Mapping[Option, float]]):
    """Expected harm of each unit at each option: finite, **never increasing in bits** (as `falling`
    knows their order), and added up over units.

    Attributes:
        harm: unit -> bits -> harm, for each unit of `layout`, in its order; in nats a token where
            it was measured as loss.
        layout: the model that they are for.
        scorer: what found them, with its settings.
        data: the text behind them; "" for costs that need none.
        cost: what it took: windows, tokens, seconds.
        pairs: unit -> unit -> what the two do together at their lowest options beyond the sum of
            what each does alone, in the unit of `harm`; each pair stands once, pairs that are not
            there do nothing. Where there are pairs, harm may rise with bits: what is lost is then
            the sum of both.
        stderr: unit -> bits -> standard error over windows, where the harm is sampled.
    """

    harm: Mapping[str, Mapping[Option, float]]
    layout: Layout
    scorer: str
    data: str = ""
    cost: Mapping[str, float] = field(default_factory=dict)
    pairs: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    stderr: Mapping[str, Mapping[Option, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if wrong := sorted(self.harm.keys() ^ self.layout.units.keys()):
            raise InputError(
                f"{self.scorer}: costs for each unit are needed; missing or unknown: {wrong[:6]}"
            )
        self._require_pairs()
        plain = {
            unit: {option: _number(one, unit) for option, one in self.harm[unit].items()}
            for unit in self.layout.units
        }
        object.__setattr__(self, "harm", plain)
        for unit, harm in plain.items():
            if (
                not harm
                or not all(map(math.isfinite, harm.values()))
                or not all(isinstance(one, str) or math.isfinite(one) for one in harm)
                or (falling(harm) != harm and not self.pairs)
            ):
                raise InputError(
                    f"{self.scorer}: the costs of {unit} are {dict(harm)}; they are finite and "
                    f"never increase with bits "
                    "(where noise made them, take the running maximum from the highest width down)"
                )

    def _require_pairs(self) -> None:
        found = [(a, b, value) for a, inner in self.pairs.items() for b, value in inner.items()]
        seen = {frozenset(pair) for *pair, _ in found}
        for a, b, value in found:
            if a == b or not {a, b} <= self.harm.keys() or not math.isfinite(value):
                raise InputError(
                    f"{self.scorer}: pairs[{a!r}][{b!r}] is {value}; name two different units and "
                    "a finite number"
                )
        if len(seen) != len(found):
            raise InputError(f"{self.scorer}: a pair stands twice in pairs; keep one of the two")

    def __getitem__(self, unit: str) -> Mapping[Option, float]:
        return self.harm[unit]

    def __iter__(self) -> Iterator[str]:
        return iter(self.harm)

    def __len__(self) -> int:
        return len(self.harm)

    @property
    def quantizer(self) -> str | None:
        """The quantizer that they were found with, where their scorer's text names one."""
        found = QUANTIZER.search(self.scorer)
        return (found["text"] or found["call"]) if found else None

    def order(self) -> list[str]:
        """Units by what they lose from their highest width to their lowest, least first; ties keep
        the forward order.
        """
        return sorted(
            self.harm,
            key=lambda unit: max(self.harm[unit].values()) - min(self.harm[unit].values()),
        )

    def __repr__(self) -> str:
        return (
            f"Costs of {self.layout.model} by {self.scorer}: {len(self)} units at "
            f"{list(next(iter(self.harm.values())))}"
        )

    def _repr_html_(self) -> str:
        """Where each unit stands in the order of moves, and the sum of harm at each option."""
        sums: dict[Option, float] = {}
        for harm in self.harm.values():
            for option, value in harm.items():
                sums[option] = sums.get(option, 0.0) + value
        rows = [[str(option), f"{value:.4g}"] for option, value in sums.items()]
        return (
            strips.line(f"{self.layout.model}, {self.scorer}; 1 moves first, dark keeps its bits")
            + shown.ranks(self.layout, self.order())
            + strips.table(["bits everywhere", "sum of harm"], rows)
        )

    def save(self, path: str | Path) -> None:
        write(path, {"lwq": "costs", **asdict(self)})

    @classmethod
    def load(cls, path: str | Path) -> "Costs":
        return read_as(cls, path, "costs")


def load_scores(path: str | Path) -> Scores | Costs:
    """Whichever of the two a file holds."""
    return (
        Costs.load(path) if read(path, "scores", "costs")["lwq"] == "costs" else Scores.load(path)
    )
