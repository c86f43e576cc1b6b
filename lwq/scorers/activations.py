"""Scores from the weights and from the second moment of what reaches them."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from lwq import models
from lwq.common.names import pick
from lwq.contracts import GRANULARITIES, Option
from lwq.quantizers.rtn import RTN
from lwq.scorers.shared.declared import Harms
from lwq.scorers.shared.lifted import lifted
from lwq.scorers.shared.rounding import WIDTHS, rounding
from lwq.scorers.weights import effective_rank
from lwq.statistics.forward import WINDOWS, BlockStats, Stats, stream
from lwq.statistics.sums import MatrixStats
from lwq.statistics.windows import require_windows


@dataclass(frozen=True)
class GramError:
    """What rounding does to the outputs of a unit's matrices, squared.

        harm(u, b) = Σ_{m in u} tr ΔW_mb H_m ΔW_mbᵀ / tokens,    H_m = Σ_t x_t x_tᵀ

    or, relative, divided by Σ tr W_m H_m W_mᵀ / tokens. It is the loss that gptq lowers; the
    model's loss it does not know.

    Attributes:
        quantizer, options: whose rounding; see `FisherKL`.
        granularity: "matrix", "group" or "block".
        relative: see above.

    Costs one forward pass. Source: EvoPress, arXiv:2410.14649, whose table for the dynamic program
    is the relative one.
    """

    quantizer: str = "rtn"
    options: tuple[Option, ...] = WIDTHS
    granularity: str = "matrix"
    relative: bool = True

    needs: ClassVar[frozenset[str]] = frozenset({WINDOWS})

    def __post_init__(self) -> None:
        pick(dict.fromkeys(GRANULARITIES), "granularity", self.granularity)

    def __call__(self, model: nn.Module, stats: Stats) -> Harms:
        windows = require_windows(stats.windows, self.needs)
        errors: dict[str, np.ndarray] = {}
        whole: dict[str, float] = {}
        with rounding(model, self.quantizer, self.options, windows) as found:
            for block in stream(model, windows, frozenset({"gram"})):
                for name, seen in block.matrices.items():
                    tokens = max(1, seen.tokens)
                    gram = seen.require("gram")
                    changes = (found.change(name, option) for option in self.options)
                    errors[name] = np.array([seen_by(change, gram) / tokens for change in changes])
                    weight = found.matrices[name].view().float()
                    whole[name] = seen_by(weight, gram) / tokens
                found.leave()
        units = models.units(model, self.granularity)
        return {unit: self._harm(names, errors, whole) for unit, names in units.items()}

    def _harm(
        self, names: list[str], errors: dict[str, np.ndarray], whole: dict[str, float]
    ) -> dict[Option, float]:
        seen = [name for name in names if name in errors]
        total = sum((errors[name] for name in seen), np.zeros(len(self.options)))
        size = sum(whole[name] for name in seen) if self.relative else 1.0
        harms = (total / size if size else total).clip(min=0)  # rounding of the trace
        return dict(zip(self.options, harms.tolist(), strict=True))


def seen_by(matrix: Tensor, gram: Tensor) -> float:
    """tr M H Mᵀ, what a change M (out, in) does to all outputs, squared; H (in, in)."""
    return float(((matrix @ gram) * matrix).sum())


@dataclass(frozen=True)
class LieQ:
    """How much a unit concentrates its outputs, beside random weights.

        importance = mean over matrices of (C(Z̃) − C(Z)) / C(Z̃),    Z = W X,    Z̃ = W̃ X
        C(Z) = exp(−Σ p log p),    p = σ² / Σ σ²,    σ the singular values of Z

    less the smallest where that is negative. W̃ ~ N(0, 1); trained matrices use fewer directions.

    Attributes:
        granularity: "matrix", "group" or "block".
        seed: of the random weights.

    Costs one forward pass. Source: LieQ, arXiv:2508.03332: the compactness of three diagnostics
    (the others are the perplexity without the block, `block_drop`, and the energy of the first
    directions; how the first version weighed them could not be found).
    """

    granularity: str = "block"
    seed: int = 0

    needs: ClassVar[frozenset[str]] = frozenset({WINDOWS})

    def __post_init__(self) -> None:
        pick(dict.fromkeys(GRANULARITIES), "granularity", self.granularity)

    def __call__(self, model: nn.Module, stats: Stats) -> dict[str, float]:
        windows = require_windows(stats.windows, self.needs)
        matrices = models.matrices(model)
        generator = torch.Generator().manual_seed(self.seed)
        gained: dict[str, float] = {}
        for block in stream(model, windows, frozenset({"gram"})):
            gained |= self._gained(block, matrices, generator)
        units = models.units(model, self.granularity)
        return lifted(
            {
                unit: np.array([np.mean([gained.get(name, 0.0) for name in names] or [0.0])])
                for unit, names in units.items()
            }
        )

    def _gained(
        self, block: BlockStats, matrices: dict[str, models.Matrix], generator: torch.Generator
    ) -> dict[str, float]:
        found = {}
        for name, seen in block.matrices.items():
            if not seen.tokens:
                continue
            gram = seen.require("gram").double()
            weight = matrices[name].view().double()
            drawn = torch.randn(weight.shape, generator=generator).to(weight)
            plain, random = (compactness(matrix, gram) for matrix in (weight, drawn))
            found[name] = (random - plain) / random
        return found


def compactness(weight: Tensor, gram: Tensor) -> float:
    """Effective rank of the outputs W X (out, tokens), from H = X Xᵀ: their energies are the
    eigenvalues of W H Wᵀ, those above 0 also of the smaller R Wᵀ W R where in < out, with R² = H.
    """
    rows, columns = weight.shape
    if columns < rows:
        values, vectors = torch.linalg.eigh(gram)
        seen = weight @ (vectors * values.clamp(min=0).sqrt())
        product = seen.T @ seen
    else:
        product = weight @ gram @ weight.T
    return effective_rank(torch.linalg.eigvalsh(product).clamp(min=0))


CRITERIA = ("mean_variance", "max_variance", "magnitude", "hessian")


@dataclass(frozen=True)
class ActivationVariance:
    """How much the inputs of a unit's matrices vary, for how well 8 bits fit its weights.

        importance = mean over matrices of v / e,    e = ‖W − Q_8(W)‖² / n
        v = mean or maximum over input channels of Var x, or the mean of |x|

    and, with "hessian", of mean x² · ‖W − Q_8(W)‖. Q_8 rounds each row to 8 bits, symmetrically.

    Attributes:
        criterion: "mean_variance", "max_variance", "magnitude" or "hessian".
        granularity: "matrix", "group" or "block".

    Costs one forward pass. Source: the sensitivity metrics of NNCF's weight compression, by their
    documentation ("multiplied by inverted 8-bit quantization noise").
    """

    criterion: str = "mean_variance"
    granularity: str = "block"

    needs: ClassVar[frozenset[str]] = frozenset({"input_norms", "input_means"})

    def __post_init__(self) -> None:
        pick(dict.fromkeys(CRITERIA), "criterion", self.criterion)
        pick(dict.fromkeys(GRANULARITIES), "granularity", self.granularity)

    def __call__(self, model: nn.Module, stats: Stats) -> dict[str, float]:
        matrices, values = models.matrices(model), dict[str, float]()
        for block, names in models.units(model, "block").items():
            with models.resident(model, block):
                for name in names:
                    seen = stats[block].matrices.get(name)
                    if seen is not None and seen.tokens:
                        values[name] = self._value(matrices[name].view().float(), seen)
        return {
            unit: float(np.mean([values.get(name, 0.0) for name in names] or [0.0]))
            for unit, names in models.units(model, self.granularity).items()
        }

    def _value(self, weight: Tensor, seen: MatrixStats) -> float:
        rounded = RTN(group_size=-1, sym=True)(weight, 8).dequantize().float()
        error = (rounded - weight).square()
        square = seen.require("square_sum").double() / seen.tokens  # (in,)
        if self.criterion == "hessian":
            return float(square.mean()) * float(error.sum().sqrt())
        if self.criterion == "magnitude":
            size = seen.require("magnitude").double() / seen.tokens
        else:
            size = (square - (seen.require("total").double() / seen.tokens).square()).clamp(min=0)
        most = size.max() if self.criterion == "max_variance" else size.mean()
        noise = float(error.double().mean())
        return float(most) / max(noise, torch.finfo(torch.float32).tiny)
