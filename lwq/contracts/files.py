"""Plain data in JSON files, and the hash that names a value."""

import hashlib
import json
from pathlib import Path
from typing import Any

from lwq.errors import InputError


def digest(value: Any) -> str:
    """12 hex digits that name a JSON value; key order does not matter."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, allow_nan=False).encode()).hexdigest()[:12]


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
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not JSON: {error}") from None
    if not isinstance(data, dict) or data.get("lwq") not in kinds:
        raise InputError(f"{path} does not hold an lwq {kind}; `lwq score` writes scores and `lwq plan` writes plans")
    return data


def write(path: str | Path, data: dict[str, Any]) -> None:
    """Write `data` as JSON."""
    Path(path).write_text(json.dumps(data, indent=1, allow_nan=False) + "\n", encoding="utf-8")
