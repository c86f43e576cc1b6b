"""Write a quantized model to a folder that transformers loads."""

from pathlib import Path
from typing import Any

from torch import Tensor

from lwq import models, paths
from lwq.apply import quantize_
from lwq.contracts import DROPPED, Plan
from lwq.errors import InputError
from lwq.strategies import pick

FORMATS = {"fake": "dequantized weights in plain safetensors: the numbers of the plan at the size of the original"}


def export(
    model: Any, plan: Plan, folder: str | Path, tokenizer: Any, windows: Tensor | None = None, format: str = "fake"
) -> dict[str, float]:
    """Quantize `model` in place and save it with its tokenizer and `plan.json`.

    Args:
        folder: must be empty or missing; nothing is overwritten.
        windows: calibration windows, where the quantizer needs them.
        format: "fake" for now: `AutoModelForCausalLM.from_pretrained(folder)` loads it anywhere.

    Returns:
        unit -> relative error, from `quantize_`.

    Raises:
        InputError: before the work starts, for an unknown format, a folder that holds files, or a plan that drops blocks
            (a folder of plain weights cannot say so).
    """
    pick(FORMATS, "format", format)
    if gone := [unit for unit, bits in plan.bits.items() if bits == DROPPED]:
        raise InputError(f"{gone[:4]} are dropped (0 bits); the format {format!r} cannot say so, use quantize_ in memory")
    target = paths.resolve(folder)
    if target.is_dir() and any(target.iterdir()):
        raise InputError(f"{target} is not empty; choose a new folder")
    paths.writable(target, "--out")
    errors = quantize_(model, plan, windows)
    kept = models.streamed(model)
    (kept or model).save_pretrained(target)
    tokenizer.save_pretrained(target)
    plan.save(target / "plan.json")
    return errors
