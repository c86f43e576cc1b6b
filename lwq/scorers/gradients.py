"""Scores from gradients of the log-probability, at full precision: all share the passes back.

None sees a router choose other experts; `FisherKL` says how much that is.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from lwq import models
from lwq.common.errors import InputError
from lwq.common.names import pick
from lwq.contracts import GRANULARITIES, Option
from lwq.contracts.estimate import Estimate
from lwq.scorers.shared.declared import Found, Harms, importance
from lwq.scorers.shared.listening import Source, heard, listen
from lwq.scorers.shared.per_token import PerToken, heard_names
from lwq.scorers.shared.rounding import WIDTHS, Rounding
from lwq.statistics.backward import Gradients, Slope
from lwq.statistics.forward import GRADIENTS, WINDOWS, Stats
from lwq.statistics.heard import Pair


@dataclass(frozen=True)
class _Rounded:
    """What scorers of a quantizer's rounding have in common.

    Attributes:
        quantizer, options: whose rounding; see `FisherKL`.
        granularity: "matrix", "group" or "block".
        labels, samples, windows, seed: of the gradients; see `Source`.
        outside: embeddings and head too, as in `FisherKL`.
    """

    quantizer: str = "rtn"
    options: tuple[Option, ...] = WIDTHS
    granularity: str = "matrix"
    labels: str = "empirical"
    samples: int = 1
    windows: int = 8
    seed: int = 0
    outside: bool = False

    needs: ClassVar[frozenset[str]] = frozenset({WINDOWS, GRADIENTS})

    def __post_init__(self) -> None:
        pick(dict.fromkeys(GRANULARITIES), "granularity", self.granularity)
        _ = self.source  # its settings are checked

    @property
    def source(self) -> Source:
        return Source(self.labels, self.samples, self.windows, self.seed)

    def __call__(self, model: nn.Module, stats: Stats) -> Found:
        return heard(model, stats, self)

    def listener(self, model: nn.Module, stats: Stats) -> "PerToken":
        drawn = self.source.drawn(stats.windows)
        found = self.rounding(model, stats)
        units = heard_names(model, models.units(model, self.granularity, self.outside))
        return PerToken(units, found, drawn, self.measure, self._harms)

    def rounding(self, model: nn.Module, stats: Stats) -> Rounding:
        return Rounding(model, self.quantizer, self.options, stats.windows, outside=self.outside)

    def measure(self, pair: Pair, change: Tensor) -> Tensor:
        raise NotImplementedError  # each score has its own

    def harm(self, values: Tensor, scored: int) -> Tensor:
        """(options, samples · windows, length) -> (options, samples · windows), or (options,)."""
        raise NotImplementedError  # each score has its own

    def _harms(self, values: Mapping[str, Tensor]) -> Harms:
        return {unit: self._harm(found) for unit, found in values.items()}

    def _harm(self, values: Tensor) -> dict[Option, float]:
        found = self.harm(values.double(), self.source.scored(values.shape[2]))
        if found.ndim == 1:
            return dict(zip(self.options, found.tolist(), strict=True))
        rows = self.source.per_window(found).numpy()
        return {option: Estimate.of(row) for option, row in zip(self.options, rows, strict=True)}


@dataclass(frozen=True)
class Taylor(_Rounded):
    """The first-order change of the loss by a unit's rounding, whatever its sign.

        harm(u, b) = |mean over tokens of Σ_{m in u} g_mt · ΔW_mb x_mt| = |⟨∂L/∂W, ΔW⟩|

    Costs two forward passes and one backward, and about a forward for each option. Source: LLM-MQ
    (Li et al. 2023), which takes |mean(∂L/∂W ∘ ΔW)|; summed here, so that larger matrices count for
    more.
    """

    def measure(self, pair: Pair, change: Tensor) -> Tensor:
        return pair.moved(change)

    def harm(self, values: Tensor, scored: int) -> Tensor:
        """(options,)."""
        return (values.sum(2) / scored).mean(1).abs()


@dataclass(frozen=True)
class DeltaLoss(_Rounded):
    """The size of the first-order change of the loss, token by token.

        harm(u, b) = mean over tokens of |Σ_{m in u} g_mt · ΔW_mb x_mt|    in nats a token

    Tokens that gain do not pay for those that lose. Costs two forward passes and one backward, and
    about a forward for each option. The idea of AutoRound's AutoScheme (mean of |gradient ·
    change|), at outputs instead of weights.
    """

    def measure(self, pair: Pair, change: Tensor) -> Tensor:
        return pair.moved(change)

    def harm(self, values: Tensor, scored: int) -> Tensor:
        return values.abs().sum(2) / scored


@dataclass(frozen=True)
class OutputFisher(_Rounded):
    """Squared change of each output times its squared gradient: the Fisher's diagonal there.

        harm(u, b) = ½ Σ_{m in u} mean over tokens of Σ_i g_mti² (ΔW_mb x_mt)_i²

    Outputs of a matrix are taken for independent, which `fisher_kl` does not. Costs two forward
    passes and one backward, and about a forward for each option. Source: the gradient method of
    NVIDIA ModelOpt's auto_quantize, which has no ½.
    """

    labels: str = "sampled"

    def measure(self, pair: Pair, change: Tensor) -> Tensor:
        return (pair.shifted(change) * pair.g).square().sum(1) / 2

    def harm(self, values: Tensor, scored: int) -> Tensor:
        return values.sum(2) / scored


@dataclass(frozen=True)
class Fisher(_Rounded):
    """FIT: mean squared rounding error of a matrix times the trace of its Fisher information.

        harm(u, b) = ½ Σ_{m in u} ‖ΔW_mb‖² / n_m · Tr F_m
        Tr F_m = mean over windows of ‖Σ_t g_t x_tᵀ‖² / tokens of a window

    Costs two forward passes and one backward, with weight gradients. Source: Zandonati et al. 2022,
    arXiv:2210.08502; the noise is measured here, not (range / (2^b − 1))² / 12.
    """

    def listener(self, model: nn.Module, stats: Stats) -> "_Traces":  # type: ignore[override]  # it sums other things
        if self.outside:
            raise InputError(
                "fisher: outside=True: the trace of an embedding is not summed; take fisher_kl, "
                "output_fisher or taylor, or leave outside out"
            )
        drawn = self.source.drawn(stats.windows)
        units = models.units(model, self.granularity)
        return _Traces(units, self.rounding(model, stats), self.source, *drawn.shape)


@dataclass
class _Traces:
    """Noise of each matrix times its trace.

    Attributes:
        source: of the gradients.
        windows, length: those that run, and tokens of one.
        traces: matrix -> (windows,); 0 in a window of which no token reached it.
        noise: matrix -> ‖ΔW‖² / n of each option.
    """

    units: Mapping[str, list[str]]
    rounding: Rounding
    source: Source
    windows: int
    length: int
    traces: dict[str, Tensor] = field(default_factory=dict)
    noise: dict[str, list[float]] = field(default_factory=dict)

    @torch.no_grad()
    def add(self, found: Gradients) -> None:
        for name, pair in found.pairs.items():
            if name not in self.rounding.matrices:
                continue
            if name not in self.noise:
                self.round(name)
            traces = self.traces.setdefault(name, torch.zeros(self.windows, dtype=torch.float64))
            scored = self.source.scored(self.length)
            window = pair.rows // found.length
            for number in range(found.count):
                mine = window == number
                gradient = Pair(pair.rows[mine], pair.x[mine], pair.g[mine]).weight_gradient()
                traces[found.first + number] = float(gradient.square().sum()) / scored

    def round(self, name: str) -> None:
        """Note the noise of a matrix, which is in memory."""
        changes = (self.rounding.change(name, option) for option in self.rounding.options)
        self.noise[name] = [float(change.square().mean()) for change in changes]
        self.rounding.leave()

    def result(self) -> Harms:
        self.rounding.close()
        return {unit: self._harm(names) for unit, names in self.units.items()}

    def _harm(self, names: list[str]) -> dict[Option, float]:
        """Sum over matrices; one that no token reached does none."""
        seen = [name for name in names if name in self.traces]
        if not seen:
            return dict.fromkeys(self.rounding.options, 0.0)
        traces = {name: self.source.per_window(self.traces[name]).numpy() for name in seen}
        harms = sum(np.outer(self.noise[name], traces[name]) / 2 for name in seen)
        return {
            option: Estimate.of(row)
            for option, row in zip(self.rounding.options, np.asarray(harms), strict=True)
        }


@dataclass(frozen=True)
class Relevance:
    """Gradient times input: how much of what the model says passes through a block.

        importance(block) = mean over tokens of Σ |h ∘ ∂ log p(y) / ∂h|,    h what enters the block

    Costs two forward passes and one backward. Relevance propagation (AttnLRP, LRP-QViT) is gradient
    times input with rules of its own for norms, softmax and products; here the gradient is the
    plain one, which is its ε-rule on linear layers.
    """

    labels: str = "empirical"
    samples: int = 1
    windows: int = 8
    seed: int = 0

    needs: ClassVar[frozenset[str]] = frozenset({WINDOWS, GRADIENTS})
    granularity: ClassVar[str] = "block"

    def __post_init__(self) -> None:
        _ = self.source

    @property
    def source(self) -> Source:
        return Source(self.labels, self.samples, self.windows, self.seed)

    def __call__(self, model: nn.Module, stats: Stats) -> Found:
        return heard(model, stats, self)

    def listener(self, model: nn.Module, stats: Stats) -> "_Passing":
        return _Passing(self.source, {block: [] for block in models.blocks(model)})


@dataclass
class _Passing:
    source: Source
    values: dict[str, list[Tensor]]

    @torch.no_grad()
    def add(self, found: Gradients) -> None:
        if found.part in self.values:
            through = (found.hidden * found.gradient).abs().double().sum(-1).mean(-1)
            self.values[found.part].append(through.cpu())

    def result(self) -> dict[str, float]:
        return {
            block: Estimate.of(self.source.per_window(torch.cat(parts)).numpy())
            for block, parts in self.values.items()
        }


@dataclass(frozen=True)
class Hutchinson(_Rounded):
    """HAWQ-V2: mean squared rounding error of a matrix times the trace of its Hessian.

        harm(u, b) = ½ Σ_{m in u} max(0, Tr H_m) · ‖ΔW_mb‖² / n_m
        Tr H_m ≈ mean over draws of v_mᵀ (H v)_m,    v = ±1 for every weight of all matrices

    H v is a difference of gradients at W ± ε v, ε = `step` · the root mean square of each matrix's
    weights times sign v; a trace that comes out negative counts as 0. Sampled labels are drawn
    once, by the model at W, and kept at W ± ε v: drawn anew on either side, the gradient is 0 on
    average wherever one looks.

    Attributes:
        draws: of v.
        step: see above.

    Costs four forward passes and two backward a draw, and one forward for sampled labels. Source:
    Dong et al. 2020, arXiv:1911.03852, with the ½ of a Taylor series. Not for a model from
    `load(..., stream=True)`, nor for one in 16 bits, where such a step is lost in rounding.
    """

    draws: int = 4
    step: float = 0.003

    needs: ClassVar[frozenset[str]] = frozenset({WINDOWS})

    def __call__(self, model: nn.Module, stats: Stats) -> Found:
        if self.outside:
            raise InputError("hutchinson: outside=True: it moves the blocks' matrices only")
        if models.streamed(model) is not None:
            raise InputError("hutchinson moves all weights at once; load the model whole")
        _require_fine(model, self.step)
        generator = torch.Generator().manual_seed(self.seed)
        slope = self.source.kept(model, self.source.drawn(stats.windows))
        draws = [self._draw(model, stats, generator, slope) for _ in range(self.draws)]
        units = models.units(model, self.granularity)
        traces = _Traces(units, self.rounding(model, stats), Source(), windows=1, length=1)
        for name in traces.rounding.matrices:
            mean = sum(draw[name] for draw in draws) / len(draws)
            traces.traces[name] = torch.tensor([max(0.0, mean)], dtype=torch.float64)
            traces.round(name)
        return traces.result()

    @torch.no_grad()
    def _draw(
        self, model: nn.Module, stats: Stats, generator: torch.Generator, slope: Slope
    ) -> dict[str, float]:
        """Matrix -> v_mᵀ (H v)_m a scored token, H of the negative log-likelihood."""
        matrices = models.matrices(model)
        signs = {
            name: torch.randint(0, 2, m.shape, generator=generator, dtype=torch.int8) * 2 - 1
            for name, m in matrices.items()
        }
        sizes = {name: self.step * float(_rms(m.view())) for name, m in matrices.items()}
        kept = {name: m.view().clone() for name, m in matrices.items()}
        sides = []
        try:
            for side in (1, -1):
                for name, m in matrices.items():
                    v = signs[name].to(m.view())
                    m.view().copy_(kept[name]).add_(v, alpha=side * sizes[name])
                found = listen(model, stats, [_Along(signs)], self.source, slope)
                sides.append(importance(found[0]))
        finally:
            for name, m in matrices.items():
                m.view().copy_(kept[name])
        drawn = self.source.drawn(stats.windows)
        tokens = len(drawn) * self.source.scored(drawn.shape[1])
        up, down = sides
        return {
            name: (down.get(name, 0.0) - up.get(name, 0.0)) / (2 * sizes[name]) / tokens
            for name in matrices
        }


def _require_fine(model: nn.Module, step: float) -> None:
    """Raise InputError, naming the matrix, where a step of its weights is lost in rounding."""
    for name, matrix in models.matrices(model).items():
        dtype = matrix.view().dtype
        if torch.finfo(dtype).eps > step / 100:
            kind = str(dtype).removeprefix("torch.")
            raise InputError(
                f"hutchinson: step={step} of {name} in {kind} is lost in rounding, whose own is "
                f"{torch.finfo(dtype).eps:.1g}; load the model with dtype='float32'"
            )


def _rms(weight: Tensor) -> Tensor:
    return weight.float().square().mean().sqrt()


@dataclass
class _Along:
    """Listens to the derivative of the log-probability along `directions`."""

    directions: Mapping[str, Tensor]
    found: dict[str, float] = field(default_factory=dict)
    source: Source = field(default_factory=Source)

    def listener(self, model: nn.Module, stats: Stats) -> "_Along":
        return self

    @torch.no_grad()
    def add(self, found: Gradients) -> None:
        for name, pair in found.pairs.items():
            if name in self.directions:
                moved = pair.moved(self.directions[name].to(pair.g)).double().sum()
                self.found[name] = self.found.get(name, 0.0) + float(moved)

    def result(self) -> dict[str, float]:
        return self.found
