"""Plain data in JSON files, and the hash that names a value."""

import json
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, TypeAlias, TypeVar, get_args, get_origin, get_type_hints

from lwq.common import paths
from lwq.common.errors import InputError

T = TypeVar("T")
Kind: TypeAlias = tuple[str, set[type]]
OBJECT: Kind = ("an object", {dict})
NUMBER: Kind = ("a number", {int, float})
JSON: dict[Any, Kind] = {  # a type -> what stands for it in a file; any other is a dataclass
    str: ("text", {str}),
    int: ("a whole number", {int}),
    float: NUMBER,
    UnionType: ("a number of bits, or the name of a level", {int, float, str}),  # Option
    tuple: ("a list of two", {list}),  # Shape
    Mapping: OBJECT,
}


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise InputError(f"{key!r} stands twice in one JSON object; keep one of the two")
        found[key] = value
    return found


def read(path: str | Path, *kinds: str) -> dict[str, Any]:
    """What a JSON file of one of these kinds holds; InputError for anything else."""
    kind = " or ".join(kinds)
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"), object_pairs_hook=_unique)
    except OSError as error:
        raise InputError(f"cannot read {kind} from {path}: {error.strerror}") from None
    # ValueError: no JSON, no UTF-8, or a number of thousands of digits
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON: {error}") from None
    if not isinstance(data, dict) or data.get("lwq") not in kinds:
        raise InputError(
            f"{path} does not hold an lwq {kind}; `lwq score` writes scores and `lwq "
            f"plan` writes plans"
        )
    return data


def read_as(cls: type[T], path: str | Path, kind: str) -> T:
    """The dataclass in a JSON file of this kind; InputError names the file, and the field that is
    missing, unknown or wrong.
    """
    data = read(path, kind)
    del data["lwq"]
    try:
        return parsed(cls, data, kind)
    except InputError as error:
        raise InputError(f"{path}: {error}; correct the file or make it again") from None


def parsed(hint: Any, value: Any, place: str) -> Any:
    """`value`, as JSON holds it, as the type `hint`; InputError names the `place` that does not
    hold one.
    """
    if hint is Any:
        return value
    outer, inner = get_origin(hint) or hint, get_args(hint)
    needed, types = JSON.get(outer, OBJECT)
    if type(value) not in types or (outer is tuple and len(value) != len(inner)):
        raise InputError(f"{place} is {value!r:.60}; {needed} is needed")
    if is_dataclass(hint):
        return _filled(hint, value, place)
    if outer is Mapping:
        keys = [_key(inner[0], key) for key in value]
        if len(set(keys)) < len(keys):
            raise InputError(f"{place} names an option twice: {list(value)}; keep one of the two")
        return {
            key: parsed(inner[1], entry, f"{place}[{key!r}]")
            for key, entry in zip(keys, value.values(), strict=True)
        }
    if outer is tuple:
        return tuple(parsed(part, entry, place) for part, entry in zip(inner, value, strict=True))
    return value


def _filled(cls: Any, data: dict[str, Any], place: str) -> Any:
    known = {
        field.name: field.default is MISSING and field.default_factory is MISSING
        for field in fields(cls)
    }
    if missing := [name for name, needed in known.items() if needed and name not in data]:
        raise InputError(f"{place} lacks the fields {missing}")
    if unknown := sorted(data.keys() - known):
        raise InputError(
            f"{place} has the unknown fields {unknown}; the known ones are {list(known)}"
        )
    hints = get_type_hints(cls)
    return cls(
        **{name: parsed(hints[name], entry, f"{place}.{name}") for name, entry in data.items()}
    )


def _key(hint: Any, text: str) -> Any:
    """A key of a JSON object: text, or an option, which is an int where it is a whole number."""
    if hint is str:
        return text
    try:
        return int(text) if text.isdecimal() else float(text)
    except ValueError:
        return text


def write(path: str | Path, data: dict[str, Any]) -> None:
    """Write `data` as JSON."""
    with paths.writing(path):
        Path(path).write_text(json.dumps(data, indent=1, allow_nan=False) + "\n", encoding="utf-8")
