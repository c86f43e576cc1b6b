"""Scores from taking a block away: the model itself says what it misses."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from lwq import models
from lwq.common.progress import track
from lwq.engine.evaluate import head, measured, require_windows_fit
from lwq.engine.sweep import capture_batches
from lwq.scorers.shared.checks import require_blocks
from lwq.scorers.shared.lifted import lifted
from lwq.statistics.forward import WINDOWS, Stats
from lwq.statistics.windows import require_windows


@dataclass(frozen=True)
class BlockDrop:
    """How much worse the model predicts without a block.

        importance(i) = r_i − min(0, min_j r_j),    r_i = NLL without block i − NLL        in nats a
        token

    NLL is the mean over the first `windows` calibration windows; a dropped block passes its input
    through. The shift, 0 unless the model does better without some block, keeps the ranking. The
    standard error is that of r_i over windows.

    Costs about n / 2 forward passes of n blocks. Source: one-shot removal by
    perplexity, Kim et al. 2024 (Shortened LLaMA), arXiv:2402.02834.
    """

    windows: int = 8

    needs: ClassVar[frozenset[str]] = frozenset({WINDOWS})
    granularity: ClassVar[str] = "block"

    def __call__(self, model: nn.Module, stats: Stats) -> dict[str, float]:
        *without, whole = _losses(model, require_windows(stats.windows, self.needs)[: self.windows])
        return lifted({name: nll - whole for name, nll in zip(stats, without, strict=True)})


@torch.inference_mode()
def _losses(model: nn.Module, windows: Tensor) -> Iterator[np.ndarray]:
    """NLL (windows,) without each block in turn, then with all of them; equal to those of
    `evaluate`.
    """
    require_windows_fit(model, windows)
    require_blocks(model, windows)
    calls = capture_batches(model, windows)

    def through(names: list[str], hidden: list[Tensor]) -> list[Tensor]:
        for name in names:
            with models.resident(model, name):
                hidden = [
                    calls.run(blocks[name], name, batch, states)
                    for batch, states in enumerate(hidden)
                ]
        return hidden

    blocks, hidden = models.blocks(model), calls.hidden
    for number, name in enumerate(track(list(blocks), "drop each block")):
        rest = list(blocks)[number + 1 :]
        yield measured(model, windows, head(model, windows, through(rest, hidden)), None).nll
        hidden = through([name], hidden)
    yield measured(model, windows, head(model, windows, hidden), None).nll
