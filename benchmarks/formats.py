"""What lwq exports, read by the programs that it is for: python benchmarks/formats.py [--only
NAME] [--model NAME].

Each case makes a mixed plan, exports it, and lets the peer, in an environment of its own, answer
2,048 tokens; its answers are compared with those of the plan in memory. What is measured goes to
benchmarks/formats.csv.
"""

import json
import subprocess
import sys
from itertools import cycle
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
import typer
from run import ENVIRONMENTS, HERE, environment

import lwq
from lwq import models
from lwq.common import paths
from lwq.common.names import rebuild
from lwq.exporters import named
from lwq.exporters.shared.shards import read

MEASURED = HERE / "formats.csv"
MODELS = ("smollm2-135m", "qwen2.5-coder-0.5b", "gemma3-270m")
# case -> format, who reads it (with which file), quantizer, options, of embeddings and head
CASES: dict[str, tuple[str, str, str, str, tuple[Any, ...], Any]] = {
    "lwq": ("lwq(dtype='float32')", "lwq", "lwq", "mse", (3, 4, 5, "4g32"), 6),
    "compressed-tensors": (
        *("compressed-tensors", "compressed_tensors", "compressed_tensors"),
        *("rtn", (3, 4, 8, 5, "4g32", 6, 16), None),
    ),
    "compressed-tensors, symmetric": (
        *("compressed-tensors", "compressed_tensors", "compressed_tensors"),
        *("rtn(sym=True)", (4, 8), None),
    ),
    "gptq": ("gptq", "gptqmodel", "gptqmodel", "rtn(sym=True)", (4, 8, 3, "4g32", 16), None),
    "gptq, asymmetric": ("gptq", "gptqmodel", "gptqmodel", "rtn", (4, 8, 3), None),
    "gptq, in planes": ("gptq", "gptqmodel", "gptqmodel", "rtn", (4, 5, 6, 3), None),
    "auto-round": (
        *("auto-round", "autoround", "autoround"),
        *("rtn(sym=True)", (4, 8, 3, "4g32", 16), None),
    ),
    "mlx": ("mlx", "mlx", "mlx", "mse", (3, 4, 8, 5, "4g32", 6, 16), 6),
}


def main(
    only: Annotated[list[str], typer.Option(help=f"some of {list(CASES)}")] = [],  # noqa: B006
    model: Annotated[list[str], typer.Option(help=f"some of {list(MODELS)}")] = [],  # noqa: B006
) -> None:
    """Let peers read what lwq exports."""
    for case in only or list(CASES):
        for name in model or list(MODELS):
            found = {"case": case, "model": name, **measured(name, *CASES[case])}
            print(json.dumps(found), flush=True)
            rows = pd.DataFrame([found])
            rows.to_csv(MEASURED, mode="a", header=not MEASURED.is_file(), index=False)


def measured(
    name: str, format: str, peer: str, file: str, quantizer: str, options: tuple[Any, ...], out: Any
) -> dict[str, float]:
    """Bytes, and how near the peer's answers come."""
    if peer != "lwq":
        environment(peer)
    python = sys.executable if peer == "lwq" else ENVIRONMENTS / peer / "bin" / "python"
    model, tokenizer = lwq.load(name)
    windows = lwq.windows("wiki", tokenizer, n=4, length=512, split="judge")
    plan = mixed(model, quantizer, options, out)
    with TemporaryDirectory(dir=paths.cache()) as place:
        folder, data = Path(place) / "model", Path(place) / "data"
        data.mkdir()
        lwq.export(model, plan, folder, tokenizer, format=format)
        keep_answers(model, windows, data)
        command = [python, HERE / "peers" / f"reads_{file}.py", folder, data]
        done = subprocess.run(command, capture_output=True, text=True, cwd=HERE / "peers")
        if done.returncode:
            sys.exit(f"{peer} failed:\n{done.stderr[-2000:]}")
        written = sum(tensor.nbytes for _, tensor in read(folder))
    strategy = rebuild(lwq.QUANTIZERS, "quantizer", quantizer)
    return {
        "bytes": written,
        "predicted bytes": named(format).nbytes(plan, strategy),
        **json.loads(done.stdout.strip().splitlines()[-1]),
    }


def mixed(model: Any, quantizer: str, options: tuple[Any, ...], out: Any) -> lwq.Plan:
    """Matrices with `options` in turn, embeddings and head with `out` (None: they stay)."""
    layout = models.layout(model, "matrix", outside=out is not None)
    turns = cycle(options)
    bits = {unit: out if unit in layout.outside else next(turns) for unit in layout.units}
    return lwq.Plan(bits, layout, quantizer)


@torch.inference_mode()
def keep_answers(model: Any, windows: torch.Tensor, data: Path) -> None:
    """windows.npy, and the model's logits beside it: answers.npy (n, length, vocabulary)."""
    np.save(data / "windows.npy", windows.numpy())
    shape = (*windows.shape, models.vocabulary(model))
    kept = np.lib.format.open_memmap(data / "answers.npy", "w+", np.float32, shape)
    for number, window in enumerate(windows):
        kept[number] = model(window[None]).logits[0].numpy()
    kept.flush()


if __name__ == "__main__":
    typer.run(main)
