"""What a study will take, before it starts: plans, time and memory, from its parameters alone. No
model is loaded.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lwq.common.names import build, split
from lwq.contracts import KEPT

BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
SWEPT = 0.65  # of the work of a full forward pass, for a plan of a sweep
REACHED = 0.4  # of the speed of a large matrix product, for a model with its losses
ROUNDED = 0.2  # of a pass with its statistics, to quantize all matrices at one more width
QUESTION = 100  # tokens of a question with its answers
GIB = 1 << 30


@dataclass(frozen=True)
class Forecast:
    """What one point of a study takes.

    Attributes:
        plans: how many are measured.
        tokens: forward passes of the whole model, in tokens: plans, tasks, calibration, the
            training of a ladder.
        operations: floating-point operations.
        memory: bytes at the peak: the model, its originals, the bank, the reference, the
            boundaries.
    """

    plans: int
    tokens: float
    operations: float
    memory: float

    def seconds(self, speed: float) -> float:
        """At `speed` operations a second in matrix products."""
        return self.operations / (speed * REACHED)


def of_point(
    study: str, parameters: Mapping[str, Any], models: Mapping[str, Mapping[str, float]]
) -> Forecast:
    """The estimate for `parameters` (those of the notebook, all of them); `models` gives blocks and
    parameters by name.
    """
    p = parameters
    names = p.get("models") or [p["model"]]
    sizes = [models.get(name, {"blocks": 32, "parameters": 7e9}) for name in names]
    found = [_count(study, p, int(size["blocks"])) for size in sizes]
    judged = p["windows"] * p["length"]
    asked = (
        len(p.get("tasks", []))
        * p.get("items", 0)
        * QUESTION
        * _orders(p["orderings"], p)
        * len(p.get("shares", ()))
        if p.get("tasks")
        else 0
    )
    tokens = [
        plans * judged * SWEPT
        + asked
        + (passes + ROUNDED * widths) * p["nsamples"] * p["seqlen"]
        + _trained(name)
        for name, (plans, passes, widths) in zip(names, found, strict=True)
    ]
    weights = [float(size["parameters"]) for size in sizes]
    wide, judged_wide = BYTES[p["dtype"]], BYTES[p["judge_dtype"] or p["dtype"]]
    # the weights, and the originals of those that plans change; the judged copy is one more where
    # its dtype is another
    held = 2 * wide if wide == judged_wide else wide + 2 * judged_wide
    memory = max(
        w * (held + min(widths, 4 * GIB / w))
        for w, (_, _, widths) in zip(weights, found, strict=True)
    )
    operations = sum(2 * w * t for w, t in zip(weights, tokens, strict=True))
    return Forecast(sum(plans for plans, *_ in found), sum(tokens), operations, memory + 4 * GIB)


def _trained(name: str) -> int:
    """Passes of a token that train a rung of the depth ladder which is not in the cache: one
    forward, two backward.
    """
    from lwq.inputs import catalogue, ladder

    depth = catalogue.rung(name)
    if depth is None or ladder.place(recipe := ladder.Recipe(depth)).is_dir():
        return 0
    return 3 * recipe.steps * recipe.batch * recipe.length


def _orders(names: Any, p: Mapping[str, Any]) -> int:
    return sum(p["seeds"] if name == "random" else 1 for name in split(names))


def _count(study: str, p: Mapping[str, Any], blocks: int) -> tuple[int, int, int]:
    """(plans, passes over the calibration windows, widths that are quantized)."""
    if study == "pruning":
        sizes, widths = len(p["dropped"]), len(p["widths"])
        drops = (_orders(p["drop_orders"], p) + bool(p["angular"])) * sizes
        moves = _orders(p["move_orders"], p) * sizes * widths
        scan = blocks * (widths + 1) + sizes if p["knapsack"] else 0
        return (
            drops + moves + scan + len(p["masks"]) * len(p["rates"]) * sizes,
            1 + _passes(p["quantizer"], widths) + len(p["masks"]),
            widths,
        )
    orders = _orders(p["orderings"], p)
    if study == "dynamic_methods":
        ways, budgets = len(p["methods"]), len(p["budgets"])
        # an original and two uniform ones
        plans = 3 + orders * (len(p["moved"]) + len(p["raised"]))
        return (
            ways * plans + budgets * (1 + orders),
            1 + 2 * ways + 2 * budgets,
            3 * ways + 2 * budgets,
        )
    between = p["high"] - p["low"] + 1 if p["high"] != KEPT else 2
    inner = min(p["steps"] - 2, blocks - 1) + sum(
        p["low"] <= bits <= p["high"] for bits in p.get("avg_bits", ())
    )
    # one pass for the scores
    return orders * inner + between + 1, 1 + _passes(p["quantizer"], between), between


def _passes(quantizer: Any, widths: int) -> int:
    """Over the calibration windows, to quantize to so many widths; behind its like, a block runs
    twice for each.
    """
    from lwq.quantizers import QUANTIZERS

    built = build(QUANTIZERS, "quantizer", quantizer)
    return (2 * widths if built.inputs == "uniform" else 1) if built.needs else 0


def free() -> int:
    """Bytes that are free where models go: on the GPU, or in this machine."""
    import torch

    from lwq import models

    return models.free_bytes(torch.device("cuda" if torch.cuda.is_available() else "cpu"))


def speed(dtype: str = "float32") -> float:
    """Operations a second that this machine reaches in a matrix product of 1,024 rows and
    columns.
    """
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    square = torch.ones(1024, 1024, dtype=getattr(torch, dtype), device=device)
    square @ square
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < 0.2:
        float((square @ square)[0, 0])
        count += 1
    return count * 2 * 1024**3 / (time.perf_counter() - start)
