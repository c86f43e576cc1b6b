"""Windows come from as many documents as there are, and say from which; old draws can be told apart
and looked up.

pytest tests/test_draws.py
"""

import numpy as np
import pandas as pd
import pytest

import lwq
from lwq.inputs import texts
from lwq.inputs.texts import WindowSpec, consecutive, draw, token_digest
from lwq.results import cells, documents, measurements
from lwq.studies import experiment


@pytest.fixture
def tokenizer(toy):
    """One token a byte."""
    return toy[1]


def file_of(tmp_path, sizes):
    """A text whose documents have these many bytes of one letter each; all in one split."""
    path = tmp_path / "mine.txt"
    path.write_text("".join(f" = T{i} = \n{chr(97 + i) * size}\n" for i, size in enumerate(sizes)))
    return str(path)


@pytest.fixture
def one_split(monkeypatch):
    monkeypatch.setattr(texts, "_bucket", lambda document: 99)


def letters(text):
    """The documents of a window, by their letters."""
    return set(text) & set("abcdefgh")


def test_each_document_gives_one_window_while_they_last(tmp_path, one_split, tokenizer):
    text = file_of(tmp_path, [300, 40, 500, 30, 45, 200])
    found = draw(text, tokenizer, 4, 100, "judge", 0)
    shown = [tokenizer.decode(window) for window in found.windows]
    owners = [letters(window) for window in shown]
    assert sum(map(len, owners)) == len(set().union(*owners)), "no document in two windows"
    assert len(set(found.documents)) == 4
    assert found.apart().equal(found.windows)
    for window, own in zip(shown, found.documents, strict=True):
        assert window.startswith("= T") and f"= T{own} =" in window, "a document's beginning"


def test_further_rounds_follow_on_and_all_tokens_can_be_had(tmp_path, one_split, tokenizer):
    sizes = [300, 40, 500, 30, 45, 200]
    text = file_of(tmp_path, sizes)
    tokens = [tokenizer(document + "\n\n").input_ids for document in texts.documents(text)]
    most = sum(map(len, tokens)) // 100
    found = draw(text, tokenizer, most, 100, "judge", 0)
    both = np.concatenate(tokens)
    left = np.bincount(both, minlength=256) - np.bincount(found.windows.flatten(), minlength=256)
    assert (left >= 0).all() and left.sum() == len(both) - 100 * most < 100
    with pytest.raises(lwq.InputError, match=f"gives {most}"):
        draw(text, tokenizer, most + 1, 100, "judge", 0)
    shown = [tokenizer.decode(window) for window in found.windows]
    for first, one in zip(shown, found.documents, strict=True):
        for second, other in zip(shown, found.documents, strict=True):
            assert one == other or not letters(first) & letters(second)
    long = [window for window in shown if letters(window) == {"c"}]
    assert "".join(long) in texts.documents(text)[2], "each window follows the last one"


def test_what_is_drawn_first_stays_when_more_is_drawn(tokenizer):
    few, many = (draw("toy", tokenizer, n, 64, "judge", 3) for n in (5, 60))
    assert many.windows[:5].equal(few.windows)


def test_old_and_new_draws_have_other_names_and_other_tokens(tokenizer):
    spec = WindowSpec("toy", "judge", 6, 64, 0)
    assert str(spec) == "toy/judge 6x64 by document seed 0"
    old = consecutive("toy", tokenizer, 6, 64, "judge", 0)
    assert documents.DRAWN.fullmatch(f"{spec} #{token_digest(old.windows)}") is None
    assert not old.windows.equal(spec.draw(tokenizer).windows)


def test_a_consecutive_window_is_of_the_document_it_has_most_of(tmp_path, one_split, tokenizer):
    text = file_of(tmp_path, [60, 200, 90])
    found = consecutive(text, tokenizer, 3, 100, "judge", 0)
    shown = [tokenizer.decode(window) for window in found.windows]
    order = list(dict.fromkeys(letter for letter in "".join(shown) if letter in "abc"))
    whole = "".join(texts.documents(text)["abc".index(letter)] + "\n\n" for letter in order)
    assert "".join(shown) == whole[:300]
    most = [max("abc", key=window.count) for window in shown]
    assert found.documents.tolist() == ["abc".index(letter) for letter in most]


@pytest.fixture
def old(tmp_path):
    """A results folder as it was before documents were kept, of a toy study on consecutive cuts."""
    here = experiment.Experiment(
        "orderings",
        "toy",
        "rtn",
        *experiment.texts("toy", "toy", 2, 32, 6, 64),
        lwq.Results(tmp_path),
    )
    here.sweep(here.orderings("zd"), 4, 2, 3)
    drawn = consecutive("toy", here.loaded[1], 6, 64, "judge", 0)
    table, windows = measurements.load(tmp_path)
    judge = f"toy/judge 6x64 seed 0 #{token_digest(drawn.windows)}"
    cells.write(table.assign(judge=judge), tmp_path / measurements.TABLE)
    windows.drop(columns="document").to_parquet(tmp_path / measurements.WINDOWS, index=False)
    for file in (tmp_path / "runs").iterdir():
        file.unlink()
    return tmp_path, drawn.documents


def test_documents_of_old_rows_follow_from_their_draw(old):
    folder, expected = old
    for read in (measurements.load, lwq.Results):
        with pytest.raises(lwq.InputError, match=r"python -m lwq\.results\.documents"):
            read(folder)
    assert documents.fill(folder) == measurements.load(folder)[0]["id"].nunique()
    windows = measurements.load(folder)[1]
    assert all(part["document"].tolist() == expected.tolist() for _, part in windows.groupby("id"))
    assert documents.fill(folder) == 0
    lwq.Results(folder).write()
    again = measurements.load(folder)[1]
    pd.testing.assert_frame_equal(again, windows[list(again)], check_dtype=False)


def test_a_draw_that_gives_other_tokens_today_is_refused(old):
    folder, _ = old
    table = cells.read(folder / measurements.TABLE, measurements.TEXT)
    for judge, said in (
        ("toy/judge 6x64 seed 0 #00000000", "gives other tokens today"),
        ("toy/judge 6x64 by document seed 0 #00000000", "does not say how"),
    ):
        cells.write(table.assign(judge=judge), folder / measurements.TABLE)
        with pytest.raises(lwq.InputError, match=said):
            documents.fill(folder)
