"""Embeddings and head as units: the same numbers from quantize_, the bank, the sweep and a file.

pytest tests/test_outside.py
"""

import copy

import numpy as np
import pytest
import torch

import lwq
from lwq import models
from lwq.quantizers import QUANTIZERS
from tests import architectures

NAMES = ["llama", "gemma3", "gpt2"]


def plan_for(model, options, beyond, quantizer="rtn(group_size=-1)"):
    """`options` for the blocks in turn, and `beyond` for all that is outside."""
    layout = models.layout(model, outside=True)
    inner = [unit for unit in layout.units if unit not in layout.outside]
    bits = dict(zip(inner, options * len(inner), strict=False))
    return lwq.Plan({**bits, **dict.fromkeys(layout.outside, beyond)}, layout, quantizer)


@pytest.mark.parametrize("name", NAMES)
def test_outside_units_are_embeddings_and_head_a_tied_pair_once(name):
    model = architectures.make(name)
    found = models.outside(model)
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert len(found) == (1 if tied else 2)
    assert next(iter(found.values())).module is model.get_input_embeddings()
    layout, without = models.layout(model, outside=True), models.layout(model)
    assert set(layout.units) - set(without.units) == set(found) == layout.outside
    everything = sum(p.numel() for p in model.parameters())
    for known in (layout, without):
        assert known.total + sum(known.rest.values()) == everything
    assert layout.coverage == without.coverage and not without.outside


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("quantizer", ["rtn(group_size=-1)", "gptq(group_size=-1)"])
def test_quantize_bank_and_sweep_agree_to_the_bit(name, quantizer):
    model, x = architectures.make(name), architectures.tokens(6)
    plans = [
        plan_for(model, options, beyond, quantizer)
        for options, beyond in (((4, 3), 4), ((4, 3), 16), ((3,), 5), ((4, 3), 4), ((16,), 16))
    ]
    whole = []
    for plan in plans:
        other = copy.deepcopy(model)
        lwq.quantize_(other, plan, x)
        whole.append(lwq.evaluate(other, x))
    bank = lwq.Bank(model, lwq.common.names.build(QUANTIZERS, "quantizer", quantizer), x)
    sweep = lwq.Sweep(model, x, bank)
    found = {plan.id: losses for plan, losses in sweep.measure(plans)}
    for plan, losses in zip(plans, whole, strict=True):
        assert np.array_equal(found[plan.id].nll, losses.nll)
    assert len({losses.nll.tobytes() for losses in whole}) == 4
    assert torch.equal(
        model.get_input_embeddings().weight, architectures.make(name).get_input_embeddings().weight
    )


@pytest.mark.parametrize("name", NAMES)
def test_bytes_are_those_of_the_stored_tensors(name):
    from lwq.engine.apply import packed

    model = architectures.make(name)
    plan = plan_for(model, (4, 3), 5)
    stored = {key: made.nbytes for key, made in packed(model, plan)}
    assert set(models.outside(model)) <= set(stored)
    assert sum(stored.values()) == plan.size(QUANTIZERS["rtn"](group_size=-1)).plan_bytes


def test_an_embedding_cannot_be_dropped():
    model = architectures.make("llama")
    with pytest.raises(lwq.InputError, match="embeddings and head cannot be dropped"):
        lwq.quantize_(model, plan_for(model, (4,), 0))


def test_a_streamed_model_gives_the_same(tmp_path):
    model, x = architectures.make("llama"), architectures.tokens(3)
    lwq.load("toy")[1].save_pretrained(tmp_path)
    model.save_pretrained(tmp_path)
    streamed, _ = lwq.load(str(tmp_path), stream=True)
    loaded, _ = lwq.load(str(tmp_path))
    for each in (streamed, loaded):
        lwq.quantize_(each, plan_for(each, (4, 3), 4))
    assert np.array_equal(lwq.evaluate(streamed, x).nll, lwq.evaluate(loaded, x).nll)


def test_mse_never_errs_more_than_rtn_by_its_own_measure():
    weight = torch.randn(64, 128, generator=torch.Generator().manual_seed(0)) ** 3
    for option in (2, 3, "3g32", 4, 5):
        errors = [
            float((weight - QUANTIZERS[name]()(weight, option).dequantize()).abs().pow(2.4).sum())
            for name in ("mse", "rtn")
        ]
        assert errors[0] < errors[1]
