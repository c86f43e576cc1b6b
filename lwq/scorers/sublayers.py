"""What one half of a block adds: its attention, or its MLP."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lwq import models
from lwq.common.errors import InputError
from lwq.contracts.estimate import Estimate
from lwq.scorers.shared.checks import require_blocks
from lwq.statistics.calls import Calls, capture, run_blocks
from lwq.statistics.forward import WINDOWS, Stats
from lwq.statistics.windows import require_windows

ATTENTION = ("attn", "attention")  # what a block's own modules call it


@dataclass(frozen=True)
class _Half:
    needs: ClassVar[frozenset[str]] = frozenset({WINDOWS})
    granularity: ClassVar[str] = "block"

    @torch.no_grad()
    def __call__(self, model: nn.Module, stats: Stats) -> dict[str, float]:
        windows = require_windows(stats.windows, self.needs)
        require_blocks(model, windows)
        calls = capture(model, windows)
        return {
            name: Estimate.of(self._turned(*states).clip(min=0.0).numpy())
            for name, states in _between(model, calls)
        }

    def _turned(self, entered: Tensor, between: Tensor, left: Tensor) -> Tensor:
        """1 − cosine of each window (windows,), of states (windows, length, width)."""
        raise NotImplementedError(f"{type(self).__name__} does not say which half it is")


@dataclass(frozen=True)
class AttentionDrop(_Half):
    """How much a block's attention turns the hidden states.

        importance = 1 − cos(x, x + attention(norm(x))), mean over tokens        in [0, 2]

    Costs two forward passes: each block runs again with an MLP that adds nothing. Source: LLM-Drop,
    He et al. 2024, arXiv:2406.15786, which drops the attention with the least.
    """

    def _turned(self, entered: Tensor, between: Tensor, left: Tensor) -> Tensor:
        return _distance(entered, between)


@dataclass(frozen=True)
class MLPDrop(_Half):
    """How much a block's MLP turns the hidden states.

        importance = 1 − cos(h, h + mlp(norm(h))), mean over tokens        in [0, 2]

    h = x + attention(norm(x)). Costs two forward passes. Source: as `AttentionDrop`.
    """

    def _turned(self, entered: Tensor, between: Tensor, left: Tensor) -> Tensor:
        return _distance(between, left)


def _distance(one: Tensor, other: Tensor) -> Tensor:
    cosine = torch.cosine_similarity(one.double(), other.double(), dim=-1)
    return (1 - cosine).mean(-1).cpu()


def _between(model: nn.Module, calls: Calls) -> Iterator[tuple[str, tuple[Tensor, Tensor, Tensor]]]:
    """(block, (what enters it, that with its attention added, what leaves it)), each (windows,
    length, width).
    """
    for name, entered, left in run_blocks(model, calls):
        block = models.blocks(model)[name]
        with models.resident(model, name), _silent(_mlp(model, name)):
            halves = [calls.run(block, name, batch, x) for batch, x in enumerate(entered)]
        yield name, (torch.cat(entered), torch.cat(halves), torch.cat(left))


def _mlp(model: nn.Module, name: str) -> list[nn.Module]:
    """The modules of a block that hold matrices, without its attention.

    Raises InputError where a block has no module that is named after attention: what is its other
    half is not known then.
    """
    block = models.blocks(model)[name]
    children = dict(block.named_children())
    if not any(_is_attention(key) for key in children):
        raise InputError(
            f"{name} has the parts {list(children)}, none of them named {' or '.join(ATTENTION)}; "
            "score whole blocks instead (lim)"
        )
    owned = {key.removeprefix(f"{name}.").partition(".")[0] for key in models.matrices(model)
             if key.startswith(f"{name}.")}  # fmt: skip
    return [part for key, part in children.items() if key in owned and not _is_attention(key)]


def _is_attention(key: str) -> bool:
    return any(word in key.lower() for word in ATTENTION)


@contextmanager
def _silent(parts: list[nn.Module]) -> Iterator[None]:
    """Inside, the outputs of these modules are zeros."""
    with ExitStack() as stack:
        for part in parts:
            stack.callback(part.register_forward_hook(_zeros).remove)
        yield


def _zeros(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
    if isinstance(output, tuple):  # hidden states first, then what a router said
        return (torch.zeros_like(output[0]), *output[1:])
    return torch.zeros_like(output)
