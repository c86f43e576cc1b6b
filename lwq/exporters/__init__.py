"""Exporters: a model and a plan to a folder that others load. One dict, one line a format.

An exporter is a frozen dataclass with `require(plan, quantizer)`, which refuses before the work
what the format cannot hold, called as `exporter(model, packed, plan, folder)`; `packed` hands over
each quantized matrix once, from `lwq.engine.apply.packed`, and `folder` holds the tokenizer.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor, nn

from lwq.common import paths
from lwq.common.errors import InputError
from lwq.common.names import build, rebuild
from lwq.contracts import Plan
from lwq.contracts.methods import Exporter, Storage
from lwq.engine.apply import Applied
from lwq.exporters.autoround import AutoRound
from lwq.exporters.compressed_tensors import CompressedTensors
from lwq.exporters.dequantized import Dequantized
from lwq.exporters.gguf import GGUF
from lwq.exporters.gptq import GPTQModel
from lwq.exporters.mlx import MLX
from lwq.exporters.own import Own
from lwq.exporters.shared.grids import GridFormat
from lwq.quantizers import QUANTIZERS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

EXPORTERS: dict[str, type[Exporter]] = {
    "dequantized": Dequantized,
    "lwq": Own,
    "gguf": GGUF,
    "compressed-tensors": CompressedTensors,
    "gptq": GPTQModel,
    "auto-round": AutoRound,
    "mlx": MLX,
}

__all__ = ["EXPORTERS", "export", "fill", "named", "nearest", "require_exportable"]


def export(
    model: nn.Module,
    plan: Plan,
    folder: str | Path,
    tokenizer: "PreTrainedTokenizerBase",
    windows: Tensor | None = None,
    format: str | Exporter = "dequantized",
) -> dict[str, float]:
    """Quantize `model` in place and write it with its tokenizer and `plan.json`.

    Args:
        folder: must be empty or missing; nothing is overwritten.
        windows: calibration windows, where the quantizer needs them.
        format: a name in EXPORTERS, a call in text, or an object of your own.

    Returns:
        unit -> relative error, as `quantize_` gives it.

    Raises:
        InputError: before the work starts, for an unknown format, a folder that holds files, or a
            plan that the format cannot hold.
        RunError: where the disk is full, or the folder does not read back as it was written; no
            part of it stays.
    """
    exporter, target = require_exportable(plan, folder, format)
    exporter.require_model(model, tokenizer)
    applied = Applied(model, plan, windows)
    with paths.whole(target) as work:
        fill(work, model, iter(applied), plan, tokenizer, exporter)
    return applied.errors()


def fill(
    work: Path,
    model: nn.Module,
    packed: Iterator[tuple[str, Storage]],
    plan: Plan,
    tokenizer: "PreTrainedTokenizerBase",
    exporter: Exporter,
) -> None:
    """Put everything into a folder that was made for it: weights, settings, tokenizer, plan."""
    with paths.writing(work):
        tokenizer.save_pretrained(work)
        plan.save(work / "plan.json")
    exporter(model, packed, plan, work)


def require_exportable(
    plan: Plan, folder: str | Path, format: str | Exporter
) -> tuple[Exporter, Path]:
    """The exporter, and where it writes, absolute; raises the InputErrors of `export`, and needs no
    model.
    """
    exporter = named(format)
    exporter.require(plan, rebuild(QUANTIZERS, "quantizer", plan.quantizer))
    target = Path(folder).expanduser().resolve()
    if target.is_mount():
        raise InputError(
            f"{target} is a mount point, and the folder appears whole by a rename; choose a folder "
            f"in it, such as {target / 'model'}"
        )
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        kind = "is not empty" if target.is_dir() else "is a file"
        raise InputError(f"{target} {kind}; choose a new folder")
    if Path.cwd().resolve().is_relative_to(target):
        raise InputError(
            f"{target} is where you are, and the new folder takes its place; choose a folder in "
            f"it, such as {Path.cwd() / 'model'}"
        )
    paths.writable(target.parent, "--out")  # it is built there, and renamed
    paths.require_room(target)
    return exporter, target


def named(format: str | Exporter) -> Exporter:
    """The exporter of a name in EXPORTERS, a call in text (`gptq(target='vllm')`), or an object."""
    # names with a dash are no names in a call
    table = {name.replace("-", "_"): kind for name, kind in EXPORTERS.items()}
    if isinstance(format, str):
        name, bracket, rest = format.strip().partition("(")
        format = (name.replace("-", "_") if name in EXPORTERS else name) + bracket + rest
    exporter: Exporter = build(table, "format", format)
    return exporter


def nearest(plan: Plan, format: str | Exporter) -> Plan:
    """`plan` itself where the format holds it, else the nearest one that it holds; the exporters of
    uniform grids say what is near (`GridFormat.nearest`).
    """
    exporter = named(format)
    quantizer = rebuild(QUANTIZERS, "quantizer", plan.quantizer)
    if isinstance(exporter, GridFormat):
        return exporter.nearest(plan, quantizer)
    exporter.require(plan, quantizer)
    return plan
