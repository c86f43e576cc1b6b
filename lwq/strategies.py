"""Text <-> strategy: `zd(two_sided=True)` builds a dataclass, and `spec` writes the same text back.

One spelling serves the notebook parameter, the shell, the results row and the plan file.
"""

import ast
import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from typing import Any

from lwq.errors import InputError

Table = Mapping[str, type]


def pick(table: Mapping[str, Any], kind: str, name: str) -> Any:
    """`table[name]`, or an InputError that lists what exists."""
    if name in table:
        return table[name]
    near = get_close_matches(name, table, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    raise InputError(f"unknown {kind} {name!r}{hint}; choose one of {sorted(table)}")


def build(table: Table, kind: str, strategy: Any, **settings: Any) -> Any:
    """A strategy from its name (`"gptq"`), a call in text (`"gptq(group_size=128)"`), a class, or an object as it is.

    `settings` override those in the text. Arguments are literals or, nested, strategies of the same table.
    Raises InputError for an unknown name, an unknown setting (with those that exist), or text that is not a call.
    """
    if isinstance(strategy, type):
        return _make(strategy, strategy.__name__, (), settings)
    if not isinstance(strategy, str):
        return strategy
    try:
        return _from_node(table, kind, ast.parse(strategy.strip(), mode="eval").body, settings)
    except SyntaxError:
        raise InputError(f"{kind} {strategy!r} is not a name or a call such as name(setting=1)") from None


def _from_node(table: Table, kind: str, node: ast.AST, settings: dict[str, Any]) -> Any:
    if isinstance(node, ast.Name):
        return _make(pick(table, kind, node.id), node.id, (), settings)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        arguments = [_value(table, kind, argument) for argument in node.args]
        named = {str(k.arg): _value(table, kind, k.value) for k in node.keywords}
        return _make(pick(table, kind, node.func.id), node.func.id, arguments, {**named, **settings})
    raise InputError(f"{kind} {ast.unparse(node)!r} is not a name or a call such as name(setting=1)")


def _value(table: Table, kind: str, node: ast.AST) -> Any:
    if isinstance(node, ast.Name | ast.Call):
        return _from_node(table, kind, node, {})
    try:
        return ast.literal_eval(node)
    except ValueError:
        raise InputError(f"{kind}: {ast.unparse(node)!r} is not a literal") from None


def _make(cls: type, name: str, arguments: Any, settings: dict[str, Any]) -> Any:
    try:
        return cls(*arguments, **settings)
    except TypeError as error:
        known = [f.name for f in fields(cls)] if is_dataclass(cls) else []
        raise InputError(f"{name}: {error}; its settings are {known}") from None


def name_of(table: Table, strategy: Any) -> str:
    """The key of a strategy's class in `table`, or the class name of one that a user wrote."""
    return next((name for name, cls in table.items() if cls is type(strategy)), type(strategy).__name__)


def spec(table: Table, strategy: Any) -> str:
    """The text that builds `strategy` again, with all its settings: `random(seed=0)`."""
    if not is_dataclass(strategy):
        return name_of(table, strategy)
    values = ((f.name, getattr(strategy, f.name)) for f in fields(strategy))
    inner = ", ".join(f"{key}={spec(table, value) if is_dataclass(value) else repr(value)}" for key, value in values)
    return f"{name_of(table, strategy)}({inner})"


def nickname(text: str) -> str:
    """What a reader calls the quantizer that `spec` wrote down: its name, and which inputs it saw if not the untouched's."""
    found = re.search(r"inputs='(?!full')(\w+)'", text)
    return text.partition("(")[0] + (f" ({found[1]} inputs)" if found else "")
