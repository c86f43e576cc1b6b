"""Write a quantized model to a folder that transformers loads."""

from pathlib import Path
from typing import Any

from torch import Tensor

from lwq import models
from lwq.common import paths
from lwq.common.errors import InputError
from lwq.common.names import pick
from lwq.contracts import DROPPED, Plan
from lwq.engine.apply import quantize_

FORMATS = {
    "fake": "dequantized weights in plain safetensors: the numbers of the plan, in the "
    "dtype that the model has"
}


def export(
    model: Any,
    plan: Plan,
    folder: str | Path,
    tokenizer: Any,
    windows: Tensor | None = None,
    format: str = "fake",
) -> dict[str, float]:
    """Quantize `model` in place and save it with its tokenizer and `plan.json`.

    Args:
        folder: must be empty or missing; nothing is overwritten.
        windows: calibration windows, where the quantizer needs them.
        format: "fake" for now: `AutoModelForCausalLM.from_pretrained(folder)` loads it anywhere.
            The weights keep the dtype that the model was loaded in, since a narrower one would
            round the numbers of the plan: a float16 checkpoint that was loaded in float32 becomes
            twice as large.

    Returns:
        unit -> relative error, from `quantize_`.

    Raises:
        InputError: before the work starts, for an unknown format, a folder that holds files, or a
            plan that drops blocks (a folder of plain weights cannot say so).
    """
    target = require_exportable(plan, folder, format)
    errors = quantize_(model, plan, windows)
    kept = models.streamed(model)
    with models.own_cache_setting(model):
        (kept or model).save_pretrained(target)
    tokenizer.save_pretrained(target)
    plan.save(target / "plan.json")
    return errors


def require_exportable(plan: Plan, folder: str | Path, format: str) -> Path:
    """Where the model will be saved, absolute; raises the InputErrors of `export`, and needs no
    model.
    """
    pick(FORMATS, "format", format)
    if gone := [unit for unit, bits in plan.bits.items() if bits == DROPPED]:
        raise InputError(
            f"the plan drops {gone[:4]} (0 bits), and the format {format!r} cannot say so; `lwq "
            f"eval MODEL --plan PLAN` applies "
            "it in memory, as lwq.quantize_ does in Python"
        )
    target = paths.resolve(Path(folder).expanduser())
    if target.is_dir() and any(target.iterdir()):
        raise InputError(f"{target} is not empty; choose a new folder")
    return paths.writable(target, "--out")
