"""MLX's affine format: read by mlx-lm, on Apple's chips and on Linux CPUs."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from lwq.common.errors import InputError
from lwq.contracts import Plan, Shape
from lwq.contracts.methods import Grid
from lwq.exporters.gptq import most_common
from lwq.exporters.shared import words
from lwq.exporters.shared.activation import unusual
from lwq.exporters.shared.grids import GridFormat
from lwq.exporters.shared.older import older
from lwq.quantizers import Packed
from lwq.quantizers.storage.packed import FLOATS

WIDTHS, GROUPS = (2, 3, 4, 5, 6, 8), (32, 64, 128)
# model types whose exports mlx-lm 0.32.2 computes as transformers does
MODELS = (
    "llama",
    "mistral",
    "qwen2",
    "qwen3",
    "gemma",
    "gemma2",
    "gemma3_text",
    "phi",
    "phi3",
    "olmo2",
    "smollm3",
    "stablelm",
    "starcoder2",
    "granite",
)
TIED = {"gemma": True, "gemma2": True, "phi": False, "stablelm": False}  # of these, always so
WINDOWS = ("gemma2", "gemma3_text")  # of these, those whose layers may differ


@dataclass(frozen=True)
class MLX(GridFormat):
    """Each matrix its own bits and group size, embeddings and head too; ŵ = q · scale + bias.

    Tensors of a matrix (out, in): weight uint32 (out, in · bits / 32), scales and biases (out,
    groups). The bias is −zero · scale, rounded to the dtype of the scales: beside the plan in
    memory a weight is off by up to 2^−11 of it in float16.

    Attributes:
        dtype: of what is not quantized; see `GridFormat`.

    Source: ml-explore/mlx 0.32 and mlx-lm 0.32 (MIT), what they read.
    """

    dtype: str = "auto"

    name: ClassVar[str] = "mlx"
    holds_outside: ClassVar[bool] = True

    @property
    def says(self) -> str:
        return (
            "MLX, 2, 3, 4, 5, 6 and 8 bits in groups of 32, 64 or 128: mlx-lm (local windows of "
            "gemma3 alone: others answer as here up to their window)"
        )

    def require_model(self, model: Any, tokenizer: Any) -> None:
        """Raise InputError for a model that mlx-lm opens otherwise than transformers, or not."""
        super().require_model(model, tokenizer)
        config = model.config
        kind, layers = config.model_type, set(getattr(config, "layer_types", None) or [])
        if kind not in MODELS:
            raise InputError(
                f"{kind!r} was not compared with what mlx-lm computes; 'mlx' is written for "
                f"{', '.join(MODELS)}; take another target, or 'dequantized' and mlx-lm's own tools"
            )
        if len(layers) > 1 and kind not in WINDOWS:
            raise InputError(f"{kind!r} with layers of {sorted(layers)}: to mlx-lm all are alike")
        if layers == {"sliding_attention"}:
            raise InputError(f"{kind!r} whose layers all have local windows: mlx-lm opens none")
        if odd := unusual(config):
            raise InputError(
                f"{kind!r} with {odd}: mlx-lm computes the usual one; take another target, such as "
                "'lwq' or 'dequantized'"
            )
        tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
        if TIED.get(kind, tied) != tied:
            head = "tied to the embedding" if tied else "of its own"
            raise InputError(f"{kind!r} with a head {head}: mlx-lm opens none")

    def reason(self, grid: Grid, shape: Shape) -> str:
        if grid.bits not in WIDTHS:
            return f"{grid.bits} bits, and MLX has {list(WIDTHS)}"
        if grid.group_size not in GROUPS:
            return f"groups of {grid.group_size}, and MLX has {list(GROUPS)}"
        if shape[1] % grid.group_size:
            return f"groups of {grid.group_size} do not divide {shape[1]} columns"
        return ""

    def weigh(self, grid: Grid, shape: Shape) -> int:
        numbers = 2 * shape[0] * grid.groups(shape) * FLOATS[grid.scale_dtype].itemsize
        return shape[0] * shape[1] * grid.bits // 8 + numbers

    def tensors(self, made: Packed, grid: Grid, plan: Plan) -> dict[str, Tensor]:
        assert isinstance(made.scales, Tensor)
        zeros = 2 ** (made.bits - 1) if made.zeros is None else made.zeros
        assert isinstance(zeros, int | Tensor)
        biases = -(zeros * made.scales.float())
        return {
            "weight": words.stream(made.codes, made.bits).view(torch.uint32),
            "scales": made.scales,
            "biases": biases.to(made.scales.dtype),
        }

    def settings(
        self, plan: Plan, grids: Mapping[str, Grid], kept: Iterable[str]
    ) -> dict[str, Any]:
        base = most_common(grids)
        own = {name: _said(grid) for name, grid in grids.items() if grid != base}
        said = {**_said(base), "mode": "affine", **own}
        return {"quantization": said, "quantization_config": said}

    def also(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """What mlx-lm reads from keys that transformers 5 does not write."""
        layers = config.get("layer_types") or []
        found = older(config)
        if {"full_attention", "sliding_attention"} <= set(layers):
            found["sliding_window_pattern"] = layers.index("full_attention") + 1
        return found


def _said(grid: Grid) -> dict[str, int]:
    return {"group_size": grid.group_size, "bits": grid.bits}
