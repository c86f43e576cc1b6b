"""KL to second order: what each unit's rounding does to the model's own predictions."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from lwq import models
from lwq.common.errors import InputError
from lwq.common.names import build, pick, spec
from lwq.contracts import GRANULARITIES, KEPT, Option, Plan, nominal_bits
from lwq.contracts.estimate import Estimate
from lwq.contracts.methods import Quantizer
from lwq.quantizers import QUANTIZERS
from lwq.scorers.shared.checks import require_blocks
from lwq.scorers.shared.declared import Found, Harms, Joint
from lwq.scorers.shared.listening import Source, heard
from lwq.scorers.shared.per_token import PerToken, heard_names
from lwq.scorers.shared.rounding import WIDTHS, Rounding, rounding
from lwq.statistics.backward import backward, towards
from lwq.statistics.calls import BATCH, capture, logits_after, run_blocks
from lwq.statistics.forward import GRADIENTS, WINDOWS, Stats
from lwq.statistics.heard import Pair

POOLS = ("token", "window")


@dataclass(frozen=True)
class FisherKL:
    """Harm of each unit at each option: the KL of the model to itself with that unit rounded.

        harm(u, b) = ½ mean over tokens t of (Σ_{m in u} g_mt · ΔW_mb x_mt)²    in nats a token
        ΔW_mb = Q_b(W_m) − W_m,    g_mt = ∂ log p(y) / ∂(output of m at t),    y drawn from p

    This is KL(p ‖ p with u at b) to second order: ½ δᵀ F δ, with the Fisher information F sampled
    by the drawn tokens. Within a unit the changes move log p(y) together, so they are added
    before they are squared, whatever feeds them; between units they are squared apart, which takes
    them for independent. Harms add up (over units) as far as that holds, and shrink at low widths,
    where KL is not quadratic any more.

    Attributes:
        quantizer: whose rounding; text. One that needs statistics gets them from all the windows,
            in forward passes of its own, and its matrices from (and into) the bank.
        options: widths to try; or a unit -> the widths to try of it, with those of every unit that
            is not named under "".
        granularity: "matrix", "group" or "block".
        labels, samples, windows, seed: of the gradients; see `Source`.
        pool: "token" squares what each token does and adds up: the errors of tokens are taken for
            independent. "window" adds up what a window's tokens do and squares that, which is the
            Fisher form to the letter, and noisier: one square a window.
        around: a width, or a unit -> width of every unit: the model is expanded with that plan in
            place, and the harm is that of leaving it, ⟨∇ KL(p₀ ‖ p), ΔW⟩ + ½ ΔWᵀ F ΔW, p₀ of the
            untouched model; the quantizer must not need inputs="quantized".
        outside: embeddings and head too, each a unit; a tied pair is one, at both its places.
        pairs: say, too, what two units do together beyond the sum of both, at the option of the
            two with the fewest nominal bits (of equal bits the last): E[a b], a and b what each
            does to log p(y), since ½ E (a + b)² has that term.

    A router that chooses other experts is no small change, and is not seen: on random mixtrals the
    harm of attention at 4 and 6 bits came out at 0.07 to 0.67 of what `at_option` measures, that of
    experts at 0.6 to 1.03 (medians over matrices). So it is with every score of gradients.

    Costs two forward passes and one backward, and about a forward for each option, all over
    `samples` · `windows` windows; around a plan one forward more and twice the rest. Source: the
    Fisher as the Hessian of KL, Martens 2020, arXiv:1412.1193, section 5; drawn labels, Kunstner et
    al. 2019, arXiv:1905.12558.
    """

    quantizer: str = "rtn"
    options: tuple[Option, ...] | Mapping[str, tuple[Option, ...]] = WIDTHS
    granularity: str = "matrix"
    labels: str = "sampled"
    samples: int = 1
    windows: int = 8
    seed: int = 0
    pool: str = "token"
    around: Option | Mapping[str, Option] = KEPT
    outside: bool = False
    pairs: bool = False

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({WINDOWS, GRADIENTS} if self.around == KEPT else {WINDOWS})

    @property
    def source(self) -> Source:
        return Source(self.labels, self.samples, self.windows, self.seed)

    def __post_init__(self) -> None:
        pick(dict.fromkeys(GRANULARITIES), "granularity", self.granularity)
        pick(dict.fromkeys(POOLS), "pool", self.pool)
        _ = self.source  # its settings are checked
        uneven = isinstance(self.options, Mapping) or len(self.options) != 2
        if self.pairs and (uneven or self.around != KEPT):
            raise InputError(
                f"fisher_kl: pairs=True with options={self.options}, around={self.around!r}: pairs "
                f"are told for two options, around untouched weights"
            )

    def __call__(self, model: nn.Module, stats: Stats) -> Found:
        if self.around == KEPT:
            return heard(model, stats, self)
        return self._around(model, stats)

    def listener(self, model: nn.Module, stats: Stats) -> PerToken:
        drawn = self.source.drawn(stats.windows)
        require_blocks(model, drawn)
        units = models.units(model, self.granularity, self.outside)
        only = self._only(units)
        found = Rounding(
            model, self.quantizer, self.tried, stats.windows, outside=self.outside, only=only
        )
        return PerToken(heard_names(model, units), found, drawn, Pair.moved, self._found)

    @property
    def tried(self) -> tuple[Option, ...]:
        """The options that any unit is tried at."""
        own = self.options.values() if isinstance(self.options, Mapping) else [self.options]
        return tuple(dict.fromkeys(option for options in own for option in options))

    def _own(self, units: Iterable[str]) -> dict[str, tuple[Option, ...]]:
        """Unit -> the options that it is tried at."""
        named = self.options if isinstance(self.options, Mapping) else {"": self.options}
        units = list(units)
        if unknown := [unit for unit in named if unit and unit not in units]:
            raise InputError(
                f"fisher_kl: options: {unknown[:4]} are no units; they are {units[:4]} …"
            )
        if missing := [unit for unit in units if not named.get(unit, named.get("", ()))]:
            raise InputError(
                f"fisher_kl: options: none for {missing[:4]}; name them, or those of all others "
                f"under ''"
            )
        return {unit: tuple(named.get(unit, named.get("", ()))) for unit in units}

    def _only(self, units: Mapping[str, list[str]]) -> dict[str, tuple[Option, ...]]:
        """Matrix -> the options that it is tried at."""
        own = self._own(units)
        return {name: own[unit] for unit, names in units.items() for name in names}

    def _found(self, moves: Mapping[str, Tensor]) -> Harms:
        own = self._own(moves)
        harms = {
            unit: self._by_option(own[unit], self._squares(found).numpy() / 2)
            for unit, found in moves.items()
        }
        return Joint.of(harms, self._together(moves)) if self.pairs else harms

    def _together(self, moves: Mapping[str, Tensor]) -> dict[str, dict[str, float]]:
        """Mean product of what two units do at the lowest option, for each pair once."""
        quantizer: Quantizer = build(QUANTIZERS, "quantizer", self.quantizer)
        bits = [nominal_bits(option, quantizer) for option in self.tried]
        place = max(place for place, own in enumerate(bits) if own == min(bits))
        low = torch.stack([found[place] for found in moves.values()]).double()
        rows = low.flatten(1) if self.pool == "token" else low.sum(2)  # (units, tokens)
        tokens = low.shape[1] * self.source.scored(low.shape[2])
        products = (rows @ rows.T / tokens).tolist()
        units = list(moves)
        return {
            unit: dict(zip(units[place + 1 :], products[place][place + 1 :], strict=True))
            for place, unit in enumerate(units[:-1])
        }

    def _squares(self, moves: Tensor) -> Tensor:
        """(options, samples · windows, length) -> mean square a token (options, windows)."""
        scored = self.source.scored(moves.shape[2])
        wide = moves.double()
        squares = wide.square().sum(2) if self.pool == "token" else wide.sum(2).square()
        return self.source.per_window(squares / scored)

    def _by_option(self, own: tuple[Option, ...], values: np.ndarray) -> dict[Option, float]:
        found = dict(zip(self.tried, values, strict=True))
        return {option: Estimate.of(found[option]) for option in own}

    def _around(self, model: nn.Module, stats: Stats) -> Harms:
        drawn = self.source.drawn(stats.windows)
        require_blocks(model, drawn)
        if KEPT in self.tried and models.streamed(model) is not None:
            raise InputError(
                f"fisher_kl: options={self.tried} around a plan: a streamed model keeps no "
                f"original weights beside it; leave {KEPT} out, or load the model whole"
            )
        answers = _answers(model, drawn)
        units = models.units(model, self.granularity, self.outside)
        own, only = self._own(units), self._only(units)
        with rounding(
            model, self.quantizer, self.tried, stats.windows, True, self.outside, only
        ) as found:
            assert found.bank is not None
            found.bank.apply_(self._plan(model, spec(QUANTIZERS, found.quantizer)))
            names = heard_names(model, units)

            def moves(slope: Callable[[int, Tensor], Tensor]) -> dict[str, Tensor]:
                listener = PerToken(names, found, drawn, Pair.moved, self._found)
                for gradients in backward(model, drawn, slope):
                    listener.add(gradients)
                return listener.values

            first, second = moves(towards(answers)), moves(self.source.slope(drawn))
        length = drawn.shape[1]
        return {
            unit: self._by_option(
                own[unit],
                (
                    self._squares(second[unit]) / 2
                    - self.source.per_window(first[unit].double().sum(2) / length)
                ).numpy(),
            )
            for unit in units
        }

    def _plan(self, model: nn.Module, quantizer: str) -> Plan:
        layout = models.layout(model, self.granularity, self.outside)
        bits = (
            dict(self.around)
            if isinstance(self.around, Mapping)
            else dict.fromkeys(layout.units, self.around)
        )
        return Plan(bits, layout, quantizer)


@torch.no_grad()
def _answers(model: nn.Module, windows: Tensor) -> Callable[[int], Tensor]:
    """Number of a window -> the logits (length, vocabulary) that the model gives now; its last
    hidden states are kept, and the head runs again.
    """
    for _, _, outputs in run_blocks(model, capture(model, windows)):
        hidden = outputs

    @torch.no_grad()
    def logits(number: int) -> Tensor:
        batch, place = divmod(number, BATCH)
        states = hidden[batch][place : place + 1]
        return logits_after(model, windows[number : number + 1], states)[0]

    return logits
