"""Documents for windows that were measured before these were kept: python -m lwq.results.documents
FOLDER.

The windows of such rows are consecutive cuts (`lwq.inputs.texts.consecutive`) and stay as they are.
Where they come from follows from the draw, which the rows name with a hash of its tokens.
"""

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from lwq import models
from lwq.common import paths
from lwq.common.errors import InputError
from lwq.inputs import catalogue, ladder
from lwq.inputs.texts import consecutive, token_digest
from lwq.results.measurements import LOCK, WINDOWS, lacking, read_tables

DRAWN = re.compile(
    r"(?P<text>.+)/(?P<split>\w+) (?P<n>\d+)x(?P<length>\d+) seed (?P<seed>\d+) #(?P<digest>\w+)"
)


def fill(folder: str | Path) -> int:
    """Write documents beside the windows that lack them; returns how many measurements got them.

    Raises InputError where a draw gives other tokens than were measured.
    """
    place = paths.resolve(folder)
    with FileLock(place / LOCK):
        table, windows = read_tables(place)
        ids = lacking(windows)
        rows = table[table["id"].isin(ids)].drop_duplicates("id")
        for (model, judge), part in rows.groupby(["model", "judge"]):
            own = windows["id"].isin(part["id"])
            documents = _documents(str(model), str(judge))
            windows.loc[own, "document"] = documents[windows.loc[own, "window"].to_numpy()]
        if len(ids):
            with paths.replacing(place / WINDOWS) as temporary:
                windows.to_parquet(temporary, index=False)
    return len(ids)


def _documents(model: str, judge: str) -> np.ndarray:
    """The document of each judging window (n,), of a model's rows with that text."""
    named = DRAWN.fullmatch(judge)
    if named is None:
        raise InputError(f"{judge!r} does not say how its windows were drawn; measure it anew")
    n, length, seed = (int(named[key]) for key in ("n", "length", "seed"))
    drawn = consecutive(named["text"], _tokenizer(model), n, length, named["split"], seed)
    if token_digest(drawn.windows) != named["digest"]:
        raise InputError(
            f"{judge} of {model!r} gives other tokens today (#{token_digest(drawn.windows)}): its "
            "text or its tokenizer is another; measure it anew"
        )
    return drawn.documents


def _tokenizer(model: str) -> Any:
    """A model's; that of a rung without training the rung."""
    if catalogue.rung(model) is None:
        return models.load(model)[1]
    recipe = ladder.recipe(model)
    return ladder.train_tokenizer(list(ladder.training_documents(recipe.texts)), recipe)


if __name__ == "__main__":
    print(f"documents found for {fill(sys.argv[1])} measurements")
