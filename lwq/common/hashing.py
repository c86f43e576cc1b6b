"""Names made from content: of a value, and of the code that a class or a module computes with."""

import ast
import hashlib
import importlib.util
import inspect
import json
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any


def digest(value: Any) -> str:
    """12 hex digits that name a JSON value; key order does not matter."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, allow_nan=False).encode()).hexdigest()[
        :12
    ]


def code_digest(code: type | ModuleType) -> str:
    """64 hex digits over the file of a class or a module and over all of lwq that it imports,
    however far down.

    Raises OSError or TypeError where the code cannot be read, as for a class that a notebook
    defines.
    """
    files = {Path(inspect.getfile(code)).resolve()}
    new = set(files)
    while new:
        new = {found for file in new for found in _imported(file)} - files
        files |= new
    sums = sorted(hashlib.sha256(file.read_bytes()).hexdigest() for file in files)
    return hashlib.sha256("".join(sums).encode()).hexdigest()


@cache
def _module_file(dotted: str) -> Path | None:
    try:
        found = importlib.util.find_spec(dotted)
    except ModuleNotFoundError:
        return None
    return Path(found.origin).resolve() if found and found.origin else None


def _imported(file: Path) -> Iterator[Path]:
    """Files of lwq that `file` imports, at its top or inside functions."""
    for module, name in imports(file):
        yield from _defining(module, name)


def imports(file: Path) -> tuple[tuple[str, str], ...]:
    """(module, name) of each import of lwq in a file, wherever it stands; name is "" for `import
    module`.
    """
    return _imports_in(file.read_bytes())


@cache  # of what a file holds, since a user's own may change while a notebook runs
def _imports_in(source: bytes) -> tuple[tuple[str, str], ...]:
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [(alias.name, "") for alias in node.names if alias.name.split(".")[0] == "lwq"]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "lwq":
            found += [(str(node.module), alias.name) for alias in node.names]
    return tuple(found)


def _defining(module: str, name: str) -> Iterator[Path]:
    """The file that `name` of `module` comes from.

    The `__init__` of a room is a door: a name goes through it to the file that defines it. What a
    door itself defines, such as a dict of methods, is followed no further, else each method would
    stand on all its neighbours.
    """
    if name and (submodule := _module_file(f"{module}.{name}")):
        yield submodule
        if submodule.name == "__init__.py":
            yield from _imported(submodule)
        return
    file = _module_file(module)
    if file is None:
        return
    if file.name != "__init__.py":
        yield file
        return
    through = [place for place, known in imports(file) if known == name]
    for place in through:
        yield from _defining(place, name)


def codes(strategy: Any, *more: ModuleType) -> list[str]:
    """Digests of the code of a strategy, of the strategies in its fields, and of the modules that
    it is run by.
    """
    nested = [getattr(strategy, f.name) for f in fields(strategy)] if is_dataclass(strategy) else []
    inner = [found for value in nested if is_dataclass(value) for found in codes(value)]
    return [code_digest(type(strategy)), *inner, *(code_digest(module) for module in more)]
