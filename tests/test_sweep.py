"""A sweep gives the losses of full forward passes, to the last bit, and runs no block twice that it
need not.
"""

from functools import cache

import architectures
import numpy as np
import pytest
import torch
from test_apply import plan_for
from test_offload import saved

import lwq
from lwq import models
from lwq.contracts import Plan
from lwq.engine.bank import Bank
from lwq.engine.evaluate import evaluate, reference
from lwq.engine.store import Store
from lwq.engine.sweep import Sweep
from lwq.quantizers.gptq import GPTQ
from lwq.quantizers.rtn import RTN

NAMES = list(architectures.CONFIGS)
MIXES = [
    (4, 2, 4),
    (16, 16, 16),
    (2, 4, 4),
    (4, 0, 2),
    (4, 2, 0),
    (0, 4, 4),
    (4, 2, 4),
    (3, 3, 3),
    (0, 0, 0),
]


def same(a, b):
    return all(np.array_equal(getattr(a, key), getattr(b, key)) for key in ("nll", "kl", "top1"))


def case(name):
    """A model, calibration windows, judging windows, plans."""
    model = architectures.make(name)
    judge = architectures.tokens(5, 24).flip(0)
    return model, architectures.tokens(6), judge, [plan_for(model, mix, "gptq()") for mix in MIXES]


def slow_twin(make, plans, windows, truth):
    """What a reader would write: a fresh model, quantized and run from end to end, for each plan;
    plan id -> losses.
    """
    found = {}
    for plan in plans:
        model = make()
        lwq.quantize_(model, plan, windows)
        found[plan.id] = evaluate(model, truth.windows, truth)
    return found


@cache
def full_passes(name):
    """The slow twin of `case(name)`."""
    model, windows, judge, plans = case(name)
    return slow_twin(lambda: architectures.make(name), plans, windows, reference(model, judge))


@pytest.mark.parametrize("memory", [1 << 30, 30_000, 0], ids=["all boundaries", "some", "none"])
@pytest.mark.parametrize("name", NAMES)
def test_equals_full_forward_passes(name, memory):
    model, windows, judge, plans = case(name)
    sweep = Sweep(model, judge, Bank(model, GPTQ(), windows), reference(model, judge), memory)
    assert sweep.stride == {1 << 30: 1, 30_000: 3, 0: 3}[memory] or name != "llama"
    found, slow = list(sweep.measure(plans)), full_passes(name)
    assert len(found) == len(plans)
    assert all(same(losses, slow[plan.id]) for plan, losses in found)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_other_dtypes_and_a_lean_reference(dtype):
    model, judge = architectures.make("gemma3").to(getattr(torch, dtype)), architectures.tokens(9)
    fresh = architectures.make("gemma3").to(getattr(torch, dtype))
    full, lean = reference(model, judge), reference(model, judge, memory=0)
    plans = [plan_for(model, mix) for mix in MIXES]
    with_full = dict_of(Sweep(model, judge, Bank(model, RTN()), full).measure(plans))
    with_lean = dict_of(Sweep(model, judge, Bank(model, RTN()), lean).measure(plans))
    for key, losses in with_full.items():
        assert same(losses, with_lean[key])
    lwq.quantize_(fresh, plans[0])
    assert same(evaluate(fresh, judge, full), with_full[plans[0].id])


def dict_of(found):
    return {plan.id: losses for plan, losses in found}


def test_a_streamed_model_gives_the_same(tmp_path):
    folder, whole = saved(tmp_path, "qwen3")
    streamed, _ = lwq.load(folder, stream=True)
    x, judge = architectures.tokens(6), architectures.tokens(5)
    found = []
    for model in (whole, streamed):
        plans = [plan_for(model, mix, "gptq()") for mix in MIXES]
        sweep = Sweep(model, judge, Bank(model, GPTQ(), x, Store()), reference(model, judge))
        found.append(dict_of(sweep.measure(plans)))
        sweep.bank.restore_()
        assert (evaluate(model, judge).nll == reference(model, judge).losses.nll).all()
    assert found[0].keys() == found[1].keys()
    assert all(same(found[0][key], found[1][key]) for key in found[0])


def streamed_sweeps(tmp_path):
    """Sweeps of one model in memory and streamed, without results in memory; plans, and the losses
    of the first sweep.
    """
    folder, whole = saved(tmp_path, "llama")
    streamed, _ = lwq.load(folder, stream=True)
    judge, store = architectures.tokens(5), Store()
    plans = [plan_for(whole, mix) for mix in MIXES]
    expected = dict_of(
        Sweep(whole, judge, Bank(whole, RTN()), reference(whole, judge)).measure(plans)
    )
    bank = Bank(streamed, RTN(), store=store, memory=0)
    bank.prepare(plans)
    return Sweep(streamed, judge, bank, reference(streamed, judge)), plans, expected


def require_whole(sweep, plans, expected):
    found = dict_of(sweep.measure(plans))
    assert found.keys() == expected.keys() and all(
        same(found[key], expected[key]) for key in expected
    )
    assert not any(sweep.model._offload._held.values())
    assert all(p.is_meta for p in sweep.model.parameters())


def test_a_streamed_sweep_makes_damaged_files_again(tmp_path):
    sweep, plans, expected = streamed_sweeps(tmp_path)
    for name, width in (
        ("model.layers.0.mlp.up_proj", 2),
        ("model.layers.2.mlp.up_proj", 4),
        ("model.layers.2.mlp.up_proj", 2),
    ):
        path = sweep.bank.store._path(sweep.bank._key(name, width))
        path.write_bytes(path.read_bytes()[:40])
    require_whole(sweep, plans, expected)


def test_a_file_that_goes_while_a_streamed_model_runs_ends_the_sweep_and_the_next_one_is_whole(
    tmp_path, monkeypatch
):
    sweep, plans, expected = streamed_sweeps(tmp_path)
    path = sweep.bank.store._path(sweep.bank._key("model.layers.1.mlp.up_proj", 4))
    real = sweep.bank.apply_
    monkeypatch.setattr(
        sweep.bank, "apply_", lambda plan: (real(plan), path.unlink(missing_ok=True))
    )
    with pytest.raises(
        lwq.InputError, match="model.layers.1.mlp.up_proj at 4 bits did not stay in the bank"
    ):
        dict_of(sweep.measure(plans))
    monkeypatch.undo()
    require_whole(sweep, plans, expected)


def test_an_interrupted_streamed_sweep_is_never_wrong(tmp_path):
    sweep, plans, expected = streamed_sweeps(tmp_path)
    calls = []

    def stop(*_):
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt

    hook = sweep.model.model.layers[1].mlp.register_forward_pre_hook(stop)
    with pytest.raises(KeyboardInterrupt):
        dict_of(sweep.measure(plans))
    hook.remove()
    require_whole(sweep, plans, expected)


class Scaled(torch.nn.Module):
    """A block without matrices."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(
            torch.linspace(0.5, 1.5, architectures.WIDTH), requires_grad=False
        )

    def forward(self, hidden, *_, **__):
        return hidden * self.scale


@pytest.mark.parametrize("granularity", ["block", "matrix"])
def test_a_block_without_matrices_runs_unless_it_is_dropped(granularity):
    def make():
        model = architectures.make("llama")
        model.model.layers[1] = Scaled()
        return model

    model, judge = make(), architectures.tokens(4)
    truth = reference(model, judge)
    mixes = (
        [(4, 4, 4), (4, 0, 4), (16, 16, 16), (4, 2, 4)]
        if granularity == "block"
        else [(4,), (16,), (4, 2)]
    )
    plans = [plan_for(model, mix, granularity=granularity) for mix in mixes]
    found = list(Sweep(model, judge, Bank(model, RTN()), truth).measure(plans))
    slow = slow_twin(make, plans, judge, truth)
    assert all(same(losses, slow[plan.id]) for plan, losses in found)


def nested(model, order, high=4, low=2):
    layout = models.layout(model)
    units = list(layout.units)
    for moved in range(len(units) + 1):
        chosen = {units[i] for i in order[:moved]}
        yield Plan({unit: low if unit in chosen else high for unit in units}, layout, "rtn()")


def test_a_nested_sweep_and_a_scan_run_half_of_the_blocks(toy, judge):
    model, _ = toy
    n = len(models.blocks(model))
    for order in ([0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]):
        sweep = Sweep(model, judge, Bank(model, RTN()))
        list(sweep.measure(reversed(list(nested(model, order)))))
        assert sweep.blocks_run <= n + n * (n + 1) // 2, order
    layout = models.layout(model)
    scan = [
        Plan({**dict.fromkeys(layout.units, 8), unit: bits}, layout, "rtn()")
        for unit in layout.units
        for bits in (2, 3, 4, 5)
    ]
    sweep = Sweep(model, judge, Bank(model, RTN()))
    list(sweep.measure(scan))
    # every block after the one that differs; the all-8 path once
    assert sweep.blocks_run == 4 * n * (n + 1) // 2 + n - 1


def test_a_plan_measured_again_costs_nothing_and_searches_go_on(toy, judge):
    model, _ = toy
    sweep = Sweep(model, judge, Bank(model, RTN()), reference(model, judge))
    plan, other = plan_for(model, (4, 4, 4, 2)), plan_for(model, (4, 4, 4, 3))
    (_, first), (_, second) = sweep.measure([plan, plan])
    assert second is first and sweep.blocks_run == 4
    (_, third) = next(sweep.measure([other]))
    assert sweep.blocks_run == 5 and not same(first, third)
    assert same(next(sweep.measure([plan]))[1], first)


def test_a_cache_that_the_model_keeps_does_no_harm(toy, judge):
    """With use_cache on, captured arguments would carry a cache that an earlier run has filled."""
    model, _ = toy
    model.config.use_cache = True
    truth = reference(model, judge)
    plans = list(nested(model, [1, 3, 0, 2]))
    for plan, losses in Sweep(model, judge, Bank(model, RTN()), truth).measure(plans):
        fresh, _ = lwq.load("toy")
        lwq.quantize_(fresh, plan)
        assert same(losses, evaluate(fresh, judge, truth))


def test_an_interrupted_sweep_is_never_wrong(toy, judge, monkeypatch):
    model, _ = toy
    sweep = Sweep(model, judge, Bank(model, RTN()), reference(model, judge))
    plans = [plan_for(model, mix) for mix in [(4, 4, 4, 4), (4, 2, 4, 4), (4, 2, 2, 4)]]
    expected = dict_of(Sweep(model, judge, Bank(model, RTN()), sweep.reference).measure(plans))
    run, calls = sweep.calls.run, []

    def stop(*arguments):
        calls.append(1)
        if len(calls) == 7:
            raise KeyboardInterrupt
        return run(*arguments)

    monkeypatch.setattr(sweep.calls, "run", stop)
    with pytest.raises(KeyboardInterrupt):
        list(sweep.measure(plans))
    assert all(same(losses, expected[plan.id]) for plan, losses in sweep.measure(plans))


def test_refusals(toy, judge):
    model, _ = toy
    with pytest.raises(lwq.InputError, match="the bank holds another model"):
        Sweep(model, judge, Bank(lwq.load("toy")[0], RTN()))
    with pytest.raises(lwq.InputError, match="taken on other windows"):
        Sweep(model, judge, Bank(model, RTN()), reference(model, judge[:2]))
    last = model.model.layers[-1]
    forward = type(last).forward
    counter = iter(range(1000))
    last.mlp.register_forward_hook(lambda m, a, out: out + next(counter))
    with pytest.raises(lwq.InputError, match="hand on more than hidden states"):
        Sweep(model, judge, Bank(model, RTN()))
    assert type(last).forward is forward
