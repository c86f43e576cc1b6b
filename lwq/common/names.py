"""Text <-> strategy: `random(seed=3)` builds a dataclass, and `spec` writes the same text back.

One spelling serves the notebook parameter, the shell, the results row and the plan file. A class
outside lwq is named by its place: `my_scorers.py:Mine(k=2)`, `reversed(package.module:Mine)`; see
`lwq.common.user_code`.
"""

import ast
import builtins
import collections.abc
import re
import types
import typing
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from itertools import accumulate, pairwise
from typing import Any, get_args, get_origin, get_type_hints

from lwq.common import user_code
from lwq.common.errors import InputError

REMARKS = {  # settings that readers must see wherever a quantizer is named
    "act_order=False": "no act-order",
    "clip=True": "clipped",
    "inputs='full'": "full inputs",
    "inputs='quantized'": "quantized inputs",
}
Table = Mapping[str, type]
YOURS = "; a class of your own is file.py:Class or package.module:Class"


def pick(table: Mapping[str, Any], kind: str, name: str, more: str = "") -> Any:
    """`table[name]`, or an InputError that lists what exists, and says what `more` there is."""
    if name in table:
        return table[name]
    near = get_close_matches(name, table, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    raise InputError(f"unknown {kind} {name!r}{hint}; choose one of {sorted(table)}{more}")


def build(table: Table, kind: str, strategy: Any, **settings: Any) -> Any:
    """A strategy from its name (`"gptq"`), a call in text (`"gptq(group_size=128)"`), a class, or
    an object as it is.

    `settings` override those in the text. Arguments are literals or, nested, strategies of the same
    table. Text that names a class of a file or a module runs its code; use `rebuild` for text that
    you did not write.

    Raises InputError for an unknown name, an unknown setting (with those that exist), text that is
    not a call, or a class of one's own that does not load.
    """
    if isinstance(strategy, type):
        return _make(strategy, strategy.__name__, (), settings)
    if not isinstance(strategy, str):
        return strategy
    return rebuild(table, kind, user_code.replace(strategy, user_code.load), **settings)


def rebuild(table: Table, kind: str, text: str, **settings: Any) -> Any:
    """`build` for text that a file brought, such as a plan's quantizer: it runs no code that the
    user has not named before.

    Raises InputError as `build` does, and for a class of one's own that this process has not built
    or written down yet.
    """
    try:
        python = user_code.replace(text.strip(), lambda name: f"own[{name!r}]")
        return _from_node(table, kind, ast.parse(python, mode="eval").body, settings)
    except SyntaxError:
        raise InputError(
            f"{kind} {text!r} is not a name or a call such as name(setting=1)"
        ) from None


def _from_node(table: Table, kind: str, node: ast.AST, settings: dict[str, Any]) -> Any:
    called, arguments, named = node, [], {}
    if isinstance(node, ast.Call):
        called = node.func
        arguments = [_value(table, kind, argument) for argument in node.args]
        named = {str(k.arg): _value(table, kind, k.value) for k in node.keywords}
    match called:
        case ast.Name(id=name):
            cls = pick(table, kind, name, YOURS)
        case ast.Subscript(value=ast.Name(id="own"), slice=ast.Constant(value=str(name))):
            cls = user_code.find(name)
        case _:
            raise InputError(
                f"{kind} {ast.unparse(node)!r} is not a name or a call such as name(setting=1)"
            )
    return _make(cls, name, arguments, {**named, **settings})


def _value(table: Table, kind: str, node: ast.AST) -> Any:
    if isinstance(node, ast.Name | ast.Call | ast.Subscript):
        return _from_node(table, kind, node, {})
    try:
        return ast.literal_eval(node)
    except ValueError:
        raise InputError(f"{kind}: {ast.unparse(node)!r} is not a literal") from None


def _make(cls: type, name: str, arguments: Any, settings: dict[str, Any]) -> Any:
    _require_types(cls, name, arguments, settings)
    try:
        return cls(*arguments, **settings)
    except TypeError as error:
        known = [f.name for f in fields(cls)] if is_dataclass(cls) else []
        raise InputError(f"{name}: {error}; its settings are {known}") from None


def _require_types(
    cls: type, name: str, arguments: Sequence[Any], settings: Mapping[str, Any]
) -> None:
    """Raise InputError for a setting that is not what its annotation says, nor its default."""
    known = {f.name: f.default for f in fields(cls)} if is_dataclass(cls) else {}
    hints: dict[str, Any] = {}
    with suppress(NameError):  # annotations of a class of the user's own may not resolve
        hints = get_type_hints(cls)
    for key, value in [*zip(known, arguments, strict=False), *settings.items()]:
        if key in known and value is not known[key] and not _fits(value, hints.get(key, Any)):
            written = getattr(hints[key], "__name__", str(hints[key]))
            written = written.replace("collections.abc.", "")
            raise InputError(f"{name}: {key}={value!r} is not {written}")


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value fits an annotation of plain types; all others are taken on trust."""
    inner = get_args(hint)
    match get_origin(hint) or hint:
        case types.UnionType | typing.Union:
            return any(_fits(value, one) for one in inner)
        case builtins.tuple if len(inner) == 2 and inner[1] is ...:
            return isinstance(value, tuple | list) and all(_fits(one, inner[0]) for one in value)
        case builtins.int | builtins.str | builtins.bool as plain:
            return isinstance(value, plain) and (plain is bool or not isinstance(value, bool))
        case builtins.float:
            return isinstance(value, int | float) and not isinstance(value, bool)
        case types.NoneType:
            return value is None
        case collections.abc.Mapping:
            return isinstance(value, Mapping)
    return True


def name_of(table: Table, strategy: Any) -> str:
    """The key of a strategy's class in `table`, or the place of one that a user wrote
    (`lwq.common.user_code.name_of`).
    """
    return next(
        (name for name, cls in table.items() if cls is type(strategy)), None
    ) or user_code.name_of(type(strategy))


def spec(table: Table, strategy: Any) -> str:
    """The text that builds `strategy` again, with all its settings: `random(seed=0)`."""
    if not is_dataclass(strategy):
        return type(strategy).__name__
    values = ((f.name, getattr(strategy, f.name)) for f in fields(strategy))
    inner = ", ".join(
        f"{key}={spec(table, value) if is_dataclass(value) else repr(value)}"
        for key, value in values
    )
    return f"{name_of(table, strategy)}({inner})"


def split(names: str | Sequence[str]) -> list[str]:
    """A list of strategies as text; one string is cut at the commas outside brackets."""
    if not isinstance(names, str):
        return list(names)
    depths = list(accumulate((letter in "([") - (letter in ")]") for letter in names))
    cuts = [
        -1,
        *(place for place, letter in enumerate(names) if letter == "," and depths[place] == 0),
        len(names),
    ]
    return [names[start + 1 : end].strip() for start, end in pairwise(cuts)]


def nickname(text: str) -> str:
    """What a reader calls the quantizer that `spec` wrote down: its name, and which of REMARKS are
    true of it.
    """
    said = [words for setting, words in REMARKS.items() if setting in text]
    return re.sub(r"#\w+(?=:)", "", text.partition("(")[0]) + (
        f" ({', '.join(said)})" if said else ""
    )
