"""Somebody's words as text: in Markdown, in a CSV cell, on a terminal.

A name comes from a folder, a repository or a table that somebody else made. It is shown, and
nothing in it is obeyed.
"""

import re

# what begins markup wherever it stands; `_` only beside something else than a letter or digit
_ACTIVE = re.compile(r"[\\`*\[\]<>&|~$]|(?<![^\W_])_|_(?![^\W_])")
# at the start of a line: lists, headings and rules, but no number
_AT_START = re.compile(r"^(\d{0,9})([-+#=.)])(?![\d−])")
_IN_TITLE = re.compile(r"[\\`*\[\]<>&|~$_\"'(){}]")
_NO_CODE = re.compile(r"[`<&|\\]")
_BY_BACKSLASH = set("\\`*_[]-+#.)")  # the others are active in some readers, where `\\` is none
# what a spreadsheet takes for the start of a formula, behind any number of our own marks
_FORMULA = re.compile(r"^'*[=+\-@\t\r]")
_MARKED = re.compile(r"^'+[=+\-@\t\r]")


def markdown(text: object) -> str:
    r"""`text` for a place in Markdown, a table's cell too: it is shown as it is, on one line.

    What would be markup stands behind a backslash or as an HTML entity, which Markdown reads back
    as the letter: `![a](b)` becomes `!\[a\](b)`, `<b>` becomes `&#60;b&#62;`. Ordinary names and
    numbers stay as they are.
    """
    shown = _ACTIVE.sub(lambda found: _inert(found[0]), line(text))
    return _AT_START.sub(lambda found: found[1] + _inert(found[2]), shown)


def title(text: object) -> str:
    """`text` between the double quotes of a picture's title in Markdown: entities alone, since some
    readers look for the title's end at any quote beside any bracket.
    """
    return _IN_TITLE.sub(lambda found: f"&#{ord(found[0])};", line(text))


def plain(text: object) -> str:
    """`text` without the characters that steer a terminal; ends of lines stay."""
    return "".join(letter for letter in str(text) if letter.isprintable() or letter == "\n")


def code(text: object) -> str:
    """`text` as code in Markdown; what could end the code, or a table's cell, is shown as
    `markdown` shows it.
    """
    shown = line(text)
    return markdown(shown) if _NO_CODE.search(shown) or not shown else f"`{shown}`"


def line(text: object) -> str:
    """`text` on one line: runs of spaces and ends of lines are one space, and control characters
    are left out.
    """
    return plain(" ".join(str(text).split()))


def cell(text: str) -> str:
    """`text` for a cell of a CSV file: one `'` stands before what a spreadsheet would take for a
    formula (`=`, `+`, `-`, `@`, a tab or a carriage return at the start); `from_cell` takes it off.
    """
    return f"'{text}" if _FORMULA.match(text) else text


def from_cell(text: str) -> str:
    """What `cell` was given."""
    return text[1:] if _MARKED.match(text) else text


def _inert(letter: str) -> str:
    return f"\\{letter}" if letter in _BY_BACKSLASH else f"&#{ord(letter)};"
