"""Every causal language model of transformers: lwq's numbers are right, or it refuses by name."""

import battery
import every_architecture
import pytest

from lwq.common import paths

PAGE = paths.DATA / "docs" / "architectures.md"
FEW = ("bamba", "bert", "cpmant", "ctrl", "qwen3_next")  # each broke in a way of its own


def require_row(kind, folder):
    found = battery.outcomes(kind, folder)
    text = PAGE.read_text(encoding="utf-8")
    again = "python tests/battery.py docs/architectures.md"
    assert battery.line(kind, found) in text, again
    assert battery.refusals(kind, found) in text, again


@pytest.mark.parametrize("kind", FEW)
def test_numbers_are_right_or_refused(kind, tmp_path):
    require_row(kind, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", every_architecture.kinds())
def test_numbers_of_every_architecture_are_right_or_refused(kind, tmp_path):
    require_row(kind, tmp_path)


def test_the_page_has_a_line_for_every_architecture():
    text = PAGE.read_text(encoding="utf-8")
    for kind in every_architecture.kinds():
        assert f"\n| `{kind}` | {every_architecture.class_name(kind)} | " in text
    for kind in every_architecture.UNBUILT:
        assert f"\n- `{kind}`: " in text
