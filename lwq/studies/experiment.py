"""What a study asks of a model: plans and tasks measured, each once, and kept under its rows."""

import importlib.metadata
import platform
import time
from collections.abc import Iterable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import replace
from functools import lru_cache
from typing import Any

import pandas as pd
import torch

from lwq.common.errors import InputError
from lwq.common.version import VERSION
from lwq.contracts import KEPT, Budget, Costs, Option, Plan, Row, Scores, Size
from lwq.contracts.results import FLOOR, TAILS
from lwq.engine.bank import restore_
from lwq.engine.evaluate import divergence
from lwq.studies import agreement, asked, candidates, memory, scored, sizes
from lwq.studies.asked import Questions
from lwq.studies.asked import quantizer as quantizer
from lwq.studies.asked import texts as texts
from lwq.studies.candidates import Candidate
from lwq.studies.setup import Setup

ROUGH = "bfloat16"  # what the same model is mostly run in
ROUGHLY = f"reference, {ROUGH}"  # the ordering of the noise floor

# what experiments are, inside a rehearsal
KIND: ContextVar[type["Experiment"] | None] = ContextVar("kind", default=None)


class Experiment(Setup):
    """A setup whose plans are measured."""

    def __new__(cls, *arguments: Any, **settings: Any) -> "Experiment":
        """An experiment; inside a rehearsal one of `KIND`, whatever the notebook names."""
        return object.__new__(KIND.get() or cls)

    def orderings(
        self, names: str | Sequence[str] | Mapping[str, str], seeds: int = 0
    ) -> dict[str, Scores | Costs]:
        """Label -> Scores (or Costs, of a scorer that says what each option costs), in one pass.

        Args:
            names: scorers as text, a list or one string with commas; `random` stands for `seeds`
                random orders; or label -> scorer. One of your own is `my_scorers.py:Mine`, see
                `lwq.common.user_code`.
        """
        return self._scores(asked.scorers(names, seeds))

    def _scores(self, scorers: Mapping[str, Any]) -> dict[str, Scores | Costs]:
        return scored.orderings(self, scorers)

    def costs(self, widths: Sequence[int], windows: int = 8) -> Costs:
        """Harm of each block at each width, measured on the first calibration windows and kept
        beside the scores.
        """
        return scored.costs(self, widths, windows)

    def search(self, scores: Scores | Costs, budget: Budget, allocator: str, passes: float) -> Plan:
        """The plan of an allocator that measures plans, kept beside the scores.

        It measures on windows of the calibration text's tune split, as many and as long as those
        that plans are judged on.

        Args:
            passes: forward passes over those windows that it may spend.
        """
        return scored.searched(self, scores, budget, allocator, passes)

    def sweep(
        self,
        orderings: Mapping[str, Scores],
        high: int,
        low: int,
        steps: int,
        avg_bits: Sequence[float] = (),
    ) -> pd.DataFrame:
        """Move blocks from `high` to `low` bits in each ordering and measure `steps` plans on the
        way, both ends included.

        Beside them: the plans for `avg_bits`, the untouched model ("original"), and uniform bits at
        every width from low to high ("uniform").

        Returns:
            The rows of this study, model, quantizer and pair of widths, from the results table.
        """
        if not low < high:
            raise InputError(f"high={high}, low={low}: blocks are moved from more bits to fewer")
        layout = next(iter(orderings.values())).layout
        moved = candidates.counts_moved(len(layout.units), steps)
        curves = list(candidates.curve(orderings, self.quantizer, high, low, moved, avg_bits))
        if self.judge_dtype != "float32":
            # first, so that two references need not stand in memory together
            self._measure_deviation(high, low)
        self.measure([*candidates.ends(layout, self.quantizer, high, low), *curves])
        return self.table(
            high=high, low=low, units=len(layout.units), quantizer=self.columns["quantizer"]
        )

    def measure(self, candidates: Iterable[Candidate]) -> None:
        """Measure what the results lack, each plan once, and keep it under its rows."""
        left: dict[str, list[tuple[Row, Plan]]] = {}
        for candidate in candidates:
            row = self._row(candidate)
            self.results.remember(candidate.plan)
            if not self.results.known(row, TAILS if self.tails else ()):
                left.setdefault(row.plan, []).append((row, candidate.plan))
        if not left:
            return
        found = self.engine.measure([entries[0][1] for entries in left.values()])
        start = time.monotonic()
        for plan, losses in found:
            for row, _ in left[plan.id]:
                self.results.keep(row, losses, time.monotonic() - start)
                start = time.monotonic()

    def measure_floor(self) -> None:
        """Measure the noise floor on the judging windows: KL of the same model, computed otherwise.

        The untouched model in float32 is the truth; what stands beside it is the same model as it
        is mostly run, weights and arithmetic in bfloat16. A KL below that says nothing of a plan.
        """
        row, plan = self._floor()
        self.results.remember(plan)
        if self.results.known(row, TAILS):
            return
        if self.dtype != "float32":
            raise InputError(f"dtype={self.dtype!r}: a noise floor is measured against float32")
        start = time.monotonic()
        restore_(self.judged)
        rounded = self.judged if self.judge_dtype == ROUGH else self.rounded(ROUGH)
        found = divergence(rounded, self.loaded[0], self.judging, self.judged_on.documents)
        self.results.keep(row, found, time.monotonic() - start)

    def _floor(self) -> tuple[Row, Plan]:
        """The row of the noise floor; its dtype says that it is no plan judged as others are."""
        (found,) = candidates.uniform(self.layout, self.quantizer, [KEPT], ROUGHLY, FLOOR)
        return replace(self._row(found), dtype=f"{ROUGH} against float32"), found.plan

    def answer(
        self,
        candidates: Iterable[Candidate],
        tasks: Sequence[str],
        items: int,
        seed: int = 0,
        hub: bool = False,
    ) -> None:
        """Measure the accuracy of plans on multiple-choice tasks, the same `items` for every plan;
        keep it under its rows.

        The arguments are those of `evaluate_tasks`.
        """
        questions = Questions(items, seed, hub)
        for candidate in candidates:
            row = self._row(candidate)
            rows = {task: replace(row, judge=questions.named(task)) for task in tasks}
            self._answer(candidate.plan, rows, questions)

    def _answer(self, plan: Plan, rows: Mapping[str, Row], questions: Questions) -> None:
        """Measure one plan on those tasks whose rows the results lack."""
        from lwq.engine.tasks import evaluate_tasks

        self.results.remember(plan)
        left = {task: row for task, row in rows.items() if not self.results.known(row)}
        if not left:
            return
        start = time.monotonic()
        self.bank.apply_(plan)
        try:
            found = evaluate_tasks(self.judged, self.loaded[1], list(left), *questions)
        finally:
            self.bank.restore_()
        for task, score in found.items():
            self.results.keep(left[task], score, (time.monotonic() - start) / len(left))

    def rankings(
        self,
        variants: Sequence[str] | Mapping[str, str],
        default: Scores | Costs,
        option: Option = KEPT,
    ) -> None:
        """Rank correlation of each variant of a score with the `default`, on these calibration
        windows; what says the harm of options counts by its harm at `option`.
        """
        for label, scores in self.orderings(variants).items():
            untouched = Plan(dict.fromkeys(scores, KEPT), scores.layout, "")
            candidate = Candidate(label, scores.scorer, untouched, 0, 0, 0, "reading")
            row = replace(self._row(candidate), plan="", judge=agreement.beside(default))
            if not self.results.known(row):
                found = agreement.ranking(label, scores, default, option)
                self.results.keep(row, found, 0.0)
        self.results.write()

    def table(self, **where: Any) -> pd.DataFrame:
        """Write what is measured, and return this experiment's rows with those columns."""
        self.results.write()
        shared = {key: value for key, value in self.columns.items() if key != "quantizer"}
        return self.results.table(**{**shared, **where})

    def _measure_deviation(self, high: int, low: int) -> None:
        """The ends of the sweep, judged once more in float32: how far off is `judge_dtype`?

        Never are there two models of different dtypes and two references in memory: what this
        experiment holds is made again after.
        """
        if self.dtype != "float32":
            streams = self.stream or memory.streams(sizes.of(self.model).parameters)
            self.release()
            other = replace(self, dtype="float32", judge_dtype="float32", stream=streams)
        else:
            other = replace(self, judge_dtype="float32")
            other.held["loaded"] = self.loaded
        other.measure(candidates.ends(other.layout, other.quantizer, high, low))
        other.release()

    def _row(self, candidate: Candidate) -> Row:
        plan = candidate.plan
        size = Size.of(plan.layout, plan.bits, self.quantizer)
        return Row(
            id="",
            plan=plan.id,
            high=candidate.high,
            low=candidate.low,
            ordering=candidate.ordering,
            scorer=candidate.scorer,
            allocator=candidate.allocator,
            budget=candidate.budget,
            way=candidate.way,
            seed=candidate.seed,
            family=self.quantizer.family,
            moved=candidate.moved,
            units=len(plan.bits),
            avg_bits=size.avg_bits,
            true_bits=size.true_bits,
            plan_bytes=size.plan_bytes,
            total_bytes=size.total_bytes,
            version=VERSION,
            environment=environment(),
            metric="",
            value=0.0,
            n=0,
            **self.columns,
        )


@lru_cache
def environment() -> str:
    """Versions and processor that decide the last bits of a number."""
    if torch.cuda.is_available():
        processor = torch.cuda.get_device_name()
    else:
        processor = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    python, transformers = platform.python_version(), importlib.metadata.version("transformers")
    return f"Python {python}, torch {torch.__version__}, transformers {transformers}, {processor}"
