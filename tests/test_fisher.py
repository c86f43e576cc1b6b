"""fisher_kl against its formula in plain loops, and against the KL that it stands for."""

from dataclasses import fields

import architectures
import pytest
import torch

import lwq
from lwq import models
from lwq.common.hashing import code_digest
from lwq.common.names import build
from lwq.contracts import Plan
from lwq.models import products
from lwq.quantizers import QUANTIZERS
from lwq.quantizers.hqq import HQQ
from lwq.scorers import SCORERS
from lwq.scorers.fisher import FisherKL
from lwq.scorers.gradients import Fisher, Hutchinson
from lwq.scorers.shared.code import scorer_codes
from lwq.statistics.backward import backward, empirical, sampled
from lwq.statistics.heard import Pair


def slow_moves(model, x, slope, change):
    """Matrix -> g · ΔW x of each token, (windows, length), from one graph a window."""
    found = {key: [] for key in change}
    for number, window in enumerate(x):
        seen, hooks = {}, []
        for key, matrix in models.matrices(model).items():

            def note(module, args, out, key=key, seen=seen):
                out.requires_grad_() if not out.requires_grad else None
                out.retain_grad()
                seen[key] = (args[0][0], out)

            hooks.append(matrix.module.register_forward_hook(note))
        with torch.enable_grad():
            logits = model(window[None], use_cache=False).logits
        logits.backward(slope(number, logits[0].detach())[None])
        for hook in hooks:
            hook.remove()
        for key, (inputs, out) in seen.items():
            found[key].append(
                [
                    sum(float(g) * float(d) for g, d in zip(slopes, moved, strict=True))
                    for slopes, moved in zip(
                        out.grad[0], (inputs @ change[key].T).detach(), strict=True
                    )
                ]
            )
    return {key: torch.tensor(values) for key, values in found.items()}


def changes(model, quantizer, option):
    quantizer = build(QUANTIZERS, "quantizer", quantizer)
    return {
        key: quantizer(m.view(), option).dequantize() - m.view()
        for key, m in models.matrices(model).items()
    }


@pytest.mark.parametrize("granularity", ["matrix", "group", "block"])
@pytest.mark.parametrize("labels", ["sampled", "empirical"])
def test_equals_its_slow_twin(granularity, labels, toy, windows):
    model, x = toy[0], windows[:5, :16]
    slope = sampled(3) if labels == "sampled" else empirical(x)
    moves = slow_moves(model, x, slope, changes(model, "rtn", 3))
    scorer = FisherKL(granularity=granularity, labels=labels, seed=3, options=(4, 3), windows=5)
    costs = lwq.score(model, scorer, x)
    scored = 16 if labels == "sampled" else 15
    for unit, names in lwq.units(model, granularity).items():
        together = sum(moves[name] for name in names)
        each = together.square().sum(1) / 2 / scored
        assert costs[unit][3] == pytest.approx(float(each.mean()), rel=1e-3)
        assert costs.stderr[unit][3] == pytest.approx(float(each.std() / 5**0.5), rel=1e-3)


def test_units_are_priced_at_options_of_their_own(toy, windows):
    wide = "model.layers.0.mlp.down_proj"
    every = lwq.score(toy[0], FisherKL(options=(4, 3)), windows)
    found = lwq.score(toy[0], FisherKL(options={"": (4, 3), wide: (16, 4)}), windows)
    assert dict(found[wide]) == {16: 0.0, 4: every[wide][4]}
    assert all(found[unit] == every[unit] for unit in every if unit != wide)


def test_a_window_s_tokens_add_up_before_they_are_squared(toy, windows):
    model, x = toy[0], windows[:3, :16]
    moves = slow_moves(model, x, sampled(0), changes(model, "rtn", 4))
    costs = lwq.score(model, FisherKL(pool="window", options=(4,)), x)
    for unit, found in moves.items():
        squares = found.sum(1).square().mean() / 2 / 16
        assert costs[unit][4] == pytest.approx(float(squares), rel=2e-3)


def test_it_is_the_kl_where_changes_are_small(toy, windows):
    """½ δᵀ F δ of each matrix at 8 bits beside the KL that is measured with it at 8 bits."""
    model, x = toy[0], windows
    costs = lwq.score(model, FisherKL(pool="window", samples=100, windows=6), x)
    p = model(x, use_cache=False).logits.double().log_softmax(-1)
    harms, truth = [], []
    for unit, change in changes(model, "rtn", 6).items():
        weight = models.matrices(model)[unit].view()
        kept = weight.clone()
        weight.add_(change)
        q = model(x, use_cache=False).logits.double().log_softmax(-1)
        weight.copy_(kept)
        truth.append(float((p.exp() * (p - q)).sum(-1).mean()))
        harms.append(costs[unit][6])
    assert sum(harms) == pytest.approx(sum(truth), rel=0.1)
    ranks = [torch.tensor(values).argsort().argsort().double() for values in (harms, truth)]
    assert float(torch.corrcoef(torch.stack(ranks))[0, 1]) > 0.9


def test_a_plan_comes_of_it(toy, windows):
    costs = lwq.score(toy[0], 'fisher_kl(quantizer="gptq")', windows, data="toy")
    plan = lwq.allocate(
        costs,
        toy[0],
        bits=(8, 6, 5, 4, 3, 2),
        allocator="knapsack",
        true_bits=4.2,
        quantizer="gptq",
    )
    assert len(set(plan.bits.values())) > 2 and plan.provenance["scorer"] == costs.scorer


def test_costs_with_errors_survive_a_file(toy, windows, tmp_path):
    costs = lwq.score(toy[0], "fisher_kl", windows)
    costs.save(tmp_path / "costs.json")
    assert lwq.Costs.load(tmp_path / "costs.json") == costs
    assert costs.cost["backwards"] == 1 and 2 <= costs.cost["forwards"] < 2.1


def test_scorers_of_one_source_share_the_pass(toy, windows):
    from lwq.scorers import score_all

    both = score_all(toy[0], ["fisher_kl", "fisher_kl(granularity='block')"], windows)
    alone = [lwq.score(toy[0], costs.scorer, windows) for costs in both]
    assert [one.harm for one in both] == [one.harm for one in alone]
    assert both[0].cost["forwards"] == both[1].cost["forwards"] < 2.2


@pytest.mark.parametrize("pool", ["token", "window"])
def test_pairs_make_the_harm_of_two_that_of_one(pool, toy, windows, tmp_path):
    """A group's harm is the sum of its matrices' and of their pairs."""
    plain = {"options": (4, 2), "pool": pool}
    costs = lwq.score(toy[0], FisherKL(pairs=True, **plain), windows)
    groups = lwq.score(toy[0], FisherKL(granularity="group", **plain), windows)
    for unit, names in lwq.units(toy[0], "group").items():
        alone = sum(costs[name][2] for name in names)
        both = sum(costs.pairs.get(a, {}).get(b, 0.0) for a in names for b in names if a != b)
        assert groups[unit][2] == pytest.approx(alone + both, rel=1e-4)
    costs.save(tmp_path / "costs.json")
    assert lwq.Costs.load(tmp_path / "costs.json") == costs
    ascending = lwq.score(toy[0], FisherKL(pairs=True, **{**plain, "options": (2, 4)}), windows)
    assert ascending.pairs == costs.pairs
    plan = lwq.allocate(costs, toy[0], bits=(4, 2), allocator="impq", avg_bits=3.0, quantizer="rtn")
    assert set(plan.bits.values()) == {4, 2}


def test_embeddings_and_head_by_first_order_too(toy, windows):
    for spec in ("taylor", "delta_loss", "output_fisher"):
        with_ends = lwq.score(toy[0], f"{spec}(outside=True)", windows)
        plain = lwq.score(toy[0], spec, windows)
        more = with_ends.keys() - plain.keys()
        assert more == set(models.outside(toy[0]))
        assert all(with_ends[unit][2] > 0 for unit in more)
        assert all(with_ends[unit] == harm for unit, harm in plain.items())


def test_gptq_rounds_with_its_own_statistics_and_the_model_stays(toy, windows):
    before = {key: m.view().clone() for key, m in models.matrices(toy[0]).items()}
    plain, fitted = (
        lwq.score(toy[0], f"fisher_kl(quantizer={name!r})", windows) for name in ("rtn", "gptq")
    )
    assert sum(fitted[u][3] for u in fitted) < sum(plain[u][3] for u in plain)
    assert all(torch.equal(m.view(), before[key]) for key, m in models.matrices(toy[0]).items())
    assert fitted.cost["forwards"] > 10, "six widths, each a pass that runs its blocks twice"
    assert toy[0]._bank is None


def test_around_a_plan_of_untouched_weights_is_the_plain_harm(toy, windows):
    """At full precision the gradient of the KL is 0 and the two expansions are one."""
    units = lwq.units(toy[0], "matrix")
    plain = lwq.score(toy[0], FisherKL(windows=4), windows)
    same = lwq.score(toy[0], FisherKL(windows=4, around=dict.fromkeys(units, 16)), windows)
    for unit in units:
        for width, harm in plain[unit].items():
            assert same[unit][width] == pytest.approx(harm, rel=1e-3, abs=1e-9)


def test_around_a_plan_says_what_leaving_it_does(toy, windows):
    """From 5 bits everywhere: the KL with one matrix at 8 bits less that with all at 5."""
    model, x = toy[0], windows
    names = list(models.matrices(model))
    scorer = FisherKL(around=5, options=(8, 5), pool="window", samples=60, windows=6)
    costs = lwq.score(model, scorer, x)
    p = model(x, use_cache=False).logits.double().log_softmax(-1)
    low, high = changes(model, "rtn", 5), changes(model, "rtn", 8)
    kept = {key: m.view().clone() for key, m in models.matrices(model).items()}

    def kl():
        q = model(x, use_cache=False).logits.double().log_softmax(-1)
        return float((p.exp() * (p - q)).sum(-1).mean())

    for key, m in models.matrices(model).items():
        m.view().add_(low[key])
    start, gains = kl(), []
    for key in names:
        weight = models.matrices(model)[key].view()
        weight.copy_(kept[key]).add_(high[key])
        gains.append(kl() - start)
        weight.copy_(kept[key]).add_(low[key])
    harms = [costs[key][8] for key in names]
    found = torch.corrcoef(torch.tensor([harms, gains], dtype=torch.float64))[0, 1]
    assert float(found) > 0.95
    assert sum(harms) == pytest.approx(sum(gains), rel=0.15)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("fisher_kl(options=(4, 0))", "name widths above 0"),
        ("fisher_kl(options=(9,))", "has no width"),
        ("fisher_kl(labels='drawn')", "unknown labels 'drawn'"),
        ("fisher_kl(pairs=True)", "pairs are told for two options"),
        ("fisher_kl(options={'': (4,), 'lm_head': (3,)})", "are no units"),
        ("fisher_kl(options={'model.layers.0.mlp.down_proj': (3,)})", "options: none for"),
        ("fisher(outside=True)", "the trace of an embedding is not summed"),
        ("fisher_kl(samples=0)", "samples=0: one or more is needed"),
        ("fisher_kl(labels='empirical', samples=2)", "a text has one next token"),
        ("fisher_kl(quantizer='rtnn')", "unknown quantizer 'rtnn'"),
        ("fisher_kl(quantizer='rtn(group_size=48)')", "does not divide"),
        ("reversed(fisher_kl)", "no importance to turn round"),
    ],
)
def test_what_cannot_be_done_is_said_before(spec, message, toy, windows):
    with pytest.raises(lwq.InputError, match=message):
        lwq.score(toy[0], spec, windows)


def test_streamed_equals_whole(tmp_path):
    model, x = architectures.make("llama"), architectures.tokens(6)
    model.save_pretrained(tmp_path)
    lwq.load("toy")[1].save_pretrained(tmp_path)
    for spec in ("fisher_kl", "fisher_kl(quantizer='gptq')", "fisher_kl(around=4)"):
        plain, streamed = (
            lwq.score(lwq.load(str(tmp_path), stream=stream)[0], spec, x)
            for stream in (False, True)
        )
        for unit, harm in plain.items():
            assert streamed[unit] == pytest.approx(harm, rel=1e-3, abs=1e-9)


# tied and untied heads
@pytest.mark.parametrize("name", ["gemma3", "llama"])
def test_embeddings_and_head_are_scored_from_disk_as_in_memory(tmp_path, name):
    """Every scorer that knows embeddings and head."""
    model, x = architectures.make(name), architectures.tokens(6)
    model.save_pretrained(tmp_path)
    lwq.load("toy")[1].save_pretrained(tmp_path)
    own = [kind for kind in SCORERS.values() if "outside" in {f.name for f in fields(kind)}]
    scorers = [kind(outside=True) for kind in own if kind is not Fisher and kind is not Hutchinson]
    scorers.append(FisherKL(around=4, outside=True))
    assert len(scorers) > 4
    for scorer in scorers:
        plain, streamed = (
            lwq.score(lwq.load(str(tmp_path), stream=stream)[0], scorer, x)
            for stream in (False, True)
        )
        assert plain.layout.outside
        for unit, harm in plain.items():
            assert streamed[unit] == pytest.approx(harm, rel=1e-3, abs=1e-9)


def test_a_cache_of_it_knows_the_code_of_the_quantizer_that_its_text_names():
    rtn, gptq = (scorer_codes(FisherKL(quantizer=name)) for name in ("rtn", "gptq"))
    assert code_digest(QUANTIZERS["gptq"]) in gptq and code_digest(QUANTIZERS["rtn"]) in rtn
    assert code_digest(QUANTIZERS["gptq"]) not in rtn
    nested = scorer_codes(build(SCORERS, "scorer", "reversed(leave_one_low(quantizer='gptq'))"))
    assert code_digest(QUANTIZERS["gptq"]) in nested


@pytest.mark.parametrize("name", ["mixtral", "gpt2"])
def test_experts_and_transposed_weights(name):
    costs = lwq.score(architectures.make(name), "fisher_kl", architectures.tokens(6))
    assert sum(costs[unit][2] > costs[unit][4] > 0 for unit in costs) > 0.9 * len(costs)


@pytest.mark.parametrize("shape", [(64, 256), (256, 64)])
def test_products_in_bfloat16_are_those_in_float32_but_for_rounding(shape):
    generator = torch.Generator().manual_seed(0)
    x, g = (torch.randn(512, n, generator=generator).bfloat16().float() for n in shape[::-1])
    change = torch.randn(shape, generator=generator) / 100
    rows = torch.arange(512)
    fine = Pair(rows, x, g).moved(change)
    rough = Pair(rows, x, g, torch.bfloat16).moved(change)
    assert rough.dtype == torch.float32 and not torch.equal(rough, fine)
    assert float((rough - fine).norm() / fine.norm()) < 0.01
    assert float(rough.square().mean()) == pytest.approx(float(fine.square().mean()), rel=2e-3)


@pytest.mark.parametrize("lacking", [False, True])
def test_a_model_in_bfloat16_is_heard_in_it_where_that_is_fast(lacking, monkeypatch):
    monkeypatch.setattr(products, "_lacking", lambda: lacking)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        model = architectures.make("llama").to(dtype)
        pairs = [
            pair
            for found in backward(model, architectures.tokens(2), sampled(0))
            for pair in found.pairs.values()
        ]
        narrow = dtype == torch.bfloat16 and not lacking
        wanted = torch.bfloat16 if narrow else torch.float32
        assert {pair.dtype for pair in pairs if pair.x.is_floating_point()} == {wanted}


def test_what_a_score_rounded_slowly_is_not_rounded_again(toy, windows, monkeypatch):
    made = []
    call = HQQ.__call__
    monkeypatch.setattr(HQQ, "__call__", lambda *args: made.append(1) or call(*args))
    lwq.score(toy[0], "fisher_kl(quantizer='hqq', options=(4, 3))", windows)
    assert len(made) == 2 * len(models.matrices(toy[0]))
    layout = models.layout(toy[0])
    bank = lwq.Bank(toy[0], HQQ(), windows, lwq.Store())
    bank.prepare([Plan(dict.fromkeys(layout.units, 3), layout, "hqq()")])
    assert len(made) == 2 * len(models.matrices(toy[0]))
