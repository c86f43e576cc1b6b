"""Scores measured on the whole model: one unit is changed, and what follows it runs again.

A trial of a unit in block i of n runs n − i blocks and the head, so all blocks once cost (n + 1) /
2 forward passes (of n blocks), and all matrices as many times that as a block has matrices.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from lwq import models
from lwq.common.errors import InputError
from lwq.common.names import pick
from lwq.common.progress import track
from lwq.contracts import GRANULARITIES, KEPT, Option
from lwq.contracts.estimate import Estimate
from lwq.engine.evaluate import reference
from lwq.quantizers.gptq import inverse_factor
from lwq.scorers.activations import seen_by
from lwq.scorers.shared.declared import Harms
from lwq.scorers.shared.lifted import lifted
from lwq.scorers.shared.rounding import WIDTHS, Rounding, rounding
from lwq.scorers.shared.trials import Trials
from lwq.statistics.forward import WINDOWS, Stats, stream
from lwq.statistics.sums import MatrixStats
from lwq.statistics.windows import require_windows


@dataclass(frozen=True)
class _Measured:
    """What these scorers have in common.

    Attributes:
        granularity: "matrix", "group" or "block".
        windows: the first so many of the calibration windows.
    """

    granularity: str = "block"
    windows: int = 4

    needs: ClassVar[frozenset[str]] = frozenset({WINDOWS})

    def __post_init__(self) -> None:
        pick(dict.fromkeys(GRANULARITIES), "granularity", self.granularity)
        if self.windows < 1:
            raise InputError(f"windows={self.windows}: one or more is needed")

    def drawn(self, stats: Stats) -> Tensor:
        return require_windows(stats.windows, self.needs)[: self.windows]

    def placed(self, model: nn.Module) -> Iterator[tuple[str, str, list[str]]]:
        """(unit, its block, its matrices), in the order of the forward pass."""
        units = models.units(model, self.granularity)
        owner = {
            name: block for block, names in models.units(model, "block").items() for name in names
        }
        for unit, names in track(list(units.items()), "measure units"):
            yield unit, owner[names[0]] if names else unit, names

    def tried(
        self, model: nn.Module, stats: Stats, change: Callable[[str], Tensor]
    ) -> dict[str, np.ndarray]:
        """unit -> KL of each window with `change` of its matrices."""
        drawn = self.drawn(stats)
        trials = Trials(model, drawn, reference(model, drawn))
        return {unit: trials.kl(block, names, change) for unit, block, names in self.placed(model)}


@dataclass(frozen=True)
class AtOption(_Measured):
    """Harm of each unit at each option, measured with everything else untouched.

        harm(u, b) = mean KL(p ‖ p with u at b)    in nats a token

    Attributes:
        quantizer, options: whose rounding; see `FisherKL`.

    Costs about half a forward pass a unit and option. It is what `fisher_kl` estimates in one pass.
    """

    quantizer: str = "rtn"
    options: tuple[Option, ...] = WIDTHS

    def __call__(self, model: nn.Module, stats: Stats) -> Harms:
        drawn = self.drawn(stats)
        harms: Harms = {}
        with rounding(model, self.quantizer, self.options, stats.windows) as found:
            trials = Trials(model, drawn, reference(model, drawn))
            for unit, block, names in self.placed(model):
                harms[unit] = {
                    option: Estimate.of(trials.kl(block, names, _at(found, option)))
                    for option in self.options
                }
                found.leave()
        return harms


def _at(found: Rounding, option: Option) -> Callable[[str], Tensor]:
    return lambda name: found.change(name, option)


@dataclass(frozen=True)
class LeaveOneLow(_Measured):
    """What a unit alone costs at a low width.

        importance(u) = mean KL(p ‖ p with u at `low`)    in nats a token

    Attributes:
        low: an option of the quantizer.
        quantizer: whose rounding.

    Costs about half a forward pass a unit.
    """

    low: Option = 2
    quantizer: str = "rtn"

    def __call__(self, model: nn.Module, stats: Stats) -> dict[str, float]:
        with rounding(model, self.quantizer, (self.low,), stats.windows) as found:
            tried = self.tried(model, stats, _at(found, self.low))
        return {unit: Estimate.of(kl) for unit, kl in tried.items()}


@dataclass(frozen=True)
class LeaveOneHigh(_Measured):
    """What a unit alone gains at a high width where all others are low.

        importance(u) = mean [KL(p ‖ all low) − KL(p ‖ all low but u)]    in nats a token,

    less the smallest where that is negative, so that none is.

    Attributes:
        low, high: options of the quantizer; 16 is untouched.
        quantizer: whose rounding.

    Costs about half a forward pass a unit. Not for a model from `load(..., stream=True)`.
    """

    low: Option = 3
    high: Option = KEPT
    quantizer: str = "rtn"

    def __call__(self, model: nn.Module, stats: Stats) -> dict[str, float]:
        if models.streamed(model) is not None:
            raise InputError("leave_one_high needs both widths in memory; load the model whole")
        drawn = self.drawn(stats)
        truth = reference(model, drawn)
        options = (self.low, self.high)
        with rounding(model, self.quantizer, options, stats.windows, banked=True) as found:
            assert found.bank is not None
            found.bank.apply_(found.plan(self.low))
            trials = Trials(model, drawn, truth)
            gains = {
                unit: trials.base - trials.kl(block, names, _at(found, self.high))
                for unit, block, names in self.placed(model)
            }
        return lifted(gains)


def smallest(weight: Tensor, share: float) -> Tensor:
    """A matrix of its smallest weights, `share` of all and one at least, the others 0; of equal
    ones those first in a row.
    """
    flat = weight.flatten()
    places = flat.abs().argsort(stable=True)[: max(1, round(share * len(flat)))]
    return torch.zeros_like(flat).index_put_((places,), flat[places]).view_as(weight)


@dataclass(frozen=True)
class PruneSensitivity(_Measured):
    """What a unit costs without its smallest weights.

        importance(u) = mean KL(p ‖ p with the smallest `sparsity` of each matrix of u at 0)

    Attributes:
        sparsity: share of each matrix's weights.

    Costs about half a forward pass a unit. Source: PMPQ of CPTQuant, Nanda et al. 2024,
    arXiv:2412.03599, which takes the change of a task's accuracy.
    """

    sparsity: float = 0.3

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.sparsity < 1:
            raise InputError(f"prune_sensitivity: sparsity={self.sparsity}; a share such as 0.3")

    def __call__(self, model: nn.Module, stats: Stats) -> dict[str, float]:
        matrices = models.matrices(model)

        def pruned(name: str) -> Tensor:
            return -smallest(matrices[name].view().float(), self.sparsity)

        return {unit: Estimate.of(kl) for unit, kl in self.tried(model, stats, pruned).items()}


@dataclass(frozen=True)
class Linearity(_Measured):
    """HIGGS: how the KL grows with relative noise, times the quantizer's relative error.

        harm(u, b) = α_u t_u(b)²,    t_u(b)² = Σ ‖ΔW_mb‖² / Σ ‖W_m‖² over matrices m of u
        α_u = Σ_j KL_uj t_j² / Σ_j t_j⁴,    KL_uj with W_m + t_j ‖W_m‖ / √n_m · N(0, 1)

    Attributes:
        noise: t_j; α is a line through the origin.
        quantizer, options: whose rounding.
        seed: of the noise.

    Costs about half a forward pass a unit and t_j. Source: Malinovskii et al. 2024,
    arXiv:2411.17525, algorithm 3, with KL for perplexity; good above about 3 bits.
    """

    noise: tuple[float, ...] = (0.05, 0.1, 0.15)
    quantizer: str = "rtn"
    options: tuple[Option, ...] = WIDTHS
    seed: int = 0

    def __call__(self, model: nn.Module, stats: Stats) -> Harms:
        drawn = self.drawn(stats)
        generator = torch.Generator().manual_seed(self.seed)
        harms: Harms = {}
        with rounding(model, self.quantizer, self.options, stats.windows) as found:
            trials = Trials(model, drawn, reference(model, drawn))
            for unit, block, names in self.placed(model):
                kl = [trials.kl(block, names, noisy(found, generator, t)) for t in self.noise]
                alpha = fitted(self.noise, kl)
                with models.resident(model, block):
                    errors = [_relative(found, names, option) for option in self.options]
                found.leave()
                harms[unit] = {
                    option: Estimate.of(alpha * error)
                    for option, error in zip(self.options, errors, strict=True)
                }
        return harms


def fitted(noise: Sequence[float], kl: Sequence[np.ndarray]) -> np.ndarray:
    """α of each window (n,): the line through the origin that fits KL, one (n,) a t, to t²."""
    squares = np.square(noise)
    return squares @ np.stack(kl) / (squares @ squares)


def noisy(found: Rounding, generator: torch.Generator, t: float) -> Callable[[str], Tensor]:
    """Gaussian noise whose expected norm is t ‖W‖."""

    def change(name: str) -> Tensor:
        weight = found.matrices[name].view().float()
        drawn = torch.randn(weight.shape, generator=generator).to(weight)
        return drawn * (t * weight.norm() / weight.numel() ** 0.5)

    return change


def _relative(found: Rounding, names: list[str], option: Option) -> float:
    """Σ ‖ΔW‖² / Σ ‖W‖²."""
    error = sum(float(found.change(name, option).square().sum()) for name in names)
    whole = sum(float(found.matrices[name].view().float().square().sum()) for name in names)
    return error / whole if whole else 0.0


@dataclass(frozen=True)
class ShapedNoise(_Measured):
    """The KL of noise shaped like a column solver's errors, times the relative output error.

        harm(u, b) = S_u r_u(b)²,    r_u(b)² = Σ tr ΔW_mb H_m ΔW_mbᵀ / Σ tr W_m H_m W_mᵀ
        S_u = KL / r², with ΔW_m = c_m Z U_m,    H_m⁻¹ = U_mᵀ U_m,    Z ~ N(0, 1),
        c_m such that tr ΔW_m H_m ΔW_mᵀ = r² tr W_m H_m W_mᵀ

    Attributes:
        noise: r.
        quantizer, options: whose rounding.
        seed: of the noise.

    The noise avoids what the inputs see, as gptq's errors do; the relative error is the
    quantizer's. Costs about half a forward pass a unit, and one more. The idea is exllamav3's.
    """

    noise: float = 0.05
    quantizer: str = "gptq"
    options: tuple[Option, ...] = WIDTHS
    seed: int = 0

    def __call__(self, model: nn.Module, stats: Stats) -> Harms:
        drawn = self.drawn(stats)
        windows = require_windows(stats.windows, self.needs)
        harms: Harms = {}
        generator = torch.Generator().manual_seed(self.seed)
        with rounding(model, self.quantizer, self.options, windows) as found:
            trials = Trials(model, drawn, reference(model, drawn))
            passed = stream(model, windows, frozenset({"gram"}))
            seen = next(passed)
            for unit, block, names in self.placed(model):
                while seen.name != block:
                    seen = next(passed)
                shaped = _shaped(found, seen.matrices, generator, self.noise)
                strength = trials.kl(block, names, shaped) / self.noise**2
                with models.resident(model, block):
                    errors = [
                        _output_error(found, seen.matrices, names, option)
                        for option in self.options
                    ]
                found.leave()
                harms[unit] = {
                    option: Estimate.of(strength * error)
                    for option, error in zip(self.options, errors, strict=True)
                }
        return harms


def _shaped(
    found: Rounding, stats: Mapping[str, MatrixStats], generator: torch.Generator, noise: float
) -> Callable[[str], Tensor]:
    def change(name: str) -> Tensor:
        weight = found.matrices[name].view().float()
        if not (name in stats and stats[name].tokens):
            return torch.zeros_like(weight)
        factor = inverse_factor(stats[name], 0.01)
        drawn = torch.randn(weight.shape, generator=generator).to(weight) @ factor
        gram = stats[name].require("gram")
        return drawn * (noise * (seen_by(weight, gram) / seen_by(drawn, gram)) ** 0.5)

    return change


def _output_error(
    found: Rounding, stats: Mapping[str, MatrixStats], names: list[str], option: Option
) -> float:
    error = whole = 0.0
    for name in names:
        if name in stats and stats[name].tokens:
            gram = stats[name].require("gram")
            error += seen_by(found.change(name, option), gram)
            whole += seen_by(found.matrices[name].view().float(), gram)
    return max(0.0, error) / whole if whole else 0.0
