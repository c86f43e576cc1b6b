"""The plain types that cross the seams: Layout, Scores, Costs, Budget, Plan, Size, Losses, Row.

Everything here is data: no torch, no model. Bits and bytes are counted here and nowhere else.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np

from lwq.errors import InputError

Shape: TypeAlias = tuple[int, int]
Width: TypeAlias = int | float
"""Bits a weight: 0 drops, 16 keeps; whole from 1 to 8; a fraction where a quantizer has such levels (its docstring says how)."""

DROPPED, KEPT = 0, 16  # widths with a meaning of their own: the block is skipped; the weights stay as they are
GRANULARITIES = ("block", "group", "matrix")


class Sizer(Protocol):
    """What counting bytes needs to know of a quantizer."""

    levels: tuple[Width, ...]

    def nbytes(self, shape: Shape, bits: Any) -> int: ...


def digest(value: Any) -> str:
    """12 hex digits that name a JSON value; key order does not matter."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, allow_nan=False).encode()).hexdigest()[:12]


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise InputError(f"{key!r} stands twice in one JSON object; keep one of the two")
        found[key] = value
    return found


def _read(path: str | Path, *kinds: str) -> dict[str, Any]:
    kind = " or ".join(kinds)
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"), object_pairs_hook=_unique)
    except OSError as error:
        raise InputError(f"cannot read {kind} from {path}: {error.strerror}") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not JSON: {error}") from None
    if not isinstance(data, dict) or data.get("lwq") not in kinds:
        raise InputError(f"{path} does not hold an lwq {kind}; `lwq score` writes scores and `lwq plan` writes plans")
    return data


def _write(path: str | Path, data: dict[str, Any]) -> None:
    Path(path).write_text(json.dumps(data, indent=1, allow_nan=False) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class Layout:
    """What scores and plans must know of a model, without the model.

    Attributes:
        model: the name it was loaded by.
        fingerprint: sha256 of its weights, 16 hex digits.
        granularity: "block", "group" (matrices of one parent fed by the same tensor) or "matrix".
        units: unit -> matrix -> shape (out_features, in_features), in the order of the forward pass.
        rest: block -> number of its weights that no plan reaches (norms, biases, routers); "" -> those outside blocks
            (embeddings, final norm, lm_head; a tied head is counted once). They stay at 16 bits.
    """

    model: str
    fingerprint: str
    granularity: str
    units: Mapping[str, Mapping[str, Shape]]
    rest: Mapping[str, int]

    def weights(self, unit: str) -> int:
        """Number of weights in the matrices of `unit`."""
        return sum(rows * columns for rows, columns in self.units[unit].values())

    @property
    def total(self) -> int:
        """Number of weights that a plan reaches."""
        return sum(map(self.weights, self.units))

    @property
    def coverage(self) -> float:
        """Share of the blocks' weights that a plan reaches, from 0 to 1."""
        inside = sum(count for block, count in self.rest.items() if block)
        return self.total / (self.total + inside)

    def block_of(self, unit: str) -> str:
        """The block that `unit` is or is inside of; `unit` where it is in none."""
        return next((place for place in _places(unit) if place in self.rest), unit)

    def require(self, other: "Layout", what: str) -> None:
        """Raise InputError unless `other`, the layout of the model at hand, is the one that `what` was made for."""
        missing, extra = self.units.keys() - other.units.keys(), other.units.keys() - self.units.keys()
        if missing or extra:
            raise InputError(
                f"this {what} was made for {self.model!r} and does not fit {other.model!r}: "
                f"units that the model lacks: {sorted(missing)[:4] or 'none'}; "
                f"units that the {what} lacks: {sorted(extra)[:4] or 'none'}"
            )
        if self.fingerprint != other.fingerprint:
            raise InputError(
                f"this {what} was made for other weights of {self.model!r} (fingerprint {self.fingerprint}, the model at "
                f"hand has {other.fingerprint}); load the model afresh or make a new {what}"
            )

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Layout":
        units = {u: {m: (int(s[0]), int(s[1])) for m, s in ms.items()} for u, ms in data["units"].items()}
        return cls(**{**data, "units": units})


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
    def of(cls, layout: Layout, bits: Mapping[str, Width], quantizer: Sizer) -> "Size":
        """Count `bits` (unit -> width) for the packed format of `quantizer`; equals the packed tensors to the byte."""
        weighed: dict[Any, int] = {}
        plan_bytes = 0
        for unit, matrices in layout.units.items():
            for shape in matrices.values():
                if (shape, bits[unit]) not in weighed:
                    weighed[shape, bits[unit]] = matrix_bytes(shape, bits[unit], quantizer)
                plan_bytes += weighed[shape, bits[unit]]
        nominal = sum(bits[unit] * layout.weights(unit) for unit in layout.units)
        gone = _gone(bits)
        rest = sum(2 * count for block, count in layout.rest.items() if block not in gone)
        everything = layout.total + sum(layout.rest.values())
        return cls(
            layer_bits=sum(bits[unit] for unit in layout.units) / len(layout.units),
            avg_bits=nominal / layout.total,
            true_bits=8 * plan_bytes / layout.total,
            model_bits=8 * (plan_bytes + rest) / everything,
            plan_bytes=plan_bytes,
            total_bytes=plan_bytes + rest,
        )


def matrix_bytes(shape: Shape, bits: Width, quantizer: Sizer) -> int:
    """Stored bytes of one matrix at `bits`; 0 stores nothing and 16 stores two bytes a weight."""
    if bits == DROPPED:
        return 0
    return 2 * shape[0] * shape[1] if bits == KEPT else quantizer.nbytes(shape, bits)


def inside(unit: str, block: str) -> bool:
    """Whether `unit` is `block` or a part of it."""
    return unit == block or unit.startswith(block + ".")


def _gone(bits: Mapping[str, Width]) -> set[str]:
    """The places in which every unit has 0 bits."""
    none = {place for unit, width in bits.items() if width == DROPPED for place in _places(unit)}
    return none - {place for unit, width in bits.items() if none and width != DROPPED for place in _places(unit)}


def _places(unit: str) -> Iterator[str]:
    """`unit` and everything that it is inside of."""
    while unit:
        yield unit
        unit = unit.rpartition(".")[0]


def dropped(block: str, bits: Mapping[str, Width]) -> bool:
    """Whether every unit of `block` has 0 bits, so that the block is skipped with all that it holds."""
    widths = [width for unit, width in bits.items() if block and inside(unit, block)]
    return bool(widths) and not any(widths)


@dataclass(frozen=True)
class Scores(Mapping[str, float]):
    """Importance of each unit: finite, at least 0, **higher = more important = keeps more bits**.

    Attributes:
        importance: unit -> importance, one entry for each unit of `layout`.
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
            raise InputError(f"{self.scorer}: one score for each unit is needed; missing or unknown: {wrong[:6]}")
        for unit, value in self.importance.items():
            if not math.isfinite(value) or value < 0:
                raise InputError(
                    f"{self.scorer}: the score of {unit} is {value}; scores are finite and at least 0 "
                    "(look for NaN or Inf in the activations of that block)"
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

    def save(self, path: str | Path) -> None:
        _write(path, {"lwq": "scores", **asdict(self)})

    @classmethod
    def load(cls, path: str | Path) -> "Scores":
        data = _read(path, "scores")
        del data["lwq"]
        return cls(**{**data, "layout": Layout.from_json(data["layout"])})


@dataclass(frozen=True)
class Costs(Mapping[str, Mapping[Width, float]]):
    """Expected harm of each unit at each width: finite, **never increasing in bits**, and added up over units.

    Attributes:
        harm: unit -> bits -> harm, for each unit of `layout`; in nats a token where it was measured as loss.
        layout: the model that they are for.
        scorer: what found them, with its settings.
        data: the text behind them; "" for costs that need none.
        cost: what it took: windows, tokens, seconds.
    """

    harm: Mapping[str, Mapping[Width, float]]
    layout: Layout
    scorer: str
    data: str = ""
    cost: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if wrong := sorted(self.harm.keys() ^ self.layout.units.keys()):
            raise InputError(f"{self.scorer}: costs for each unit are needed; missing or unknown: {wrong[:6]}")
        for unit, harm in self.harm.items():
            falling = [harm[width] for width in sorted(harm)]
            if not harm or not all(map(math.isfinite, falling)) or falling != sorted(falling, reverse=True):
                raise InputError(
                    f"{self.scorer}: the costs of {unit} are {dict(harm)}; they are finite and never increase with bits "
                    "(where noise made them, take the running maximum from the highest width down)"
                )

    def __getitem__(self, unit: str) -> Mapping[Width, float]:
        return self.harm[unit]

    def __iter__(self) -> Iterator[str]:
        return iter(self.harm)

    def __len__(self) -> int:
        return len(self.harm)

    def order(self) -> list[str]:
        """Units by what they lose from their highest width to their lowest, least first; ties keep the forward order."""
        return sorted(self.harm, key=lambda unit: max(self.harm[unit].values()) - min(self.harm[unit].values()))

    def save(self, path: str | Path) -> None:
        _write(path, {"lwq": "costs", **asdict(self)})

    @classmethod
    def load(cls, path: str | Path) -> "Costs":
        data = _read(path, "costs")
        del data["lwq"]
        harm = {unit: {_width(text): value for text, value in row.items()} for unit, row in data["harm"].items()}
        return cls(**{**data, "harm": harm, "layout": Layout.from_json(data["layout"])})


def _width(text: str) -> Any:
    """A width from a JSON key: an int where it is whole."""
    return int(text) if text.isdecimal() else float(text)


def load_scores(path: str | Path) -> Scores | Costs:
    """Whichever of the two a file holds."""
    return Costs.load(path) if _read(path, "scores", "costs")["lwq"] == "costs" else Scores.load(path)


@dataclass(frozen=True)
class Budget:
    """What an allocator may spend: the widths to choose from and exactly one limit.

    Attributes:
        layout: the units and their sizes.
        widths: the bit widths to choose from, highest first.
        quantizer: counts the bytes.
        limit: "moved" (units below the highest width), "avg_bits", "true_bits" or "max_bytes" (the whole model).
        amount: the value of that limit.
    """

    layout: Layout
    widths: tuple[Width, ...]
    quantizer: Sizer
    limit: str
    amount: float

    LIMITS = ("moved", "avg_bits", "true_bits", "max_bytes")

    def __post_init__(self) -> None:
        allowed = sorted({DROPPED, *self.quantizer.levels, KEPT})
        if bad := [width for width in self.widths if width not in allowed]:
            raise InputError(f"bits={self.widths}: {bad} out of range; this quantizer offers {allowed} (0 drops, 16 keeps)")
        if len(set(self.widths)) != len(self.widths) or not self.widths:
            raise InputError(f"bits={self.widths}: name each width once, at least one")
        object.__setattr__(self, "widths", tuple(sorted(self.widths, reverse=True)))
        low, high = self.range()
        if not (math.isfinite(self.amount) and low <= self.amount <= high):
            raise InputError(f"{self.limit}={self.amount:g} is out of reach: bits={self.widths} span {low:g} to {high:g}")
        if self.limit == "moved" and self.amount != int(self.amount):
            raise InputError(f"moved={self.amount:g} must be a whole number of units")

    def spent(self, bits: Mapping[str, Width]) -> float:
        """The amount that an allocation uses, in the unit of the limit."""
        if self.limit == "moved":
            return sum(width != self.widths[0] for width in bits.values())
        size = Size.of(self.layout, bits, self.quantizer)
        return size.total_bytes if self.limit == "max_bytes" else getattr(size, self.limit)

    def range(self) -> tuple[float, float]:
        """The smallest and largest amounts that the widths can reach."""
        ends = [self.spent(dict.fromkeys(self.layout.units, width)) for width in (self.widths[-1], self.widths[0])]
        return min(ends), max(ends)

    def holds(self, bits: Mapping[str, Width]) -> bool:
        """Whether an allocation stays within the limit (`moved` asks for exactly that many)."""
        spent = self.spent(bits)
        return spent == self.amount if self.limit == "moved" else spent <= self.amount * (1 + 1e-12)


@dataclass(frozen=True)
class Plan:
    """Bits for each unit of one model, and everything needed to apply and to repeat it.

    Attributes:
        bits: unit -> width; 0 drops the block, 16 keeps the weights.
        layout: the model that it was made for; any other is refused.
        quantizer: the quantizer with its settings, as text that builds it again.
        provenance: scorer, allocator, budget, data, seed.
    """

    bits: Mapping[str, Width]
    layout: Layout
    quantizer: str
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if wrong := sorted(self.bits.keys() ^ self.layout.units.keys()):
            raise InputError(f"a plan has one width for each unit of {self.layout.model!r}; missing or unknown: {wrong[:6]}")
        for unit, width in self.bits.items():
            whole = isinstance(width, int) and (width in (DROPPED, KEPT) or 1 <= width <= 8)
            if not whole and not (isinstance(width, float) and DROPPED < width < KEPT):
                raise InputError(
                    f"{unit}: a width of {width!r} bits; plans hold 0 (drop), 1 to 8, 16 (keep), or a quantizer's fraction"
                )

    @property
    def id(self) -> str:
        """12 hex digits that name what the plan does to its model (not how it was found)."""
        return digest([self.layout.fingerprint, self.layout.granularity, self.quantizer, dict(self.bits)])

    def size(self, quantizer: Sizer) -> Size:
        return Size.of(self.layout, self.bits, quantizer)

    def save(self, path: str | Path) -> None:
        _write(path, {"lwq": "plan", **asdict(self)})

    @classmethod
    def load(cls, path: str | Path) -> "Plan":
        data = _read(path, "plan")
        del data["lwq"]
        return cls(**{**data, "layout": Layout.from_json(data["layout"])})


@dataclass(frozen=True)
class Losses:
    """How a model does on judging windows; one value a window, so that differences can be paired.

    Attributes:
        nll: mean negative log-likelihood per token, nats.
        kl: mean KL(reference || model) per token, nats; None without a reference.
        top1: share of positions where the model and the reference rank the same token first; None without a reference.
        tokens: scored tokens a window; the first token of a window is not scored.
    """

    nll: np.ndarray
    kl: np.ndarray | None
    top1: np.ndarray | None
    tokens: int

    @property
    def perplexity(self) -> float:
        return float(np.exp(self.nll.mean()))

    @property
    def mean_kl(self) -> float:
        return float(self._measured(self.kl).mean())

    @property
    def agreement(self) -> float:
        return float(self._measured(self.top1).mean())

    def summary(self) -> dict[str, float]:
        """Metric -> value, as the results table has them; KL and agreement only where there was a reference."""
        values = {"perplexity": self.perplexity}
        return values if self.kl is None else {**values, "kl": self.mean_kl, "top1": self.agreement}

    def arrays(self) -> dict[str, np.ndarray]:
        """What was measured on each window."""
        found = {"nll": self.nll, "kl": self.kl, "top1": self.top1}
        return {name: values for name, values in found.items() if values is not None}

    @staticmethod
    def _measured(values: np.ndarray | None) -> np.ndarray:
        if values is None:
            raise InputError("KL and top-1 agreement need a reference; pass lwq.reference(model, windows) to evaluate")
        return values


@dataclass(frozen=True)
class TaskScore:
    """How a model does on a multiple-choice task; one value an item, so that differences can be paired.

    Attributes:
        task: its name.
        correct: 1 for a right answer, 0 for a wrong one (items,), in the order of the sample.
        chance: the accuracy of guessing.
    """

    task: str
    correct: np.ndarray
    chance: float

    @property
    def accuracy(self) -> float:
        return float(self.correct.mean())

    def summary(self) -> dict[str, float]:
        """Metric -> value, as the results table has them."""
        return {"accuracy": self.accuracy, "chance": self.chance}

    def arrays(self) -> dict[str, np.ndarray]:
        """What was measured on each item."""
        return {"correct": self.correct}


@dataclass(frozen=True)
class Row:
    """One measured number with everything needed to repeat it: one line of results/table.csv."""

    id: str  # names the measurement; the arrays behind it stand under the same id in windows.parquet
    plan: str  # Plan.id; rows with one plan share one measurement
    study: str
    model: str
    fingerprint: str
    quantizer: str
    high: int
    low: int
    ordering: str  # what chose the units to move
    scorer: str  # the same with all its settings
    moved: int
    units: int
    avg_bits: float
    true_bits: float
    plan_bytes: int
    total_bytes: int
    calibration: str
    judge: str
    dtype: str
    version: str
    metric: str
    value: float
    n: int  # windows behind the value
