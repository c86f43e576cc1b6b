"""Run a model once over two tokens and see what its modules do: which lists of blocks run, how
often, what they return, which matrices eat the same tensor, what follows the last block.
"""

import re
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from lwq.common.errors import InputError
from lwq.models.settings import name
from lwq.models.state import UNREADABLE, call, hidden_of
from lwq.models.structure import MIN_COVERAGE, Matrix, block_lists, blocks, by_block, matrices
from lwq.models.weights import device, streamed


@dataclass(frozen=True)
class Trace:
    """What one short forward pass tells.

    Attributes:
        returns_tuple: block -> whether it returns a tuple or list, hidden states first.
        groups: unit of granularity "group" -> names of its matrices.
        idle: matrices whose module did not run.
        unheard: of those, the ones whose weights were used all the same.
        final_norm: path of the norm between the last block and the head, "" where there is none.
        embeddings: paths of the embeddings outside blocks that ate the token ids.
    """

    returns_tuple: dict[str, bool]
    groups: dict[str, list[str]]
    idle: frozenset[str]
    unheard: frozenset[str]
    final_norm: str
    embeddings: tuple[str, ...]


_traces: WeakKeyDictionary[nn.Module, Trace] = WeakKeyDictionary()


def traced(model: nn.Module) -> Trace:
    """What a forward pass over two tokens shows; computed once a model.

    Raises InputError, with the module lists and how often each ran, unless every block runs once,
    in the order of the list, and no other list holds a large share of the weights that ran.
    """
    if model not in _traces:
        _traces[model] = _Watch(model).look()
    return _traces[model]


class _Uses(TorchFunctionMode):
    """Notes the matrices whose weights are handed to any function, inside of their modules or
    not.
    """

    def __init__(self, matrices: dict[str, Matrix]):
        super().__init__()
        self.modules = {key: m.module for key, m in matrices.items() if m.expert is None}
        self.keys: dict[int, set[str]] = {}  # id of a weight -> the matrices that may be it
        self.found: set[str] = set()
        self.look_up(self.modules)

    def look_up(self, keys: Iterable[str]) -> None:
        """Know the weights of `keys` as they are now; a streamed model's come with their block."""
        for key in keys:
            if key in self.modules:
                self.keys.setdefault(id(self.modules[key].weight), set()).add(key)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor):  # else it asked for a shape or a dtype
            for given in (*args, *(kwargs or {}).values()):
                if isinstance(given, nn.Parameter):
                    self.found.update(
                        key
                        for key in self.keys.get(id(given), ())
                        if self.modules[key].weight is given  # ids are given again
                    )
        return out


class _Watch:
    """Hooks on the modules of a model, and what they noted during one pass."""

    def __init__(self, model: Any):
        self.model = model
        self.blocks, self.matrices = blocks(model), matrices(model)
        self.uses = _Uses(self.matrices)
        self.lists = block_lists(model)
        self.names = {block: key for key, block in self.blocks.items()}
        self.returns_tuple: dict[str, bool] = {}
        self.source: dict[nn.Module, int] = {}  # module -> id of the tensor that it ate
        self.order: list[str] = []
        self.ran: list[nn.Module] = []  # items of any list of blocks, as often as they ran
        # two ids: one may stand for padding, whose embedding is zero; not in the order of positions
        self.tokens = torch.tensor([[1, 0]], device=device(model))
        self.embeddings: list[str] = []
        self.norms: list[str] = []  # that ran since the last block
        self._kept: list[Any] = []  # inputs, so that no two share an id

    def look(self) -> Trace:
        hooks = list(self._hooks())
        try:
            with torch.no_grad(), self.uses:
                call(self.model, self.tokens, use_cache=False)
        except InputError:
            raise
        except UNREADABLE as error:
            raise InputError(
                f"{name(self.model)!r} ({type(self.model).__name__}) cannot read two tokens "
                f"({type(error).__name__}: {' '.join(str(error).split())[:200]}); lwq works on "
                f"decoders that are called with token ids alone"
                f"{_without_streaming(self.model)}"
            ) from None
        finally:
            for hook in hooks:
                hook.remove()
        self._require_blocks()
        modules = self.source.keys()
        idle = {
            key for key, m in self.matrices.items() if m.expert is None and m.module not in modules
        }
        groups = _groups(self.matrices, self.source)
        return Trace(
            self.returns_tuple,
            groups,
            frozenset(idle),
            frozenset(idle & self.uses.found),
            (self.norms or [""])[-1],
            tuple(self.embeddings),
        )

    def _hooks(self) -> Iterator[RemovableHandle]:
        own = by_block(self.blocks, self.matrices)
        for block, key in self.names.items():
            yield block.register_forward_pre_hook(lambda *_, keys=own[key]: self.uses.look_up(keys))
            yield block.register_forward_hook(self._note_block)
        for item in {item: None for found in self.lists.values() for item in found}:
            yield item.register_forward_hook(lambda module, *_: self.ran.append(module))
        for module in {matrix.module: None for matrix in self.matrices.values()}:
            yield module.register_forward_pre_hook(self._note_input)
        head = self.model.get_output_embeddings()
        table = dict(self.model.named_modules())
        within = set().union(*by_block(self.blocks, table).values())
        for path, module in table.items():
            if module is not head and path not in within:
                yield module.register_forward_hook(self._noting_norm(path))
            if isinstance(module, nn.Embedding):
                yield module.register_forward_hook(self._noting_embedding(path))

    def _note_input(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        given = args[0] if args else None  # modules of experts may be called by keywords
        self._kept.append(given)
        self.source[module] = id(module if given is None else given)

    def _note_block(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if not args:
            raise InputError(
                f"{name(self.model)!r}: {type(module).__name__} is called with keywords alone; lwq "
                f"works on blocks that are handed their hidden states first"
            )
        self.order.append(self.names[module])
        self.returns_tuple[self.names[module]] = hidden_of(output) is not output
        self.norms.clear()

    def _noting_norm(self, path: str) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if args and _is_norm(module, args[0], output):
                self.norms.append(path)

        return hook

    def _noting_embedding(self, path: str) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            # positions may come as a shape
            if isinstance(args[0], Tensor) and torch.equal(args[0], self.tokens):
                self.embeddings.append(path)

        return hook

    def _require_blocks(self) -> None:
        """Raise InputError unless the blocks ran once each, in order, and nothing large beside
        them.
        """
        own = next(iter(self.blocks)).rpartition(".")[0]
        weights = {path: sum(p.numel() for p in m.parameters()) for path, m in self.lists.items()}
        times = {path: [self.ran.count(item) for item in m] for path, m in self.lists.items()}
        large = [
            path
            for path, counts in times.items()
            if path != own and any(counts) and weights[path] > (1 - MIN_COVERAGE) * weights[own]
        ]
        if self.order == list(self.blocks) and not large:
            return
        told = "; ".join(
            f"{path}: {len(counts)} modules with {weights[path]:,} weights, run {_words(counts)}"
            for path, counts in times.items()
        )
        raise InputError(
            f"{name(self.model)!r} ({type(self.model).__name__}) is no decoder with one list of "
            f"blocks that run once each, in order. Its module lists in a pass over two tokens: "
            f"{told}"
        )


def _without_streaming(model: nn.Module) -> str:
    """A way out for a model that reads a weight while its module is not called."""
    return "; without stream=True it may be read" if streamed(model) else ""


def _words(counts: list[int]) -> str:
    """How often the modules of a list ran."""
    if len(set(counts)) > 1:
        return f"{min(counts)} to {max(counts)} times"
    return {0: "never", 1: "once each"}.get(counts[0], f"{counts[0]} times each")


def _is_norm(module: nn.Module, given: Any, output: Any) -> bool:
    """Whether a module made other hidden states of their shape from some, without a matrix."""
    return (
        isinstance(given, Tensor)
        and isinstance(output, Tensor)
        and given.is_floating_point()
        and given.shape == output.shape
        and all(parameter.ndim < 2 for parameter in module.parameters())
        and not torch.equal(given, output)
    )


def _groups(table: dict[str, Matrix], source: dict[nn.Module, int]) -> dict[str, list[str]]:
    together: dict[Any, list[str]] = {}
    for key, matrix in table.items():
        alone = matrix.expert is not None or matrix.module not in source
        together.setdefault(
            key if alone else (key.rpartition(".")[0], source[matrix.module]), []
        ).append(key)
    return {_group_name(keys): keys for keys in together.values()}


def _group_name(keys: list[str]) -> str:
    """`….q_proj`, `….k_proj`, `….v_proj` -> `….qkv`; `….gate_proj`, `….up_proj` -> `….gate_up`; one
    alone keeps its name.
    """
    if len(keys) == 1:
        return keys[0]
    parent = keys[0].rpartition(".")[0]
    roles = [re.sub(r"_?(proj|lin|linear)$", "", key.rpartition(".")[2]) for key in keys]
    short = all(len(role) == 1 for role in roles)
    return f"{parent}.{''.join(sorted(roles, key='qkv'.find)) if short else '_'.join(roles)}"


def require_heard(model: nn.Module, names: Collection[str]) -> None:
    """Raise InputError for a matrix of `names` that is used while its module is not called: what it
    reads cannot be seen, and would count as nothing.
    """
    if unheard := sorted(traced(model).unheard.intersection(names)):
        raise InputError(
            f"{unheard[0]}{f' and {len(unheard) - 1} more' * (len(unheard) > 1)}: "
            f"{type(model).__name__} uses these weights without calling their module, so that "
            f"nothing sees what they read; take scorers and quantizers without statistics of "
            f"matrices, such as lim, zd and rtn"
        )


def final_norm(model: nn.Module) -> nn.Module | None:
    """The norm between the last block and the head, or None."""
    path = traced(model).final_norm
    return model.get_submodule(path) if path else None
