"""Names are text: in Markdown, as two readers of it see it, and in a cell.

pytest tests/test_markup.py
"""

import csv
import io
import re
from html.parser import HTMLParser

import markdown
import pytest
from markdown_it import MarkdownIt

import lwq
from lwq import models
from lwq.cli.printing import show
from lwq.common import markup
from lwq.common.errors import InputError
from lwq.contracts.section import Picture
from lwq.recipes.card import card
from lwq.recipes.compressed import Compressed, Judged
from lwq.report import html
from lwq.report.bootstrap import Interval
from lwq.report.drawing import Drawing
from lwq.report.figures import style

READERS = {
    "python-markdown": lambda text: markdown.markdown(text, extensions=["tables"]),
    "commonmark": MarkdownIt("commonmark").enable(["table", "strikethrough"]).render,
}
NAMES = (
    *("![a](b.png)", "[l](http://x)", "[^1]", "[a]: b", "*[HTML]: x", "<script>alert(1)</script>"),
    *("<img src=x onerror=alert(1)>", "&lt;b&gt;", "&#60;b", "<!-- x", "a --> b", "a|b", "a\\|b"),
    *("`x`", "``", "**b**", "m[/bold]x", "__x__", "_x_", "x_", "a_b", "~~x~~", "$x$", "\\<b>"),
    *("# h", "- l", "+ l", "1. x", "123) y", "> q", "---", "===", "{: #id}", "=x", "'\"'"),
    *("  lead", "a\nb\n\n    code", "http://x.y/_z_", "é_ü_", "+1.2 [3, 4]", "0.95", "1.", "-0.5"),
)


class Seen(HTMLParser):
    """The tags of a page, the texts between them, and what stands for pictures."""

    def __init__(self, page: str):
        super().__init__()
        self.tags: list[str] = []
        self.texts: list[str] = []
        self.alts: list[str | None] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.alts += [dict(attrs)["alt"]] if tag == "img" else []

    def handle_data(self, data):
        self.texts += [data.strip()] if data.strip() else []


class Pictures(HTMLParser):
    """The attributes of the picture of a page."""

    def __init__(self, page: str):
        super().__init__()
        self.found: list[tuple[str, str | None]] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.found += attrs if tag == "img" else []


def frame(text: str, code: str) -> str:
    """A page with one text wherever the templates have one: cells, paragraphs, pictures, code."""
    return (
        f"| {text} | b |\n|---|---|\n| {text} | c |\n\n{text}\n\nx {text} y\n\n"
        f"![{text}](f.png)\n\n- {code}"
    )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("reader", READERS)
def test_a_name_is_shown_and_not_obeyed(reader, name):
    seen = Seen(READERS[reader](frame(markup.markdown(name), markup.code(name))))
    plain = Seen(READERS[reader](frame("plain", "plain")))
    shown = " ".join(name.split())
    assert [tag for tag in seen.tags if tag != "code"] == plain.tags
    assert seen.texts == [shown, "b", shown, "c", shown, f"x {shown} y", shown]
    assert seen.alts == [shown]


@pytest.mark.parametrize("name", [*NAMES, "f(a='b', c=\"d\"), e", 'x") y'])
@pytest.mark.parametrize("reader", READERS)
def test_a_title_ends_where_it_ends(reader, name):
    page = READERS[reader](f'![a](figures/f.png "of {markup.title(name)}, in t")')
    assert dict(Pictures(page).found) == {
        "src": "figures/f.png",
        "alt": "a",
        "title": f"of {' '.join(name.split())}, in t",
    }


@pytest.mark.parametrize("name", ["smollm2-135m", "gptq(group_size=64, sym=False)", "+0.12", "a_b"])
def test_ordinary_names_stay_as_they_are(name):
    assert markup.markdown(name) == name
    assert markup.code(name) == f"`{name}`"


def test_control_characters_are_left_out():
    assert markup.markdown("a\x00b\x1b[31mc\u202ed") == "ab\\[31mcd"


CELLS = (
    "=1+1",
    "+1",
    "-1",
    "@x",
    "\tx",
    "\rx",
    "'=1",
    "''=1",
    "'x",
    "'",
    "",
    "plain",
    "a=b",
    "a,b",
)


@pytest.mark.parametrize("name", CELLS)
def test_a_cell_is_no_formula_and_reads_back(name):
    file = io.StringIO(newline="")
    csv.writer(file).writerow([markup.cell(name)])
    file.seek(0)
    (read,) = next(csv.reader(file), [""])
    assert not read.startswith(("=", "+", "-", "@", "\t", "\r"))
    assert markup.from_cell(read) == name


@pytest.mark.parametrize("place", ["../secret.png", "/etc/hostname", "figures/../secret.png"])
def test_a_page_embeds_pictures_of_its_own_folder_only(tmp_path, place):
    (tmp_path / "figures").mkdir()
    for file in ("secret.png", "figures/own.png"):
        (tmp_path / file).write_bytes(b"picture")
    assert "data:image/png;base64,cGljdHVyZQ==" in html.page(
        "![x](figures/own.png)", tmp_path, "figures", {}
    )
    with pytest.raises(InputError, match="only pictures and their rows in"):
        html.page(f"![x]({place})", tmp_path, "figures", {})


def test_a_picture_that_is_a_link_is_not_embedded(tmp_path):
    (tmp_path / "figures").mkdir()
    (tmp_path / "secret.png").write_bytes(b"picture")
    (tmp_path / "figures/own.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(InputError, match="only pictures and their rows in"):
        html.page("![x](figures/own.png)", tmp_path, "figures", {})


@pytest.mark.parametrize("name", NAMES)
def test_a_table_in_the_terminal_shows_names_as_they_are(name, capsys):
    show(name, [name, "value"], [[name, 1.5]])
    # without the lines of the table; a name of several lines stands in several
    printed = re.sub(r"[\s\u2500-\u257f]|1\.5|value", "", capsys.readouterr().out)
    assert printed.count("".join(name.split())) >= 3


def test_a_terminal_is_not_steered(capsys):
    show("a\x1b[31mb", ["c"], [["d\x1b]0;title\x07e"]])
    assert "\x1b" not in capsys.readouterr().out


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("reader", READERS)
def test_a_card_shows_names_and_obeys_none(reader, name, tmp_path, toy_plan):
    def seen(text):
        one = Interval(1.0, 0.5, 2.0)
        lines = (
            Judged("untouched", 1.0, one, one, one, None),
            Judged(text, 1.0, one, one, one, one),
        )
        made = Compressed(tmp_path / "out", "lwq", toy_plan, lines, text, text)
        return Seen(READERS[reader](card(made, {"model": text}, text)))

    hostile, plain = seen(name), seen("plain")
    shown = " ".join(name.split())
    assert [tag for tag in hostile.tags if tag != "code"] == [t for t in plain.tags if t != "code"]
    assert f"{shown}, compressed by" in hostile.texts[0] and shown in hostile.texts


@pytest.fixture(scope="module")
def toy_plan():
    layout = models.layout(lwq.load("toy")[0])
    return lwq.Plan(dict.fromkeys(layout.units, 4), layout, "rtn()")


def test_pictures_of_other_names_have_other_files(tmp_path):
    draw = Drawing(tmp_path / "figures")
    names = ["a/b", "a-b", "../../../a b", "模型", "型", "x" * 300, "x" * 301, "$a$ $", "."]
    files = {draw(Picture(_drawing, (), name, "", ""))["file"] for name in names}
    assert len(files) == len(names)
    assert {file.name for file in (tmp_path / "figures").iterdir()} == {
        file.removeprefix("figures/") for file in files
    }


def _drawing():
    figure, _ = style.canvas(1, 1)
    figure.suptitle("a $name$ with $ \\frac{ in it")
    return figure
