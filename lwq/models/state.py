"""What a model is set to while lwq works with it, and what it is given back after: its mode, and
blocks that do something else than compute.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from lwq.common.errors import InputError
from lwq.models import products


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Inside, every module is in evaluation mode (no dropout); after, each has the mode that it
    had.
    """
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """What `module`, a model or a block, answers in evaluation mode. Everything in lwq that runs a
    caller's model runs it so. Products are made in what the device multiplies fast.

    Raises InputError inside torch.autocast, which would round all that is measured.
    """
    if torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"):
        raise InputError(
            "torch.autocast is on and would round what is measured; leave it, and load the model "
            "in the dtype that is meant"
        )
    with evaluating(module), products.multiplying():
        return module(*args, **kwargs)


# what models raise for arguments that they cannot take
UNREADABLE = (
    TypeError,
    ValueError,
    RuntimeError,
    LookupError,
    AttributeError,
    AssertionError,
)


def hidden_of(output: Any) -> Any:
    """The hidden states that a block hands on: its output, or the first of a sequence."""
    return output[0] if isinstance(output, tuple | list) else output


class StandIn:
    """What a block calls in place of its own `forward`, until it is taken away again.

    Attributes:
        act: the arguments of the block -> its output.
        before: the `forward` that the block itself had (accelerate and users put one there), None
            where it had that of its class.
    """

    def __init__(self, block: nn.Module, act: Callable[..., Any]):
        self.act, self.before = act, block.__dict__.get("forward")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.act(*args, **kwargs)


def put(block: nn.Module, act: Callable[..., Any]) -> None:
    """Let `block` call `act` instead of computing; `take` undoes it."""
    block.__dict__["forward"] = StandIn(block, act)


def take(block: nn.Module) -> None:
    """Give back what `block` had before the last `put`, exactly; nothing where it has no
    stand-in.
    """
    now = block.__dict__.get("forward")
    if isinstance(now, StandIn):
        del block.__dict__["forward"]
        if now.before is not None:
            block.__dict__["forward"] = now.before


def stands(block: nn.Module) -> bool:
    """Whether a stand-in acts for `block`."""
    return isinstance(block.__dict__.get("forward"), StandIn)
