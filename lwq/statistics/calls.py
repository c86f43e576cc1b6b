"""How a model calls its blocks, and how they are run one by one in its stead."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn

from lwq import models
from lwq.common.errors import InputError
from lwq.common.tensors import is_finite
from lwq.statistics.windows import require_readable

BATCH = 4  # windows a forward pass; part of the arithmetic, so it is fixed

_separable: WeakSet[nn.Module] = WeakSet()  # models whose blocks may run one by one


class Captured(Exception):
    """Ends a forward pass once the last block's arguments are known: the head need not run."""


@dataclass
class Calls:
    """How the model calls its blocks: the first block's input, and every block's other arguments,
    one entry a batch.
    """

    hidden: list[Tensor]
    arguments: dict[str, list[tuple[tuple[Any, ...], dict[str, Any]]]]

    def run(self, block: nn.Module, name: str, batch: int, hidden: Tensor) -> Tensor:
        """The output hidden states of `block` for the input hidden states `hidden` of one batch."""
        args, kwargs = self.arguments[name][batch]
        output = models.call(block, hidden, *args, **kwargs)
        found: Tensor = models.hidden_of(output)
        return found


@torch.no_grad()
def capture(model: nn.Module, windows: Tensor, batch_size: int = BATCH) -> Calls:
    """Run everything before the blocks, and note the arguments of each block (they differ per layer
    in gemma3).

    No key-value cache is among them: a cache that one run fills would silently change the next.
    """
    require_readable(model, windows)
    names = list(models.blocks(model))
    calls = Calls([], {name: [] for name in names})

    def act(name: str, hidden: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        if name == names[0]:
            calls.hidden.append(hidden)
        calls.arguments[name].append((args, kwargs))
        if name == names[-1]:
            raise Captured
        return hidden

    device = models.device(model)
    with models.replaced_blocks(model, act):
        for batch in windows.split(batch_size):
            try:
                models.call(model, batch.to(device), use_cache=False)
            except Captured:
                continue
    return calls


@torch.no_grad()
def run_blocks(model: nn.Module, calls: Calls) -> Iterator[tuple[str, list[Tensor], list[Tensor]]]:
    """(block, its inputs, its outputs), a batch an entry, in the order of the forward pass.

    Raises InputError, naming the block, where its outputs hold NaN or Inf.
    """
    hidden = calls.hidden
    for name, block in models.blocks(model).items():
        with models.resident(model, name):
            outputs = [calls.run(block, name, batch, states) for batch, states in enumerate(hidden)]
        require_finite_states(name, outputs)
        yield name, hidden, outputs
        hidden = outputs


@torch.inference_mode()
def require_separable(model: nn.Module, windows: Tensor) -> None:
    """Raise InputError for a model whose blocks hand on more than hidden states: one by one they
    would compute something else. Tried on a few tokens, once a model.
    """
    if model in _separable:
        return
    few = windows[:1, :8]
    calls = capture(model, few)
    hidden = calls.hidden[0]
    for name, block in models.blocks(model).items():
        with models.resident(model, name):
            hidden = calls.run(block, name, 0, hidden)
    if not is_finite(hidden):  # equal to nothing, itself included; whoever reads it refuses it
        return
    whole = models.call(model, few.to(models.device(model)), use_cache=False).logits
    if not torch.equal(logits_after(model, few, hidden), whole):
        raise InputError(
            f"{type(model).__name__}: its blocks hand on more than hidden states, so that running "
            f"them one by one "
            "gives other numbers; what runs the model as a whole works: zd, rtn, quantize_ and "
            "evaluate"
        )
    _separable.add(model)


def require_finite_states(
    place: str, states: Sequence[Tensor], dtype: torch.dtype | None = None
) -> None:
    """Raise InputError, naming the place, where `states`, computed in `dtype`, hold NaN or Inf."""
    if not all(map(is_finite, states)):
        name = str(dtype or states[0].dtype).removeprefix("torch.")
        raise InputError(
            f"{place}: its activations hold NaN or Inf in {name}; load the model with "
            f"dtype='float32' or 'bfloat16' where "
            "float16 overflows, else repair its weights"
        )


def require_tokens(calls: Calls, windows: Tensor, what: str) -> None:
    """Raise InputError where the blocks see others than the tokens of the windows, such as a prompt
    before them.
    """
    seen = calls.hidden[0].shape[1]
    if seen != windows.shape[1]:
        raise InputError(
            f"the blocks of this model see {seen} tokens of a window of {windows.shape[1]}: it "
            f"puts some of its own beside them; {what} cannot tell which are which"
        )


def logits_after(model: nn.Module, batch: Tensor, states: Tensor) -> Tensor:
    """Logits (windows, length, vocabulary) of the last block's output `states`: everything that
    follows the blocks runs as it does always.
    """
    last = list(models.blocks(model))[-1]
    with models.replaced_blocks(model, lambda name, x, *_: states if name == last else x):
        return models.call(model, batch.to(states.device), use_cache=False).logits
