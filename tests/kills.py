"""Kills a compression of the toy at random moments; prints what stands there then, as JSON.

    python tests/kills.py FOLDER COUNT SEED

Each moment has a cache and a folder of its own. Children are forked once everything is imported,
so that a moment costs no start of Python; before the first, no thread runs.
"""

import hashlib
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

import lwq
from lwq import models
from lwq.inputs.texts import WindowSpec
from lwq.recipes.recommend import Recipe

RECIPE = Recipe(nsamples=4, seqlen=48, tune=24, length=48)
JUDGE = WindowSpec("toy", "judge", 8, 48, 0)


def main(work: Path, count: int, seed: int) -> None:
    """The uninterrupted folder, and each killed one before and after it was run again."""
    models.stand_in("toy")  # what is imported at the first call
    start = time.monotonic()
    whole = run(work / "whole")
    lasted = time.monotonic() - start
    draw, found = random.Random(seed), []
    for number in range(count):
        place = work / str(number)
        killed = run(place, draw.uniform(0, lasted))
        left = content(place / "out")
        again = run(place)
        parts = [path.name for path in place.iterdir() if path.name.endswith(".part")]
        found.append({"killed": killed != 0, "left": left, "again": again, "parts": parts})
        found[-1]["content"] = content(place / "out")
    print(json.dumps({"code": whole, "whole": content(work / "whole" / "out"), "found": found}))


def run(place: Path, seconds: float | None = None) -> int:
    """Compress in a process of its own, which is killed after `seconds`; how that process ended."""
    place.mkdir(exist_ok=True)
    child = os.fork()
    if not child:
        os.environ["LWQ_CACHE"] = str(place / "cache")
        torch.set_num_threads(1)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        lwq.compress(
            "toy", place / "out", size="140kB", target="llama.cpp", recipe=RECIPE, judge=JUDGE
        )
        os._exit(0)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1]


def content(folder: Path) -> dict[str, str] | None:
    """File -> digest; None where there is no such folder."""
    if not folder.exists():
        return None
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
