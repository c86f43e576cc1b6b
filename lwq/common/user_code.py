"""Classes of a user's own, named in text: `my_scorers.py:Mine` (a file) or `package.module:Mine`
(what Python can import).

Written back, the name is sealed with 8 hex digits of the file, `my_scorers.py#1f0c2a9b:Mine`, so
that what was measured with other code is another measurement.

`load` runs the code, because the user named it. Text that came with a file, such as a plan, runs
nothing: it is looked up among the classes that this process has named before.
"""

import hashlib
import os
import re
import sys
from collections.abc import Callable
from dataclasses import is_dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType

from lwq.common.errors import InputError

# variable with the folder that relative paths start from, where it is not the current one
FOLDER = "LWQ_FOLDER"
# strings stay as they are
_NAME = re.compile(
    r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|(?P<own>[^\s()\[\]{},='"]+:[^\W\d]\w*)"""
)

_known: dict[str, type] = {}  # sealed name -> class


def replace(text: str, by: Callable[[str], str]) -> str:
    """`text` with `by(name)` in place of each name of a class of one's own."""
    return _NAME.sub(lambda found: by(found["own"]) if found["own"] else found[0], text)


def load(name: str) -> str:
    """Import the class that `name` names; returns its sealed name, which `find` knows from here on.

    Raises InputError where there is no such file, module or dataclass, where the code fails, or
    where it is not the code that `name` was sealed with.
    """
    place, _, cls = name.rpartition(":")
    place, _, seal = place.partition("#")
    try:
        module = _from_file(place) if place.endswith(".py") else import_module(place)
    except Exception as error:
        raise InputError(
            f"{name!r} did not load: {type(error).__name__}: {error}; before the colon stands a "
            f".py file, its path relative to "
            f"{folder()}, or a module that Python can import"
        ) from error
    classes = {
        key: value
        for key, value in vars(module).items()
        if isinstance(value, type) and is_dataclass(value)
    }
    if cls not in classes:
        raise InputError(
            f"{name!r}: {place} has no dataclass {cls!r}; it has {sorted(classes)} (write "
            f"@dataclass(frozen=True) above yours)"
        )
    now = _seal(module)
    if seal and seal != now:
        raise InputError(
            f"{name!r}: {place} has changed since (now {now}); leave out #{seal} to "
            f"take it as it is"
        )
    _known.update({_sealed(place, now, key): value for key, value in classes.items()})
    return _sealed(place, now, cls)


def find(name: str) -> type:
    """The class with this sealed name, among those that this process has named; InputError for any
    other.
    """
    if name not in _known:
        plain = re.sub(r"#\w+(?=:)", "", name)
        raise InputError(
            f"{name!r} is code outside lwq, and files run no code: name it yourself first, with "
            f"--quantizer '{plain}' in the "
            f"shell or lwq.studies.experiment.quantizer({plain!r}) in Python (its file as it was "
            f"then)"
        )
    return _known[name]


def name_of(cls: type) -> str:
    """The sealed name of a class, which `find` knows from here on; its bare name where it was made
    inside a function.
    """
    if cls.__name__ != cls.__qualname__:
        return cls.__name__
    if found := [name for name, known in _known.items() if known is cls]:
        return found[0]
    sealed = _sealed(cls.__module__, _seal(sys.modules.get(cls.__module__)), cls.__name__)
    _known[sealed] = cls
    return sealed


def folder() -> Path:
    """Where relative paths start."""
    return Path(os.environ.get(FOLDER, "")).absolute()


def _from_file(place: str) -> ModuleType:
    path = folder() / Path(place).expanduser()
    code = path.read_bytes()
    # a file that changed is a new module
    name = f"{path.stem}_{hashlib.sha256(str(path).encode() + code).hexdigest()[:8]}"
    if name not in sys.modules:
        module = sys.modules[name] = ModuleType(name)
        module.__file__ = str(path)
        try:
            exec(compile(code, path, "exec"), vars(module))
        except BaseException:
            del sys.modules[name]
            raise
    return sys.modules[name]


def _seal(module: ModuleType | None) -> str:
    """8 hex digits of the module's file, "" where it has none, as in a notebook."""
    file = Path(getattr(module, "__file__", None) or "")
    return hashlib.sha256(file.read_bytes()).hexdigest()[:8] if file.is_file() else ""


def _sealed(place: str, seal: str, cls: str) -> str:
    return f"{place}#{seal}:{cls}" if seal else f"{place}:{cls}"
