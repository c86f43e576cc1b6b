"""The default recipe on a GPU: python benchmarks/gpu.py.

A random llama of about a billion weights in bfloat16, from scores to a guarded plan at 3.5 stored
bits a weight; then the scores of a small model on the GPU beside those on the CPU, in float32. It
prints seconds and differences as JSON. Without a GPU it says so and ends with exit code 0; with
`--device cpu --depth 1` the same runs on a processor.
"""

import json
import time
from typing import Annotated

import checkpoints
import torch
import typer
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

import lwq
from lwq.contracts import Costs

DEPTH = 18  # blocks of 51 million weights, beside 131 million of embeddings and head
SIZE = 3.5  # stored bits a weight
LIMIT = 300  # seconds that the recipe may take
CLOSE = 1e-3  # relative difference between devices: float32 sums in another order
VOCABULARY = 32_000


def windows(vocabulary: int, count: int, length: int, seed: int) -> Tensor:
    """Random tokens (count, length)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, vocabulary, (count, length), generator=generator)


def large(depth: int, device: str) -> PreTrainedModel:
    """A random bfloat16 llama of width 2048."""
    torch.manual_seed(0)
    shape = checkpoints.config(depth, VOCABULARY, **checkpoints.LARGE)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(shape, dtype=torch.bfloat16)
    return model.to(device).eval().requires_grad_(False)


def recipe(model: PreTrainedModel, quantizer: str) -> dict[str, object]:
    """Seconds of the whole recipe, and what its guard said."""
    drawn = (windows(VOCABULARY, 16, 512, 0), windows(VOCABULARY, 64, 256, 1))
    start = time.perf_counter()
    plan = lwq.allocate(
        model=model, true_bits=SIZE, quantizer=quantizer, windows=drawn[0], tune=drawn[1]
    )
    seconds = time.perf_counter() - start
    weights = sum(p.numel() for p in model.parameters())
    kept = plan.provenance["guard"]
    return {
        "weights": weights, "quantizer": quantizer, "seconds": round(seconds, 1),
        "limit": LIMIT, "within": seconds <= LIMIT, "kept": kept["kept"],
    }  # fmt: skip


def differences(device: str) -> dict[str, float]:
    """Scorer -> the largest relative difference between a device and the CPU, over all units."""
    x, found = windows(8192, 4, 128, 2), {}
    for scorer in ("lim", "fisher_kl", "gram_error", "fisher_kl(quantizer='gptq')"):
        both = [
            values(lwq.score(checkpoints.in_memory(2).to(where), scorer, x))
            for where in ("cpu", device)
        ]
        gap = (both[0] - both[1]).abs() / both[0].abs().clamp(min=1e-12)
        found[scorer] = float(gap.max())
    return found


def values(scores: lwq.Scores | Costs) -> Tensor:
    """Every number of a score."""
    rows = [list(v.values()) if isinstance(v, dict) else [v] for v in scores.values()]
    return torch.tensor(rows, dtype=torch.float64)


def main(
    device: Annotated[str, typer.Option(help="cuda, or cpu to try the script")] = "cuda",
    depth: Annotated[int, typer.Option(help="blocks of the large model")] = DEPTH,
    quantizer: Annotated[str, typer.Option(help="what rounds")] = "gptq",
) -> None:
    """Time the recipe, and compare a device with the CPU."""
    if device == "cuda" and not torch.cuda.is_available():
        print(json.dumps({"skipped": "torch sees no GPU; --device cpu --depth 1 runs on this one"}))
        return
    torch.backends.cuda.matmul.allow_tf32 = False
    told = recipe(large(depth, device), quantizer)
    found = differences(device)
    print(json.dumps({**told, "differences": found}))
    if not told["within"] or max(found.values()) > CLOSE:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
