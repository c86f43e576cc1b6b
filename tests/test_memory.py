"""What a study keeps in memory: originals on disk, one model at a time, an estimate that knows the
folder.
"""

import gc
import weakref
from dataclasses import replace

import architectures
import pytest
import torch
from test_apply import plan_for

import lwq
from lwq import models
from lwq.engine import room
from lwq.engine.bank import Bank
from lwq.engine.originals import Originals
from lwq.engine.store import Store
from lwq.quantizers.rtn import RTN
from lwq.studies import experiment, forecast, grid, memory, sizes

TEXTS = experiment.texts("toy", "toy", 4, 48, 6, 48)


@pytest.fixture
def saved(tmp_path, toy):
    """The folder of a checkpoint of the toy model."""
    for part in toy:
        part.save_pretrained(tmp_path / "saved")
    return str(tmp_path / "saved")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_originals_beyond_the_limit_are_files_with_the_same_bits(dtype, bank_folder):
    weights = {str(i): torch.randn(8, 16).to(dtype) for i in range(3)}
    found = Originals(memory=weights["0"].nbytes)
    for name, weight in weights.items():
        found.keep(name, weight.T)
        found.keep(name, torch.zeros_like(weight.T))  # the first stays
    assert list(found) == list(weights) and found.held == weights["0"].nbytes
    files = list(bank_folder.parent.rglob("originals-*/*")) or list(found._there.values())
    assert len(files) == 2
    assert all(torch.equal(found[name], weight.T) for name, weight in weights.items())
    folder = files[0].parent
    del found
    gc.collect()
    assert not folder.exists()


def test_a_bank_with_its_originals_on_disk_puts_back_the_same(monkeypatch):
    monkeypatch.setattr("lwq.engine.bank.Originals", lambda: Originals(memory=0))
    model, x = architectures.make("llama"), architectures.tokens(2)
    truth = model(x).logits
    plans = [plan_for(model, widths, "rtn()") for widths in ((2, 2, 2), (2, 16, 2))]
    bank = Bank(model, RTN(), store=Store())
    bank.apply_(plans[0])
    assert not torch.equal(model(x).logits, truth)
    bank.apply_(plans[1])
    bank.restore_()
    assert torch.equal(model(x).logits, truth)


def test_banks_of_a_streamed_model_take_turns_and_go(saved):
    """What reads its weights holds one bank: others, and what they keep in memory, are freed."""
    model, tokenizer = lwq.load(saved, stream=True)
    x = lwq.windows("toy", tokenizer, 2, 32, "judge")
    truth = lwq.evaluate(model, x).nll
    kept = models.streamed(model)
    first, second = Bank(model, RTN()), Bank(model, RTN())
    plans = [plan_for(model, (width,) * 4, "rtn()") for width in (2, 4)]
    found = []
    for bank, plan in ((first, plans[0]), (second, plans[1]), (first, plans[0])):
        bank.apply_(plan)
        assert len(kept.after_load) == 1
        found.append(lwq.evaluate(model, x).nll)
    assert (found[0] == found[2]).all() and (found[0] != found[1]).any()
    second.restore_()
    gone = weakref.ref(first)
    del first, bank
    gc.collect()
    assert gone() is None and (lwq.evaluate(model, x).nll == truth).all()
    second.release()
    assert kept.after_load == []


def test_a_copy_in_another_dtype_has_no_bank_and_leaves_the_model_alone():
    model = architectures.make("llama")
    bank = Bank(model, RTN())
    copy = models.cast(model, "bfloat16")
    assert copy._bank is None and model._bank is bank
    assert {p.dtype for p in copy.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    same = models.cast(model, "float32")
    same.model.embed_tokens.weight += 1
    assert not torch.equal(same.model.embed_tokens.weight, model.model.embed_tokens.weight)


@pytest.mark.parametrize("dtypes", [("float32", ""), ("bfloat16", ""), ("float32", "bfloat16")])
@pytest.mark.parametrize("quantizer", ["rtn", "gptq"])
def test_a_streamed_study_measures_the_same_to_the_bit(dtypes, quantizer, saved, tmp_path):
    tables = []
    for stream in (False, True):
        results = lwq.Results(tmp_path / str(stream))
        study = lwq.Experiment("orderings", saved, quantizer, *TEXTS, results, *dtypes, stream)
        study.sweep(study.orderings("lim, zd"), 4, 2, 3)
        tables.append(results.table())
    columns = ["plan", "metric", "value", "dtype", "fingerprint"]
    whole, streamed = (
        table[columns].sort_values(columns).reset_index(drop=True) for table in tables
    )
    assert whole.equals(streamed)


def test_no_two_models_stand_beside_each_other(saved, tmp_path, monkeypatch):
    """A sweep in bfloat16 judges its ends in float32 too, with a model of its own."""
    alive: list[weakref.ref] = []
    most, real = [], models.load

    def load(*arguments, **settings):
        gc.collect()
        most.append(sum(model() is not None for model in alive))
        found = real(*arguments, **settings)
        alive.append(weakref.ref(found[0]))
        return found

    monkeypatch.setattr("lwq.models.load", load)
    study = lwq.Experiment(
        "orderings", saved, "rtn", *TEXTS, lwq.Results(tmp_path / "r"), "bfloat16"
    )
    study.sweep(study.orderings("zd"), 4, 2, 3)
    assert len(most) == 3 and most == [0, 0, 0]


def test_a_model_too_large_for_its_float32_twin_is_read_from_disk(saved, tmp_path, monkeypatch):
    streamed, real = [], models.load
    monkeypatch.setattr(
        "lwq.models.load", lambda *a, **s: streamed.append(s["stream"]) or real(*a, **s)
    )
    monkeypatch.setattr(memory, "WIDE", 1000)
    study = lwq.Experiment(
        "orderings", saved, "rtn", *TEXTS, lwq.Results(tmp_path / "r"), "bfloat16"
    )
    study.sweep(study.orderings("zd"), 4, 2, 3)
    assert streamed == [False, True, False]


def test_an_estimate_reads_the_folder(saved):
    found = sizes.of(saved)
    toy = lwq.load("toy")[0]
    assert found.known and found.blocks == 4 and (found.vocabulary, found.width) == (257, 64)
    assert found.parameters == sum(p.numel() for p in toy.parameters())
    assert not sizes.of("owner/nobody-knows").known


def test_an_estimate_says_what_streaming_and_16_bits_save(tmp_path):
    def bytes_of(**parameters):
        given = {"results_dir": str(tmp_path), "model": "Qwen/Qwen2-7B", "quantizer": "rtn"}
        (point,) = grid.points("orderings", "smoke", {**given, **parameters})
        return forecast.of_point(point).memory / memory.GIB

    whole, narrow = bytes_of(), bytes_of(dtype="bfloat16")
    assert 28 < whole < 45 and narrow < 0.7 * whole
    assert bytes_of(stream=True) < 0.4 * narrow
    assert bytes_of(windows=32, length=256) > whole


def test_the_peak_is_that_of_the_largest_moment():
    size = sizes.Sizes(10, 1e9, 1000, 1000, 9e8)
    peak = memory.Peak(size, 4, 4, False, 3, False, 100, 8, 64)
    held = 4e9 + memory.GIB + room.LEAST  # weights, originals, of three widths what is kept
    assert peak.bytes() == pytest.approx(memory.PROCESSES + held, rel=0.05)
    twins = replace(peak, judged=2)
    assert twins.bytes() > peak.bytes() + 1e9
    assert replace(peak, streamed=True).bytes() < 0.6 * peak.bytes()
