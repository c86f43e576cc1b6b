"""The depth ladder: trained from a seed, kept whole, found by name."""

import json
import math
import os

import pytest
import torch

import lwq
from lwq import models
from lwq.inputs import assets, ladder, wheels

TINY = ladder.Recipe(
    2, ("toy",), width=32, inner=64, heads=2, vocabulary=300, length=32, batch=4, steps=30
)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LWQ_CACHE", str(tmp_path / "cache"))


def test_the_same_seed_gives_the_same_bytes(tmp_path):
    for name in "ab":
        ladder.make(TINY, tmp_path / name)
    first, second = (wheels.hash_file(tmp_path / name / "model.safetensors") for name in "ab")
    assert first == second
    assert (tmp_path / "a" / "tokenizer.json").read_bytes() == (
        tmp_path / "b" / "tokenizer.json"
    ).read_bytes()


def test_it_learns():
    documents = list(ladder.training_documents(TINY.texts))
    tokenizer = ladder.train_tokenizer(documents, TINY)
    tokens = torch.tensor(
        [token for document in documents for token in tokenizer(document, verbose=False).input_ids]
    )
    losses = ladder.train_(ladder.untrained(TINY), tokens, TINY)
    assert losses[0] == pytest.approx(math.log(TINY.vocabulary), rel=0.05)
    assert losses[-1] < 0.8 * losses[0]


def test_the_judging_text_stays_unseen():
    seen = set(ladder.training_documents(["toy"]))
    assert seen and not seen & set(lwq.inputs.texts.split_documents("toy", "judge"))


def test_depths_see_the_same_batches_and_start_alike():
    tokens = torch.arange(1000)
    twice = [
        list(ladder.batches(tokens, ladder.Recipe(depth, length=32, batch=4, steps=9)))
        for depth in (2, 8)
    ]
    assert all(torch.equal(a, b) for a, b in zip(*twice, strict=True))
    first = torch.cat(twice[0][:7]).flatten()
    assert len(first.unique()) == len(first), "an epoch shows no window twice"
    text = torch.randint(0, 300, (2, 32), generator=torch.Generator().manual_seed(0))
    for depth in (2, 8):
        recipe = ladder.Recipe(depth, width=32, inner=64, heads=2, vocabulary=300, length=32)
        assert ladder.untrained(recipe)(text, labels=text).loss.item() == pytest.approx(
            math.log(300), rel=0.05
        )


def test_a_rung_is_found_by_name_and_a_killed_one_leaves_nothing(monkeypatch, tmp_path):
    monkeypatch.setattr(ladder, "Recipe", lambda depth: TINY)
    real = ladder.train_
    monkeypatch.setattr(ladder, "train_", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        lwq.load("ladder-2")
    assert not [
        path
        for path in (tmp_path / "cache" / "models").iterdir()
        if not path.name.endswith(".lock")
    ]
    monkeypatch.setattr(ladder, "train_", real)
    model, tokenizer = lwq.load("ladder-2")
    assert len(models.blocks(model)) == 2 and models.name(model) == "ladder-2"
    monkeypatch.setattr(ladder, "make", lambda *a: pytest.fail("trained again"))
    streamed, _ = lwq.load("ladder-2", stream=True)
    assert models.fingerprint(streamed) == models.fingerprint(model)
    assert tokenizer.decode(tokenizer("the layer keeps").input_ids) == "the layer keeps"


def test_a_rung_is_trained_anew_where_its_folder_is_not_what_it_should_be(
    monkeypatch, tmp_path, capsys
):
    folder = ladder.fetch(TINY)
    record = json.loads((folder / assets.RECORD).read_text())
    assert record["recipe"]["depth"] == TINY.depth and record["texts"] == {}
    older = {key: value for key, value in record.items() if key != "texts"}
    (folder / assets.RECORD).write_text(json.dumps(older))
    with monkeypatch.context() as patch:
        patch.setattr(ladder, "make", lambda *a: pytest.fail("trained again"))
        assert ladder.fetch(TINY) == folder
    os.truncate(folder / "tokenizer.json", 100)
    assert ladder.fetch(TINY) == folder
    assert "is damaged (tokenizer.json has 100 bytes" in capsys.readouterr().err
    (folder / assets.RECORD).write_text(json.dumps({**record, "texts": {"c4": "0"}}))
    ladder.fetch(TINY)
    assert "was made of another texts" in capsys.readouterr().err


def test_an_unknown_rung_lists_those_that_exist():
    with pytest.raises(lwq.InputError, match=r"unknown rung 'ladder-3'; there are \['ladder-2', "):
        lwq.load("ladder-3")
    with pytest.raises(lwq.InputError, match="make 1 windows of 256; 4 are needed"):
        list(ladder.batches(torch.arange(300), ladder.Recipe(2)))
