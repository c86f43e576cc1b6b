"""Run a model with blocks replaced or dropped; what stood there before is there again after."""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias

from torch import Tensor, nn

from lwq.common.errors import InputError
from lwq.models import state
from lwq.models.structure import blocks
from lwq.models.trace import traced

Recorder: TypeAlias = Callable[[str, Tensor, tuple[Any, ...], dict[str, Any]], Tensor]


@contextmanager
def replaced_blocks(model: nn.Module, act: Recorder) -> Iterator[None]:
    """Inside, each block calls `act(name, hidden, other args, kwargs) -> hidden` instead of
    computing.

    The rest of the model (embeddings, masks, positions, final norm, head) runs as it does always.
    """
    table = blocks(model)
    returns_tuple = traced(model).returns_tuple

    def stand_in(key: str) -> Callable[..., Any]:
        def forward(hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
            result = act(key, hidden, args, kwargs)
            return (result, None) if returns_tuple[key] else result

        return forward

    for key, block in table.items():
        state.put(block, stand_in(key))
    try:
        yield
    finally:
        for block in table.values():
            state.take(block)


@contextmanager
def experts_by(acts: Mapping[Any, Callable[..., Tensor]]) -> Iterator[None]:
    """Inside, each module of experts computes `acts[module](hidden, chosen, weights)` where its
    class would compute; what a caller put around that (accelerate's hooks) runs as it does always.

    Raises InputError for a module that is called and does not come to what its class computes.
    """
    from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

    functions: Any = ALL_EXPERTS_FUNCTIONS  # where each class looks up what it computes
    reached: set[nn.Module] = set()

    def act(module: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
        reached.add(module)
        return acts[module](*args, **kwargs)

    def require_reached(module: nn.Module, *_: Any) -> None:
        if module not in reached:
            raise InputError(
                f"{type(module).__name__} has a forward of its own that does not call that of its "
                f"class, so that nothing sees what reaches its experts; take it off, or take "
                f"scorers without gradients"
            )

    before = functions._local_mapping
    names = {module.config._experts_implementation for module in acts}
    functions._local_mapping = {**before, **dict.fromkeys(names, act)}
    hooks = [module.register_forward_hook(require_reached) for module in acts]
    try:
        yield
    finally:
        functions._local_mapping = before
        for hook in hooks:
            hook.remove()


def drop_(model: nn.Module, dropped: Collection[str]) -> None:
    """Make exactly the blocks named pass their input through, in place (their positions in the
    list, and their attention types, stay).
    """
    returns_tuple = traced(model).returns_tuple
    for key, block in blocks(model).items():
        state.take(block)
        if key in dropped:
            pass_through_(block, returns_tuple[key])


def pass_through_(block: nn.Module, returns_tuple: bool) -> None:
    """Make `block` return its input, first of a tuple where it returns one."""
    state.put(block, lambda hidden, *_, **__: (hidden, None) if returns_tuple else hidden)
