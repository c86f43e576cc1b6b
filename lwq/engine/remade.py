"""Answers that are too many to keep: the last block's outputs, and the weights that made logits of
them.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lwq import models
from lwq.statistics.calls import logits_after


@dataclass(frozen=True)
class Remade:
    """Logits of a model as it was, made again whenever they are asked for.

    Attributes:
        model: whose they are; what it holds meanwhile does not count.
        batches: of windows, LongTensor (n, length) each.
        hidden: the last block's output of each (n, length, width).
        weights: copies of the parameters that follow the blocks.
    """

    model: nn.Module
    batches: Sequence[Tensor]
    hidden: Sequence[Tensor]
    weights: Mapping[str, Tensor]

    @classmethod
    def of(cls, model: nn.Module, batches: Sequence[Tensor], hidden: Sequence[Tensor]) -> "Remade":
        """With the weights that `model` has now."""
        with torch.inference_mode(False):
            return cls(model, batches, hidden, dict(_following(model)))

    def logits(self) -> Iterator[Tensor]:
        """One window after the other: (length − 1, vocabulary). Whoever reads them may run the
        model in between.
        """
        for batch, states in zip(self.batches, self.hidden, strict=True):
            with holding(self.model, self.weights):
                answers = logits_after(self.model, batch, states)
            for window in answers:
                yield window[:-1]


@contextmanager
def holding(model: nn.Module, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Inside, the parameters named have these values; after, those that they had."""
    with ExitStack() as stack:
        for key in weights:
            stack.enter_context(models.resident(model, key))
        before = {key: model.get_parameter(key).data for key in weights}
        try:
            for key, value in weights.items():
                model.get_parameter(key).data = value
            yield
        finally:
            for key, value in before.items():
                model.get_parameter(key).data = value


def _following(model: Any) -> Iterator[tuple[str, Tensor]]:
    """(name, copy) of all weights outside the blocks but an input embedding that the head does not
    share.
    """
    blocks = next(iter(models.blocks(model))).rpartition(".")[0] + "."
    first, last = (
        getattr(part, "weight", None)
        for part in (model.get_input_embeddings(), model.get_output_embeddings())
    )
    for key, weight in list(model.named_parameters()):
        if not key.startswith(blocks) and (weight is last or weight is not first):
            with models.resident(model, key):
                yield key, model.get_parameter(key).detach().clone()
