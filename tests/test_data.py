"""Windows: the same draw twice, no document in two splits, and no shortfall in silence."""

import sys
from types import SimpleNamespace

import pytest

import lwq
from lwq.inputs import texts
from lwq.inputs.texts import SPLITS, WindowSpec, windows


@pytest.fixture
def tokenizer(toy):
    return toy[1]


def test_shape_and_repetition(tokenizer):
    first = windows("toy", tokenizer, n=5, length=40)
    assert first.shape == (5, 40)
    assert first.equal(windows("toy", tokenizer, n=5, length=40))
    assert not first.equal(windows("toy", tokenizer, n=5, length=40, seed=1))
    assert not first.equal(windows("toy", tokenizer, n=5, length=40, split="tune"))
    assert first[:3].equal(windows("toy", tokenizer, n=3, length=40))
    assert WindowSpec("toy", "calibrate", 5, 40, 0).draw(tokenizer).windows.equal(first)


@pytest.mark.parametrize("name", ["toy", "wiki", "pg19"])
def test_a_file_that_is_called_as_a_text_of_ours_is_not_passed_over(name, tmp_path, monkeypatch):
    (tmp_path / name).write_text("one paragraph\n\nand another\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(lwq.InputError, match=f"'{name}' is a text .* write ./{name} for that"):
        texts.documents(name)
    assert texts.documents(f"./{name}")


def test_splits_share_no_document_and_cover_all():
    shares = {
        split: {d for d in texts.documents("toy") if texts._bucket(d) in share}
        for split, share in SPLITS.items()
    }
    assert (
        sum(map(len, shares.values()))
        == len(set().union(*shares.values()))
        == len(texts.documents("toy"))
    )
    assert all(len(documents) > 40 for documents in shares.values())


def test_the_toy_tokenizer_is_one_token_a_byte(tokenizer):
    text = "héllo\n  wörld \x00\x7f😀"
    ids = tokenizer(text).input_ids
    assert len(ids) == len(text.encode()) and tokenizer.decode(ids) == text


def test_a_window_starts_with_bos_where_the_tokenizer_puts_one(tokenizer):
    class Bos:
        bos_token_id, model_max_length = 7, 512

        def __call__(self, text, **options):
            return type(
                "Encoding",
                (),
                {"input_ids": ([7] if not options else []) + tokenizer(text).input_ids},
            )()

    found = windows("toy", Bos(), n=3, length=16)
    assert found.shape == (3, 16) and (found[:, 0] == 7).all() and not (found[:, 1:] == 7).any()
    assert texts.prefix(tokenizer) == []


def test_a_file_of_one_s_own(tmp_path, tokenizer):
    path = tmp_path / "mine.txt"
    path.write_bytes(
        b"\xef\xbb\xbf"
        + "\r\n\r\n".join(f"paragraph {i} " + "x" * 3000 for i in range(40)).encode()
    )
    documents = texts.documents(str(path))
    assert (
        len(documents) == 40 and documents[0].startswith("paragraph 0") and "\r" not in documents[1]
    )
    assert windows(str(path), tokenizer, n=4, length=64).shape == (4, 64)


DOCUMENTS = [f"document {i} " + "x" * 2100 for i in range(60)]
LAYOUTS = {
    "blank lines": "\n\n".join(DOCUMENTS),
    "blank lines that hold spaces": "\n \t\n".join(DOCUMENTS),
    "WikiText": "".join(
        f" = Title {i} = \n \n {text} \n \n = = Section = = \n \n Body of {i} . \n \n"
        for i, text in enumerate(DOCUMENTS)
    ),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_documents_are_found_in_the_layouts_that_people_have(name, tmp_path, tokenizer):
    path = tmp_path / "mine.txt"
    path.write_text(LAYOUTS[name], encoding="utf-8")
    found = texts.documents(str(path))
    assert len(found) == 60 and all(f"document {i} " in text for i, text in enumerate(found))
    for split in SPLITS:
        assert windows(str(path), tokenizer, n=4, length=64, split=split).shape == (4, 64)


def test_wikitext_from_a_hub_is_read_by_its_articles(monkeypatch):
    lines = LAYOUTS["WikiText"].splitlines(keepends=True)
    hub = SimpleNamespace(load_dataset=lambda *_, **__: {"text": lines})
    monkeypatch.setitem(sys.modules, "datasets", hub)
    assert len(texts.documents("wikitext2")) == 60


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\n".join(DOCUMENTS), "no document boundary was found .*put a blank line"),
        (" ".join(DOCUMENTS), "no document boundary was found .*put a blank line"),
        ("a few\n\nshort\n\nparagraphs", "paragraphs make one document .*take a longer text"),
    ],
)
def test_a_text_that_is_one_document_says_so(text, message, tmp_path, tokenizer):
    path = tmp_path / "mine.txt"
    path.write_text(text)
    with pytest.raises(lwq.InputError, match=message):
        for split in SPLITS:
            windows(str(path), tokenizer, n=16, length=64, split=split)


def test_readers():
    wiki = (
        '<doc id="1" url="u" title="A">\nA\n\nBody.\n\n</doc>\n'
        '<doc id="2" url="u" title="B">\nB\n\n\n\n</doc>\n'
    )
    assert texts.articles(wiki) == ["A\n\nBody."]
    assert [
        len(piece) >= texts.PIECE for piece in texts.paragraphs("\n\n".join(["y" * 900] * 6))
    ] == [True, True]


def test_what_stands_before_the_first_heading_is_text_too():
    """Two lines like headings at the end of a file left nothing of it."""
    body = " = A = \n one\n = B = \n two\n"
    assert texts.own_documents(body) == ["= A = \n one", "= B = \n two"]
    assert texts.own_documents(f"long preface\n\n{body}") == [
        "long preface",
        *texts.own_documents(body),
    ]


@pytest.mark.assets
def test_real_texts_have_documents_for_every_split():
    for text in lwq.inputs.assets.TEXTS:
        buckets = [texts._bucket(document) for document in texts.documents(text)]
        assert all(sum(b in share for b in buckets) >= 5 for share in SPLITS.values()), text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nowhere",), "unknown text 'nowhere': not a file, and none of"),
        (
            ("toy", 9999, 500),
            "asked 9999 windows of 500 tokens, the calibrate split of 'toy' gives",
        ),
        (("toy", 1, 513), "longer than the model's context of 512"),
        (("toy", 0, 10), "at least one window"),
        (("toy", 1, 10, "train"), "unknown split 'train'"),
    ],
)
def test_errors(arguments, message, tokenizer):
    with pytest.raises(lwq.InputError, match=message):
        windows(arguments[0], tokenizer, *arguments[1:])


def test_bad_files(tmp_path, tokenizer):
    (tmp_path / "empty.txt").write_text(" \n\n ")
    (tmp_path / "latin.txt").write_bytes("caf\xe9".encode("latin-1"))
    with pytest.raises(lwq.InputError, match="is empty"):
        windows(str(tmp_path / "empty.txt"), tokenizer)
    with pytest.raises(lwq.InputError, match="latin.txt is not UTF-8 at byte 3"):
        windows(str(tmp_path / "latin.txt"), tokenizer)


def test_hub_texts_say_what_is_missing(tokenizer, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(lwq.InputError, match=r"pip install -e '.\[hub\]'"):
        windows("wikitext2", tokenizer)
    broken = type(
        "M",
        (),
        {"load_dataset": staticmethod(lambda *a, **k: (_ for _ in ()).throw(OSError("no route")))},
    )
    monkeypatch.setitem(sys.modules, "datasets", broken)
    with pytest.raises(lwq.InputError, match="cannot reach Salesforce/wikitext"):
        windows("wikitext2", tokenizer)
    working = type(
        "M",
        (),
        {"load_dataset": staticmethod(lambda *a, **k: {"text": [f"{i} " * 50 for i in range(90)]})},
    )
    monkeypatch.setitem(sys.modules, "datasets", working)
    assert windows("pg19", tokenizer, n=2, length=32).shape == (2, 32)
