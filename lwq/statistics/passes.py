"""What a method costs: how many tokens went forward and backward through the blocks."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from lwq import models
from lwq.models.state import stands


@dataclass
class Passes:
    """Tokens that ran through blocks, summed over blocks; half of the blocks is half of a pass.

    Attributes:
        blocks: of the model.
        forward, backward: tokens · blocks.
    """

    blocks: int
    forward: int = 0
    backward: int = 0

    def over(self, tokens: int) -> dict[str, float]:
        """How often `tokens` tokens went through the whole model: "forwards" and "backwards"."""
        whole = self.blocks * max(tokens, 1)
        return {
            "forwards": round(self.forward / whole, 3),
            "backwards": round(self.backward / whole, 3),
        }

    def plus(self, other: "Passes") -> "Passes":
        return Passes(self.blocks, self.forward + other.forward, self.backward + other.backward)


@contextmanager
def counted(model: nn.Module) -> Iterator[Passes]:
    """Inside, every block that computes is counted, whoever runs it; one that is replaced
    (recorded, dropped) does not compute.
    """
    models.traced(model)  # once a model, whoever asks first: no part of the cost
    table = models.blocks(model)
    passes = Passes(len(table))

    def note(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        hidden = models.hidden_of(output)
        if stands(module):
            return
        tokens = hidden.shape[0] * hidden.shape[1]
        passes.forward += tokens
        if hidden.requires_grad:
            hidden.register_hook(lambda gradient: went_back(gradient, tokens))

    def went_back(gradient: Tensor, tokens: int) -> None:
        passes.backward += tokens

    hooks = [block.register_forward_hook(note) for block in table.values()]
    try:
        yield passes
    finally:
        for hook in hooks:
            hook.remove()
