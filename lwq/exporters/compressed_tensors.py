"""compressed-tensors, pack-quantized: read by transformers (with compressed-tensors) and vLLM."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from lwq.common.names import pick
from lwq.contracts import Plan, Shape
from lwq.contracts.methods import Grid
from lwq.exporters.shared import words
from lwq.exporters.shared.grids import GridFormat, rules
from lwq.quantizers import Packed
from lwq.quantizers.storage.packed import FLOATS

TARGETS = ("transformers", "vllm")


@dataclass(frozen=True)
class CompressedTensors(GridFormat):
    """One `config_groups` entry for each distinct grid; kept matrices stand in `ignore`.

    Up to compressed-tensors 0.17 a word of 32 bits holds 32 // bits codes, so that 3, 5, 6 and 7
    bits take 3.2, 5.33, 6.4 and 8 (`nbytes` says so); from 0.18 on codes are packed densely, and a
    folder of the other kind does not load. 2, 4 and 8 bits are the same in both. Asymmetric folders
    load in 0.17; 0.20.1 with transformers 5.23 refuses the shape of their zero points.

    Tensors of a matrix (out, in): weight_packed int32 (out, words), weight_scale
    (out, groups), weight_shape int64 (2,), and of an asymmetric one weight_zero_point int32
    (words, groups).

    Attributes:
        target: "vllm": joined matrices (q, k, v; gate, up) share one grid, of those that its
            kernels on GPUs always know: 4 and 8 bits symmetric, 4 asymmetric, a scale for 32, 64 or
            128 columns or for a row. (It joins members of several grids without a word.)
        dense: pack 3, 5, 6 and 7 bits for compressed-tensors 0.18 and newer, not for 0.17.
        dtype: of what is not quantized; see `GridFormat`.

    Source: neuralmagic/compressed-tensors 0.17 (Apache-2.0), what it reads.
    """

    target: str = "transformers"
    dense: bool = False
    dtype: str = "auto"

    name: ClassVar[str] = "compressed-tensors"

    def __post_init__(self) -> None:
        pick(dict.fromkeys(TARGETS), "target", self.target)

    @property
    def says(self) -> str:
        return "pack-quantized, 2 to 8 bits: transformers with compressed-tensors, vLLM"

    @property
    def joined(self) -> bool:
        return self.target == "vllm"

    def reason(self, grid: Grid, shape: Shape) -> str:
        if grid.zeros == "numbers":
            return "its zero points are numbers, and this format has codes there"
        if self.target == "vllm" and (why := _no_kernel(grid)):
            return why
        if grid.group_size != -1 and shape[1] % grid.group_size:
            return f"groups of {grid.group_size} do not divide {shape[1]} columns"
        return ""

    def weigh(self, grid: Grid, shape: Shape) -> int:
        rows, groups = shape[0], grid.groups(shape)
        count = words.dense_words if self.dense else words.padded_words
        zeros = 4 * groups * count(rows, grid.bits) if grid.zeros == "codes" else 0
        codes = 4 * rows * count(shape[1], grid.bits)
        return codes + rows * groups * FLOATS[grid.scale_dtype].itemsize + 16 + zeros

    def tensors(self, made: Packed, grid: Grid, plan: Plan) -> dict[str, Tensor]:
        assert isinstance(made.scales, Tensor)
        packing = words.dense if self.dense else words.padded
        found = {
            "weight_packed": packing(made.codes, made.bits),
            "weight_scale": made.scales,
            "weight_shape": torch.tensor(made.shape),
        }
        if isinstance(made.zeros, Tensor):
            # (out, groups) -> (words, groups): packed down the rows
            found["weight_zero_point"] = packing(made.zeros.T, made.bits).T
        return found

    def settings(
        self, plan: Plan, grids: Mapping[str, Grid], kept: Iterable[str]
    ) -> dict[str, Any]:
        alike: dict[Grid, list[str]] = {}
        for name, grid in grids.items():
            alike.setdefault(grid, []).append(name)
        groups = {
            f"group_{number}": {
                "targets": [f"re:{rule}" for rule in rules(names)],
                "weights": _weights(grid),
            }
            for number, (grid, names) in enumerate(alike.items())
        }
        return {
            "quantization_config": {
                "quant_method": self.name,
                "format": "pack-quantized",
                "quantization_status": "compressed",
                "config_groups": groups,
                "ignore": ["lm_head", *kept],
            }
        }


def _no_kernel(grid: Grid) -> str:
    widths, groups = ((4, 8) if grid.zeros == "none" else (4,)), (-1, 32, 64, 128)
    if grid.bits not in widths:
        kind = "symmetric" if grid.zeros == "none" else "asymmetric"
        return f"{grid.bits} bits, and vLLM's kernels have {list(widths)} {kind}"
    if grid.group_size not in groups:
        return f"groups of {grid.group_size}, and vLLM's kernels have {list(groups)}"
    return ""


def _weights(grid: Grid) -> dict[str, Any]:
    return {
        "num_bits": grid.bits,
        "type": "int",
        "symmetric": grid.zeros == "none",
        "strategy": "channel" if grid.group_size == -1 else "group",
        "group_size": None if grid.group_size == -1 else grid.group_size,
    }
