"""What notebooks show of plans, scores and sizes: every unit, no foreign markup, readable colours.

pytest tests/test_shown.py
"""

import html
import re
import subprocess
import sys

import numpy as np
import pytest
import seaborn as sns

import lwq
from lwq.common import strips
from lwq.contracts import Size
from lwq.report.figures import strips as figures

EVIL = "<script>alert('x')</script>&"
UNITS = {
    f"{EVIL}.{block}.{name}": {f"{EVIL}.{block}.{name}.weight": (64, 64)}
    for block in range(3)
    for name in ("q", "k")
}
LAYOUT = lwq.Layout(
    EVIL,
    "0" * 16,
    "matrix",
    {**UNITS, "head": {"head.weight": (128, 64)}},
    {"": 64, **{f"{EVIL}.{block}": 8 for block in range(3)}},
)
VALUES = {unit: float(place) for place, unit in enumerate(LAYOUT.units)}
PLAN = lwq.Plan({unit: (8, 4, "2g32", 0.5)[i % 4] for i, unit in enumerate(VALUES)}, LAYOUT, EVIL)
ARRAYS = (np.array([1.0, 3.0]), np.array([0.1, 0.2]), np.array([1.0, 0.5]))
SHOWN = {
    "plan": PLAN,
    "scores": lwq.Scores(VALUES, LAYOUT, EVIL, {next(iter(VALUES)): 0.5}),
    "costs": lwq.Costs({u: {4: v, 2: v + 1} for u, v in VALUES.items()}, LAYOUT, EVIL),
    "losses": lwq.Losses(*ARRAYS, tokens=7, documents=np.arange(len(ARRAYS[0]))),
    "size": Size(3.0, 3.5, 3.75, 8.0, 84_188_160, 140_881_536),
}


@pytest.mark.parametrize("what", SHOWN)
def test_nothing_foreign_is_markup_and_every_tag_is_closed(what):
    page = SHOWN[what]._repr_html_()
    assert "<script" not in page and "alert('x')" not in page
    for tag in ("table", "tr", "td", "th", "p"):
        assert len(re.findall(rf"<{tag}[ >]", page)) == page.count(f"</{tag}>")
    assert len(repr(SHOWN[what])) < 700


@pytest.mark.parametrize("what", ["plan", "scores", "costs"])
def test_every_unit_has_its_cell(what):
    page = html.unescape(SHOWN[what]._repr_html_())
    assert all(unit in page for unit in LAYOUT.units)
    assert "head: " in page


def test_numbers_are_those_of_the_object():
    assert "84.19 MB" in SHOWN["size"]._repr_html_()
    page = SHOWN["losses"]._repr_html_()
    perplexity, error = np.exp(2.0), np.std([1, 3], ddof=1) / np.sqrt(2)
    assert f"{perplexity:.4g}" in page and f'<td style="text-align:right">{error:.2g}<' in page
    harm = [sum(v + 1 for v in VALUES.values()), sum(VALUES.values())]
    assert all(f">{value:.4g}<" in SHOWN["costs"]._repr_html_() for value in harm)


def test_colours_are_those_of_the_figures_and_text_is_readable_on_them():
    assert tuple(sns.color_palette("cividis_r", 10).as_hex()) == strips.COLOURS
    assert strips.WIDTHS == figures.WIDTHS
    bits = np.linspace(0, 17, 60)
    places = np.interp(bits, strips.WIDTHS, range(10)) / 9
    assert [strips.shade(b) for b in bits] == pytest.approx(list(places))
    for shade in np.linspace(0, 1, 10):
        style = re.search(r"background:(#\w+);color:(#\w+)", strips.strip([_cell(shade)]))
        back, front = (_luminance(colour) for colour in style.groups())
        assert (max(back, front) + 0.05) / (min(back, front) + 0.05) >= 4.5  # WCAG AA


def _cell(shade):
    return strips.Cell("", "0", "4", float(shade), "")


def _luminance(colour):
    """Relative luminance of WCAG 2."""
    digits = colour[1:] if len(colour) == 7 else "".join(letter * 2 for letter in colour[1:])
    parts = [int(digits[place : place + 2], 16) / 255 for place in (0, 2, 4)]
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    ]
    return float(np.dot([0.2126, 0.7152, 0.0722], linear))


def test_digits_stand_in_tens():
    assert strips.digits([4, 0, 16, 2.6] + [8] * 50) == [
        "4.#3888888 8888888888 8888888888 8888888888 8888888888",
        "8888",
    ]
    assert strips.counted([4, 16, 4, 8, "4g32"]) == "2 at 4, 1 at 8, 1 at 16, 1 at 4g32"


def test_neither_torch_nor_matplotlib_is_needed():
    code = (
        "import sys; sys.modules['torch'] = sys.modules['matplotlib'] = None\n"
        "from lwq.contracts import Layout, Plan\n"
        "layout = Layout('m', '0', 'block', {'b.0': {'b.0.w': (8, 8)}}, {'': 0, 'b.0': 0})\n"
        "print(Plan({'b.0': 4}, layout, 'rtn()')._repr_html_())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "background:" in done.stdout, done.stderr
