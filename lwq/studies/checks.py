"""Can what was asked for be? Types, counts, names and paths, checked before anything starts; no
model is loaded.
"""

import json
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from lwq.common import user_code
from lwq.common.errors import InputError
from lwq.common.names import build, pick
from lwq.contracts import DROPPED, GRANULARITIES, KEPT

KINDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    list: "a list",
}
LEAST = {  # parameter -> the smallest number that it, or each in its list, may be
    **dict.fromkeys(("seeds", "high", "low", "widths", "avg_bits", "shares", "raised"), 0),
    **dict.fromkeys(
        ("nsamples", "other_nsamples", "fewer", "items", "dropped", "moved", "base"), 1
    ),
    **dict.fromkeys(("windows", "steps", "seqlen", "length"), 2),
}
NEVER_EMPTY = ("orderings", "models", "methods", "judges")


def require_type(name: str, value: Any, default: Any) -> None:
    """Raise InputError unless `value` has the type of the notebook's own value; a whole number may
    stand for any number.
    """
    if _alike(value, default):
        return
    shown = [value] if _alike([value], default) else default
    raise InputError(
        f"parameter {name}={value!r}: {KINDS[type(default)]} is needed, such as "
        f"{name}={json.dumps(shown)}"
    )


def _alike(value: Any, default: Any) -> bool:
    if isinstance(default, list):  # one that is empty in the notebook is for names
        return isinstance(value, list) and all(
            _alike(item, default[0] if default else "") for item in value
        )
    return type(value) is type(default) or (type(default) is float and type(value) is int)


def require_possible(values: Mapping[str, Any]) -> None:
    """Raise InputError, naming the parameter, for a number below its least, a name of nothing, or a
    list that lacks names.
    """
    checks = _checks(values)
    for name, value in values.items():
        if value == [] and name in NEVER_EMPTY:
            raise InputError(f"parameter {name}=[]: one name or more is needed")
        for item in value if isinstance(value, list) else [value]:
            if name in LEAST and item < LEAST[name]:
                raise InputError(f"parameter {name}={value!r}: {LEAST[name]} is the least")
            if name in checks:
                try:
                    checks[name](item)
                except InputError as error:
                    raise InputError(f"parameter {name}={value!r}: {error}") from None
    _require_widths(values)


def _require_widths(values: Mapping[str, Any]) -> None:
    """Raise InputError for a width that the study's quantizer lacks, a high one that is not above
    the low one, or groups that do not divide the matrices of a model that is at hand.
    """
    if "quantizer" not in values:
        return
    packer = _packer(values["quantizer"], values.get("group_size", 0))
    for name in ("high", "low", "widths", "options", "beyond", "harm_at", "together"):
        asked = values.get(name, [])
        for width in asked if isinstance(asked, list) else [asked]:
            if width not in (DROPPED, KEPT, *packer.levels):
                raise InputError(
                    f"parameter {name}={asked!r}: {values['quantizer']} has the widths "
                    f"{[level for level in packer.levels if isinstance(level, int)]}, 0 and 16"
                )
    if not values.get("high", 1) > values.get("low", 0):
        raise InputError(
            f"parameter low={values['low']}: less than high={values['high']} is needed"
        )
    from lwq import models

    for model in values.get("models") or [values.get("model", "toy")]:
        known = models.outline(model, user_code.folder())
        for shape in sorted(known.shapes if known else ()):
            try:
                packer.nbytes(shape, packer.levels[0])
            except InputError as error:
                size = f"group_size={values['group_size']}" if values.get("group_size") else "group"
                raise InputError(
                    f"parameter {size} and model {model!r}, which has matrices of {shape}: {error}"
                ) from None


def _checks(values: Mapping[str, Any]) -> dict[str, Callable[[Any], Any]]:
    """Parameter -> what raises InputError for a value that it cannot have."""
    from lwq import models
    from lwq.allocators import ALLOCATORS
    from lwq.engine import tasks
    from lwq.quantizers import QUANTIZERS
    from lwq.scorers import SCORERS
    from lwq.studies import candidates

    return {
        **dict.fromkeys(
            ("orderings", "drop_orders", "move_orders", "rankers", "prices", "flat", "compared"),
            partial(build, SCORERS, "scorer"),
        ),
        **dict.fromkeys(("allocators", "searches"), partial(build, ALLOCATORS, "allocator")),
        "coarser": partial(pick, dict.fromkeys(GRANULARITIES), "granularity"),
        **dict.fromkeys(("methods", "masks"), partial(build, QUANTIZERS, "quantizer")),
        "quantizer": partial(_require_quantizer, values.get("group_size", 0)),
        "budgets": candidates.without_outliers,
        "rates": partial(pick, candidates.RATES, "layer rates"),
        "tasks": partial(pick, tasks.STOCK, "task"),
        "dtype": partial(pick, models.DTYPES, "dtype"),
        "judge_dtype": partial(pick, {"": None, **models.DTYPES}, "dtype"),
        **dict.fromkeys(("model", "models"), require_model),
        **dict.fromkeys(("text", "judge", "judges", "other_texts"), require_text),
    }


def _packer(text: str, group_size: int) -> Any:
    from lwq.quantizers import QUANTIZERS

    settings = {"group_size": group_size} if group_size else {}
    return build(QUANTIZERS, "quantizer", text, **settings)


def _require_quantizer(group_size: int, text: str) -> None:
    packer = _packer(text, 0)
    if group_size and not hasattr(packer, "group_size"):
        raise InputError(f"it has no groups to set to group_size={group_size}; add group_size=0")


def require_model(name: str) -> None:
    """Raise InputError for a name that is carried by nobody, is no folder, and cannot be meant for
    a hub.
    """
    from lwq.inputs import resolve

    resolve.model_kind(name, user_code.folder())


def require_text(name: str) -> None:
    """Raise InputError for a text that has no such name and is no file."""
    from lwq.inputs import texts

    if not (texts.is_own(name) or _path(name).is_file()):
        known = dict.fromkeys(texts.KNOWN)
        pick(known, "text", name, f"; or a UTF-8 file, its path relative to {user_code.folder()}")


def placed(values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` with paths of models and texts absolute where they lead somewhere: a notebook runs
    in another folder.
    """
    from lwq.inputs import resolve, texts

    known = {
        **dict.fromkeys(("model", "models"), resolve.is_own),
        **dict.fromkeys(("text", "judge", "judges", "other_texts"), texts.is_own),
    }
    return {
        name: _placed(value, known[name]) if name in known else value
        for name, value in values.items()
    }


def _placed(value: Any, known: Callable[[str], bool]) -> Any:
    if isinstance(value, list):
        return [_placed(item, known) for item in value]
    if not isinstance(value, str) or known(value) or not _path(value).exists():
        return value
    return os.path.abspath(_path(value))


def _path(name: str) -> Path:
    return user_code.folder() / Path(name).expanduser()
