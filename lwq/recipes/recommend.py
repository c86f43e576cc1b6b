"""The default recipe: from a model and a budget to a plan, with no method named."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from lwq import models
from lwq.allocators import within
from lwq.common.errors import InputError
from lwq.common.names import build, spec
from lwq.contracts import Budget, Costs, Option, Plan
from lwq.contracts.methods import Quantizer
from lwq.engine.bank import Bank
from lwq.engine.store import Store
from lwq.inputs.texts import windows as draw
from lwq.quantizers import QUANTIZERS
from lwq.recipes.guard import guarded
from lwq.scorers import score
from lwq.scorers.fisher import FisherKL

TEXT = "c4"  # of calibration and of the guard; the toy model reads its own


@dataclass(frozen=True)
class Recipe:
    """How a plan is found where no method is named.

    Harms are KL to second order (`fisher_kl`), one for each matrix and option; the plan has the
    least sum within the budget (`knapsack`); it is kept if it beats uniform bits of its bytes on
    the tune split (`guarded`). LOG.md says what it was measured against.

    Attributes:
        quantizer: text, or an object.
        options: what units may have; None: the whole widths of the quantizer.
        granularity: of the units.
        guard: whether the plan is measured against uniform bits of its bytes.
        nsamples, seqlen: calibration windows.
        tune, length: windows of the guard, at most, and tokens of each.
        seed: of all draws.
    """

    quantizer: str | Quantizer = "gptq"
    options: tuple[Option, ...] | None = None
    granularity: str = "matrix"
    guard: bool = True
    nsamples: int = 64
    seqlen: int = 512
    tune: int = 64
    length: int = 256
    seed: int = 0

    def __call__(
        self,
        model: nn.Module,
        limit: str,
        amount: float,
        outside: bool | None = None,
        windows: Tensor | None = None,
        tune: Tensor | None = None,
    ) -> Plan:
        """The plan for one limit; see `Budget`.

        Args:
            outside: whether embeddings and head are units; None: where the limit is in bytes.
            windows, tune: LongTensor (n, length) of the calibrate and the tune split; None: drawn
                from c4 with the model's own tokenizer.
        """
        packer: Quantizer = build(QUANTIZERS, "quantizer", self.quantizer)
        beyond = limit == "max_bytes" if outside is None else outside
        options = self._options(packer)
        layout = models.layout(model, self.granularity, beyond)
        budget = Budget(layout, options, packer, limit, amount)  # refused before the work starts
        windows = self._drawn(model, "calibrate", windows)
        costs = self._costs(model, packer, options, beyond, windows)
        plan = within(costs, budget, "knapsack")
        if not self.guard:
            return plan
        tune = self._drawn(model, "tune", tune)
        bank = Bank(model, packer, windows, Store())
        return guarded(model, plan, costs, budget, windows, tune, bank)

    def _options(self, packer: Quantizer) -> tuple[Option, ...]:
        whole = (option for option in packer.levels if isinstance(option, int))
        found = self.options or tuple(sorted(whole, reverse=True))
        if not found:
            raise InputError(
                f"{spec(QUANTIZERS, packer)} has no whole widths; name its options (bits=…) "
                f"out of {list(packer.levels)[:8]} …"
            )
        return found

    def _costs(
        self,
        model: nn.Module,
        packer: Quantizer,
        options: tuple[Option, ...],
        outside: bool,
        windows: Tensor,
    ) -> Costs:
        text = spec(QUANTIZERS, packer)
        scorer = FisherKL(text, options, self.granularity, seed=self.seed, outside=outside)
        found = score(model, scorer, windows)
        assert isinstance(found, Costs)
        return found

    def _drawn(self, model: nn.Module, split: str, given: Tensor | None) -> Tensor:
        if given is not None:
            return given
        toy = models.name(model).partition("-")[0] == "toy"
        n, length = (
            (self.nsamples, self.seqlen) if split == "calibrate" else (self.tune, self.length)
        )
        tokenizer: Any = models.tokenizer(model)
        text = "toy" if toy else TEXT
        length = min(length, int(tokenizer.model_max_length))
        return draw(text, tokenizer, n, length, split, self.seed)
