"""Peak resident memory of one piece of work, in a process of its own: python benchmarks/memory.py
NAME.
"""

import json
import resource
import shutil
import sys
import tempfile
from typing import Any

import checkpoints
import torch

import lwq
from lwq import models
from lwq.common import paths
from lwq.contracts import Plan
from lwq.statistics.forward import stream
from lwq.studies import experiment

NEEDS = frozenset({"gram", "input_norms", "similarity"})


def statistics(streamed: bool) -> None:
    """Every statistic of every matrix of qwen2.5-coder-0.5b."""
    model, tokenizer = lwq.load("qwen2.5-coder-0.5b", stream=streamed)
    for _ in stream(model, lwq.windows("c4", tokenizer, 32, 512), NEEDS):
        pass


def quantize(depth: int) -> None:
    """gptq, 4 bits, group 64, 32 windows of 512, of a random llama of width 2048, read and written
    block by block.
    """
    model, tokenizer = lwq.load(str(checkpoints.on_disk(depth)), stream=True)
    windows = torch.randint(0, 32_000, (32, 512), generator=torch.Generator().manual_seed(0))
    layout = models.layout(model)
    plan = Plan(dict.fromkeys(layout.units, 4), layout, "gptq(group_size=64)")
    target = tempfile.mkdtemp(dir=paths.cache())
    try:
        lwq.export(model, plan, target, tokenizer, windows)
    finally:
        shutil.rmtree(target)


def orderings(**settings: Any) -> None:
    """A sweep of 1.5 billion random weights: rtn, 8 judging windows of 256, all that its notebook
    holds.
    """
    texts = experiment.texts("toy", "toy", 4, 64, 8, 256)
    with tempfile.TemporaryDirectory() as folder:
        study = lwq.Experiment(
            "orderings",
            str(checkpoints.of_a_study()),
            "rtn",
            *texts,
            lwq.Results(folder),
            **settings,
        )
        study.sweep(study.orderings("lim, zd"), high=4, low=2, steps=2)


WORK = {
    "nothing": lambda: models.load("toy"),
    "statistics in memory": lambda: statistics(False),
    "statistics streamed": lambda: statistics(True),
    "quantize 28 blocks": lambda: quantize(28),
    "quantize 56 blocks": lambda: quantize(56),
    "study in bfloat16": lambda: orderings(dtype="bfloat16"),
    "study in float32, streamed": lambda: orderings(stream=True),
}

if __name__ == "__main__":
    WORK[sys.argv[1]]()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # kilobytes on Linux
    print(json.dumps({f"{sys.argv[1]}, bytes": peak}))
