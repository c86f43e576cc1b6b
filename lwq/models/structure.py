"""Find a decoder's blocks, matrices and fused groups from structure.

Blocks are the items of the module list that holds most weights. Matrices are the weights of
`Linear` and `Conv1D` modules inside blocks, and the slices of 3-D expert parameters. Routers, norms
and biases stay as they are.
"""

import hashlib
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import psutil
import torch
from torch import Tensor, nn

from lwq.common.errors import InputError
from lwq.common.hashing import digest
from lwq.common.names import pick
from lwq.common.progress import track
from lwq.contracts import GRANULARITIES, Layout
from lwq.models import streaming

MIN_COVERAGE = 0.95
IDLE = (  # how the names of settings begin that decide no number
    *(
        "_",
        "transformers_version",
        "architectures",
        "dtype",
        "torch_dtype",
        "name_or_path",
        "use_cache",
        "return_dict",
    ),
    *("output_", "id2label", "label2id", "initializer_range"),
)


@dataclass(frozen=True)
class Matrix:
    """A handle on one weight matrix inside a block; it reads and writes (out_features, in_features)
    in every layout.

    Attributes:
        name: full name, such as `model.layers.3.mlp.down_proj`, or `….experts.down_proj.7` for
            slice 7 of a 3-D parameter.
        module: the module that owns the parameter.
        parameter: its name there.
        expert: which slice of a 3-D parameter, or None.
        transposed: stored as (in, out), as Conv1D does.
    """

    name: str
    module: nn.Module
    parameter: str = "weight"
    expert: int | None = None
    transposed: bool = False

    def view(self) -> Tensor:
        """The live weights as (out, in); writing into the view writes into the model.

        Raises InputError where the model was loaded with `stream=True` and the block is not in
        memory.
        """
        weight = self._oriented()
        if weight.is_meta:
            raise InputError(
                f"{self.name} is on disk (stream=True); read it inside `with "
                f"lwq.models.resident(model, block):`"
            )
        return weight

    @property
    def shape(self) -> tuple[int, int]:
        rows, columns = self._oriented().shape
        return int(rows), int(columns)

    def _oriented(self) -> Tensor:
        weight = getattr(self.module, self.parameter).data
        weight = weight if self.expert is None else weight[self.expert]
        return weight.T if self.transposed else weight


@dataclass(frozen=True)
class Structure:
    """What one short forward pass tells: how blocks return, and which matrices eat the same
    tensor.
    """

    returns_tuple: dict[str, bool]
    groups: dict[str, list[str]]  # unit of granularity "group" -> names of its matrices


_structures: WeakKeyDictionary[nn.Module, Structure] = WeakKeyDictionary()


@contextmanager
def own_cache_setting(model: Any) -> Iterator[None]:
    """Inside, `config.use_cache` is what it was before `load` turned it off: to be saved."""
    now = model.config.use_cache
    model.config.use_cache = getattr(model, "_use_cache", now)
    try:
        yield
    finally:
        model.config.use_cache = now


def name(model: nn.Module) -> str:
    """The name that the model was loaded by."""
    return str(getattr(model.config, "name_or_path", "") or type(model).__name__)


def vocabulary(model: Any) -> int:
    """Number of tokens that the model can read."""
    return int(model.get_input_embeddings().weight.shape[0])


def resident(model: nn.Module, name: str, save: bool = False) -> AbstractContextManager[None]:
    """Inside, the weights of the block that `name` is, or is inside of, are in memory; `save` keeps
    what was changed.

    Only a model from `load(..., stream=True)` needs it; any other is in memory anyway.
    """
    kept = streamed(model)
    return kept.resident(name, save) if kept else nullcontext()


def streamed(model: nn.Module) -> streaming.Offload | None:
    """Where the weights of a model from `load(..., stream=True)` are; None for any other."""
    return getattr(model, "_offload", None)


def device(model: nn.Module) -> torch.device:
    """Where token ids go."""
    kept = streamed(model)
    return kept.device if kept else next(model.parameters()).device


def free_memory(model: nn.Module) -> int:
    """Bytes that are free where the model computes."""
    return free_bytes(device(model))


def free_bytes(place: torch.device) -> int:
    """Bytes that are free on a GPU, or in this machine."""
    return (
        torch.cuda.mem_get_info(place)[0]
        if place.type == "cuda"
        else psutil.virtual_memory().available
    )


def require_finite(model: nn.Module) -> None:
    """Raise InputError naming the first tensor that holds NaN or Inf, how many, and where."""
    kept = streamed(model)
    tensors = (
        track(kept.state(), "check weights", len(model.state_dict()))
        if kept
        else model.named_parameters()
    )
    for key, tensor in tensors:
        if tensor.is_meta or bool(torch.isfinite(tensor).all()):
            continue
        bad = (~torch.isfinite(tensor)).nonzero()
        raise InputError(
            f"{key} holds {len(bad)} NaN or Inf values, the first at "
            f"{bad[0].tolist()}; repair or download it again"
        )


def fingerprint(model: nn.Module) -> str:
    """16 hex digits of the sha256 over names, types, shapes and values of all parameters."""
    total = hashlib.sha256()
    kept = streamed(model)
    for key, tensor in kept.state() if kept else sorted(model.state_dict(keep_vars=True).items()):
        total.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
        total.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()[:16]


def configuration(model: Any) -> str:
    """8 hex digits over the settings that decide what the weights compute: rope, eps, windows,
    heads.
    """
    return digest(_computing(model.config.to_dict()))[:8] if hasattr(model, "config") else ""


def _computing(settings: Any) -> Any:
    """`settings` at any depth without names, labels, versions and types."""
    if isinstance(settings, dict):
        return {
            key: _computing(value)
            for key, value in settings.items()
            if not str(key).startswith(IDLE)
        }
    return settings if isinstance(settings, str | int | float | list | None) else str(settings)


def blocks(model: nn.Module) -> dict[str, nn.Module]:
    """Name -> decoder block, in the order of the forward pass.

    Raises:
        InputError: when the model is an encoder-decoder, or has no module list that holds most of
            its weights.
    """
    if getattr(model.config, "is_encoder_decoder", False):
        raise InputError(
            f"{name(model)!r} is an encoder-decoder; lwq works on decoders with one list of blocks"
        )
    lists = {
        path: module
        for path, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) and any(True for _ in _weights(module))
    }
    outer = {
        p: m for p, m in lists.items() if not any(p.startswith(other + ".") for other in lists)
    }
    if not outer:
        raise InputError(
            f"no decoder blocks found in {type(model).__name__}: looked for a torch.nn.ModuleList "
            f"whose items hold Linear, "
            f"Conv1D or 3-D expert weights; module lists seen: {sorted(lists) or 'none'}"
        )
    path, found = max(outer.items(), key=lambda item: sum(p.numel() for p in item[1].parameters()))
    return {f"{path}.{index}": block for index, block in enumerate(found)}


def _weights(module: nn.Module) -> Iterator[tuple[str, nn.Module, str, Tensor]]:
    """(path, owner, parameter name, tensor) of everything in `module` that multiplies activations
    as a matrix.
    """
    from transformers.pytorch_utils import Conv1D

    for path, owner in module.named_modules():
        if isinstance(owner, nn.Linear | Conv1D):
            yield path, owner, "weight", owner.weight
        else:
            for key, tensor in owner.named_parameters(recurse=False):
                if tensor.ndim == 3:
                    yield path, owner, key, tensor


def matrices(model: nn.Module) -> dict[str, Matrix]:
    """Name -> handle on every matrix that a plan can reach, in the order of the modules.

    Raises:
        InputError: when they are less than 95 % of the blocks' weights (the count says what was
            missed).
    """
    found: dict[str, Matrix] = {}
    for block_name, block in blocks(model).items():
        found.update(_matrices_of(block_name, block))
    inside = sum(p.numel() for block in blocks(model).values() for p in block.parameters())
    reached = sum(m.shape[0] * m.shape[1] for m in found.values())
    if reached < MIN_COVERAGE * inside:
        raise InputError(
            f"a plan would reach {reached:,} of {inside:,} block weights ({reached / inside:.1%}) "
            f"of {name(model)!r}, less "
            f"than {MIN_COVERAGE:.0%}; its matrices are neither Linear, Conv1D nor 3-D expert "
            f"parameters"
        )
    return found


def _matrices_of(block_name: str, block: nn.Module) -> Iterator[tuple[str, Matrix]]:
    weights = list(_weights(block))
    experts = {
        path.rpartition(".")[0]: tensor.shape[0]
        for path, _, _, tensor in weights
        if tensor.ndim == 3
    }
    for path, owner, parameter, tensor in weights:
        full = f"{block_name}.{path}" if path else block_name
        if tensor.ndim == 3:
            if not hasattr(owner, "_apply_gate"):
                raise InputError(
                    f"{full}.{parameter}: a 3-D parameter of {type(owner).__name__}, "
                    f"an unknown expert layout"
                )
            for expert in range(tensor.shape[0]):
                key = f"{full}.{parameter}.{expert}"
                yield (
                    key,
                    Matrix(key, owner, parameter, expert, transposed=bool(owner.is_transposed)),
                )
        elif not _is_router(path, tensor, experts):
            yield full, Matrix(full, owner, transposed=not isinstance(owner, nn.Linear))


def _is_router(path: str, weight: Tensor, experts: dict[str, int]) -> bool:
    """A matrix beside the experts with one output an expert (or one in all: a gate)."""
    return weight.shape[0] in (1, experts.get(path.rpartition(".")[0], 1))


def units(model: nn.Module, granularity: str = "block") -> dict[str, list[str]]:
    """Unit -> names of its matrices. Granularity "block", "group" or "matrix"; see
    `lwq.contracts.Layout`.
    """
    pick(dict.fromkeys(GRANULARITIES), "granularity", granularity)
    if granularity == "matrix":
        return {key: [key] for key in matrices(model)}
    if granularity == "group":
        return traced(model).groups
    found: dict[str, list[str]] = {block: [] for block in blocks(model)}
    for key in matrices(model):
        found[next(block for block in found if key.startswith(block + "."))].append(key)
    return found


def layout(model: nn.Module, granularity: str = "block") -> Layout:
    """The units, their sizes and the fingerprint of `model`, as plain data."""
    table = matrices(model)
    rest = {
        block_name: sum(p.numel() for p in block.parameters())
        - sum(
            m.shape[0] * m.shape[1] for key, m in table.items() if key.startswith(block_name + ".")
        )
        for block_name, block in blocks(model).items()
    }
    in_blocks = sum(p.numel() for block in blocks(model).values() for p in block.parameters())
    rest[""] = sum(p.numel() for p in model.parameters()) - in_blocks
    shapes = {
        unit: {key: table[key].shape for key in keys}
        for unit, keys in units(model, granularity).items()
    }
    return Layout(name(model), fingerprint(model), granularity, shapes, rest)


def traced(model: nn.Module) -> Structure:
    """What a forward pass over two tokens shows; computed once a model."""
    if model not in _structures:
        _structures[model] = _trace(model)
    return _structures[model]


@torch.no_grad()
def _trace(model: nn.Module) -> Structure:
    returns_tuple: dict[str, bool] = {}
    source: dict[nn.Module, int] = {}
    seen: list[Any] = []  # keeps inputs alive, so that no two share an id

    def note_input(module: nn.Module, args: tuple[Any, ...]) -> None:
        seen.append(args[0])
        source[module] = id(args[0])

    def note_output(block: str) -> Callable[..., None]:
        return lambda module, args, output: returns_tuple.update({block: isinstance(output, tuple)})

    table = matrices(model)
    hooks = [block.register_forward_hook(note_output(key)) for key, block in blocks(model).items()]
    hooks += [
        m.register_forward_pre_hook(note_input)
        for m in dict.fromkeys(m.module for m in table.values())
    ]
    try:
        model(torch.zeros(1, 2, dtype=torch.long, device=device(model)), use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return Structure(returns_tuple, _groups(table, source))


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


Recorder = Callable[[str, Tensor, tuple[Any, ...], dict[str, Any]], Tensor]


@contextmanager
def replaced_blocks(model: nn.Module, act: Recorder) -> Iterator[None]:
    """Inside, each block calls `act(name, hidden, other args, kwargs) -> hidden` instead of
    computing.

    The rest of the model (embeddings, masks, positions, final norm, head) runs as it does always.
    """
    table = blocks(model)
    shape = traced(model).returns_tuple

    def stand_in(key: str) -> Callable[..., Any]:
        def forward(hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
            result = act(key, hidden, args, kwargs)
            return (result, None) if shape[key] else result

        return forward

    before = {key: block.__dict__.get("forward") for key, block in table.items()}
    for key, block in table.items():
        block.forward = stand_in(key)  # an instance attribute, removed below
    try:
        yield
    finally:
        for key, block in table.items():
            del block.forward
            if (dropped := before[key]) is not None:
                block.forward = dropped


def drop_(model: nn.Module, block_name: str, dropped: bool = True) -> None:
    """Make a block pass its input through, in place (its position in the list, and its attention
    type, stay); or undo it.
    """
    block = blocks(model)[block_name]
    returns_tuple = traced(model).returns_tuple[block_name]
    block.__dict__.pop("forward", None)
    if dropped:
        block.forward = lambda hidden, *_, **__: (hidden, None) if returns_tuple else hidden


def final_norm(model: Any) -> nn.Module | None:
    """The norm between the last block and the head, or None: the last module that runs outside
    blocks before the head.
    """
    head = model.get_output_embeddings()
    owner = model.get_submodule(
        next(iter(blocks(model))).rpartition(".")[0].rpartition(".")[0] or ""
    )
    norms = [
        child
        for child in owner.children()
        if "norm" in type(child).__name__.lower() and child is not head
    ]
    return norms[-1] if norms else None
