"""A notebook run from the tables: what was measured is looked up; no model, no text and no pass.

`look_up()` in its first cell does that to the experiments of a notebook. The rows, and all that is
drawn from them, are those that were measured; the run ends where one is missing.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import pandas as pd

from lwq.common.errors import InputError
from lwq.common.names import spec
from lwq.contracts import Costs, Layout, Plan, Row, Scores
from lwq.contracts.results import WHOLE
from lwq.quantizers import QUANTIZERS
from lwq.studies.asked import Questions
from lwq.studies.candidates import Candidate
from lwq.studies.experiment import KIND
from lwq.studies.rehearsal import Rehearsal, key_of, noting, stand_in

SAID = "every row is looked up in the results table; nothing is loaded or measured"


def look_up() -> str:
    """From here on experiments of this notebook look up their rows; says so."""
    KIND.set(Replay)
    noting([])
    return SAID


@dataclass
class Replay(Rehearsal):
    """An experiment whose rows stand in the results already; it measures nothing."""

    @cached_property
    def _rows(self) -> list[Mapping[str, Any]]:
        """Of this study and model in this arithmetic, on these texts."""
        rows = [record["row"] for record in self.results.found.values()]
        texts = (("calibration", str(self.calibrate)), ("judge", str(self.judge)))
        found = [
            row
            for row in rows
            if (row["study"], row["model"], row["dtype"])
            == (self.study, self.model, self.arithmetic)
            and all(row[name].partition(" #")[0] == text for name, text in texts)
        ]
        if not found:
            raise InputError(
                f"{self.results.folder} has no rows of {self.study} on {self.model!r} with these "
                f"texts in {self.arithmetic}; `lwq study {self.study}` measures them"
            )
        return found

    @cached_property
    def _known(self) -> frozenset[tuple[Any, ...]]:
        return frozenset(key_of(record["row"]) for record in self.results.found.values())

    def _the(self, column: str) -> str:
        """What all rows share."""
        (*others, value) = sorted({str(row[column]) for row in self._rows})
        if others:
            raise InputError(
                f"{self.results.folder} holds rows of {self.study} on {self.model!r} with several "
                f"values of {column}: {[*others, value]}; keep one of them there"
            )
        return value

    @property
    def fingerprint(self) -> str:
        return self._the("fingerprint")

    @property
    def layout(self) -> Layout:
        """The blocks by their own names, as large as `stand_in` makes them."""
        made, kept = stand_in(self.model), self.results.plans
        plans = (kept[row["plan"]]["bits"] for row in self._rows if row["plan"] in kept)
        names = next((bits for bits in plans if len(bits) == len(made.units)), made.units)
        units = dict(zip(names, made.units.values(), strict=True))
        return Layout(self.model, "", "block", units, dict.fromkeys(["", *units], 0))

    @property
    def columns(self) -> dict[str, str]:
        """The columns that all rows share, as the table has them."""
        shared = ("study", "model", "fingerprint", "calibration", "judge", "dtype")
        quantizer = spec(QUANTIZERS, self.quantizer)
        return {**{name: self._the(name) for name in shared}, "quantizer": quantizer}

    def _scores(self, scorers: Mapping[str, Any]) -> dict[str, Scores | Costs]:
        """Scores in the order in which the measured plans of a label gave bits.

        Plans know an order as finely as they were measured: units that all of them treat alike
        stand in the order of the forward pass.
        """
        made = {k: v for k, v in super()._scores(scorers).items() if isinstance(v, Scores)}
        bits = dict(self._given(made))
        return {
            label: replace(scores, importance=bits[label]) if label in bits else scores
            for label, scores in made.items()
        }

    def _given(self, labels: Iterable[str]) -> Iterator[tuple[str, dict[str, float]]]:
        """Label -> unit -> sum of its bits over the plans of that label."""
        units = self.layout.units
        for label in labels:
            plans = {row["plan"] for row in self._rows if row["ordering"] == label}
            found = [
                kept["bits"]
                for plan in sorted(plans)
                if (kept := self.results.plans.get(plan)) and kept["bits"].keys() == units.keys()
            ]
            numbers = [bits for bits in found if not any(isinstance(o, str) for o in bits.values())]
            if numbers:
                yield label, {unit: sum(float(bits[unit]) for bits in numbers) for unit in units}

    def measure(self, candidates: Iterable[Candidate]) -> None:
        """Nothing; raises InputError where a candidate has no row.

        Uniform bits of whole files are taken as they stand in the table: which of them lie near a
        size, only the model tells.
        """
        for candidate in candidates:
            if (candidate.ordering, candidate.way) != ("uniform", WHOLE):
                self._require(vars(self._row(candidate)))

    def measure_floor(self) -> None:
        """Nothing; raises InputError where it has no row."""
        self._require(vars(self._floor()[0]))

    def _answer(self, plan: Plan, rows: Mapping[str, Row], questions: Questions) -> None:
        """Nothing; raises InputError where a task has no row."""
        for row in rows.values():
            self._require(vars(row))

    def _require(self, row: Mapping[str, Any]) -> None:
        if key_of(row) not in self._known:
            raise InputError(
                f"{self.results.folder} has no row of {row['ordering']} with {row['moved']} moved "
                f"({row['way']}); `lwq study {self.study}` measures what is missing"
            )

    def table(self, **where: Any) -> pd.DataFrame:
        """This experiment's rows with those columns; nothing is written."""
        shared = {key: value for key, value in self.columns.items() if key != "quantizer"}
        return self.results.table(**{**shared, **where})
