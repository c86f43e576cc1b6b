"""llama.cpp's own mixes, measured by the benchmark beside planned files: a small tracked table."""

from pathlib import Path
from typing import Any

import pandas as pd

from lwq.common import paths
from lwq.common.errors import InputError

FILE = "llama_mixes.csv"
COLUMNS: dict[str, Any] = {
    "model": str,
    "mix": str,
    "imatrix": bool,
    "bytes": "int64",
    "kl": float,
    "low": float,
    "high": float,
    "n": "int64",
    "judged_in": str,
}


def read(results_dir: str | Path) -> pd.DataFrame:
    """Columns model, mix ("Q4_K_M"), imatrix, bytes, kl (nats/token), low, high (its 95 % interval,
    or NaN), n (windows), judged_in; no line where the folder has no llama_mixes.csv.

    Raises InputError where columns are missing or hold something else.
    """
    path = paths.resolve(results_dir) / FILE
    if not path.is_file():
        return pd.DataFrame(columns=list(COLUMNS))
    try:
        return pd.read_csv(path, dtype=COLUMNS)[list(COLUMNS)]
    except (ValueError, KeyError) as error:
        raise InputError(
            f"{path}: {error}; its columns are {', '.join(COLUMNS)}, of which only low and high "
            "may be empty"
        ) from None
