"""What a name stands for: a carried model, text or task, or a rung of the ladder, which is trained
when first asked for.
"""

from pathlib import Path

from lwq.inputs import assets


def fetch(name: str) -> Path:
    """The files of `name` as `lwq.inputs.assets.fetch` gives them; a rung of the ladder is trained
    where the cache lacks it.
    """
    if not is_rung(name):
        return assets.fetch(name)
    from lwq.inputs import ladder

    return ladder.fetch(ladder.recipe(name))


def verify(name: str) -> Path:
    """Hash the cached files of `name` again; returns what `fetch` does. Raises InputError as
    `lwq.inputs.assets.verify` does.
    """
    if not is_rung(name):
        return assets.verify(name)
    from lwq.inputs import ladder

    folder = ladder.place(ladder.recipe(name))
    return assets.verify_files(name, folder, folder)


def is_rung(name: str) -> bool:
    """Whether a name is meant as a rung of the ladder; the ladder says whether there is one."""
    return name.startswith("ladder-")
