"""One model, one quantizer, one text to calibrate on and one to judge on: score, plan, measure, remember."""

import hashlib
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor, nn

import lwq
from lwq import assets, models, paths
from lwq.allocators import allocate
from lwq.bank import Bank
from lwq.contracts import KEPT, Plan, Row, Scores, Size, digest
from lwq.data import WindowSpec
from lwq.errors import InputError
from lwq.evaluate import Reference, reference
from lwq.quantizers import QUANTIZERS
from lwq.results import Results
from lwq.scorers import SCORERS, score_all
from lwq.store import Store
from lwq.strategies import build, spec
from lwq.sweep import Sweep

FORBIDDEN_GROUP = 32  # the carried models were dequantized from groups of 32, which such a grid would reproduce exactly


@dataclass
class Experiment:
    """Everything that a study's measurements have in common. What is expensive is made when it is first needed.

    Attributes:
        study: name that stands in the rows.
        model: a name for `lwq.load`.
        quantizer: a name, a call in text or an object.
        calibrate, judge: how windows are drawn; scores and quantizers see the first, judgement the second.
        results: where measurements are looked up and kept.
        dtype: of the weights and the arithmetic; with any other than float32 the ends of a sweep are measured in float32 too.
    """

    study: str
    model: str
    quantizer: Any
    calibrate: WindowSpec
    judge: WindowSpec
    results: Results
    dtype: str = "float32"

    def __post_init__(self) -> None:
        self.quantizer = build(QUANTIZERS, "quantizer", self.quantizer)
        if self.model in assets.MODELS and getattr(self.quantizer, "group_size", 0) == FORBIDDEN_GROUP:
            raise InputError(
                f"group_size={FORBIDDEN_GROUP} on {self.model!r}: its weights come from a file with groups of "
                f"{FORBIDDEN_GROUP} and would look lossless; use 64"
            )
        if self.calibrate.split == self.judge.split:
            raise InputError(f"calibrating and judging on the same split {self.judge.split!r}; use 'calibrate' and 'judge'")

    @cached_property
    def loaded(self) -> tuple[nn.Module, Any]:
        return models.load(self.model, dtype=self.dtype)

    @cached_property
    def calibration(self) -> Tensor:
        return self.calibrate.draw(self.loaded[1])

    @cached_property
    def judging(self) -> Tensor:
        return self.judge.draw(self.loaded[1])

    @cached_property
    def bank(self) -> Bank:
        return Bank(self.loaded[0], self.quantizer, self.calibration, Store())

    @cached_property
    def reference(self) -> Reference:
        """The untouched model on the judging windows."""
        if "bank" in self.__dict__:
            self.bank.restore_()
        return reference(self.loaded[0], self.judging)

    @cached_property
    def engine(self) -> Sweep:
        """Measures plans on the judging windows."""
        truth = self.reference
        return Sweep(self.loaded[0], self.judging, self.bank, truth)

    def orderings(self, names: str | Sequence[str], seeds: int = 0) -> dict[str, Scores]:
        """Label -> Scores, in one pass.

        Args:
            names: scorers as text, a list or one string with commas; `random` stands for `seeds` random orders.
        """
        if isinstance(names, str):
            names = [name.strip() for name in re.split(r",(?![^(]*\))", names)]
        if "bank" in self.__dict__:
            self.bank.restore_()
        labels = [
            label for name in names for label in ([f"random(seed={s})" for s in range(seeds)] if name == "random" else [name])
        ]
        built = {label: build(SCORERS, "scorer", label) for label in labels}
        fingerprint = models.fingerprint(self.loaded[0])
        files = {label: self._scores_file(scorer, fingerprint) for label, scorer in built.items()}
        if missing := [label for label, path in files.items() if not path.is_file()]:
            windows = self.calibration if any(getattr(built[label], "needs", ()) for label in missing) else None
            found = score_all(self.loaded[0], [built[label] for label in missing], windows, self._common["calibration"])
            for label, scores in zip(missing, found, strict=True):
                with paths.replacing(files[label]) as temporary:
                    scores.save(temporary)
        return {label: Scores.load(path) for label, path in files.items()}

    def _scores_file(self, scorer: Any, fingerprint: str) -> Path:
        """Where a scorer's result for these weights and this calibration text is kept."""
        key = digest([spec(SCORERS, scorer), fingerprint, self._common["calibration"], self.dtype])
        return paths.writable(self.results.folder / "scores") / f"{key}.json"

    def sweep(self, orderings: Mapping[str, Scores], high: int, low: int, steps: int) -> pd.DataFrame:
        """Move blocks from `high` to `low` bits in each ordering and measure `steps` plans on the way, both ends included.

        Beside them: the untouched model ("original") and uniform bits at every width from low to high ("uniform").

        Returns:
            The rows of this study, model, quantizer and pair of widths, from the results table.
        """
        first = next(iter(orderings.values()))
        todo = self._ends(first, high, low)
        for label, scores in orderings.items():
            for moved in points(len(scores), steps):
                plan = allocate(scores, None, (high, low), self.quantizer, "topk", moved=moved)
                todo.append(self._row(dict(plan.bits), label, scores, high, low))
        self.measure(todo)
        if self.dtype != "float32":
            self._measure_deviation(high, low)
        self.results.write()
        return self.results.table(high=high, low=low, **self._common)

    def measure(self, todo: Sequence[tuple[Row, Plan]]) -> None:
        """Measure what the results lack, each plan once, and keep it under its rows."""
        left: dict[str, list[tuple[Row, Plan]]] = {}
        for row, plan in todo:
            if self.results.find(row) is None:
                left.setdefault(plan.id, []).append((row, plan))
        if not left:
            return
        found = self.engine.measure([entries[0][1] for entries in left.values()])
        start = time.monotonic()
        for plan, losses in found:
            for row, _ in left[plan.id]:
                self.results.keep(row, losses, time.monotonic() - start)
                start = time.monotonic()

    def _ends(self, scores: Scores, high: int, low: int) -> list[tuple[Row, Plan]]:
        """The untouched model, and uniform bits at every width from low to high."""
        units = scores.layout.units
        widths = [width for width in self.quantizer.levels if low <= width <= high]
        return [
            self._row(dict.fromkeys(units, KEPT), "original", scores, high, low),
            *(self._row(dict.fromkeys(units, width), "uniform", scores, high, low) for width in widths),
        ]

    def _measure_deviation(self, high: int, low: int) -> None:
        """The ends of the sweep once more in float32: how far is this dtype off?"""
        other = replace(self, dtype="float32")
        other.measure(other._ends(score_all(other.loaded[0], ["first_to_last"])[0], high, low))

    def _row(self, bits: dict[str, int], ordering: str, scores: Scores, high: int, low: int) -> tuple[Row, Plan]:
        plan = Plan(bits, scores.layout, spec(QUANTIZERS, self.quantizer))
        size = Size.of(plan.layout, plan.bits, self.quantizer)
        row = Row(
            id="",
            plan=plan.id,
            fingerprint=plan.layout.fingerprint,
            high=high,
            low=low,
            ordering=ordering,
            scorer=scores.scorer if ordering not in ("original", "uniform") else ordering,
            moved=0 if ordering == "original" else sum(width != high for width in plan.bits.values()),
            units=len(plan.bits),
            avg_bits=size.avg_bits,
            true_bits=size.true_bits,
            plan_bytes=size.plan_bytes,
            total_bytes=size.total_bytes,
            version=lwq.__version__,
            metric="",
            value=0.0,
            n=0,
            **self._common,
        )
        return row, plan

    @cached_property
    def _common(self) -> dict[str, str]:
        """The columns that all rows of this experiment share."""
        return {
            "study": self.study,
            "model": self.model,
            "quantizer": spec(QUANTIZERS, self.quantizer),
            "calibration": f"{self.calibrate} #{token_digest(self.calibration)}",
            "judge": f"{self.judge} #{token_digest(self.judging)}",
            "dtype": self.dtype,
        }


def token_digest(windows: Tensor) -> str:
    """8 hex digits of the tokens themselves, so that a text that changed under its name is another text."""
    return hashlib.sha256(windows.numpy().tobytes()).hexdigest()[:8]


def points(units: int, steps: int) -> list[int]:
    """`steps` numbers of moved units from 0 to all, as even as whole numbers allow."""
    if steps < 2:
        raise InputError(f"steps={steps}; a curve needs its two ends, 2 or more")
    return sorted({int(point) for point in np.linspace(0, units, steps).round()})


def texts(calibrate: str, judge: str, nsamples: int, seqlen: int, windows: int, length: int) -> tuple[WindowSpec, WindowSpec]:
    """Where a study calibrates and where it judges: two splits that share no document."""
    return WindowSpec(calibrate, "calibrate", nsamples, seqlen, 0), WindowSpec(judge, "judge", windows, length, 0)


def quantizer(text: Any, **settings: Any) -> Any:
    """A quantizer from text, with settings on top: `quantizer("gptq", group_size=64)`."""
    return build(QUANTIZERS, "quantizer", text, **settings)
