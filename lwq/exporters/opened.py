"""Open what lwq wrote in its own format: the weights stay packed, in memory."""

from collections.abc import Collection, Iterable, Iterator
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lwq import models
from lwq.common.errors import InputError
from lwq.common.names import pick
from lwq.contracts.files import read as read_json
from lwq.exporters.held import Held, Holding, Part, Plain, Room, Stored
from lwq.exporters.own import MARK
from lwq.exporters.shared import shards
from lwq.inputs import resolve
from lwq.models import checkpoint, streaming
from lwq.models.load import loading, settle_
from lwq.models.placing import require_place


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
    said = read_json(folder / MARK, "packed")
    with loading(name):
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
        del config.quantization_config
        model = streaming.skeleton(folder, config, dtype, trust_remote_code)
    parts = _parts(said["matrices"], dict(shards.read(folder)), room)
    streaming.untie_(model, _apart(model, parts))
    _fill_(model, said["dropped"], parts, torch.device(device or "cpu"), name)
    settle_(model, tokenizer, name)
    for block, returns_tuple in said["dropped"].items():
        models.pass_through_(models.blocks(model)[block], returns_tuple)
    return model.eval().requires_grad_(False), tokenizer


def _fill_(
    model: Any, dropped: Iterable[str], parts: dict[str, Part], device: torch.device, name: str
) -> None:
    """Give every parameter what the file holds of it; InputError where that is not all, or has no
    room in the dtype.
    """
    holdings = dict(_matrices(model, parts))
    first = streaming.first_names(model)
    plan = model._get_dtype_plan(model.dtype)  # what architectures keep in float32
    made: dict[str, nn.Parameter] = {}
    gone = tuple(f"{block}." for block in dropped)
    missing = []
    for key, own in first.items():
        holder, _, leaf = key.rpartition(".")
        if own.startswith(gone):
            continue
        if own not in made:
            wide = next((plan[part] for part in plan if part in own), model.dtype)
            if own not in holdings and own not in parts:
                missing.append(own)
                continue
            value = _value(own, holdings.get(own), parts, wide, device)
            made[own] = nn.Parameter(value, requires_grad=False)
        model.get_submodule(holder)._parameters[leaf] = made[own]
    checkpoint.require_fit(name, missing, ())
    for key, buffer in model.named_buffers():
        value = parts[key].whole(buffer.dtype) if key in parts else buffer.data
        buffer.data = value.to(device)


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


def _parts(table: dict[str, Any], tensors: dict[str, Tensor], room: Room) -> dict[str, Part]:
    """Matrix, or other tensor -> what the file holds of it."""
    own: dict[str, dict[str, Tensor]] = {name: {} for name in table}
    found: dict[str, Part] = {}
    for key, tensor in tensors.items():
        matrix, _, part = key.partition("/")
        if part:
            own[matrix][part] = tensor
        else:
            found[key] = Plain(tensor)
    for name, entry in table.items():
        header = {key: value for key, value in entry.items() if key != "storage"}
        found[name] = Stored(entry["storage"], own[name], header, room)
    return found


def _matrices(model: Any, parts: dict[str, Part]) -> Iterator[tuple[str, Holding]]:
    """(name of the parameter, what it is) of each weight with two dimensions or more."""
    handles: dict[str, list[models.Matrix]] = {}
    for matrix in {**models.matrices(model), **_outside(model)}.values():
        handles.setdefault(shards.parameter(model, matrix), []).append(matrix)
    for key, own in handles.items():
        if all(matrix.name in parts for matrix in own):
            held = tuple(parts[matrix.name] for matrix in own)
            stacked, transposed = own[0].expert is not None, own[0].transposed
        elif key in parts:
            held, stacked, transposed = (parts[key],), False, False
        else:
            continue
        shape = tuple(getattr(own[0].module, own[0].parameter).shape)
        yield key, Holding(held, stacked, transposed, shape)


def _outside(model: Any) -> dict[str, models.Matrix]:
    """Embeddings and head, which `models.outside` would find by running the model."""
    modules = model.named_modules()
    head = model.get_output_embeddings()
    return {
        path: models.Matrix(path, module)
        for path, module in modules
        if isinstance(module, nn.Embedding) or module is head
    }
