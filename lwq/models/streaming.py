"""Models larger than memory: the weights of each part come from disk when it is called, and go
again after.
"""

import contextlib
import ctypes
import json
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lwq.common import paths
from lwq.common.errors import InputError
from lwq.common.progress import quiet_transformers, track
from lwq.contracts import inside
from lwq.models import checkpoint, settings
from lwq.models.checkpoint import INDEX
from lwq.models.state import stands

BUFFERS = "(buffers)"  # stands for a part that is always in memory


class Offload:
    """The weights of a model on the meta device, part by part.

    A part is a decoder block, or what holds weights outside the blocks (embeddings, final norm,
    head). It is in memory while it computes and inside `resident`; otherwise its parameters are on
    the meta device. What was changed inside `resident(..., save=True)` is written to a scratch
    folder that lives as long as this object, and is read from there afterwards; the checkpoint
    itself is never written to.

    Memory: the parts that are in use; tied modules are one part.

    Attributes:
        model: the model, its parameters on the meta device.
        device: where the parts go when they are called.
        blocks: names of the decoder blocks.
        after_load: called with a part's name once its weights are in memory.
    """

    def __init__(
        self, model: Any, folder: Path, blocks: Mapping[str, nn.Module], device: str = "cpu"
    ):
        self.model, self.device = model, torch.device(device)
        self.after_load: list[Callable[[str], None]] = []
        self._dtype = model.dtype
        self._first = first_names(model)
        # first name -> the places that share the tensor
        self.slots: dict[str, list[tuple[nn.Module, str]]] = {}
        for key, first in self._first.items():
            owner, _, name = key.rpartition(".")
            self.slots.setdefault(first, []).append((model.get_submodule(owner), name))
        self._part_of = {key: _owner(key, blocks) for key in self.slots}
        self._buffers = {  # that a checkpoint keeps
            key: _owner(key, blocks) for key in model.state_dict() if key not in self._first
        }
        self.parts = list(dict.fromkeys([*self._part_of.values(), *self._buffers.values()]))
        self._mapping = checkpoint.conversions(model)
        held = checkpoint.dtypes(folder)
        checkpoint.require_numbers(model, held)
        self._sources = self._find({key: file for key, (file, _) in held.items()})
        self._convert(BUFFERS)  # buffers are small: they stay in memory
        self._scratch: Path | None = None
        self._changed: dict[str, Path] = {}
        self._held: Counter[str] = Counter()  # part -> how many `resident` it is inside of
        # module -> the parts that it computes with; a tied head needs another's
        needed: dict[str, dict[str, None]] = {}
        for key, first in self._first.items():
            needed.setdefault(_owner(key, blocks), {})[self._part_of[first]] = None
        for name, parts in needed.items():
            module = model.get_submodule(name)
            module.register_forward_pre_hook(self._around(self._load, list(parts)))
            module.register_forward_hook(self._around(self._unload, list(parts)), always_call=True)

    @contextmanager
    def resident(self, name: str, save: bool = False) -> Iterator[None]:
        """Inside, the weights of the part that `name` is, or is inside of, are in memory; `save`
        keeps what was changed.
        """
        part = self.part_of(name)
        self._held[part] += 1
        try:
            if self._held[part] == 1:
                self._load(part)
            yield
            if save:
                self._save(part)
        finally:
            self._held[part] -= 1
            if not self._held[part]:
                self._unload(part)

    def part_of(self, name: str) -> str:
        """The part that `name` is, or is inside of; parts may stand inside of others that have
        weights of their own.
        """
        found = [part for part in self.parts if inside(name, part)]
        if not found:
            raise InputError(
                f"{name!r} is not a part of this model; its parts are {self.parts[:4]} …"
            )
        return max(found, key=len)

    def state(self) -> Iterator[tuple[str, Tensor]]:
        """(key, tensor) of the whole state dict, keys in sorted order; one part at a time is in
        memory.
        """
        current, stack = None, ExitStack()
        with stack:
            for key in sorted(self.model.state_dict()):
                first = self._first.get(key)
                part = None if first is None else self._part_of[first]
                if part != current:
                    stack.close()
                    current = part
                    if part is not None:
                        stack.enter_context(self.resident(part))
                yield key, self.model.get_buffer(key) if first is None else self._tensor(first)

    def save_pretrained(self, folder: Path) -> None:
        """Write the weights as they are now, one shard a part, with an index, the
        configuration and the model's own code.
        """
        from transformers.core_model_loading import revert_weight_conversion

        self.model.config.architectures = [type(self.model).__name__]
        self.model.config.dtype = self.model.dtype
        settings.save_settings(self.model, folder)
        weights: dict[str, str] = {}
        total = 0
        for number, part in enumerate(track(self.parts, "write", len(self.parts)), start=1):
            shard = f"model-{number:05d}-of-{len(self.parts):05d}.safetensors"
            with self.resident(part):
                state = revert_weight_conversion(
                    self.model, {key: t.data for key, t in self._stored(part).items()}
                )
                save_file(
                    {key: t.contiguous() for key, t in state.items()},
                    folder / shard,
                    metadata={"format": "pt"},
                )
                weights |= dict.fromkeys(state, shard)
                total += sum(t.nbytes for t in state.values())
        index = {"metadata": {"total_size": total}, "weight_map": weights}
        (folder / INDEX).write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")

    def _own(self, part: str) -> dict[str, Tensor]:
        return {key: self._tensor(key) for key, owner in self._part_of.items() if owner == part}

    def _stored(self, part: str) -> dict[str, Tensor]:
        """The weights of a part, and the buffers of the same modules that a checkpoint keeps."""
        return self._own(part) | {
            key: self.model.get_buffer(key) for key, owner in self._buffers.items() if owner == part
        }

    def _tensor(self, key: str) -> Tensor:
        owner, name = self.slots[key][0]
        tensor = owner._parameters[name]
        assert tensor is not None
        return tensor

    def _read(self, key: str) -> Tensor:
        """The tensor at whichever of its places the checkpoint has a name for."""
        found = [owner._parameters[name] for owner, name in self.slots[key]]
        return next(t for t in found if t is not None and not t.is_meta)

    def _find(self, files: Mapping[str, Path]) -> dict[str, dict[str, Path]]:
        """Part (or BUFFERS) -> its keys in the checkpoint, and the file that holds each.

        Raises InputError where the checkpoint and the model do not hold the same tensors.
        """
        from transformers.utils.loading_report import LoadStateDictInfo

        found: dict[str, dict[str, Path]] = {part: {} for part in (BUFFERS, *self.parts)}
        state, there, unexpected = self.model.state_dict(), set(), set()
        for key, target in checkpoint.targets(self.model, files).items():
            if target not in state:
                unexpected.add(key)
                continue
            first = self._first.get(target)
            there.add(first or target)
            found[BUFFERS if first is None else self._part_of[first]][key] = files[key]
        missing = {key for key in state if self._first.get(key, key) not in there}
        info = LoadStateDictInfo(missing, unexpected, set(), [], {}, set())
        self.model._adjust_missing_and_unexpected_keys(info)
        checkpoint.require_fit(settings.name(self.model), info.missing_keys, info.unexpected_keys)
        return found

    def _around(self, act: Callable[[str], None], parts: list[str]) -> Callable[..., None]:
        """A hook before or after a module that computes with `parts`.

        It counts nothing: torch runs no hook after a call that the user interrupted, and the next
            call has to load anew.
        """

        def hook(module: nn.Module, *_: Any) -> None:
            # a block that was replaced (recorded, dropped) does not compute
            if not stands(module):
                for part in parts:
                    if not self._held[part]:
                        act(part)

        return hook

    def _unload(self, part: str) -> None:
        for key in self._own(part):
            self._set(key, None)
        give_back()

    def _load(self, part: str) -> None:
        if part in self._changed:
            for key, tensor in load_file(self._changed[part], device=str(self.device)).items():
                self._set(key, tensor)
        else:
            self._convert(part)
        for key in self._own(part):
            self._set(key, self._read(key))  # in all modules that are tied to each other
        for act in self.after_load:
            act(part)

    def _convert(self, part: str) -> None:
        """From the checkpoint's names, layout and dtype to the model's, by transformers' own
        rules.
        """
        from transformers.core_model_loading import convert_and_load_state_dict_in_model
        from transformers.modeling_utils import LoadStateDictConfig

        with quiet_transformers(), ExitStack() as stack:
            handles = {
                f: stack.enter_context(safe_open(f, framework="pt"))
                for f in set(self._sources[part].values())
            }
            slices = {
                key: handles[file].get_slice(key) for key, file in self._sources[part].items()
            }
            config = LoadStateDictConfig(
                dtype=self._dtype,
                dtype_plan=self.model._get_dtype_plan(self._dtype),  # what stays in float32
                device_map={"": self.device},
                weight_mapping=self._mapping,
                use_safetensors=True,
            )
            info, _ = convert_and_load_state_dict_in_model(self.model, slices, config)
        self.model._weight_conversions = [entry for entry in self._mapping if entry.was_used()]
        checkpoint.require_fit(
            settings.name(self.model), (), info.conversion_errors, info.mismatched_keys
        )
        for tensor in self._own(part).values():
            tensor.requires_grad_(False)

    def _save(self, part: str) -> None:
        if self._scratch is None:
            self._scratch = paths.scratch(self, "offload-")
        self._changed[part] = self._scratch / f"{part}.safetensors"
        tensors = {key: t.data.contiguous() for key, t in self._own(part).items()}
        with paths.writing(self._changed[part]):
            save_file(tensors, self._changed[part])

    def _set(self, key: str, tensor: Tensor | None) -> None:
        """Put `tensor` into every place that shares the parameter `key`; None stands for the meta
        device.
        """
        new = torch.empty_like(self._tensor(key), device="meta") if tensor is None else tensor
        new = new if isinstance(new, nn.Parameter) else nn.Parameter(new, requires_grad=False)
        for owner, name in self.slots[key]:
            owner._parameters[name] = new


def give_back() -> None:
    """Let the C library return freed memory to the system; glibc would keep most of a block, and
    more with each block.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):  # only glibc has it
        ctypes.CDLL(None).malloc_trim(0)


def skeleton(folder: Path, config: Any, dtype: torch.dtype, trust_remote_code: bool) -> Any:
    """The model of a checkpoint with its parameters on the meta device; nothing but the
    configurations is read.
    """
    from accelerate import init_empty_weights
    from transformers import AutoModelForCausalLM, GenerationConfig

    with init_empty_weights(include_buffers=False):
        model = AutoModelForCausalLM.from_config(
            config, dtype=dtype, trust_remote_code=trust_remote_code
        )
    model.tie_weights()
    if model.can_generate() and (folder / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder)
    return model


def stand_in_(model: Any) -> None:
    """Give each parameter on the meta device one number at all its places, in no memory; of a stack
    of experts one matrix stands for all, since products of stacks want whole rows.
    """
    made: dict[str, nn.Parameter] = {}
    for key, first in first_names(model).items():
        owner, _, leaf = key.rpartition(".")
        if first not in made:
            shape, dtype = model.get_parameter(first).shape, model.get_parameter(first).dtype
            number = torch.tensor(0.01 + len(made) * 0.618 % 1, dtype=dtype)  # not all alike
            if len(shape) == 3:
                number = number.repeat(shape[1:])
            made[first] = nn.Parameter(number.expand(shape), requires_grad=False)
        model.get_submodule(owner)._parameters[leaf] = made[first]


def local(name: str | Path) -> Path:
    """The folder of a checkpoint: `name` itself, or what a hub delivers for it (no pickled
    weights).
    """
    if Path(name).expanduser().is_dir():
        return Path(name).expanduser()
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(str(name), allow_patterns=list(checkpoint.READ)))


def _owner(key: str, blocks: Mapping[str, nn.Module]) -> str:
    """The block that the parameter `key` is inside of, or else the module that holds it."""
    return next((block for block in blocks if inside(key, block)), key.rpartition(".")[0])


def untie_(model: Any, held: Collection[tuple[str, str]]) -> None:
    """Give what the configuration ties, but the checkpoint holds apart, a parameter of its own on
    the meta device.

    held: (name, first name) of such parameters.
    """
    for key, _ in held:
        owner, _, leaf = key.rpartition(".")
        shape = model.get_parameter(key)
        own = nn.Parameter(torch.empty_like(shape, device="meta"), requires_grad=False)
        model.get_submodule(owner)._parameters[leaf] = own
    settings.tell_tying_(model)


def tied(model: nn.Module) -> list[tuple[str, str]]:
    """(name, first name) of each parameter that is another's tensor."""
    return [(key, first) for key, first in first_names(model).items() if key != first]


def first_names(model: nn.Module) -> dict[str, str]:
    """Name of each parameter -> the first name of the tensor behind it; they differ where tensors
    are tied.
    """
    first: dict[int, str] = {}
    return {
        key: first.setdefault(id(tensor), key)
        for key, tensor in model.named_parameters(remove_duplicate=False)
    }
