"""What a name stands for: a carried model, text or task, a rung of the ladder (trained when first
asked for), the toy, a file or folder of the user's own, or something that a hub has.
"""

import os
import re
import socket
from difflib import get_close_matches
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies

from lwq.common import paths
from lwq.common.errors import InputError
from lwq.inputs import assets, catalogue, toy

# models that need no folder and no hub, as errors list them
KNOWN = ("toy", *catalogue.MODELS, *catalogue.LADDER)
HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")


def said(name: str | os.PathLike[str]) -> str:
    """The name of a model as text; a path that has no other is `./NAME`, and never one of ours.

    Raises InputError for what is neither text nor a path.
    """
    if isinstance(name, str):
        return name
    if not isinstance(name, os.PathLike):
        raise InputError(
            f"a model is named by text or a path, not by a {type(name).__name__}; choose one of "
            f"{list(KNOWN)}, a folder, or a hub id"
        )
    path = str(os.fspath(name))
    return path if os.path.basename(path) != path else os.path.join(os.curdir, path)


def model_kind(name: str, base: Path = Path()) -> str:
    """ "toy", "carried", "ladder", "folder" (a path that exists, relative to `base`) or "hub".

    Raises InputError for a rung that there is not, a path that leads nowhere, a name of ours that
    is that of a model's folder in `base` too, or one that is nearly ours: a hub would be asked for
    half a minute.
    """
    folder = base / Path(name).expanduser()
    if kind := _own_kind(name):
        _require_one(name, folder)
        return kind
    if folder.exists():
        return "folder"
    catalogue.require_rung(name)
    if not HUB_ID.fullmatch(name):
        raise InputError(
            f"no such folder: {name!r}; names that need no folder and no hub: {list(KNOWN)}"
        )
    if "/" not in name and (near := get_close_matches(name, KNOWN, n=1)):
        raise InputError(
            f"unknown model {name!r} (did you mean {near[0]!r}?); choose one of {list(KNOWN)}, a "
            f"folder, or a hub id with its owner (OWNER/{name})"
        )
    return "hub"


def require_hub(name: str) -> None:
    """Raise InputError at once where a model is neither here nor can be asked for: the hub's own
    client tries for a minute.
    """
    from huggingface_hub import constants, try_to_load_from_cache

    here = isinstance(try_to_load_from_cache(name, "config.json"), str)
    if here or constants.HF_HUB_OFFLINE or getproxies():
        return
    host = urlsplit(constants.ENDPOINT)
    try:
        socket.getaddrinfo(host.hostname, host.port or 443)
    except OSError as error:
        raise InputError(
            f"no model {name!r}: there is no such folder here, and the hub cannot be reached "
            f"({host.hostname}: {error.strerror or error}). Names that need no hub: "
            f"{list(KNOWN)}"
        ) from None


def _require_one(name: str, folder: Path) -> None:
    """Raise InputError where `folder` is a model too, and another than the `name` of ours means."""
    if not (folder / "config.json").is_file():
        return
    if not (catalogue.carried(name) and folder.resolve() == _kept(name).resolve()):
        raise catalogue.ambiguous(name, "model", folder)


def _kept(name: str) -> Path:
    """Where the cache has the file of a carried model."""
    return paths.cache() / "models" / (catalogue.carried(name) or name)


def is_own(name: str) -> bool:
    """Whether a model needs neither a folder nor a hub."""
    return bool(_own_kind(name))


def at_hand(name: str, base: Path = Path()) -> Path | None:
    """The folder of a model that is on this disk already; None for any other."""
    kind = model_kind(name, base)
    if kind == "ladder":
        from lwq.inputs import ladder

        found = ladder.place(ladder.recipe(name))
    elif kind == "carried":
        found = _kept(name)
    else:
        found = base / Path(name).expanduser()
    return found if (found / "config.json").is_file() else None


def _own_kind(name: str) -> str:
    if toy.depth(name) is not None:
        return "toy"
    if catalogue.carried(name):
        return "carried"
    return "" if catalogue.rung(name) is None else "ladder"


def fetch(name: str) -> Path:
    """The files of `name`, made or trained where the cache lacks them.

    A carried model comes with its hidden units permuted, so that no group of columns is one that
    its file was quantized in; `NAME@file` is the file as it is. Texts and tasks: see
    `lwq.inputs.assets.fetch`.
    """
    catalogue.require_rung(name)
    if name in catalogue.MODELS:
        from lwq.inputs import permuted

        return permuted.fetch(name)
    if catalogue.rung(name) is None:
        return assets.fetch(catalogue.carried(name) or name)
    from lwq.inputs import ladder

    return ladder.fetch(ladder.recipe(name))


def verify(name: str) -> Path:
    """Hash the cached files of `name` again; returns what `fetch` does. Raises InputError as
    `lwq.inputs.assets.verify` does.
    """
    catalogue.require_rung(name)
    if name in catalogue.MODELS:
        from lwq.inputs import permuted

        folder = permuted.place(name)
        return assets.verify_files(name, folder, folder)
    if catalogue.rung(name) is None:
        return assets.verify(catalogue.carried(name) or name)
    from lwq.inputs import ladder

    folder = ladder.place(ladder.recipe(name))
    return assets.verify_files(name, folder, folder)
