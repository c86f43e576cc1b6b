"""What lwq is timed on, one case a process: python benchmarks/cases.py NAME DATA prints {label:
seconds} as JSON.

DATA is the folder that `run.py` filled: judge.npy and calibrate.npy, token windows of SmolLM2.
"""

import json
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import checkpoints
import numpy as np
import torch

import lwq
from lwq import allocators, models
from lwq.contracts import Layout, Plan, Scores
from lwq.engine.bank import Bank
from lwq.engine.sweep import Sweep
from lwq.quantizers.gptq import GPTQ
from lwq.quantizers.hqq import HQQ
from lwq.quantizers.rtn import RTN
from lwq.statistics.forward import stream
from lwq.statistics.sums import MatrixStats

MODEL = "smollm2-135m"
SAMPLE = 6  # plans whose full forward pass is timed; each costs the same


def seconds(work: Callable[[], object]) -> float:
    """Wall time of `work`."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def nested(layout: Layout, high: int, low: int, order: Iterable[int]) -> list[Plan]:
    """Blocks moved from high to low one after the other, from none to all."""
    units, bits = list(layout.units), dict.fromkeys(layout.units, high)
    plans = [Plan(dict(bits), layout, "rtn()")]
    for index in order:
        bits[units[index]] = low
        plans.append(Plan(dict(bits), layout, "rtn()"))
    return plans


def scan(layout: Layout, widths: Iterable[int]) -> list[Plan]:
    """One block at a time at each width, the others untouched."""
    return [
        Plan({**dict.fromkeys(layout.units, 16), u: width}, layout, "rtn()")
        for u in layout.units
        for width in widths
    ]


def against_full(
    model: torch.nn.Module, windows: torch.Tensor, make: Callable[[Layout], list[Plan]]
) -> dict[str, float]:
    """Seconds a plan of a sweep, and of full forward passes with the same losses (which must be
    equal).
    """
    truth = lwq.reference(model, windows)
    bank = Bank(model, RTN())
    plans = make(bank.layout)
    fill = seconds(lambda: bank.prepare(plans))
    found: dict[str, lwq.Losses] = {}
    sweep = seconds(
        lambda: found.update(
            {p.id: losses for p, losses in Sweep(model, windows, bank, truth).measure(plans)}
        )
    )
    full = 0.0
    for plan in plans[:: max(1, len(plans) // (SAMPLE - 1))]:
        bank.apply_(plan)
        start = time.perf_counter()
        losses = lwq.evaluate(model, windows, truth)
        full += (time.perf_counter() - start) / len(plans[:: max(1, len(plans) // (SAMPLE - 1))])
        assert (losses.nll == found[plan.id].nll).all() and (losses.kl == found[plan.id].kl).all()
    return {
        "a plan": sweep / len(plans),
        "a full forward": full,
        "bank": fill,
        "a plan, all": (sweep + fill) / len(plans),
    }


def order(n: int) -> list[int]:
    """A random order of n blocks, always the same."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(0)).tolist()


def case_sweep(data: Path) -> dict[str, float]:
    """31 plans that move SmolLM2's blocks from 8 to 4 bits in a random order."""
    model, _ = lwq.load(MODEL)
    windows = torch.from_numpy(np.load(data / "judge.npy"))
    return against_full(
        model, windows, lambda layout: nested(layout, 8, 4, order(len(layout.units)))
    )


def case_scan(data: Path) -> dict[str, float]:
    """30 blocks at 4 widths, one at a time."""
    model, _ = lwq.load(MODEL)
    windows = torch.from_numpy(np.load(data / "judge.npy"))[:4]
    return against_full(model, windows, lambda layout: scan(layout, (2, 3, 4, 8)))


def case_rtn(data: Path) -> dict[str, float]:
    """The whole model at 4 bits, codes packed, with rtn and hqq."""
    model, _ = lwq.load(MODEL)
    weights = [matrix.view() for matrix in models.matrices(model).values()]
    found = {}
    for label, quantizer in (("rtn", RTN()), ("hqq", HQQ())):
        quantizer(weights[0], 4).tensors()
        found[label] = seconds(
            lambda quantizer=quantizer: [quantizer(weight, 4).tensors() for weight in weights]
        )
    return found


def case_gptq(data: Path) -> dict[str, float]:
    """The whole model at 4 bits, with its calibration pass; and the columns of one block alone."""
    model, _ = lwq.load(MODEL)
    windows = torch.from_numpy(np.load(data / "calibrate.npy"))
    layout = models.layout(model)
    plan = Plan(
        dict.fromkeys(layout.units, 4),
        layout,
        "gptq(group_size=64, sym=True, act_order=False, inputs='quantized')",
    )
    full = Plan(plan.bits, layout, "gptq(group_size=64, sym=True, act_order=False, inputs='full')")
    windows_a_block = list(models.matrices(model))[:7]
    stats: dict[str, MatrixStats] = {}
    for found in stream(model, windows, frozenset({"gram"}), wanted=windows_a_block):
        stats |= found.matrices
    matrices = models.matrices(model)
    columns = seconds(
        lambda: [
            GPTQ(sym=True, act_order=False)(matrices[n].view(), 4, stats[n])
            for n in windows_a_block
        ]
    )
    other, _ = lwq.load(MODEL)
    return {
        "quantize": seconds(lambda: lwq.quantize_(model, plan, windows)),
        "quantize, full-precision inputs": seconds(lambda: lwq.quantize_(other, full, windows)),
        "columns of a block": columns,
    }


def case_growth(data: Path) -> dict[str, float]:
    """Seconds a plan for random llamas of 4 to 32 blocks; seconds an allocation of 100 to 100,000
    units.
    """
    found = {}
    windows = torch.randint(0, 8192, (4, 128), generator=torch.Generator().manual_seed(0))
    for depth in (4, 8, 16, 32):
        model = checkpoints.in_memory(depth)
        bank = Bank(model, RTN())
        for name, plans in (
            ("sweep", nested(bank.layout, 8, 4, order(depth))),
            ("scan", scan(bank.layout, (4,))),
        ):
            bank.prepare(plans)
            sweep = Sweep(model, windows, bank)
            found[f"{name}, {depth} blocks"] = seconds(
                lambda plans=plans, sweep=sweep: list(sweep.measure(plans))
            ) / len(plans)
    for units in (100, 1_000, 10_000, 100_000):
        shapes = {f"blocks.{i}": {f"blocks.{i}.weight": (64, 64)} for i in range(units)}
        layout = Layout("random", "0" * 16, "block", shapes, dict.fromkeys(["", *shapes], 0))
        values = np.random.default_rng(0).random(units)
        scores = Scores(dict(zip(shapes, values.tolist(), strict=True)), layout, "random()")
        for name, widths in (("topk", (4, 2)), ("levels", (8, 4, 3, 2))):
            work = lambda name=name, widths=widths, scores=scores: allocators.allocate(  # noqa: E731
                scores, None, widths, "rtn", name, true_bits=3.6
            )
            found[f"{name}, {units} units"] = seconds(work)
    return found


if __name__ == "__main__":
    print(json.dumps(globals()[f"case_{sys.argv[1]}"](Path(sys.argv[2]))))
