"""What happens to the predictions when one unit's weights change: measured, from its block on."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from lwq import models
from lwq.engine.evaluate import Reference, head, measured
from lwq.engine.sweep import capture_batches
from lwq.scorers.shared.checks import require_blocks
from lwq.statistics.calls import run_blocks


class Trials:
    """KL to a reference with one unit changed at a time; everything else is as it is now.

    Memory: the hidden states between all blocks (n · length · width numbers each).

    Attributes:
        model: as it is when this is made; changed only while a trial runs.
        windows: LongTensor (n, length).
        truth: what the KL is measured against.
    """

    @torch.no_grad()
    def __init__(self, model: nn.Module, windows: Tensor, truth: Reference):
        require_blocks(model, windows)
        self.model, self.windows, self.truth = model, windows, truth
        self.blocks, self.matrices = models.blocks(model), models.matrices(model)
        self.calls = capture_batches(model, windows)
        self.inputs: dict[str, list[Tensor]] = {}
        for name, entered, left in run_blocks(model, self.calls):
            self.inputs[name], last = list(entered), left
        self.base = self._kl(last)

    @torch.no_grad()
    def kl(self, block: str, names: Sequence[str], change: Callable[[str], Tensor]) -> np.ndarray:
        """KL of each window (n,) with `change(name)` (out, in) added to each of `names`, matrices
        of `block`.
        """
        kept: dict[str, Tensor] = {}
        with models.resident(self.model, block):
            try:
                for name in names:
                    weight = self.matrices[name].view()
                    kept[name] = weight.clone()
                    weight.add_(change(name).to(weight.dtype))
                hidden = self._run(block, self.inputs[block])
            finally:
                for name, weight in kept.items():
                    self.matrices[name].view().copy_(weight)
        order = list(self.blocks)
        for name in order[order.index(block) + 1 :]:
            with models.resident(self.model, name):
                hidden = self._run(name, hidden)
        return self._kl(hidden)

    def _run(self, name: str, hidden: Sequence[Tensor]) -> list[Tensor]:
        block = self.blocks[name]
        return [self.calls.run(block, name, batch, states) for batch, states in enumerate(hidden)]

    def _kl(self, hidden: Sequence[Tensor]) -> np.ndarray:
        logits = head(self.model, self.windows, hidden)
        found = measured(self.model, self.windows, logits, self.truth).kl
        assert found is not None
        return np.maximum(found, 0.0)  # rounding alone takes it below
