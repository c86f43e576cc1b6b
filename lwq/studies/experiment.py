"""One model, one quantizer, one text to calibrate on and one to judge on: score, plan, measure,
remember.
"""

import copy
import gc
import importlib.metadata
import platform
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from lwq import allocators as allocating
from lwq import models
from lwq.common import paths
from lwq.common.errors import InputError
from lwq.common.hashing import code_digest, digest
from lwq.common.names import build, pick, spec, split
from lwq.common.version import VERSION
from lwq.contracts import (
    KEPT,
    Budget,
    Costs,
    Layout,
    Option,
    Plan,
    Row,
    Scores,
    Size,
    load_scores,
)
from lwq.contracts.results import FLOOR, TAILS
from lwq.engine import costs as measuring
from lwq.engine.bank import Bank, restore_
from lwq.engine.evaluate import Reference, divergence, reference
from lwq.engine.objective import Objective
from lwq.engine.store import Store
from lwq.engine.sweep import Sweep
from lwq.inputs import catalogue
from lwq.inputs.texts import Drawn, WindowSpec, token_digest
from lwq.quantizers import QUANTIZERS
from lwq.results.measurements import Results
from lwq.scorers import SCORERS, score_all
from lwq.scorers.shared.code import scorer_codes
from lwq.scorers.shared.declared import Declared
from lwq.studies import candidates, memory, sizes
from lwq.studies.candidates import Candidate

# the carried models were dequantized from groups of 32, which such a grid would reproduce exactly
FORBIDDEN_GROUP = 32
PASSES = ("forwards", "backwards")  # of what a score says that it took
ROUGH = "bfloat16"  # what the same model is mostly run in
ROUGHLY = f"reference, {ROUGH}"  # the ordering of the noise floor


@dataclass(frozen=True)
class Ranking:
    """A score beside the one it is a variant of.

    Attributes:
        score: importance of each unit, in the order of the forward pass.
        spearman: rank correlation with the default, from −1 to 1.
        passes: what the score took: "forwards" and "backwards" of the calibration windows.
    """

    score: np.ndarray
    spearman: float
    passes: Mapping[str, float] = field(default_factory=dict)

    def summary(self) -> dict[str, float]:
        return {"spearman": self.spearman, **self.passes}

    def arrays(self) -> dict[str, np.ndarray]:
        return {"score": self.score}


def _shared(make: Callable[["Experiment"], Any]) -> Any:
    """A property made when it is first needed, once for all experiments that come from one by
    `using`.
    """

    def get(self: "Experiment") -> Any:
        if make.__name__ not in self.held:
            self.held[make.__name__] = make(self)
        return self.held[make.__name__]

    return property(get, doc=make.__doc__)


def _of_text(make: Callable[["Experiment"], Any]) -> Any:
    """The same for what is made of the judging windows: that of the text used last is held."""

    def get(self: "Experiment") -> Any:
        text, found = self.held.get(make.__name__, (None, None))
        if text != self.judge:
            self.held.pop(make.__name__, None)  # two need not stand in memory together
            found = make(self)
            self.held[make.__name__] = self.judge, found
        return found

    return property(get, doc=make.__doc__)


# what experiments are, inside a rehearsal
KIND: ContextVar[type["Experiment"] | None] = ContextVar("kind", default=None)


@dataclass
class Experiment:
    """Everything that a study's measurements have in common. What is expensive is made when it is
    first needed.

    Attributes:
        study: name that stands in the rows.
        model: a name for `lwq.load`.
        quantizer: a name, a call in text or an object.
        calibrate, judge: how windows are drawn; scores and quantizers see the first, judgement the
            second.
        results: where measurements are looked up and kept.
        dtype: of the weights that are scored and quantized, and of that arithmetic.
        judge_dtype: of the weights and the arithmetic that plans are judged with; "" is `dtype`.
            Where it is narrower than float32 the ends of a sweep are judged in float32 too.
        stream: keep the weights on disk, as `lwq.load` does: the same numbers, slower, in less
            memory.
        tails: quantiles of KL over tokens stand in the rows, too.
        held: what experiments that come from this one by `using` share with it.
    """

    study: str
    model: str
    quantizer: Any
    calibrate: WindowSpec
    judge: WindowSpec
    results: Results
    dtype: str = "float32"
    judge_dtype: str = ""
    stream: bool = False
    tails: bool = False
    held: dict[str, Any] = field(default_factory=dict, init=False, repr=False)

    def __new__(cls, *arguments: Any, **settings: Any) -> "Experiment":
        """An experiment; inside a rehearsal one of `KIND`, whatever the notebook names."""
        return object.__new__(KIND.get() or cls)

    def __post_init__(self) -> None:
        self.judge_dtype = self.judge_dtype or self.dtype
        for name in ("dtype", "judge_dtype"):
            pick(models.DTYPES, name, getattr(self, name))
        self.quantizer = build(QUANTIZERS, "quantizer", self.quantizer)
        if (
            self.model.endswith(catalogue.AS_FILED)
            and getattr(self.quantizer, "group_size", 0) == FORBIDDEN_GROUP
        ):
            raise InputError(
                f"group_size={FORBIDDEN_GROUP} on {self.model!r}: its weights come from a file "
                f"with groups of {FORBIDDEN_GROUP} and would look lossless; use 64, or "
                f"{catalogue.carried(self.model)!r}, whose columns stand in another order"
            )
        if self.judge.n < 2:
            raise InputError(
                f"windows={self.judge.n}: an interval needs two judging windows or "
                f"more; 32 mean something"
            )
        if self.calibrate.split == self.judge.split:
            raise InputError(
                f"calibrating and judging on the same split {self.judge.split!r}; "
                f"use 'calibrate' and 'judge'"
            )

    @_shared
    def loaded(self) -> tuple[nn.Module, Any]:
        return self._load(self.dtype)

    def _load(self, dtype: str) -> tuple[nn.Module, Any]:
        place = ("cuda" if self.stream else "auto") if torch.cuda.is_available() else None
        return models.load(self.model, dtype, device_map=place, stream=self.stream)

    @_shared
    def layout(self) -> Layout:
        """The model's blocks."""
        return models.layout(self.loaded[0])

    @_shared
    def judged(self) -> nn.Module:
        """The model that holds the plans: `loaded` itself, or a copy in `judge_dtype`."""
        model = self.loaded[0]
        return model if self.judge_dtype == self.dtype else self._rounded(self.judge_dtype)

    def _rounded(self, dtype: str) -> nn.Module:
        """The untouched model in another dtype."""
        restore_(self.loaded[0])
        return self._load(dtype)[0] if self.stream else models.cast(self.loaded[0], dtype)

    @_shared
    def fingerprint(self) -> str:
        """The model's weights, and the settings that they compute with."""
        model = self.loaded[0]
        restore_(model)
        return f"{models.fingerprint(model)}-{models.configuration(model)}"

    @property
    def arithmetic(self) -> str:
        """Both dtypes, as the rows name them."""
        return (
            self.dtype
            if self.judge_dtype == self.dtype
            else f"{self.judge_dtype} from {self.dtype}"
        )

    @cached_property
    def calibration(self) -> Tensor:
        return self.calibrate.draw(self.loaded[1]).windows

    @_of_text
    def judged_on(self) -> Drawn:
        """The judging windows, and their documents."""
        return self.judge.draw(self.loaded[1])

    @property
    def judging(self) -> Tensor:
        return self.judged_on.windows

    @cached_property
    def bank(self) -> Bank:
        room = memory.of_bank(models.nbytes(self.judged), self.stream)
        return Bank(
            self.judged, self.quantizer, self.calibration, Store(), room, exact=self.loaded[0]
        )

    @_of_text
    def reference(self) -> Reference:
        """The untouched model on the judging windows."""
        restore_(self.judged)
        room = memory.of_reference(models.free_memory(self.judged), self.stream)
        return reference(self.judged, self.judging, room, self.judged_on.documents)

    @cached_property
    def engine(self) -> Sweep:
        """Measures plans on the judging windows."""
        return Sweep(self.judged, self.judging, self.bank, self.reference, tails=self.tails)

    def using(
        self,
        quantizer: Any = None,
        calibrate: WindowSpec | None = None,
        judge: WindowSpec | None = None,
    ) -> "Experiment":
        """The same with another quantizer, other calibration or other judging windows; the loaded
        model is shared, and the reference where the judging windows are the same.
        """
        other = copy.copy(self)
        # what was made of the old ones goes; what all share stands in `held`
        kept = {"calibration"} if calibrate is None else set()
        if quantizer is None and calibrate is None:
            kept.add("bank")
        made = {
            key for key, value in vars(Experiment).items() if isinstance(value, cached_property)
        }
        other.__dict__ = {
            key: value for key, value in self.__dict__.items() if key not in made - kept
        }
        other.quantizer = self.quantizer if quantizer is None else quantizer
        other.calibrate = calibrate or self.calibrate
        other.judge = judge or self.judge
        other.__post_init__()
        return other

    def costs(self, widths: Sequence[int], windows: int = 8) -> Costs:
        """Harm of each block at each width, measured on the first calibration windows and kept
        beside the scores.
        """
        few = self.calibration[:windows, : self.judging.shape[1]]
        names = [
            spec(QUANTIZERS, self.quantizer),
            self.bank.source,
            self.fingerprint,
            self.arithmetic,
            code_digest(measuring),
        ]
        named = [*names, self._common["calibration"], list(few.shape), list(widths)]
        path = self._scores_folder() / f"costs-{digest(named)}.json"
        if not path.is_file():
            restore_(self.judged)
            sweep = Sweep(self.judged, few, self.bank, reference(self.judged, few))
            found = measuring.measured_costs(sweep, widths, data=self._common["calibration"])
            with paths.replacing(path) as temporary:
                found.save(temporary)
        return Costs.load(path)

    def search(self, scores: Scores | Costs, budget: Budget, allocator: str, passes: float) -> Plan:
        """The plan of an allocator that measures plans, kept beside the scores.

        It measures on windows of the calibration text's tune split, as many and as long as those
        that plans are judged on.

        Args:
            passes: forward passes over those windows that it may spend.
        """
        tune = self.judge.on(text=self.calibrate.text, split="tune")
        named = [
            *(scores.scorer, scores.data, self.fingerprint, self.arithmetic, self.bank.source),
            *(allocator, repr(passes), str(tune), code_digest(allocating)),
            *(
                budget.limit,
                budget.amount,
                list(map(str, budget.widths)),
                scores.layout.granularity,
            ),
        ]
        path = self._scores_folder() / f"plan-{digest(named)}.json"
        if not path.is_file():
            restore_(self.judged)
            windows = tune.draw(self.loaded[1]).windows
            sweep = Sweep(self.judged, windows, self.bank, reference(self.judged, windows))
            objective = Objective(sweep, passes, scores.layout.granularity)
            found = allocating.within(scores, budget, allocator, objective)
            with paths.replacing(path) as temporary:
                found.save(temporary)
        return Plan.load(path)

    def release(self) -> None:
        """Let go of the model and of all that holds it, so that another one has room; what is
        needed again is made again.
        """
        if "bank" in self.__dict__:
            self.bank.release()  # the model holds it, too
        for name in ("loaded", "judged", "reference"):
            self.held.pop(name, None)
        for name in ("bank", "engine"):
            self.__dict__.pop(name, None)
        gc.collect()  # hooks hold models in circles
        models.give_back()

    def units(self, granularity: str = "block", outside: bool = False) -> Layout:
        """The model's units; `outside`: embeddings and head too."""
        restore_(self.loaded[0])
        return models.layout(self.loaded[0], granularity, outside)

    def orderings(
        self, names: str | Sequence[str] | Mapping[str, str], seeds: int = 0
    ) -> dict[str, Scores | Costs]:
        """Label -> Scores (or Costs, of a scorer that says what each option costs), in one pass.

        Args:
            names: scorers as text, a list or one string with commas; `random` stands for `seeds`
                random orders; or label -> scorer. One of your own is `my_scorers.py:Mine`, see
                `lwq.common.user_code`.
        """
        built = built_of(names, seeds)
        self._require_same_code(built)
        restore_(self.loaded[0])
        source = [
            self.fingerprint,
            self._common["calibration"],
            self.dtype,
            importlib.metadata.version("transformers"),
        ]
        files = {
            label: self._scores_folder()
            / f"{digest([spec(SCORERS, s), *source, *scorer_codes(s)])}.json"
            for label, s in built.items()
        }
        kept = {
            label: scores for label, path in files.items() if (scores := _cached(path)) is not None
        }
        if missing := [label for label in files if label not in kept]:
            windows = (
                self.calibration
                if any(Declared.of(built[label]).needs for label in missing)
                else None
            )
            found = score_all(
                self.loaded[0],
                [built[label] for label in missing],
                windows,
                self._common["calibration"],
            )
            for label, scores in zip(missing, found, strict=True):
                with paths.replacing(files[label]) as temporary:
                    scores.save(temporary)
                kept[label] = load_scores(files[label])
        kinds = {label: scores.layout.granularity for label, scores in kept.items()}
        if len(set(kinds.values())) > 1:
            raise InputError(
                f"orderings of units of different kinds cannot share a figure: "
                f"{kinds}; run them one by one"
            )
        return {label: kept[label] for label in files}

    def _require_same_code(self, built: Mapping[str, Any]) -> None:
        """Raise InputError where rows of these labels come from another state of the user's file:
        curves would mix the two.
        """
        rows = [record["row"] for record in self.results.found.values()]
        for label, scorer in built.items():
            text = spec(SCORERS, scorer)
            others = {
                row["scorer"]
                for row in rows
                if (row["study"], row["ordering"]) == (self.study, label)
            } - {text}
            if ":" in label and others:
                raise InputError(
                    f"{label!r} is {text} now, and {self.results.folder} holds rows of "
                    f"{sorted(others)}; choose another "
                    "results_dir, or another name for the class"
                )

    def _scores_folder(self) -> Path:
        return paths.writable(self.results.folder / "scores")

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
            high=high, low=low, units=len(layout.units), quantizer=self._common["quantizer"]
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
        rounded = self.judged if self.judge_dtype == ROUGH else self._rounded(ROUGH)
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
        for candidate in candidates:
            row = self._row(candidate)
            self.results.remember(candidate.plan)
            rows = {task: replace(row, judge=questions(task, items, seed, hub)) for task in tasks}
            if left := [task for task in tasks if not self.results.known(rows[task])]:
                self._answer(candidate.plan, {task: rows[task] for task in left}, items, seed, hub)

    def _answer(
        self, plan: Plan, rows: Mapping[str, Row], items: int, seed: int, hub: bool
    ) -> None:
        from lwq.engine.tasks import evaluate_tasks

        start = time.monotonic()
        self.bank.apply_(plan)
        try:
            found = evaluate_tasks(self.judged, self.loaded[1], list(rows), items, seed, hub)
        finally:
            self.bank.restore_()
        for task, score in found.items():
            self.results.keep(rows[task], score, (time.monotonic() - start) / len(rows))

    def rankings(
        self,
        variants: Sequence[str] | Mapping[str, str],
        default: Scores | Costs,
        option: Option = KEPT,
    ) -> None:
        """Rank correlation of each variant of a score with the `default`, on these calibration
        windows; what says the harm of options counts by its harm at `option`.
        """
        truth = values_at(default, option)
        for label, scores in self.orderings(variants).items():
            untouched = Plan(dict.fromkeys(scores, KEPT), scores.layout, "")
            beside = f"{default.scorer} on {default.data}"
            row = replace(
                self._row(Candidate(label, scores.scorer, untouched, 0, 0, 0, "reading")),
                plan="",
                judge=beside,
            )
            if not self.results.known(row):
                values = values_at(scores, option)
                if not np.ptp(values) or not np.ptp(truth):
                    raise InputError(
                        f"{label} or {beside}: all scores are equal, and a rank "
                        f"correlation needs some that differ"
                    )
                agreement = float(spearmanr(values, truth).statistic)
                passes = {key: scores.cost[key] for key in PASSES if key in scores.cost}
                self.results.keep(row, Ranking(values, agreement, passes), 0.0)
        self.results.write()

    def table(self, **where: Any) -> pd.DataFrame:
        """Write what is measured, and return this experiment's rows with those columns."""
        self.results.write()
        shared = {key: value for key, value in self._common.items() if key != "quantizer"}
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
            **self._common,
        )

    @cached_property
    def _common(self) -> dict[str, str]:
        """The columns that all rows of this experiment share."""
        return {
            "study": self.study,
            "model": self.model,
            "fingerprint": self.fingerprint,
            "quantizer": spec(QUANTIZERS, self.quantizer),
            "calibration": f"{self.calibrate} #{token_digest(self.calibration)}",
            "judge": f"{self.judge} #{token_digest(self.judging)}",
            "dtype": self.arithmetic,
        }


def questions(task: str, items: int, seed: int, hub: bool) -> str:
    """The questions of a task, as the column `judge` names them."""
    return f"{task} {items} items seed {seed}{' hub' * hub}"


def values_at(found: Scores | Costs, option: Option) -> np.ndarray:
    """Importance of each unit (units,), or its harm at `option`."""
    if isinstance(found, Costs):
        return np.array([harm[option] for harm in found.values()])
    return np.array(list(found.values()))


def built_of(names: str | Sequence[str] | Mapping[str, str], seeds: int = 0) -> dict[str, Any]:
    """Label -> scorer; the arguments are those of `Experiment.orderings`."""
    texts = names if isinstance(names, Mapping) else {n: n for n in labels_of(names, seeds)}
    return {label: build(SCORERS, "scorer", text) for label, text in texts.items()}


def labels_of(names: str | Sequence[str], seeds: int) -> list[str]:
    """The orderings that `names` stand for: `random` is one for each seed."""
    seeded = [f"random(seed={seed})" for seed in range(seeds)]
    return [label for name in split(names) for label in (seeded if name == "random" else [name])]


def _cached(path: Path) -> Scores | Costs | None:
    """The scores in a file, None where there are none; what is damaged is made again."""
    try:
        return load_scores(path) if path.is_file() else None
    except InputError:
        return None


@lru_cache
def environment() -> str:
    """Versions and processor that decide the last bits of a number."""
    if torch.cuda.is_available():
        processor = torch.cuda.get_device_name()
    else:
        processor = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    python, transformers = platform.python_version(), importlib.metadata.version("transformers")
    return f"Python {python}, torch {torch.__version__}, transformers {transformers}, {processor}"


def texts(
    calibrate: str, judge: str, nsamples: int, seqlen: int, windows: int, length: int
) -> tuple[WindowSpec, WindowSpec]:
    """Where a study calibrates and where it judges: two splits that share no document."""
    return WindowSpec(calibrate, "calibrate", nsamples, seqlen, 0), WindowSpec(
        judge, "judge", windows, length, 0
    )


def quantizer(text: Any, **settings: Any) -> Any:
    """A quantizer from text, with settings on top: `quantizer("gptq", group_size=64)`."""
    return build(QUANTIZERS, "quantizer", text, **settings)
