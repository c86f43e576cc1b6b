"""AutoRound's format with `extra_config`: read by auto-round, transformers and vLLM."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from lwq.common.names import pick
from lwq.contracts import Plan, Shape
from lwq.contracts.methods import Grid
from lwq.exporters.gptq import most_common, why_not_words, words_bytes, words_of
from lwq.exporters.shared.grids import GridFormat
from lwq.quantizers import Packed

TARGETS = ("auto-round", "vllm")
WIDTHS = (2, 3, 4, 8)


@dataclass(frozen=True)
class AutoRound(GridFormat):
    """The tensors of `gptq` without g_idx; matrices that differ from most stand in `extra_config`
    by their full names.

    A symmetric plan has the packing `auto_round:auto_gptq` (zeros as z − 1), an asymmetric one
    `auto_round` (zeros as they are).

    Attributes:
        target: "auto-round"; "vllm" asks that joined matrices share one grid.
        dtype: of what is not quantized; see `GridFormat`.

    Source: intel/auto-round 0.16 (Apache-2.0), what it reads.
    """

    target: str = "auto-round"
    dtype: str = "auto"

    name: ClassVar[str] = "auto-round"

    def __post_init__(self) -> None:
        pick(dict.fromkeys(TARGETS), "target", self.target)

    @property
    def says(self) -> str:
        return "AutoRound with extra_config, 2, 3, 4 and 8 bits: auto-round, vLLM"

    @property
    def joined(self) -> bool:
        return self.target == "vllm"

    def reason(self, grid: Grid, shape: Shape) -> str:
        if grid.bits not in WIDTHS:
            return f"{grid.bits} bits, and auto-round reads {list(WIDTHS)}"
        return why_not_words(grid, shape)

    def weigh(self, grid: Grid, shape: Shape) -> int:
        return words_bytes(grid, shape)

    def tensors(self, made: Packed, grid: Grid, plan: Plan) -> dict[str, Tensor]:
        return words_of(made, offset=grid.zeros == "none", planar=False)

    def settings(
        self, plan: Plan, grids: Mapping[str, Grid], kept: Iterable[str]
    ) -> dict[str, Any]:
        base = most_common(grids)
        extra: dict[str, Any] = {name: {"bits": 16, "data_type": "float"} for name in kept}
        extra |= {name: _said(grid) for name, grid in grids.items() if grid != base}
        symmetric = base.zeros == "none"
        blocks = {block.rpartition(".")[0] for block in plan.layout.rest if block}
        return {
            "quantization_config": {
                "quant_method": self.name,
                "packing_format": "auto_round:auto_gptq" if symmetric else "auto_round",
                **_said(base),
                "block_name_to_quantize": ",".join(sorted(blocks)),
                **({"extra_config": extra} if extra else {}),
            }
        }


def _said(grid: Grid) -> dict[str, Any]:
    return {
        "bits": grid.bits,
        "group_size": grid.group_size,
        "sym": grid.zeros == "none",
        "data_type": "int",
    }
