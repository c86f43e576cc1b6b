"""Measure many plans, each at the price of the blocks that changed."""

import math
from collections.abc import Iterable, Iterator
from contextlib import ExitStack

import torch
from torch import Tensor, nn

from lwq import models
from lwq.common.errors import InputError
from lwq.common.progress import bar
from lwq.contracts import DROPPED, KEPT, Losses, Option, Plan, dropped, inside
from lwq.engine import room
from lwq.engine.apply import matrix_bits
from lwq.engine.bank import Bank
from lwq.engine.evaluate import Reference, batches, head, measured, require_windows_fit
from lwq.statistics.calls import Calls, capture, require_separable

# options of what is used before the blocks, of each block in turn, of what is used after them
Path = tuple[tuple[Option, ...], ...]


class Sweep:
    """Losses of plans on one model and one set of windows, equal to those of a full forward pass to
    the last bit.

    The hidden states between blocks are kept. A plan starts at the first block where it differs
    from the plan before it, and plans are measured in the order in which most is shared: sorted by
    their widths, block after block, which is the walk through the tree of their common beginnings.
    A nested sweep, or one block at a time at every width, then runs half of the blocks; a plan that
    was measured last costs nothing. Beside the blocks, each plan pays for the head.

    Memory: `memory` bytes of hidden states, at n · length · width numbers a boundary between
    blocks; the input of the first block is always kept. Where not all boundaries fit, every second
    (third, …) is kept and the blocks in between run again; one more is held while it is computed.

    Attributes:
        model: from `lwq.load`; in its original state whenever nothing is being measured.
        windows: judging windows, LongTensor (n, length).
        bank: of the same model; makes and swaps what the plans ask for.
        reference: from `lwq.reference` on the same windows, for KL and agreement.
        memory: bytes, see above; None: as `room` says of the model.
        tails: quantiles of KL over tokens, too.
        blocks_run: how many blocks ran so far; a full forward pass runs all of them for each plan.
    """

    def __init__(
        self,
        model: nn.Module,
        windows: Tensor,
        bank: Bank,
        reference: Reference | None = None,
        memory: int | None = None,
        tails: bool = False,
    ):
        require_windows_fit(model, windows, reference)
        if bank.model is not model:
            raise InputError("the bank holds another model; make it of the model that is swept")
        self.model, self.windows, self.bank, self.reference = model, windows, bank, reference
        self.tails = tails
        self.blocks = models.blocks(model)
        bank.restore_()
        require_separable(model, windows)
        with torch.inference_mode():
            self.calls = capture_batches(model, windows)
        memory = room.of_states(model) if memory is None else memory
        fit = max(1, memory // sum(states.nbytes for states in self.calls.hidden))
        self.stride = math.ceil(len(self.blocks) / fit)
        self.blocks_run = 0
        self._kept = {0: self.calls.hidden}  # number of a block -> its input, for the path below
        self._path: Path = ()  # of the blocks that ran last
        self._before: tuple[Option, ...] = tuple(
            KEPT for name in bank.beyond if models.is_before(model, name)
        )
        self._after = [name for name in bank.beyond if models.is_after(model, name)]
        self._last: tuple[Path, Losses] | None = None

    def measure(
        self, plans: Iterable[Plan], label: str = "measure plans"
    ) -> Iterator[tuple[Plan, Losses]]:
        """(plan, losses) for each of `plans`, in the order that shares most; what is missing in the
        bank is made first.

        Raises InputError, before anything is measured, for a plan of another model or one that the
        quantizer cannot do.
        """
        plans = list(plans)
        self.bank.prepare(plans)
        paths = [self._path_of(plan) for plan in plans]
        try:
            with bar(label, len(plans)) as progress:
                # options with a name stand beside numbers: as text both have an order
                for index in sorted(range(len(plans)), key=lambda index: repr(paths[index])):
                    yield plans[index], self._measure(plans[index], paths[index])
                    progress.update()
        finally:
            self.bank.restore_()

    @torch.inference_mode()
    def _measure(self, plan: Plan, path: Path) -> Losses:
        if self._last is not None and self._last[0] == path:
            return self._last[1]
        self.bank.apply_(plan)
        hidden = self._run(path)
        with ExitStack() as stack:  # from a disk once, not for each batch
            for name in self._after:
                stack.enter_context(models.resident(self.model, name))
            found = head(self.model, self.windows, hidden)
            losses = measured(self.model, self.windows, found, self.reference, self.tails)
        self._last = path, losses
        return losses

    def _run(self, path: Path) -> list[Tensor]:
        """The last block's outputs, from the last boundary that `path` shares with the path before
        it.
        """
        before, *inner, _ = path
        if before != self._before:  # other embeddings: nothing is shared
            self.calls = capture_batches(self.model, self.windows)
            self._before, self._path = before, ()
            self._kept = {0: self.calls.hidden}
        shared = next(
            (i for i, (new, old) in enumerate(zip(inner, self._path, strict=False)) if new != old),
            len(self._path),
        )
        self._kept = {number: states for number, states in self._kept.items() if number <= shared}
        self._path = tuple(inner)
        start = max(self._kept)
        hidden = self._kept[start]
        for number, (name, block) in list(enumerate(self.blocks.items()))[start:]:
            if number % self.stride == 0:
                self._kept[number] = hidden
            if any(inner[number]):  # else it is dropped
                with models.resident(self.model, name):
                    hidden = [
                        self.calls.run(block, name, batch, states)
                        for batch, states in enumerate(hidden)
                    ]
                self.blocks_run += 1
        return hidden

    def _path_of(self, plan: Plan) -> Path:
        bits = matrix_bits(plan)
        widths = {
            block: tuple(width for name, width in bits.items() if inside(name, block))
            for block in self.blocks
        }
        # a block without matrices runs as well, unless the plan drops it
        inner = (
            found or (DROPPED if dropped(block, plan.bits) else KEPT,)
            for block, found in widths.items()
        )
        beyond = {name: bits.get(name, KEPT) for name in self.bank.beyond}
        before = (option for name, option in beyond.items() if models.is_before(self.model, name))
        after = (option for name, option in beyond.items() if models.is_after(self.model, name))
        return tuple(before), *inner, tuple(after)


def capture_batches(model: nn.Module, windows: Tensor) -> Calls:
    """`capture` in the forward passes of `evaluate`, so that running the blocks one by one gives
    its numbers.
    """
    return capture(model, windows, len(next(batches(windows))))
