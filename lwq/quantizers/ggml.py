"""The types of ggml, which llama.cpp runs, packed by ggml's own code."""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from torch import Tensor

from lwq.common.names import pick
from lwq.contracts import Option, Shape
from lwq.contracts.methods import Quantizer
from lwq.quantizers.gptq import (
    SOURCES,
    Grids,
    columns_first,
    inverse_factor,
    require_damping,
    with_grids,
)
from lwq.quantizers.shared import ggml_codes, grid, libggml
from lwq.quantizers.storage.ggml import Blocks, row_bytes
from lwq.quantizers.storage.packed import finite, stored
from lwq.statistics.sums import MatrixStats

Kind = GGMLQuantizationType
# name -> type, each with the bits of its codes
TYPES: dict[str, tuple[Kind, int]] = {
    kind.name.lower(): (kind, bits)
    for bits, kinds in {
        2: (Kind.Q2_K, Kind.IQ2_XXS, Kind.IQ2_XS, Kind.IQ2_S),
        3: (Kind.Q3_K, Kind.IQ3_XXS, Kind.IQ3_S),
        4: (Kind.Q4_0, Kind.Q4_1, Kind.Q4_K, Kind.IQ4_NL, Kind.IQ4_XS),
        5: (Kind.Q5_0, Kind.Q5_1, Kind.Q5_K),
        6: (Kind.Q6_K,),
        8: (Kind.Q8_0,),
    }.items()
    for kind in kinds
}
BITS = dict(TYPES.values())
WHOLE = {2: "q2_k", 3: "q3_k", 4: "q4_k", 5: "q5_k", 6: "q6_k", 8: "q8_0"}
# what llama.cpp takes where 256 does not divide a row; all others there become IQ4_NL
FALLBACKS = {Kind.Q4_K: Kind.Q5_0, Kind.Q5_K: Kind.Q5_1, Kind.Q6_K: Kind.Q8_0}
# the smallest importance of a column, as a share of the mean: a block of zeros has no best grid
FLOOR = 1e-6


@dataclass(frozen=True)
class GGML(Quantizer):
    """What llama.cpp's own quantizer makes of a matrix, byte for byte, type by type.

        ggml minimizes Σ_j c_j (w_j − ŵ_j)² over each block's scales, c_j = E[x_j²]

    The options are ggml's types; a whole width is the K type of that name (4: q4_k, 8: q8_0). K and
    I types have blocks of 256 columns: where 256 does not divide a row, llama.cpp's fallback is
    taken (q4_k → q5_0, q5_k → q5_1, q6_k → q8_0, all others → iq4_nl), and where 32 does not, F16;
    `kind` says which, and `nbytes` counts it.

    Attributes:
        imatrix: weigh columns by the second moments of the calibration inputs (llama.cpp's
            importance matrix, from the same statistics that the other quantizers use).
        gptq: choose the codes as GPTQ does, on the scales that ggml found: llama.cpp reads the same
            blocks, and the columns that remain make up for the error of each. The I types, which
            are no grids, stay as ggml rounds them.
        prefix: which blocks make the inputs of gptq: "uniform", "quantized" or "full"; this and
            damp_percent are explained at `GPTQ`.

    Source: ggml-quants.c of ggml (MIT); Frantar et al. 2022, arXiv:2210.17323.
    """

    imatrix: bool = True
    gptq: bool = False
    prefix: str = "uniform"
    damp_percent: float = 0.01

    levels: ClassVar[tuple[Option, ...]] = (*WHOLE, *TYPES)

    def __post_init__(self) -> None:
        pick(dict.fromkeys(SOURCES), "prefix", self.prefix)
        require_damping(self.damp_percent, "ggml")

    @property
    def needs(self) -> frozenset[str]:
        wanted = {"input_norms": self.imatrix, "gram": self.gptq}
        return frozenset(name for name, asked in wanted.items() if asked)

    @property
    def inputs(self) -> str:
        return self.prefix if self.gptq else "full"

    @property
    def outside(self) -> "GGML":
        return replace(self, imatrix=False, gptq=False)

    def nominal(self, option: Option) -> float:
        return float(TYPES[self._name(option)][1])

    def kind(self, columns: int, option: Option) -> Kind:
        """The type that rows of `columns` weights get for `option`."""
        wanted = TYPES[self._name(option)][0]
        if columns % GGML_QUANT_SIZES[wanted][0]:
            wanted = FALLBACKS.get(wanted, Kind.IQ4_NL)
        return Kind.F16 if columns % GGML_QUANT_SIZES[wanted][0] else wanted

    def same(self, shape: Shape, option: Option) -> Option:
        """Where 256 does not divide a row, several K types fall back to one."""
        wanted = self.kind(shape[1], option)
        return next(own for own in self.levels if self.kind(shape[1], own) == wanted)

    def nbytes(self, shape: Shape, option: Option) -> int:
        return shape[0] * row_bytes(shape[1], self.kind(shape[1], option))

    def __call__(self, weight: Tensor, option: Option, stats: MatrixStats | None = None) -> Blocks:
        kind = self.kind(weight.shape[1], option)
        weight = finite(weight).float()
        stats = stats or MatrixStats()
        made = self._packed(weight, kind, stats)
        if (lift := grid.lift(weight)) != 1:
            larger = self._packed(weight * lift, kind, stats).dequantize()
            least = grid.missed(weight * lift, larger)
            grid.refuse_faded(weight, made.dequantize(), kind.name, least)
        return self._compensated(weight, made, stats) if self.gptq else made

    def _packed(self, weight: Tensor, kind: Kind, stats: MatrixStats) -> Blocks:
        if kind == Kind.F16:
            return Blocks(stored(weight, torch.float16).contiguous().view(torch.uint8), kind)
        return libggml.pack(weight, kind, self._importance(stats))

    def _name(self, option: Option) -> str:
        name = option if isinstance(option, str) else WHOLE.get(int(option), str(option))
        pick(TYPES, "ggml type", name)
        return name

    def _importance(self, stats: MatrixStats) -> Tensor | None:
        if not self.imatrix:
            return None
        squares = stats.require("square_sum")
        mean = squares.mean()
        return squares.clamp(min=FLOOR * mean) if mean > 0 else None

    def _compensated(self, weight: Tensor, made: Blocks, stats: MatrixStats) -> Blocks:
        if made.kind not in ggml_codes.LAYOUTS:
            return made
        order = torch.argsort(stats.require("gram").diagonal(), descending=True, stable=True)
        factor = inverse_factor(stats, self.damp_percent, order)
        w = columns_first(weight[:, order])
        codes = torch.empty(w.shape, dtype=torch.uint8, device=w.device)
        top = 2 ** BITS[made.kind] - 1
        codes[order] = with_grids(w, factor, top, Grids(*ggml_codes.grids(made), order))
        return ggml_codes.with_codes(made, codes.T.contiguous())
