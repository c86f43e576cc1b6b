"""Open what lwq wrote in its own format: the weights stay packed, in memory."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lwq import models
from lwq.common.errors import InputError
from lwq.common.names import pick
from lwq.contracts.files import read_as
from lwq.exporters.held import Held, Holding, Part, Plain, Room, Stored
from lwq.exporters.own import MARK
from lwq.exporters.shared import shards
from lwq.inputs import resolve
from lwq.models import checkpoint, streaming
from lwq.models.load import loading, settle_
from lwq.models.placing import require_place

AGAIN = "export the model again, or download the folder again"


@dataclass(frozen=True)
class Mark:
    """What MARK holds.

    Attributes:
        dropped: block -> whether it returns a tuple.
        matrices: packed matrix -> its storage, its parts and its header.
    """

    dropped: Mapping[str, Any]
    matrices: Mapping[str, Mapping[str, Any]]


def load(
    name: str | PathLike[str],
    dtype: str = "float32",
    device_map: str | None = None,
    trust_remote_code: bool = False,
    stream: bool = False,
    room: int = 0,
) -> tuple[Any, Any]:
    """A decoder in evaluation mode and its tokenizer: `lwq.models.load`, which says the arguments,
    and beside it the folders of `lwq.export(format="lwq")`.

    Of such a folder the weights stay in memory as they are on disk, and each module unpacks its own
    when it computes: the numbers are those of the plan, in `dtype`. `device_map` is the one device
    that they go to. A packed model answers, generates and is evaluated; it cannot be quantized
    again. Generation unpacks every matrix for every token: `room` bytes of matrices stay unpacked
    once they were (4 bytes a weight in float32), and cost nothing from the second token on.
    """
    name = resolve.said(name)
    resolve.model_kind(name)
    folder = Path(name).expanduser()
    if not (folder / MARK).is_file():
        return models.load(name, dtype, device_map, trust_remote_code, stream)
    if stream:
        raise InputError(f"{name!r} is packed, and opens whole; leave out stream=True")
    require_place(device_map, "a packed model")
    wide = pick(models.DTYPES, "dtype", dtype)
    return _opened(name, folder, wide, device_map, trust_remote_code, Room(room))


def _opened(
    name: str,
    folder: Path,
    dtype: torch.dtype,
    device: str | None,
    trust_remote_code: bool,
    room: Room,
) -> tuple[Any, Any]:
    from transformers import AutoConfig, AutoTokenizer

    checkpoint.require_files(name, folder)
    said = read_as(Mark, folder / MARK, "packed")
    with loading(name):
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
        del config.quantization_config
        model = streaming.skeleton(folder, config, dtype, trust_remote_code)
    parts = _parts(folder, said.matrices, dict(shards.read(folder)), room)
    streaming.untie_(model, _apart(model, parts))
    if unknown := sorted(said.dropped.keys() - models.blocks(model).keys()):
        raise InputError(f"{folder / MARK} drops {unknown[:3]}, no blocks of the model; {AGAIN}")
    _fill_(model, said.dropped, parts, torch.device(device or "cpu"), name)
    settle_(model, tokenizer, name)
    for block, returns_tuple in said.dropped.items():
        models.pass_through_(models.blocks(model)[block], returns_tuple)
    return model.eval().requires_grad_(False), tokenizer


def _fill_(
    model: Any, dropped: Iterable[str], parts: dict[str, Part], device: torch.device, name: str
) -> None:
    """Give every parameter and buffer what the file holds of it; InputError where that is not all,
    or more, or has no room in the dtype.
    """
    gone = tuple(f"{block}." for block in dropped)
    reached = {**models.matrices(model), **_outside(model)}
    handles = shards.by_parameter(model, reached.values())
    first = streaming.first_names(model)
    sources = {
        first.get(key, key): _sources(key, tensor, handles.get(key, []), parts)
        for key, tensor in model.state_dict().items()
        if first.get(key, key) == key and not key.startswith(gone)
    }
    _require_fit(name, sources, parts)
    dtypes = models.own_dtypes(model, model.dtype)
    made: dict[str, nn.Parameter] = {}
    for key, own in first.items():
        holder, _, leaf = key.rpartition(".")
        if own not in sources:
            continue
        if own not in made:
            shape = tuple(model.get_parameter(own).shape)
            holding = _holding(handles.get(own, []), sources[own], parts, shape)
            value = _value(own, holding, parts, dtypes[own], device)
            made[own] = nn.Parameter(value, requires_grad=False)
        model.get_submodule(holder)._parameters[leaf] = made[own]
    for key, buffer in model.named_buffers():
        value = parts[key].whole(dtypes.get(key, buffer.dtype)) if key in parts else buffer.data
        buffer.data = value.to(device)


def _require_fit(
    name: str, sources: Mapping[str, Mapping[str, tuple[int, ...]]], parts: Mapping[str, Part]
) -> None:
    """Raise InputError unless the file holds all that `sources` names, in its shape, and nothing
    else.
    """
    needed = {part: shape for own in sources.values() for part, shape in own.items()}
    checkpoint.require_fit(
        name,
        needed.keys() - parts.keys(),
        parts.keys() - needed.keys(),
        [
            (part, parts[part].shape, shape)
            for part, shape in needed.items()
            if part in parts and parts[part].shape != shape
        ],
    )


def _value(
    key: str,
    holding: Holding | None,
    parts: dict[str, Part],
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    """What a parameter is in memory; InputError where `dtype` has no room for a number of it."""
    held = holding.parts if holding else (parts[key],)
    plain = ((key, part.tensor) for part in held if isinstance(part, Plain))
    shards.require_held(plain, dtype)
    return (
        Held(holding.to(device), dtype, device) if holding else parts[key].whole(dtype).to(device)
    )


def _apart(model: Any, parts: Collection[str]) -> list[tuple[str, str]]:
    """Those tied parameters of which the file holds both; lwq writes what is tied once."""
    held = {*parts, *(f"{name}.weight" for name in parts)}
    return [pair for pair in streaming.tied(model) if held.issuperset(pair)]


def _parts(
    folder: Path, table: Mapping[str, Mapping[str, Any]], tensors: dict[str, Tensor], room: Room
) -> dict[str, Part]:
    """Matrix, or other tensor -> what the file holds of it; InputError where it is not what MARK
    says.
    """
    packed: dict[str, dict[str, Tensor]] = {}
    found: dict[str, Part] = {}
    for key, tensor in tensors.items():
        matrix, _, part = key.partition("/")
        if part:
            packed.setdefault(matrix, {})[part] = tensor
        else:
            found[key] = Plain(tensor)
    if unsaid := sorted(packed.keys() - table.keys()):
        raise InputError(f"{folder / MARK} does not say how {unsaid[:3]} are packed; {AGAIN}")
    for name, entry in table.items():
        try:
            found[name] = _stored(entry, packed.get(name, {}), room)
        except InputError as error:
            raise InputError(
                f"the weights in {folder} do not hold {name} as {MARK} says: {error}; {AGAIN}"
            ) from None
    return found


def _stored(entry: Mapping[str, Any], tensors: dict[str, Tensor], room: Room) -> Stored:
    """A packed matrix; InputError where it cannot be read with its header."""
    header = {key: value for key, value in entry.items() if key not in ("storage", "parts")}
    found = Stored(str(entry.get("storage")), tensors, header, room)
    said = sorted(entry.get("parts", tensors))  # older folders do not say
    if sorted(tensors) != said:
        raise InputError(f"its parts are {sorted(tensors)}, and {said} are needed")
    found.shape  # noqa: B018 (asked for to be looked at)
    return found


def _sources(
    key: str, tensor: Tensor, own: list[models.Matrix], parts: Collection[str]
) -> dict[str, tuple[int, ...]]:
    """What a file holds a parameter as, each with the shape that the model needs: its matrices one
    by one, or the tensor whole.
    """
    if any(matrix.name in parts for matrix in own):
        return {matrix.name: matrix.shape for matrix in own}
    return {key: tuple(tensor.shape)}


def _holding(
    own: list[models.Matrix], names: Collection[str], parts: dict[str, Part], shape: tuple[int, ...]
) -> Holding | None:
    """A weight with two dimensions or more, of the parts `names`; None for any other parameter."""
    if not own:
        return None
    held = tuple(parts[name] for name in names)
    one_by_one = own[0].name in names
    stacked = one_by_one and own[0].expert is not None
    return Holding(held, stacked, one_by_one and own[0].transposed, shape)


def _outside(model: Any) -> dict[str, models.Matrix]:
    """Embeddings and head, which `models.outside` would find by running the model."""
    modules = model.named_modules()
    head = model.get_output_embeddings()
    return {
        path: models.Matrix(path, module)
        for path, module in modules
        if isinstance(module, nn.Embedding) or module is head
    }
