"""report.md to one HTML file: pictures, style, script and data inside, nothing fetched.

All text of tables comes escaped (`lwq.common.markup`); pictures come from the report's own folder
only. Without JavaScript the page is whole: pictures, tables, folds and links are plain HTML.
"""

import base64
import gzip
import hashlib
import html
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lwq.common.errors import InputError
from lwq.report import play

HERE = Path(__file__).parent
LONG = 20_000  # bytes from which the rows of a picture are packed in the page
WIDE = 1000  # pixels from which a phone shows a picture in a box that scrolls
ROW = re.compile(r"<td( [^>]*)?>([0-9a-f]{12})</td>")
WORDS = re.compile(r'class="table"(?=><table>\s*<thead>\s*<tr>\s*<th>(claim|model|question)</th>)')


def page(text: str, folder: Path, figures: str, data: Mapping[str, Any]) -> str:
    """The page of a report's Markdown.

    Args:
        text: Markdown with <details markdown="1"> for what is folded.
        folder: of the report, with its pictures in `figures`.
        data: for page.js.
    """
    import markdown

    reader = markdown.Markdown(extensions=["tables", "md_in_html", "toc"])
    body = reader.convert(text)
    body = body.replace("<table>", '<div class="table"><table>')
    body = body.replace("</table>", "</table></div>")
    body = WORDS.sub('class="table words"', body)
    body = re.sub(
        r'<p>(<img [^>]*?src=)"([^"]+)"([^>]*>)',
        lambda found: _picture(found, folder, figures),
        body,
    )
    body = re.sub(
        r'<a href="([^":#]+\.csv)">',
        lambda found: _data(folder / figures, folder / found[1]),
        body,
    )
    body = ROW.sub(r'<td\1><a class="row" href="#repeat-it">\2</a></td>', body)
    body = re.sub(
        r'<a href="#repeat-it">(?=[0-9a-f]{12}<)', '<a class="row" href="#repeat-it">', body
    )
    title = reader.toc_tokens[0]["name"] if reader.toc_tokens else "lwq report"
    style, script = ((HERE / f"page.{kind}").read_text("utf-8") for kind in ("css", "js"))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{_policy(script)}">'
        f"<title>{title}</title><style>\n{style}</style></head>\n<body>\n"
        f"{_contents(reader.toc_tokens)}<main>\n{body}\n</main>\n"
        f'<script type="application/json" id="data">{play.embedded(data)}</script>\n'
        f"<script>{script}</script>\n</body></html>\n"
    )


def _policy(script: str) -> str:
    """Nothing is fetched, and no script runs but this one."""
    own = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{own}'; base-uri 'none'; form-action 'none'"
    )


def _contents(tokens: list[Any]) -> str:
    """Links to the headings of the second level."""
    inner = [child for token in tokens for child in token["children"]]
    links = "".join(
        f'<li><a href="#{html.escape(one["id"])}">{one["name"].partition(":")[0]}</a></li>'
        for one in inner
    )
    return f'<nav id="contents"><a href="#">Top</a><ol>{links}</ol></nav>\n'


KINDS = {"png": "image/png", "csv": "text/csv"}


def _picture(found: re.Match[str], folder: Path, figures: str) -> str:
    """An image inside a box that scrolls where it is too wide for a phone."""
    path = folder / found[2]
    uri = _inline(folder / figures, path, "png")
    width, height = struct.unpack(">II", path.read_bytes()[16:24].ljust(8, b"\0"))
    look = ' class="wide"' if width > WIDE else ""
    image = f'{found[1]}"{uri}" width="{width}" height="{height}"{look}{found[3]}'
    return f'<p class="picture"><span class="scroll">{image}</span>'


def _data(figures: Path, path: Path) -> str:
    """The start of a link that saves the rows of a picture; long ones are packed."""
    uri, name = _inline(figures, path, "csv"), path.name
    if path.stat().st_size > LONG:
        packed = base64.b64encode(gzip.compress(path.read_bytes(), mtime=0)).decode()
        uri, name = f"data:application/gzip;base64,{packed}", f"{name}.gz"
    return f'<a download="{name}" href="{uri}">'


def _inline(figures: Path, path: Path, kind: str) -> str:
    """A file as a data URI. Raises InputError for anything but a picture, or the rows behind one,
    that lies in `figures`.
    """
    own = path.resolve().parent == figures.resolve() and not path.is_symlink()
    if not own or path.suffix != f".{kind}" or not path.is_file():
        raise InputError(
            f"the page would embed {path}, which is no file of its own: only pictures and their "
            f"rows in {figures} are embedded; look for it in the templates and in the table's names"
        )
    return f"data:{KINDS[kind]};base64,{base64.b64encode(path.read_bytes()).decode()}"
