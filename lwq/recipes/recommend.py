"""The default recipe: from a model and a budget to a plan, with no method named."""

import hashlib
import itertools
import sys
from collections import Counter
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from weakref import WeakSet

import torch
from torch import Tensor, nn

from lwq import models
from lwq.allocators import within
from lwq.common import paths
from lwq.common.errors import InputError
from lwq.common.hashing import digest
from lwq.common.kept import kept
from lwq.common.names import spec
from lwq.contracts import DROPPED, Budget, Costs, Option, Plan
from lwq.contracts.methods import Quantizer
from lwq.engine.bank import Bank
from lwq.engine.objective import Later
from lwq.engine.store import Store
from lwq.inputs import toy
from lwq.inputs.texts import WindowSpec
from lwq.quantizers import QUANTIZERS
from lwq.recipes.guard import guarded, uniform_plans
from lwq.recipes.sequential import least_windows
from lwq.scorers import SCORERS, score
from lwq.scorers.fisher import FisherKL
from lwq.scorers.shared.code import scorer_codes
from lwq.statistics.windows import require_token_ids

LOOKED = 4  # one in so many tune windows chooses among the alternatives
TEXT = "c4"  # of calibration and of the guard; the toy model reads its own

_warned: WeakSet[nn.Module] = WeakSet()  # models of whose routers it was said


@dataclass(frozen=True)
class Recipe:
    """How a plan is found where no method is named.

    Harms are KL to second order (`fisher_kl`), one for each unit and option; the plan has the least
    sum within the budget (`knapsack`); where harms tell plans apart badly, for embeddings and head
    and at very few bits, the best measured of a few is taken (`look`); the plan is kept if it beats
    the uniform bits that fit on the tune split (`guarded`). LOG.md says what it was measured
    against.

    Attributes:
        guard: whether the plan is measured against uniform bits.
        nsamples, seqlen: calibration windows.
        tune, length: windows of the guard, at most, and tokens of each.
        seed: of all draws.
        text: of both; "" is c4, for the toy model its own.
    """

    guard: bool = True
    nsamples: int = 16
    seqlen: int = 512
    tune: int = 64
    length: int = 256
    seed: int = 0
    text: str = ""

    def __call__(
        self,
        model: nn.Module,
        budget: Budget,
        quantizer: Quantizer,
        windows: Tensor | None = None,
        tune: Tensor | None = None,
    ) -> Plan:
        """The plan for one budget; its layout says which units there are.

        Args:
            quantizer: what rounds; the budget's may count the bytes of a format instead.
            windows, tune: LongTensor (n, length) of the calibrate and the tune split, of the latter
                one window a document; None: drawn with the model's own tokenizer.
        """
        if self.guard:
            tune, _ = self.drawn(model, "tune", tune)
        windows, said = self.drawn(model, "calibrate", windows)
        costs = self.costs(model, budget, quantizer, windows, said)
        return self.plan(model, costs, budget, quantizer, windows, tune)

    def require(self, budget: Budget) -> None:
        """Raise InputError for options that have no price, and for a budget that leaves the guard
        no uniform bits to compare with.
        """
        if DROPPED in budget.offered:
            raise InputError(
                "the recipe prices rounding, and a dropped block is no small change: leave 0 out "
                "of bits, or measure the costs (lwq.engine.costs.measured_costs)"
            )
        if self.guard:
            uniform_plans(budget)

    def costs(
        self, model: nn.Module, budget: Budget, quantizer: Quantizer, windows: Tensor, said: str
    ) -> Costs:
        """The harm of each unit at each option of the budget."""
        self.require(budget)
        _say_routed(model)
        scorer = FisherKL(
            spec(QUANTIZERS, quantizer),
            _priced(budget),
            budget.layout.granularity,
            seed=self.seed,
            outside=bool(budget.layout.outside),
        )

        def scored() -> Costs:
            found = score(model, scorer, windows, said)
            assert isinstance(found, Costs)
            return found

        place = _place(model, scorer, budget.layout.fingerprint, windows)
        # the same weights may lie in another folder today
        return replace(kept(place, Costs.load, scored), layout=budget.layout)

    def plan(
        self,
        model: nn.Module,
        costs: Costs,
        budget: Budget,
        quantizer: Quantizer,
        windows: Tensor,
        tune: Tensor | None = None,
    ) -> Plan:
        """The plan of the least harm, or what a look at the last quarter of `tune` takes in its
        place, if the guard keeps it on the rest.
        """
        if not self.guard:
            return within(costs, budget, "knapsack", quantizer=quantizer)
        tune, said = self.drawn(model, "tune", tune)
        bank = Bank(model, quantizer, windows, Store())
        last = _guards(len(tune))  # what chooses does not judge
        plan = looked(model, costs, budget, bank, tune[last:])
        return guarded(model, plan, costs, budget, windows, tune[:last], bank, said)

    def drawn(self, model: nn.Module, split: str, given: Tensor | None) -> tuple[Tensor, str]:
        """Windows of a split, and the words for them.

        Raises InputError for too few of the tune split: the guard could never decide on them.
        """
        if given is not None:
            require_token_ids(given)
            _require_enough(given, split)
            return given, f"{len(given)} windows of the caller's"
        text = self.text or (TEXT if toy.depth(models.name(model)) is None else "toy")
        n, length = (
            (self.nsamples, self.seqlen) if split == "calibrate" else (self.tune, self.length)
        )
        tokenizer = models.tokenizer(model)
        length = min(length, int(tokenizer.model_max_length))
        asked = WindowSpec(text, split, n, length, self.seed)
        drawn = asked.draw(tokenizer)
        # the guard's evidence adds up over windows that share nothing
        windows = drawn.apart() if split == "tune" else drawn.windows
        _require_enough(windows, split)
        return windows, str(asked)


def _guards(windows: int) -> int:
    """How many of so many tune windows are the guard's: the first; those after them choose."""
    return windows - windows // LOOKED


def _require_enough(windows: Tensor, split: str) -> None:
    """Raise InputError where the guard has too few windows to ever decide."""
    if split == "tune" and _guards(len(windows)) < least_windows():
        enough = next(n for n in itertools.count() if _guards(n) >= least_windows())
        raise InputError(
            f"{len(windows)} windows of the tune split, one a document, leave the guard "
            f"{_guards(len(windows))}, and it decides nothing before {least_windows()}: give "
            f"{enough} or more, take a text with more documents, or leave it out (guard=False, "
            "--no-guard)"
        )


def looked(model: nn.Module, costs: Costs, budget: Budget, bank: Bank, windows: Tensor) -> Plan:
    """The plan of `look` on these windows; its provenance says what each that it tried had, that of
    the least harm first.

    Args:
        windows: LongTensor (n, length); a look costs a forward pass for each plan, and one. None at
            all: the plan of the least harm.
    """
    objective = Later(model, bank, windows, costs.layout)
    allocator = "look" if len(windows) else "knapsack"
    plan = within(costs, budget, allocator, objective, bank.quantizer)
    bank.restore_()
    tried = [
        {**{unit: trial.bits[unit] for unit in costs.layout.outside}, "kl": trial.harm}
        for trial in objective.log
    ]
    said = {"looked at": tried} if tried else {}
    return replace(plan, provenance={**plan.provenance, **said})


def _say_routed(model: nn.Module) -> None:
    """Say, once a model, what harms of a model with routers leave out."""
    if model in _warned or not models.routed(model):
        return
    _warned.add(model)
    print(
        f"lwq: warning: a router chooses experts in {models.name(model)}, and the harms do not see "
        f"it choose others: those of attention come out too low; leave the guard on, or measure "
        f"them (at_option)",
        file=sys.stderr,
    )


def _priced(budget: Budget) -> tuple[Option, ...] | dict[str, tuple[Option, ...]]:
    """The options that units may have, as `FisherKL` takes them."""
    (most, count), *_ = Counter(budget.choices.values()).most_common(1)
    if count == len(budget.choices):
        return most
    return {"": most, **{unit: own for unit, own in budget.choices.items() if own != most}}


def _place(model: nn.Module, scorer: FisherKL, weights: str, windows: Tensor) -> Path | None:
    """Where the costs of a model are kept, under all that decides them; None where code of the
    user's own cannot be read.
    """
    try:
        code = scorer_codes(scorer)
    except (OSError, TypeError):
        return None
    tokens = hashlib.sha256(windows.cpu().numpy().tobytes()).hexdigest()
    source = [weights, models.configuration(model), list(windows.shape), tokens]
    made = [spec(SCORERS, scorer), torch.__version__, version("transformers"), *code]
    folder = paths.writable(paths.cache() / "costs", "LWQ_CACHE")
    return folder / f"{digest([*source, *made])}.json"


def whole_widths(quantizer: Quantizer) -> tuple[Option, ...]:
    """The whole widths that a quantizer has, from the highest."""
    found = sorted((one for one in quantizer.levels if isinstance(one, int)), reverse=True)
    if not found:
        raise InputError(
            f"{spec(QUANTIZERS, quantizer)} has no whole widths; name its options (bits=…) out of "
            f"{list(quantizer.levels)[:8]} …"
        )
    return tuple(found)
