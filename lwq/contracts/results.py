"""What was measured."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from lwq.common import strips
from lwq.common.errors import InputError
from lwq.contracts.estimate import Estimate

# ways of plans that have a budget
BLOCKS = "blocks"  # embeddings and head stay at 16 bits
GROUPS = "group sizes"  # the same; options are widths with group sizes
WHOLE = "whole file"  # embeddings and head are among the units

TOGETHER = "together"  # the way of plans that lower a few units together, beside each alone
APART = "by text"  # the way of plans that are judged on several texts, each beside the others
FLOOR = "noise floor"  # the way of the untouched model, computed otherwise
TAILS = {"kl_p50": 0.5, "kl_p90": 0.9, "kl_p99": 0.99}  # metric -> share of tokens below it


@dataclass(frozen=True)
class Losses:
    """How a model does on judging windows; one value a window, so that differences can be paired.

    Attributes:
        nll: mean negative log-likelihood per token, nats.
        kl: mean KL(reference || model) per token, nats; None without a reference.
        top1: share of positions where the model and the reference rank the same token first; None
            without a reference.
        tokens: scored tokens a window; the first token of a window is not scored.
        documents: where each window comes from (`lwq.inputs.texts.Drawn`); None where that is not
            known, and each window is taken for one of its own.
        tails: quantiles of KL over all scored tokens, by the names of `TAILS`; empty where nobody
            asked for them.
    """

    nll: np.ndarray
    kl: np.ndarray | None
    top1: np.ndarray | None
    tokens: int
    documents: np.ndarray | None = None
    tails: Mapping[str, float] = field(default_factory=dict)

    @property
    def perplexity(self) -> float:
        return float(np.exp(self.nll.mean()))

    @property
    def mean_kl(self) -> float:
        return float(self._measured(self.kl).mean())

    @property
    def agreement(self) -> float:
        return float(self._measured(self.top1).mean())

    @property
    def harm(self) -> float:
        """What searches make small, nats a token: mean KL, or mean NLL without a reference."""
        return float(self.nll.mean()) if self.kl is None else self.mean_kl

    def first(self, count: int) -> "Losses":
        """On the first `count` windows, without `tails`."""
        kl, top1, documents = (
            None if one is None else one[:count] for one in (self.kl, self.top1, self.documents)
        )
        return Losses(self.nll[:count], kl, top1, self.tokens, documents)

    def __repr__(self) -> str:
        found = ", ".join(f"{name} {value:.4g}" for name, value in self.summary().items())
        return f"Losses on {len(self.nll)} x {self.tokens} tokens: {found}"

    def _repr_html_(self) -> str:
        """Each measure with its standard error over documents."""
        names = {"nll": "loss (nats/token)", "kl": "KL (nats/token)", "top1": "top-1 agreement"}
        rows = [
            [
                names[name],
                f"{values.mean():.4g}",
                f"{Estimate.of(values, self.documents).stderr or 0:.2g}",
            ]
            for name, values in self.arrays().items()
            if name in names
        ]
        return strips.table(
            [f"{len(self.nll)} x {self.tokens} tokens", "mean", "standard error"],
            [["perplexity", f"{self.perplexity:.4g}", ""], *rows],
        )

    def summary(self) -> dict[str, float]:
        """Metric -> value, as the results table has them; KL and agreement only where there was a
        reference.
        """
        values = {"perplexity": self.perplexity}
        if self.kl is None:
            return values
        return {**values, "kl": self.mean_kl, "top1": self.agreement, **self.tails}

    def arrays(self) -> dict[str, np.ndarray]:
        """What was measured on each window, and its document."""
        own = np.arange(len(self.nll)) if self.documents is None else self.documents
        found = {"nll": self.nll, "kl": self.kl, "top1": self.top1, "document": own}
        return {name: values for name, values in found.items() if values is not None}

    @staticmethod
    def _measured(values: np.ndarray | None) -> np.ndarray:
        if values is None:
            raise InputError(
                "KL and top-1 agreement need a reference; pass lwq.reference(model, "
                "windows) to evaluate"
            )
        return values


@dataclass(frozen=True)
class TaskScore:
    """How a model does on a multiple-choice task; one value an item, so that differences can be
    paired.

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

    # names the measurement; the arrays behind it stand under the same id in windows.parquet
    id: str
    plan: str  # Plan.id; rows with one plan share one measurement
    study: str
    model: str
    fingerprint: str  # of the weights, and of the settings that they compute with
    quantizer: str
    high: int
    low: int
    ordering: str  # what chose the units to move
    scorer: str  # the same with all its settings
    allocator: str  # what made the plan of it, with its settings; "" where a rule of the study did
    budget: str  # what the allocator was held to, such as "moved=4"
    way: str  # what was done to the units, in the words of the study: "move", "drop", "mask" ...
    seed: int | None  # of a random order
    family: str  # of the quantizer: "grid" or "mask"
    moved: int
    units: int
    avg_bits: float
    true_bits: float
    plan_bytes: int
    total_bytes: int
    calibration: str
    # text that losses were measured on, questions of a task, or the score that another is compared
    # with
    judge: str
    dtype: str
    version: str
    environment: str  # Python, libraries and processor that measured it
    metric: str
    value: float
    n: int  # windows behind the value
