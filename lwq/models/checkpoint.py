"""What a checkpoint folder holds, and whether it is the model's: all of it, in numbers, and nothing
else.
"""

import json
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from lwq.common.errors import InputError

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
TOKENIZER = ("tokenizer*", "*vocab*", "*.model", "*.tiktoken", "tekken.json")
# of a hub's repository: all that a loader reads, chat templates (*.jinja) among it
READ = ("*.safetensors", "*.json", "*.jinja", "*.txt", "*.py", *TOKENIZER)
NEEDED = {  # in the folder of a checkpoint -> how its files may be called
    "config.json": ("config.json",),
    "weights (*.safetensors)": ("*.safetensors",),
    "a tokenizer (tokenizer.json or the like)": TOKENIZER,
}
POINTER = b"version https://git-lfs"
# how safetensors calls numbers that lwq quantizes; anything else as a weight stands for some
NUMBERS = {"F64", "F32", "F16", "BF16"}
# formats that transformers turns into plain numbers while it loads them
READABLE = ("fp8", "mxfp4")
ROWS = 4096  # of a tensor that are compared at once


def require_files(name: str, folder: Path) -> None:
    """Raise InputError naming what the folder lacks; transformers would give another reason."""
    if missing := [
        what
        for what, names in NEEDED.items()
        if not any(any(folder.glob(pattern)) for pattern in names)
    ]:
        raise InputError(
            f"cannot load the model {name!r}: the folder lacks {' and '.join(missing)}; "
            f"save_pretrained of the model and of "
            "its tokenizer write all three (pickled weights are not read)"
        )
    dtypes(folder)


def dtypes(folder: Path) -> dict[str, tuple[Path, str]]:
    """Tensor -> its file and how safetensors calls its dtype, from the headers. Of a folder that
    holds one file and an index, an older one's, the file counts, as to transformers.

    Raises InputError, naming the file and what is wrong with it, for one that is missing, empty,
    cut off or no safetensors file.
    """
    file = folder / SINGLE
    if file.is_file() or not (folder / INDEX).is_file():
        return {key: (file, kind) for key, kind in _header(file).items()}
    listed = _index(folder / INDEX)
    found = {file: _header(file) for file in dict.fromkeys(listed.values())}
    if lost := [key for key, file in listed.items() if key not in found[file]]:
        raise InputError(f"{listed[lost[0]]} lacks {lost[:3]}, which {INDEX} says it holds")
    return {key: (file, found[file][key]) for key, file in listed.items()}


def _index(file: Path) -> dict[str, Path]:
    """Tensor -> the file that holds it."""
    try:
        table = json.loads(file.read_text(encoding="utf-8"))["weight_map"]
        return {key: file.parent / shard for key, shard in table.items()}
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise InputError(f"{file} is no index of safetensors files ({error!r})") from None


def _header(file: Path) -> dict[str, str]:
    """Tensor -> how safetensors calls its dtype."""
    try:
        with safe_open(file, framework="pt") as content:
            return {key: content.get_slice(key).get_dtype() for key in content.keys()}  # noqa: SIM118 (not a dict)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{file} {_reason(file, error)}; download it again") from None


def _reason(file: Path, error: Exception) -> str:
    """What is wrong with a file that safetensors cannot read."""
    if not file.is_file():
        return "is missing"
    with file.open("rb") as content:
        start = content.read(len(POINTER))
    if start == POINTER:
        return "is a Git LFS pointer, not the file that it points to (git lfs pull)"
    return f"is cut off or no safetensors file ({error})" if start else "is empty"


def require_unquantized(name: str, config: Any, stream: bool) -> str:
    """The format of a checkpoint's codes where transformers reads it into plain numbers, else "".

    Raises InputError for a checkpoint that is quantized in any other format.
    """
    settings = quantization(config)
    if settings is None:
        return ""
    method = str(settings.get("quant_method") or "unknown format")
    if method == "lwq":
        raise InputError(f"{name!r} is packed by lwq: lwq.load opens it, to answer and be judged")
    if method in READABLE and not stream:
        return method
    way = "load it without stream=True" if method in READABLE else "name the unquantized model"
    raise InputError(
        f"{name!r} is already quantized ({method}), and lwq does not read its codes; {way}"
    )


def quantization(config: Any) -> Mapping[str, Any] | None:
    """The settings that a checkpoint was quantized with; None for plain numbers."""
    for part in (config, config.get_text_config(decoder=True)):
        settings = part.to_dict().get("quantization_config")
        if settings is not None:
            return settings if isinstance(settings, Mapping) else settings.to_dict()
    return None


def conversions(model: Any) -> list[Any]:
    """transformers' rules from a checkpoint's names and layouts to those of `model`."""
    from transformers.conversion_mapping import get_model_conversion_mapping

    return get_model_conversion_mapping(model)


def targets(model: Any, keys: Iterable[str]) -> dict[str, str]:
    """Tensor of a checkpoint -> its name in the state of `model`, by transformers' own rules; one
    that the state lacks where it has no place there.
    """
    from transformers.core_model_loading import (
        WeightConverter,
        WeightRenaming,
        rename_source_key,
    )

    mapping = conversions(model)
    renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
    prefix, state = model.base_model_prefix, model.state_dict()

    def target(key: str) -> str:
        renamed, _ = rename_source_key(key, renamings, converters, prefix, state)
        if renamed not in state and key in state:
            renamed, _ = rename_source_key(key, [], [], prefix, state)
        return renamed

    return {key: target(key) for key in keys}


def apart(model: Any, folder: Path, tied: Collection[tuple[str, str]]) -> list[tuple[str, str]]:
    """Those pairs of `tied` parameters of `model` of which the checkpoint holds both, with other
    numbers: transformers leaves them untied, whatever config.json says. None of a folder without
    weights.
    """
    if not tied or not any(folder.glob("*.safetensors")):
        return []
    held = dtypes(folder)
    found = {target: (held[key][0], key) for key, target in targets(model, held).items()}
    return [
        (name, first)
        for name, first in tied
        if name in found and first in found and not _equal(found[name], found[first], model.dtype)
    ]


def _equal(one: tuple[Path, str], other: tuple[Path, str], dtype: torch.dtype) -> bool:
    """Whether two tensors of files, (file, key), are the same in `dtype`; some rows at a time."""
    with safe_open(one[0], framework="pt") as a, safe_open(other[0], framework="pt") as b:
        rows, others = a.get_slice(one[1]), b.get_slice(other[1])
        if (shape := rows.get_shape()) != others.get_shape():
            return False
        return all(
            torch.equal(rows[i : i + ROWS].to(dtype), others[i : i + ROWS].to(dtype))
            for i in range(0, shape[0], ROWS)
        )


def require_fit(
    name: str,
    missing: Collection[str],
    unexpected: Collection[str],
    mismatched: Collection[tuple[str, Any, Any]] = (),
) -> None:
    """Raise InputError where a checkpoint and its model do not hold the same tensors: those that
    are missing would be random.
    """
    told = []
    if missing:
        told.append(f"it lacks {len(missing)} tensors of the model ({_some(missing)})")
    if unexpected:
        told.append(f"the model has no place for {len(unexpected)} of its ({_some(unexpected)})")
    for key, has, needs in sorted(mismatched)[:3]:
        told.append(f"{key} is {tuple(has)} and the model needs {tuple(needs)}")
    if told:
        raise InputError(
            f"the checkpoint of {name!r} is not that of its config.json: {'; '.join(told)}. Names "
            f"may carry the prefix of a wrapper (save the model inside it), or files be another's"
        )


def _some(keys: Collection[str]) -> str:
    return ", ".join(sorted(keys)[:3]) + (" …" if len(keys) > 3 else "")


def require_numbers(model: Any, held: Mapping[str, tuple[Path, str]]) -> None:
    """Raise InputError for a weight of `model` that the checkpoint holds as codes, flags or 8-bit
    floats, which would be read as if they were numbers.
    """
    parameters = {key for key, _ in model.named_parameters(remove_duplicate=False)}
    odd = {key: kind for key, (_, kind) in held.items() if kind not in NUMBERS}
    for key, target in targets(model, odd).items():
        if target in parameters:
            raise InputError(
                f"{held[key][0]}: {key} holds {odd[key]}, which stand for weights in a format of "
                f"their own, and config.json names none; lwq reads F32, BF16 and F16"
            )
