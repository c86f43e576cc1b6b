"""What a study will take, before it starts: plans, time and memory, from a rehearsal. No model is
loaded.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lwq.common.names import build
from lwq.contracts.methods import Quantizer
from lwq.quantizers import QUANTIZERS
from lwq.results.measurements import rows
from lwq.studies import grid, memory, sizes
from lwq.studies.grid import Point
from lwq.studies.memory import GIB as GIB
from lwq.studies.rehearsal import Rehearsal, key_of, rehearse

BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
SWEPT = 0.65  # of the work of a full forward pass, for a plan of a sweep
REACHED = 0.4  # of the speed of a large matrix product, for a model with its losses
ROUNDED = 0.2  # of a pass with its statistics, to quantize all matrices at one more width
SCANNED = 8  # windows that costs are measured on
QUESTION = 100  # tokens of a question with its answers


@dataclass(frozen=True)
class Forecast:
    """What one point of a study takes.

    Attributes:
        plans: how many there are.
        measured: how many of them stand in the results already.
        questions: of tasks that are left, over all plans.
        tokens: forward passes of the whole model that are left, in tokens: plans, tasks,
            calibration, the training of a ladder.
        operations: floating-point operations.
        memory: bytes at the peak; see `lwq.studies.memory`.
    """

    plans: int
    measured: int
    questions: int
    tokens: float
    operations: float
    memory: float

    @property
    def finished(self) -> bool:
        """Whether nothing is left to be measured."""
        return self.measured == self.plans and not self.questions

    def seconds(self, speed: float) -> float:
        """At `speed` operations a second in matrix products."""
        return self.operations / (speed * REACHED)


def of_point(point: Point, known: frozenset[Any] = frozenset()) -> Forecast:
    """The estimate for a point: what its notebook would measure, without what is `known`.

    Args:
        point: from `grid.points`.
        known: from `measured`; the same key may stand for rows of other weights or texts under the
            same names, so that more may be left.
    """
    work = [_work(experiment, known) for experiment in rehearse(point.notebook, grid.full(point))]
    return Forecast(
        plans=sum(one.plans for one in work),
        measured=sum(one.measured for one in work),
        questions=sum(one.questions for one in work),
        tokens=sum(one.tokens for one in work),
        operations=sum(one.operations for one in work),
        memory=max(one.memory for one in work),
    )


def measured(folder: str | Path) -> frozenset[Any]:
    """Keys of the rows in a results folder, as `of_point` takes them; none where it is missing."""
    return frozenset(map(key_of, rows(folder)))


def _work(experiment: Rehearsal, known: frozenset[Any]) -> Forecast:
    """What one experiment takes."""
    size = sizes.of(experiment.model)
    weights, widths = float(size.parameters), len(experiment.widths)
    plans = {row.plan for row, _ in experiment.noted.values()}
    left = {row.plan for row, _ in experiment.noted.values() if key_of(row) not in known}
    asked = sum(items for key, items in experiment.questions.items() if key not in known)
    tokens = len(left) * experiment.judge.n * experiment.judge.length * SWEPT + asked * QUESTION
    if left or asked:
        passes = experiment.scored + _passes(experiment.quantizer, widths)
        windows = experiment.calibrate.n * experiment.calibrate.length
        tokens += (passes + ROUNDED * widths) * windows + _trained(experiment.model)
        tokens += experiment.scanned * experiment.judge.length * SCANNED * SWEPT
    peak = memory.Peak(
        size,
        BYTES[experiment.dtype],
        BYTES[experiment.judge_dtype],
        experiment.stream,
        widths,
        bool(build(QUANTIZERS, "quantizer", experiment.quantizer).needs),
        experiment.calibrate.n * experiment.calibrate.length,
        experiment.judge.n,
        experiment.judge.length,
    )
    done = len(plans) - len(left)
    return Forecast(len(plans), done, asked, tokens, 2 * weights * tokens, peak.bytes())


def _trained(name: str) -> int:
    """Passes of a token that train a rung of the depth ladder which is not in the cache: one
    forward, two backward.
    """
    from lwq.inputs import catalogue, ladder

    depth = catalogue.rung(name)
    if depth is None or ladder.place(recipe := ladder.Recipe(depth)).is_dir():
        return 0
    return 3 * recipe.steps * recipe.batch * recipe.length


def _passes(quantizer: Quantizer, widths: int) -> int:
    """Over the calibration windows, to quantize to so many widths; behind its like, a block runs
    twice for each.
    """
    built = build(QUANTIZERS, "quantizer", quantizer)
    return (2 * widths if built.inputs == "uniform" else 1) if built.needs else 0


def free() -> int:
    """Bytes that are free where models go: on the GPU, or in this machine."""
    import torch

    from lwq import models

    return models.free_bytes(torch.device("cuda" if torch.cuda.is_available() else "cpu"))


def device() -> str:
    """What an estimate is about: the GPU's name, or the processor of this machine."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"the processor of this machine ({torch.get_num_threads()} threads)"


def speed(dtype: str = "float32") -> float:
    """Operations a second that this machine reaches in a matrix product of 1,024 rows and
    columns, made as models make theirs.
    """
    import torch

    from lwq import models

    device = "cuda" if torch.cuda.is_available() else "cpu"
    square = torch.ones(1024, 1024, dtype=getattr(torch, dtype), device=device)
    with models.multiplying():
        square @ square
        start, count = time.perf_counter(), 0
        while time.perf_counter() - start < 0.2:
            float((square @ square)[0, 0])
            count += 1
        return count * 2 * 1024**3 / (time.perf_counter() - start)
