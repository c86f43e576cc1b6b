"""The GPTQ checkpoint format with `dynamic` rules: read by GPTQModel, vLLM and many others."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from lwq.common.names import pick
from lwq.contracts import Plan, Shape
from lwq.contracts.methods import Grid
from lwq.exporters.shared import words
from lwq.exporters.shared.grids import GridFormat, fused, rules
from lwq.quantizers import Packed

TARGETS: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {  # who reads -> widths, groups
    "gptqmodel": ((2, 3, 4, 5, 6, 7, 8), (-1, 16, 32, 64, 128, 256, 512, 1024)),
    "vllm": ((4, 8), (-1, 32, 64, 128)),
}
CONTINUOUS = {2, 3, 4, 8}  # widths of the formats gptq and gptq_v2


@dataclass(frozen=True)
class GPTQModel(GridFormat):
    """`bits` and `group_size` are those of most matrices; `dynamic` names the others, and the kept.

    Tensors of a matrix (out, in): qweight int32 (in · bits / 32, out), qzeros int32 (groups, out ·
    bits / 32), scales float16 (groups, out), g_idx int32 (in,).

    Three versions of it hold zero points: `gptq` (z − 1; for symmetric plans of 2, 3, 4 and 8 bits,
    which everybody reads), `gptq_v2` (z; for asymmetric ones, since z − 1 has no room for a zero of
    0) and `gptq_p` (z, codes in planes; where a matrix has 5, 6 or 7 bits). GPTQModel reads all.

    Attributes:
        target: "gptqmodel", or "vllm": 4 and 8 bits, symmetric, joined matrices alike.
        dtype: of what is not quantized; see `GridFormat`.

    Source: ModelCloud/GPTQModel 7.7 (Apache-2.0), what it reads.
    """

    target: str = "gptqmodel"
    dtype: str = "auto"

    name: ClassVar[str] = "gptq"

    def __post_init__(self) -> None:
        pick(TARGETS, "target", self.target)

    @property
    def says(self) -> str:
        return "GPTQ with dynamic rules, 2 to 8 bits: GPTQModel; 4 and 8 symmetric: vLLM"

    @property
    def joined(self) -> bool:
        return self.target == "vllm"

    def reason(self, grid: Grid, shape: Shape) -> str:
        widths, groups = TARGETS[self.target]
        if self.target == "vllm" and grid.zeros != "none":
            return "an asymmetric grid, and vLLM reads symmetric ones (sym=True)"
        if grid.bits not in widths:
            return f"{grid.bits} bits, and {self.target} reads {list(widths)}"
        if grid.group_size not in groups:
            return f"groups of {grid.group_size}, and {self.target} reads {list(groups)}"
        return why_not_words(grid, shape)

    def weigh(self, grid: Grid, shape: Shape) -> int:
        return words_bytes(grid, shape) + 4 * shape[1]

    def tensors(self, made: Packed, grid: Grid, plan: Plan) -> dict[str, Tensor]:
        size = made.shape[1] // grid.groups(made.shape)
        version = self._version(plan, grid)
        found = words_of(made, offset=version == "gptq", planar=version == "gptq_p")
        return {**found, "g_idx": torch.arange(made.shape[1], dtype=torch.int32) // size}

    def settings(
        self, plan: Plan, grids: Mapping[str, Grid], kept: Iterable[str]
    ) -> dict[str, Any]:
        base = most_common(grids)
        others: dict[Grid, list[str]] = {}
        for name, grid in grids.items():
            if grid != base:
                others.setdefault(grid, []).append(name)
        dynamic: dict[str, Any] = {f"-:{rule}": {} for rule in _rules(kept)}
        for grid, names in others.items():
            said = {"bits": grid.bits, "group_size": grid.group_size}
            dynamic |= {f"+:{rule}": said for rule in _rules(names)}
        return {
            "quantization_config": {
                "quant_method": "gptq",
                "checkpoint_format": self._version(plan, base),
                "bits": base.bits,
                "group_size": base.group_size,
                "sym": base.zeros == "none",
                "desc_act": False,
                "lm_head": False,
                **({"dynamic": dynamic} if dynamic else {}),
            }
        }

    def _version(self, plan: Plan, grid: Grid) -> str:
        """One for the whole checkpoint."""
        options = {str(option).partition("g")[0] for option in plan.bits.values()}
        if {int(bits) for bits in options} - CONTINUOUS - {16}:
            return "gptq_p"
        return "gptq" if grid.zeros == "none" else "gptq_v2"


def why_not_words(grid: Grid, shape: Shape) -> str:
    """Why a matrix has no qweight, qzeros and scales; "" where it has."""
    if grid.zeros == "numbers":
        return "its zero points are numbers, and this format has codes there"
    if grid.scale_dtype != "float16":
        return f"scales in {grid.scale_dtype}, and this format has float16 (scale_dtype='float16')"
    if uneven := [count for count in shape if count % words.WORD]:
        return f"its shape {shape}: 32 does not divide {uneven[0]}"
    if grid.group_size != -1 and shape[1] % grid.group_size:
        return f"groups of {grid.group_size} do not divide {shape[1]} columns"
    return ""


def words_bytes(grid: Grid, shape: Shape) -> int:
    """Bytes of qweight, qzeros and scales."""
    rows, columns = shape
    groups = grid.groups(shape)
    return (rows * columns * grid.bits + groups * rows * grid.bits) // 8 + 2 * groups * rows


def words_of(made: Packed, offset: bool, planar: bool) -> dict[str, Tensor]:
    """qweight, qzeros and scales; `offset`: zeros are stored as z − 1."""
    assert isinstance(made.scales, Tensor)
    packing = words.planes if planar else words.stream
    zeros = made.zeros
    if not isinstance(zeros, Tensor):
        zeros = torch.full(made.scales.shape, 2 ** (made.bits - 1), dtype=torch.uint8)
    return {
        "qweight": packing(made.codes, made.bits).T,  # (out, words) -> (words, out)
        "qzeros": packing((zeros.T - int(offset)).contiguous(), made.bits),  # (groups, words)
        "scales": made.scales.T,
    }


def most_common(grids: Mapping[str, Grid]) -> Grid:
    """The grid of most matrices."""
    return Counter(grids.values()).most_common(1)[0][0]


def _rules(names: Iterable[str]) -> list[str]:
    """Rules that match `names`, and the joined matrix where all of its members are among them."""
    own = list(names)
    return rules([*own, *(alias for alias, _ in fused(own))])
