"""Every scorer in the dict against one battery; then LIM and ZD against their formulas."""

import math
import re
from dataclasses import dataclass

import pytest
import torch

import lwq
from lwq import models
from lwq.common.names import build
from lwq.scorers import SCORERS, score_all

SPECS = [
    {"reversed": "reversed(lim)", "owl": "owl(threshold=2.0)"}.get(name, name) for name in SCORERS
]


def numbers(found):
    """unit -> importance, or unit -> option -> harm."""
    return found.harm if isinstance(found, lwq.Costs) else found.importance


@pytest.mark.parametrize("spec", SPECS)
def test_one_finite_score_a_unit_and_the_same_twice(spec, toy, windows):
    before = {key: m.view().clone() for key, m in models.matrices(toy[0]).items()}
    first, second = (lwq.score(toy[0], spec, windows) for _ in range(2))
    granularity = build(SCORERS, "scorer", spec).granularity
    assert first.layout.granularity == granularity
    assert list(first) == list(lwq.units(toy[0], granularity))
    assert numbers(first) == numbers(second)
    # its text builds it again
    assert numbers(lwq.score(toy[0], first.scorer, windows)) == numbers(first)
    # and the model is as it was
    assert all(torch.equal(m.view(), before[key]) for key, m in models.matrices(toy[0]).items())
    assert {"seconds", "tokens", "forwards", "backwards"} == first.cost.keys()


@pytest.mark.parametrize("spec", SPECS)
def test_a_scorer_says_what_it_needs_and_what_it_scores(spec):
    scorer = build(SCORERS, "scorer", spec)
    assert isinstance(scorer.needs, frozenset)
    assert scorer.granularity in ("block", "group", "matrix")


@pytest.mark.parametrize("spec", [spec for spec in SPECS if build(SCORERS, "scorer", spec).needs])
def test_what_needs_windows_says_so(spec, toy):
    with pytest.raises(lwq.InputError, match="windows are needed"):
        lwq.score(toy[0], spec)


@pytest.mark.parametrize("spec", SPECS)
def test_reversed_moves_in_the_opposite_order(spec, toy, windows):
    if isinstance(lwq.score(toy[0], spec, windows), lwq.Costs):
        with pytest.raises(lwq.InputError, match="no importance to turn round"):
            lwq.score(toy[0], f"reversed({spec})", windows)
        return
    plain = lwq.score(toy[0], spec, windows)
    moved = [plain[unit] for unit in lwq.score(toy[0], f"reversed({spec})", windows).order()]
    assert moved == sorted(moved, reverse=True)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("spec", SPECS)
def test_damaged_weights_are_refused(spec, bad, toy, windows):
    toy[0].model.layers[1].mlp.down_proj.weight[2, 3] = bad
    with pytest.raises(
        lwq.InputError,
        match=r"model.layers.1.mlp.down_proj.weight holds 1 NaN or "
        r"Inf values.*\[2, 3\]",
    ):
        lwq.score(toy[0], spec, windows)


@pytest.mark.parametrize("spec", [spec for spec in SPECS if build(SCORERS, "scorer", spec).needs])
def test_activations_that_overflow_are_refused(spec, toy, windows):
    model = models.cast(toy[0], "float16")
    model.model.layers[1].mlp.down_proj.weight.fill_(6e4)
    overflow = "^model.layers.1: its activations hold NaN or Inf in float16"
    # a scorer that takes small steps refuses the dtype itself
    with pytest.raises(lwq.InputError, match=f"{overflow}|in float16 is lost in rounding"):
        lwq.score(model, spec, windows)


@pytest.mark.parametrize("name", ["lim", "bi"])
def test_lim_equals_the_model_s_own_hidden_states(toy, windows, name):
    """Hugging Face's hidden_states hold the last block after the final norm: only that block may
    differ, and does.
    """
    model, _ = toy
    states = model(windows, output_hidden_states=True).hidden_states
    cosines = [
        1 - torch.cosine_similarity(x.double(), y.double(), dim=-1).mean()
        for x, y in zip(states, states[1:], strict=False)
    ]
    plain, trap = (
        lwq.score(model, name, windows),
        lwq.score(model, f"{name}(final_norm=True)", windows),
    )
    names = list(plain)
    for name, cosine in zip(names, cosines, strict=True):
        assert trap[name] == pytest.approx(float(cosine), rel=1e-4)
    assert [plain[n] == trap[n] for n in names] == [True, True, True, False]


def test_lim_readings_differ_and_are_sampled(toy, windows):
    found = [lwq.score(toy[0], f"lim(average={a!r})", windows) for a in ("tokens", "flat", "mean")]
    assert len({tuple(f.importance.values()) for f in found}) == 3
    assert all(error > 0 for error in found[0].stderr.values())
    half = lwq.score(toy[0], "lim", windows[:1])
    assert not half.stderr, "one window says nothing of its error"


def test_lim_of_a_block_that_does_nothing_is_zero(toy, windows):
    block = toy[0].model.layers[2]
    block.self_attn.o_proj.weight.zero_()
    block.mlp.down_proj.weight.zero_()
    assert lwq.score(toy[0], "lim", windows)["model.layers.2"] == pytest.approx(0, abs=1e-12)


def slow_zd(values, two_sided):
    mean = sum(values) / len(values)
    std = (sum((v - mean) ** 2 for v in values) / (len(values) - 1)) ** 0.5
    return sum((abs(v - mean) if two_sided else v - mean) > std for v in values) / len(values)


@pytest.mark.parametrize("two_sided", [False, True])
def test_zd_equals_its_slow_twin(two_sided, toy):
    names = [m for key, m in models.matrices(toy[0]).items() if key.startswith("model.layers.1.")]
    flat = [v for m in names for v in m.view().flatten().double().tolist()]
    found = lwq.score(toy[0], f"zd(two_sided={two_sided})")["model.layers.1"]
    assert found == pytest.approx(1 - slow_zd(flat, two_sided), abs=1e-9)
    each = [slow_zd(m.view().flatten().double().tolist(), two_sided) for m in names]
    found = lwq.score(toy[0], f"zd(two_sided={two_sided}, pool='matrix')")["model.layers.1"]
    assert found == pytest.approx(1 - sum(each) / len(each), abs=1e-9)


def test_zd_direction_and_gaussian_share(toy):
    plain, turned = lwq.score(toy[0], "zd"), lwq.score(toy[0], "zd(larger_is_important=True)")
    assert plain.order() == turned.order()[::-1]
    assert 1 - plain["model.layers.0"] == pytest.approx(0.1587, abs=0.01)
    assert 1 - lwq.score(toy[0], "zd(two_sided=True)")["model.layers.0"] == pytest.approx(
        0.3173, abs=0.01
    )


def test_orders_by_position_and_by_seed(toy):
    blocks = list(lwq.units(toy[0]))
    assert lwq.score(toy[0], "first_to_last").order() == blocks
    assert lwq.score(toy[0], "last_to_first").order() == blocks[::-1]
    assert len({tuple(lwq.score(toy[0], "random", seed=s).order()) for s in range(8)}) > 3


@pytest.mark.parametrize("granularity", ["group", "matrix"])
@pytest.mark.parametrize(
    "name",
    ["zd", "random", "first_to_last", "last_to_first", "edges", "kurtosis", "entropy", "rank"],
)
def test_finer_units(name, granularity, toy):
    scores = lwq.score(toy[0], name, granularity=granularity)
    assert list(scores) == list(lwq.units(toy[0], granularity))


def test_many_scorers_share_one_pass(toy, windows, monkeypatch):
    from lwq.statistics import forward

    calls = []
    capture = forward.capture
    monkeypatch.setattr(forward, "capture", lambda *a: calls.append(1) or capture(*a))
    score_all(toy[0], ["lim", "zd", "reversed(lim)", "lim(average='flat')"], windows)
    assert len(calls) == 1


@pytest.mark.parametrize("scorer", ["lim", "fisher_kl(options=(4,3))", "block_drop"])
def test_tokens_that_the_model_lacks_are_refused(scorer, toy, windows):
    strange = windows.clone()
    strange[-1, -1] = 999
    with pytest.raises(lwq.InputError, match="token id 999 is outside the vocabulary of 257"):
        lwq.score(toy[0], scorer, strange)


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        (lambda x: x[0], r"int64 \(48,\)"),  # fisher_kl read 8 of its tokens, and said nothing
        (lambda x: x[:0], r"int64 \(0, 48\)"),
        (lambda x: x.float(), "float32"),
        (lambda x: x.tolist(), "a list"),
        (lambda x: x - 300, "padded with -"),
    ],
)
def test_what_is_no_windows_is_refused(change, shown, toy, windows):
    with pytest.raises(lwq.InputError, match=f"one window or more, and these are {shown}"):
        lwq.score(toy[0], "fisher_kl(granularity='block', options=(4,))", change(windows))
    plan = lwq.Plan(dict.fromkeys(lwq.units(toy[0]), 3), lwq.models.layout(toy[0]), "gptq()")
    for reads in (
        lambda x: lwq.allocate(model=toy[0], avg_bits=4.5, quantizer="rtn", windows=x),
        lambda x: lwq.evaluate(toy[0], x),
        lambda x: lwq.reference(toy[0], x),
        lambda x: lwq.quantize_(toy[0], plan, x),
    ):
        with pytest.raises(lwq.InputError, match=shown):
            reads(change(windows))


@dataclass(frozen=True)
class Growth:
    """A user's own scorer."""

    needs = frozenset({"hidden_states"})

    def __call__(self, model, stats):
        return {
            name: float((s.outputs - s.inputs).norm() / s.inputs.norm())
            for name, s in stats.items()
        }


def test_a_user_s_own_scorer(toy, windows):
    scores = lwq.score(toy[0], Growth(), windows)
    assert re.fullmatch(r"test_scorers#\w{8}:Growth\(\)", scores.scorer) and all(
        v > 0 for v in scores.importance.values()
    )


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            "limm",
            r"unknown scorer 'limm' \(did you mean 'lim'\?\); choose one of \['activation",
        ),
        ("lim(averages='flat')", r"its settings are \['average', 'final_norm'\]"),
        ("lim(average='median')", "choose one of"),
        ("zd(pool='row')", "choose one of"),
        ("lim(", "not a name or a call"),
        ("lim.x", "not a name or a call"),
        ("zd(two_sided=1+x)", "not a literal"),
    ],
)
def test_bad_text_says_what_exists(spec, message, toy, windows):
    with pytest.raises(lwq.InputError, match=message):
        lwq.score(toy[0], spec, windows)


def test_a_score_that_is_not_a_number_names_its_unit(toy):
    with pytest.raises(lwq.InputError, match="the score of model.layers.1 is nan"):
        lwq.score(
            toy[0],
            lambda model, stats: {
                unit: float("nan") if unit.endswith("1") else 1.0 for unit in stats
            },
        )
    with pytest.raises(lwq.InputError, match="one score for each unit"):
        lwq.score(toy[0], lambda model, stats: {"model.layers.9": 1.0})


@dataclass(frozen=True)
class Returns:
    """A scorer of a user's own that returns what it is told to."""

    found: object
    needs: object = frozenset()

    def __call__(self, model, stats):
        units = reversed(lwq.units(model, "block"))
        return dict.fromkeys(units, self.found) if self.found is not None else None


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (None, "returned a NoneType; a dict of unit"),
        ("high", r"has a str, 'high'; one number is needed"),
        (torch.ones(2), "has a Tensor"),
        ({4: 1.0, 2: math.nan}, r"the harm of model\.layers\.3 at 2 bits is nan"),
        ({4: 1.0, 3: math.nan, 2: 5.0}, "at 3 bits is nan"),
        ({4: 1.0, 2: None}, "at 2 bits has a NoneType"),
    ],
)
def test_what_no_score_is_made_of_is_refused_by_name(toy, found, says):
    """A running maximum hid the NaN: the broken option came out as free as the one above it."""
    with pytest.raises(lwq.InputError, match=says):
        lwq.score(toy[0], Returns(found))


def test_units_are_in_forward_order_however_a_scorer_names_them(toy):
    for found in (1.0, {4: 0.0, 3: 1.0}):
        scores = lwq.score(toy[0], Returns(found))
        assert list(scores) == list(scores.layout.units) == scores.order()


def test_callers_mistakes_are_named(toy, windows):
    with pytest.raises(lwq.InputError, match="the model is a str; write"):
        lwq.score("lim", toy[0], windows)
    with pytest.raises(lwq.InputError, match=r"needs='gram' is text; write frozenset"):
        lwq.score(toy[0], Returns(1.0, needs="gram"))
    with pytest.raises(lwq.InputError, match="needs gradients and has no source"):
        lwq.score(toy[0], Returns(1.0, needs=frozenset({"gradients"})), windows)
    for name in ("relevance", "taylor", "delta_loss", "fisher_kl(labels='empirical')"):
        with pytest.raises(lwq.InputError, match="windows of one token have no next token"):
            lwq.score(toy[0], name, windows[:, :1])
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(lwq.InputError, match="autocast"):
        lwq.score(toy[0], "lim", windows)


def test_another_default_dtype_changes_no_score(toy, windows):
    wanted = lwq.score(toy[0], "fisher_kl", windows)
    torch.set_default_dtype(torch.float64)
    try:
        found = lwq.score(toy[0], "fisher_kl", windows)
    finally:
        torch.set_default_dtype(torch.float32)
    for unit in wanted:
        assert found[unit] == pytest.approx(wanted[unit], rel=1e-4)


def test_rounding_takes_no_measured_score_below_zero(toy, windows):
    """KL of −1e-7 ended a score of two minutes, and was blamed on NaN."""
    for name in (
        "leave_one_low(low=8, granularity='matrix', windows=1)",
        "at_option(options=(8,))",
    ):
        lwq.score(toy[0], name, windows[:1, :8])


def test_costs_know_a_quantizer_that_was_given_as_an_object(toy, windows):
    packer = lwq.QUANTIZERS["rtn"](group_size=32)
    for given in (packer, "rtn(group_size=32)"):
        scorer = lwq.SCORERS["fisher_kl"](quantizer=given, options=(4, 3))
        costs = lwq.score(toy[0], scorer, windows)
        assert lwq.allocate(costs, true_bits=4.2).quantizer.startswith("rtn(group_size=32")
