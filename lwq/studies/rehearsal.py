"""A notebook run through without a model: which plans would it measure?

The cells run as they stand, but for those tagged "look" or "check", with experiments that take note
of their candidates in place of measuring them. So an estimate counts what the study itself names.
"""

import math
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from lwq.allocators import within
from lwq.common.errors import InputError
from lwq.common.names import spec
from lwq.contracts import DROPPED, KEPT, Budget, Costs, Layout, Option, Plan, Row, Scores
from lwq.engine.costs import costs_name
from lwq.quantizers import QUANTIZERS
from lwq.results.measurements import REHEARSAL
from lwq.scorers import SCORERS
from lwq.scorers.baselines import Reversed
from lwq.scorers.shared.declared import Declared
from lwq.studies import sizes
from lwq.studies.asked import Questions
from lwq.studies.candidates import Candidate
from lwq.studies.experiment import KIND, Experiment

SHOWING = {"look", "check"}  # tags of cells that measure nothing
ROUND = 128  # stand-in matrices have a multiple of so many rows and columns, for any group size
_noted: ContextVar[list["Rehearsal"]] = ContextVar("noted")


@dataclass
class Rehearsal(Experiment):
    """An experiment that loads and measures nothing, and takes note of what it would measure.

    Attributes:
        noted: (row, plan) of each candidate; rows lack what only the model tells.
        questions: of tasks, over all plans.
        scanned: plans that costs are measured with, on few windows.
        scored: whether the calibration windows run through the model for scores.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self.noted: dict[tuple[Any, ...], tuple[Row, Plan]] = {}
        self.questions: dict[tuple[Any, ...], int] = {}
        self.scanned = 0
        self.scored = False
        _noted.get().append(self)

    @property
    def loaded(self) -> Any:
        return None

    @property
    def fingerprint(self) -> str:
        return ""

    @property
    def layout(self) -> Layout:
        return stand_in(self.model)

    @property
    def calibration(self) -> Tensor:
        return torch.zeros(self.calibrate.n, self.calibrate.length, dtype=torch.long)

    @property
    def judging(self) -> Tensor:
        return torch.zeros(self.judge.n, self.judge.length, dtype=torch.long)

    @property
    def columns(self) -> dict[str, str]:
        return {
            "study": self.study,
            "model": self.model,
            "fingerprint": "",
            "quantizer": spec(QUANTIZERS, self.quantizer),
            "calibration": str(self.calibrate),
            "judge": str(self.judge),
            "dtype": self.arithmetic,
        }

    @property
    def widths(self) -> set[Option]:
        """To which matrices are quantized."""
        chosen = {width for _, plan in self.noted.values() for width in plan.bits.values()}
        return chosen - {DROPPED, KEPT}

    def release(self) -> None:
        """Nothing: no model is held."""

    def units(self, granularity: str = "block", outside: bool = False) -> Layout:
        """Blocks, whatever is asked for; `outside`: and a head."""
        return stand_in(self.model, outside)

    def _scores(self, scorers: Mapping[str, Any]) -> dict[str, Scores | Costs]:
        """Made-up scores: an order for each label, turned round for a reverse."""
        self.scored |= any(Declared.of(scorer).needs for scorer in scorers.values())
        return {
            label: _made_up_scores(scorer, self.units(outside=Declared.of(scorer).outside))
            for label, scorer in scorers.items()
        }

    def costs(self, widths: Sequence[int], windows: int = 8) -> Costs:
        """Made-up harm, which falls with bits."""
        self.scanned += len(self.layout.units) * len(widths)
        weight = _made_up("costs", self.layout)
        harm: dict[str, dict[Option, float]] = {
            unit: {width: (1 + value) * math.exp(-width) for width in widths}
            for unit, value in weight.items()
        }
        return Costs(harm, self.layout, costs_name(self.columns["quantizer"]))

    def search(self, scores: Scores | Costs, budget: Budget, allocator: str, passes: float) -> Plan:
        """The plan of a knapsack, in place of the one that a search would find."""
        self.scanned += round(passes)
        return within(scores, budget, "knapsack")

    def measure(self, candidates: Iterable[Candidate]) -> None:
        """Take note of the candidates."""
        for candidate in candidates:
            row = self._row(candidate)
            key = (row.plan, row.high, row.low, row.ordering, row.moved)
            self.noted.setdefault(key, (row, candidate.plan))

    def measure_floor(self) -> None:
        """Take note of the noise floor."""
        row, plan = self._floor()
        self.noted.setdefault((row.plan, row.high, row.low, row.ordering, row.moved), (row, plan))

    def _answer(self, plan: Plan, rows: Mapping[str, Row], questions: Questions) -> None:
        """Take note of the questions."""
        self.questions.update({key_of(row): questions.items for row in rows.values()})

    def rankings(self, *variants: Any, **settings: Any) -> None:
        """Nothing: no plan is measured."""

    def table(self, **where: Any) -> pd.DataFrame:
        """No rows."""
        return self.results.table()


def key_of(row: Row | Mapping[str, Any]) -> tuple[Any, ...]:
    """What tells a row from the others of a model, without the model: all that names it but hashes.

    The number of units moved stands for itself where no allocator was held to a budget.
    """
    values = row if isinstance(row, Mapping) else vars(row)
    names = ("study", "model", "quantizer", "high", "low", "ordering", "scorer", "way", "dtype")
    texts = (str(values[name]).partition(" #")[0] for name in ("calibration", "judge"))
    return (*(values[name] for name in names), *texts, values["budget"] or values["moved"])


def stand_in(model: str, outside: bool = False) -> Layout:
    """A layout of as many blocks as the model has, of about their weights in a matrix each;
    `outside`: and a head with those of embeddings and head.
    """
    known = sizes.of(model)
    inner = known.in_blocks / known.blocks
    columns = ROUND * max(1, round(math.sqrt(inner / 12) / ROUND))
    own, head = (
        (ROUND * max(1, round(weights / columns / ROUND)), columns)
        for weights in (inner, known.parameters - known.in_blocks)
    )
    names = [f"model.layers.{place}" for place in range(known.blocks)]
    units = {name: {f"{name}.weight": own} for name in names}
    if outside:
        units["lm_head"] = {"lm_head": head}
    return Layout(model, "", "block", units, dict.fromkeys(["", *names], 0))


def _made_up_scores(scorer: Any, layout: Layout) -> Scores:
    return Scores(_made_up(scorer, layout), layout, spec(SCORERS, scorer))


def _made_up(scorer: Any, layout: Layout) -> dict[str, float]:
    if isinstance(scorer, Reversed):
        found = _made_up(scorer.scorer, layout)
        return {unit: len(found) - value for unit, value in found.items()}
    places = list(range(len(layout.units)))
    random.Random(str(scorer)).shuffle(places)
    return {unit: float(place) for unit, place in zip(layout.units, places, strict=True)}


def noting(found: list[Rehearsal]) -> None:
    """Experiments from here on are noted in `found`."""
    _noted.set(found)


@contextmanager
def rehearsing() -> Iterator[list[Rehearsal]]:
    """Inside, experiments take note and results are empty; yields the experiments as they come."""
    found: list[Rehearsal] = []
    kind, rehearsal, noted = KIND.set(Rehearsal), REHEARSAL.set(True), _noted.set(found)
    try:
        yield found
    finally:
        KIND.reset(kind)
        REHEARSAL.reset(rehearsal)
        _noted.reset(noted)


def rehearse(notebook: Path, parameters: Mapping[str, Any]) -> list[Rehearsal]:
    """The experiments of a notebook with these parameters, and what each would measure.

    Raises InputError for a cell that cannot run without numbers.
    """
    with rehearsing() as found:
        run_cells(notebook, parameters)
    return found


def run_cells(notebook: Path, parameters: Mapping[str, Any]) -> None:
    """Run the cells of a notebook that measure, with these parameters, in this process.

    Raises InputError, naming the cell, where one fails.
    """
    import nbformat

    names: dict[str, Any] = {}
    for number, cell in enumerate(nbformat.read(notebook, as_version=4).cells):
        tags = set(cell.metadata.get("tags", []))
        if cell.cell_type != "code" or tags & SHOWING:
            continue
        code = "\n".join(line for line in cell.source.splitlines() if line[:1] not in "%!")
        try:
            exec(compile(code, f"{notebook.name}, cell {number}", "exec"), names)
        except InputError:
            raise
        except Exception as error:
            raise InputError(
                f"cell {number} of {notebook.name} does not run without numbers "
                f"({type(error).__name__}: {error}); tag it look if it only shows some"
            ) from error
        if "parameters" in tags:
            names.update(parameters)
