"""What a search is handed: plans in, losses out, until its forward passes are spent."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from torch import Tensor, nn

from lwq import models
from lwq.common.errors import LimitSpent
from lwq.common.hashing import digest
from lwq.common.names import spec
from lwq.contracts import Layout, Losses, Option, Plan
from lwq.engine.bank import Bank
from lwq.engine.evaluate import Reference, reference
from lwq.engine.journal import Entry, Journal
from lwq.engine.sweep import Sweep
from lwq.inputs.texts import token_digest
from lwq.quantizers import QUANTIZERS


@dataclass(frozen=True)
class Trial:
    """One plan that a search tried.

    Attributes:
        bits: unit -> option.
        harm: mean KL to the reference, nats a token; mean NLL without one.
        passes: forward passes of the whole model over all windows that were spent until then.
        share: of the windows that it was measured on.
    """

    bits: Mapping[str, Option]
    harm: float
    passes: float
    share: float = 1.0


@dataclass
class Objective:
    """`objective(bits)` -> Losses on the windows of a sweep; its cost is counted, and limited.

    A plan costs the blocks that the sweep runs for it, as a share of all blocks: what it has in
    common with the plan before is free, and so is one that was tried already.

    Attributes:
        sweep: on windows of the tune split, which no plan is judged on.
        limit: forward passes of the whole model that may be spent.
        granularity: of the units in `bits`.
        outside: whether embeddings and head are among them.
        journal: a file that every trial is noted in when it is measured. A search that was killed,
            run again with the same file, finds them there, passes and all, and goes on; None: the
            trials are in memory alone.
        log: every trial, in order.
    """

    sweep: Sweep
    limit: float
    granularity: str = "block"
    outside: bool = False
    journal: str | Path | None = None
    log: list[Trial] = field(default_factory=list)
    _known: dict[tuple[str, int], Losses] = field(default_factory=dict, repr=False)
    _parts: dict[int, Sweep] = field(default_factory=dict, repr=False)
    _start: int = field(init=False, repr=False)
    _earlier: float = field(default=0.0, repr=False)  # passes of the trials that a journal had

    def __post_init__(self) -> None:
        bank = self.sweep.bank
        known = bank.layout.fingerprint
        self._layout = models.layout(bank.exact, self.granularity, self.outside, known)
        self._parts[len(self.sweep.windows)] = self.sweep
        self._start = self.sweep.blocks_run
        self._journal = Journal(Path(self.journal), self._made_by()) if self.journal else None

    def _made_by(self) -> str:
        """Digest of what decides the losses of a plan."""
        sweep = self.sweep
        source = sweep.bank.source or f"{self._layout.fingerprint} {self.quantizer}"
        shape, tokens = list(sweep.windows.shape), token_digest(sweep.windows.cpu())
        return digest([source, shape, tokens, sweep.reference is not None])

    @property
    def quantizer(self) -> str:
        """What plans are measured with, as text."""
        return spec(QUANTIZERS, self.sweep.bank.quantizer)

    @property
    def spent(self) -> float:
        """Forward passes so far; one over some of the windows counts as their share."""
        run = sum(count * part.blocks_run for count, part in self._parts.items())
        windows = len(self.sweep.windows)
        return self._earlier + (run / windows - self._start) / len(self.sweep.blocks)

    @property
    def left(self) -> float:
        """Forward passes that may still be spent."""
        return max(0.0, self.limit - self.spent)

    def __call__(self, bits: Mapping[str, Option]) -> Losses:
        """Losses of one plan; LimitSpent where nothing is left and it was not tried before."""
        return self.many([bits])[0]

    def many(self, plans: Iterable[Mapping[str, Option]], share: float = 1.0) -> list[Losses]:
        """Losses of several plans on the first `share` of the windows (at least one), measured in
        the order in which they share most work.

        Raises LimitSpent once the limit is reached; what was measured until then is in `log`.
        """
        count = max(1, round(share * len(self.sweep.windows)))
        made = [Plan(dict(bits), self._layout, self.quantizer) for bits in plans]
        new = {plan.id: plan for plan in made if (plan.id, count) not in self._known}
        for entry in self._journaled(new, count):
            self._earlier += max(0.0, entry.passes - self.spent)
            self._note(new.pop(entry.plan), entry.losses, count, share)
        self._require_left(new)
        for plan, losses in self._part(count).measure(new.values(), "search") if new else ():
            if self._journal:
                self._journal.note(Entry(plan.id, count, self.spent, losses))
            self._note(plan, losses, count, share)
            del new[plan.id]
            self._require_left(new)
        return [self._known[plan.id, count] for plan in made]

    def _note(self, plan: Plan, losses: Losses, count: int, share: float) -> None:
        self._known[plan.id, count] = losses
        self.log.append(Trial(plan.bits, losses.harm, self.spent, share))

    def _journaled(self, wanted: Mapping[str, Plan], count: int) -> list[Entry]:
        """What an earlier run of the search measured of these plans, in its order."""
        entries = self._journal.entries if self._journal else []
        return [entry for entry in entries if entry.windows == count and entry.plan in wanted]

    def _part(self, count: int) -> Sweep:
        """A sweep over the first windows."""
        if count not in self._parts:
            whole = self.sweep
            self._parts[count] = Sweep(
                whole.model,
                whole.windows[:count],
                whole.bank,
                whole.reference and whole.reference.first(count),
            )
        return self._parts[count]

    def _require_left(self, new: Mapping[str, Plan]) -> None:
        if new and not self.left:
            raise LimitSpent(
                f"{self.limit:g} forward passes are spent on {len(self.log)} plans, and "
                f"{len(new)} more are asked for; raise the limit"
            )


@dataclass
class Later:
    """The objective of plans for `layout` on some windows, made when the first plan is measured:
    its reference costs a forward pass, and an allocator may find that it has nothing to measure.

    Attributes:
        model, bank: what plans are applied to, and by.
        windows: of the tune split, LongTensor (n, length).
        limit: as an `Objective` has it.
        truth: makes the reference; else it is made here.
        journal: as an `Objective` has it.
    """

    model: nn.Module
    bank: Bank
    windows: Tensor
    layout: Layout
    limit: float = math.inf
    truth: Callable[[], Reference] | None = None
    journal: Path | None = None

    @cached_property
    def made(self) -> Objective:
        self.bank.restore_()
        truth = self.truth() if self.truth else reference(self.model, self.windows)
        sweep = Sweep(self.model, self.windows, self.bank, truth)
        beyond = bool(self.layout.outside)
        return Objective(sweep, self.limit, self.layout.granularity, beyond, self.journal)

    @property
    def quantizer(self) -> str:
        """What plans are measured with, as text."""
        return spec(QUANTIZERS, self.bank.quantizer)

    @property
    def left(self) -> float:
        """Forward passes that may still be spent."""
        return self.made.left if "made" in vars(self) else self.limit

    @property
    def log(self) -> list[Trial]:
        """Every trial, in order."""
        return self.made.log if "made" in vars(self) else []

    def __call__(self, bits: Mapping[str, Option]) -> Losses:
        return self.made(bits)

    def many(self, plans: Iterable[Mapping[str, Option]], share: float = 1.0) -> list[Losses]:
        """As `Objective.many`."""
        return self.made.many(plans, share)
