"""Find a decoder's blocks and matrices from structure.

Blocks are the items of the module list of the text decoder that holds most weights; `trace` sees
whether they run as blocks do. Matrices are the weights of `Linear` and `Conv1D` modules inside
blocks, and the slices of 3-D expert parameters. Routers, norms, biases and convolutions stay as
they are.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from lwq.common.errors import InputError
from lwq.contracts import inside
from lwq.models.settings import name

MIN_COVERAGE = 0.95
# the outermost module on a path that has the name of a router
ROUTER = re.compile(r"(?:.*?\.)??(?:gate|router)(?=\.|$)")

Weight: TypeAlias = tuple[str, nn.Module, str, Tensor]  # path, owner, parameter name, tensor


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
        return weight.T if self.transposed else weight  # (in, out) -> (out, in)


def module_name(model: nn.Module, module: nn.Module) -> str:
    """The name of `module` in `model`."""
    return next(name for name, found in model.named_modules() if found is module)


def blocks(model: nn.Module) -> dict[str, nn.Module]:
    """Name -> decoder block, in the order of the forward pass.

    Raises:
        InputError: when the model is an encoder-decoder, has no module list that holds weights, or
            one block stands at two places.
    """
    if getattr(model.config, "is_encoder_decoder", False):
        raise InputError(
            f"{name(model)!r} is an encoder-decoder; lwq works on decoders with one list of blocks"
        )
    lists = block_lists(model)
    if not lists:
        seen = [path for path, module in model.named_modules() if isinstance(module, nn.ModuleList)]
        raise InputError(
            f"no decoder blocks found in {type(model).__name__}: looked for a torch.nn.ModuleList "
            f"whose items hold Linear, "
            f"Conv1D or 3-D expert weights; module lists seen: {seen or 'none'}"
        )
    own = _text_decoder(model)
    path = max(
        [path for path in lists if inside(path, own)] or lists,
        key=lambda path: sum(p.numel() for p in lists[path].parameters()),
    )
    found = {f"{path}.{index}": block for index, block in enumerate(lists[path])}
    _require_distinct(model, found)
    return found


def by_block(names: Iterable[str], keys: Iterable[str]) -> dict[str, list[str]]:
    """Block, of the blocks of one model -> which of `keys` it is, or holds."""
    found: dict[str, list[str]] = {block: [] for block in names}
    depth = next(iter(found)).count(".") + 1  # they stand in one list
    for key in keys:
        found.get(".".join(key.split(".")[:depth]), []).append(key)
    return found


def block_lists(model: nn.Module) -> dict[str, nn.ModuleList]:
    """Path -> module list whose items hold weights, but for lists inside of such a list."""
    lists = {
        path: module
        for path, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and any(True for _ in _weights(module))
    }
    return {
        path: module
        for path, module in lists.items()
        if not any(path != other and inside(path, other) for other in lists)
    }


def _text_decoder(model: nn.Module) -> str:
    """Path of the part of a model that reads and writes text; "" for the whole model."""
    from transformers import PreTrainedModel

    part = model.get_decoder() if isinstance(model, PreTrainedModel) else model
    return next((path for path, module in model.named_modules() if module is part), "")


def _require_distinct(model: nn.Module, found: dict[str, nn.Module]) -> None:
    """Raise InputError where two blocks hold one tensor: it cannot have two widths, nor be counted
    twice.
    """
    owner: dict[int, str] = {}
    for block_name, block in found.items():
        for key, parameter in block.named_parameters():
            other = owner.setdefault(id(parameter), block_name)
            if other != block_name:
                raise InputError(
                    f"{name(model)!r}: {other} and {block_name} share {key}; lwq gives each block "
                    f"a width of its own, and works on models whose blocks share no weights"
                )


def _weights(module: nn.Module) -> Iterator[Weight]:
    """(path, owner, parameter name, tensor) of everything in `module` that multiplies activations
    as a matrix.
    """
    from transformers.pytorch_utils import Conv1D

    for path, owner in module.named_modules():
        if isinstance(owner, nn.Linear | Conv1D):
            yield path, owner, "weight", owner.weight
        elif not isinstance(owner, _ConvNd):
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
    table = blocks(model)
    for block_name, block in table.items():
        found.update(_matrices_of(block_name, block))
    held = sum(p.numel() for block in table.values() for p in block.parameters())
    reached = sum(m.shape[0] * m.shape[1] for m in found.values())
    if reached < MIN_COVERAGE * held:
        raise InputError(
            f"a plan would reach {reached:,} of {held:,} block weights ({reached / held:.1%}) "
            f"of {name(model)!r}, less "
            f"than {MIN_COVERAGE:.0%}; its matrices are neither Linear, Conv1D nor 3-D expert "
            f"parameters"
        )
    return found


def _matrices_of(block_name: str, block: nn.Module) -> Iterator[tuple[str, Matrix]]:
    weights = list(_weights(block))
    routers = _routers(weights, _experts(block))
    for path, owner, parameter, tensor in weights:
        full = f"{block_name}.{path}" if path else block_name
        _require_numbers(f"{full}.{parameter}", tensor)
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
        elif path not in routers:
            yield full, Matrix(full, owner, transposed=not isinstance(owner, nn.Linear))


def routed(model: nn.Module) -> bool:
    """Whether a router chooses experts in some block."""
    return any(
        any(tensor.ndim == 3 for _, _, _, tensor in weights) or _routers(weights, _experts(block))
        for block in blocks(model).values()
        for weights in [list(_weights(block))]
    )


def expert_parts(module: Any) -> tuple[str, str]:
    """The 3-D parameters of a module of experts, in the order of the forward pass."""
    return "gate_up_proj" if module.has_gate else "up_proj", "down_proj"


def expert_inner(module: Any, first: Tensor) -> Tensor:
    """What the second matrix of an expert reads, from what the first gave."""
    inner: Tensor = module._apply_gate(first) if module.has_gate else module.act_fn(first)
    return inner


def _require_numbers(full: str, weight: Tensor) -> None:
    """Raise InputError for codes, flags and 8-bit floats: they stand for weights, and are none."""
    if (
        not weight.is_floating_point()
        or weight.element_size() < 2
        or type(weight.data) is not Tensor
    ):
        raise InputError(
            f"{full} holds {str(weight.dtype).removeprefix('torch.')} of type "
            f"{type(weight.data).__name__}, which stand for weights in a format of their own; lwq "
            f"quantizes float32, bfloat16 or float16: load the unquantized model"
        )


def _experts(block: nn.Module) -> dict[str, int]:
    """Path of what holds a set of experts, 3-D parameters, a list or a dict of modules, -> how
    many.
    """
    found = {path: tensor.shape[0] for path, _, _, tensor in _weights(block) if tensor.ndim == 3}
    for path, module in block.named_modules():
        if isinstance(module, nn.ModuleList | nn.ModuleDict) and any(
            True for _ in _weights(module)
        ):
            found[path] = len(module)
    return found


def _routers(weights: Collection[Weight], experts: Mapping[str, int]) -> set[str]:
    """Paths of the matrices that choose experts: what stands beside a set of experts, or inside a
    module beside it, with one output an expert (or one in all: a gate), and all of a router that is
    called so.
    """
    found = {p for p, _, _, t in weights if any(_chooses(p, t, *some) for some in experts.items())}
    named: dict[str, list[tuple[str, Tensor]]] = {}
    for path, _, _, tensor in weights:
        if called := ROUTER.match(path):
            named.setdefault(called[0], []).append((path, tensor))
    for router, inner in named.items():
        outputs = inner[-1][1].shape[0]
        if any(_called_router(router, outputs, *some) for some in experts.items()):
            found.update(path for path, _ in inner)
    return found


def _chooses(path: str, weight: Tensor, own: str, count: int) -> bool:
    """Whether a matrix is beside `count` experts at `own`, and has as many outputs, or one."""
    holder = own.rpartition(".")[0]
    above = path.rpartition(".")[0]
    beside = above == holder or (bool(holder) and above.rpartition(".")[0] == holder)
    return beside and not inside(path, own) and weight.shape[0] in (1, count)


def _called_router(router: str, outputs: int, own: str, count: int) -> bool:
    """Whether a module with the name of a router is beside `count` experts at `own`, or beside what
    holds them; it may have outputs for experts that do nothing.
    """
    above = router.rpartition(".")[0]
    beside = (not above or inside(own, above)) and not inside(router, own)
    return beside and count <= outputs <= 2 * count
