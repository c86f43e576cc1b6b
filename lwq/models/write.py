"""Write a model into a folder that transformers loads; it counts once it was read back."""

from pathlib import Path
from typing import Any

from lwq.common import paths
from lwq.common.errors import InputError, RunError
from lwq.common.progress import quiet_transformers
from lwq.models.load import loading, on_disk
from lwq.models.settings import name, saved_settings
from lwq.models.weights import fingerprint, streamed


def save(model: Any, folder: Path) -> None:
    """Write `model`, as it is now, into `folder`: its weights in their dtype, its settings as they
    were loaded.

    Raises RunError where the disk does not hold it, or other names, shapes or numbers are read
    back.
    """
    with paths.writing(folder), saved_settings(model), quiet_transformers():
        (streamed(model) or model).save_pretrained(folder)
    _require_same(model, folder)


def _require_same(model: Any, folder: Path) -> None:
    """Raise RunError unless `folder` holds the weights of `model`."""
    remote = type(model).__module__.startswith("transformers_modules.")
    try:
        with loading(str(folder)):
            again = on_disk(folder, model.dtype, "cpu", remote)
    except InputError as error:
        raise RunError(f"{name(model)!r} cannot be read back as it was written: {error}") from None
    if fingerprint(again) != fingerprint(model):
        raise RunError(
            f"{name(model)!r} ({type(model).__name__}) reads back with other weights than were "
            f"written: transformers' format for it does not hold them all; nothing was kept"
        )
