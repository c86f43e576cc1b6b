"""Searches, and the program with pairs, against brute force; the rules by formula.

pytest tests/test_searches.py
"""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from objectives import Made
from test_knapsack import RTN, every_plan, layout_of, random_costs

import lwq
from lwq.allocators import ALLOCATORS
from lwq.allocators.edges import middle_first
from lwq.allocators.evolution import Evolution
from lwq.allocators.impq import ImpQ
from lwq.allocators.iterate import Iterate
from lwq.allocators.knapsack import Knapsack
from lwq.allocators.refine import Refine
from lwq.allocators.uniform import Uniform
from lwq.contracts import Budget, Costs, Layout, Scores

WIDTHS = (5, 4, 3, 2)
SEARCHES = [name for name, cls in ALLOCATORS.items() if cls().searches]


def equal_layout(units=6, size=64):
    """Blocks of one size."""
    names = {f"blocks.{i}": {f"blocks.{i}.w": (size, 64)} for i in range(units)}
    return Layout("m", "0" * 16, "block", names, {"": 0, **dict.fromkeys(names, 1)})


def hidden(layout, seed, twist=0.5):
    """A harm with interactions that no score knows: sums of amplitudes, squared."""
    draw = np.random.default_rng(seed)
    scale = dict(zip(layout.units, draw.uniform(0.2, 2.0, len(layout.units)), strict=True))
    sign = dict(zip(layout.units, draw.choice([-twist, twist], len(layout.units)), strict=True))

    def harm(bits):
        amplitude = {u: scale[u] * 2.0**-w for u, w in bits.items()}
        together = sum(sign[u] * amplitude[u] for u in bits)
        return sum(value**2 for value in amplitude.values()) + together**2

    return harm


def best_of(layout, widths, budget, harm):
    plans = (
        dict(zip(layout.units, row, strict=True))
        for row in np.array(widths)[every_plan(layout, widths)].tolist()
    )
    return min(harm(plan) for plan in plans if budget.holds(plan))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("start", [Knapsack(), Uniform()], ids=["knapsack", "uniform"])
def test_searches_come_near_to_brute_force(seed, start):
    """Scores say the wrong thing; the searches measure, and make up most of the difference."""
    layout = equal_layout()
    harm = hidden(layout, seed)
    wrong = Scores(dict.fromkeys(layout.units, 1.0), layout, "flat")
    budget = Budget(layout, WIDTHS, RTN(), "avg_bits", 3.0)
    best = best_of(layout, WIDTHS, budget, harm)
    before = harm(start(wrong, budget))
    found = {}
    for search in (Refine(start), Evolution(start, stages=())):
        objective = Made(harm, limit=500)
        bits = search(wrong, budget, objective)
        found[type(search)] = harm(bits)
        assert budget.holds(bits) and best <= harm(bits) * (1 + 1e-12) and harm(bits) <= before
    assert found[Evolution] <= best + 0.02 * (before - best)
    assert found[Refine] <= best + 0.5 * (before - best)


def test_refine_ends_where_no_step_helps():
    """At its end every single step and every exchange that fits was measured, or does no good."""
    layout = equal_layout(5)
    harm = hidden(layout, 3)
    flat = Scores(dict.fromkeys(layout.units, 1.0), layout, "flat")
    budget = Budget(layout, WIDTHS, RTN(), "avg_bits", 3.4)
    bits = Refine()(flat, budget, Made(harm))
    for up, down in itertools.permutations(layout.units, 2):
        other = {**bits, up: min(5, bits[up] + 1), down: max(2, bits[down] - 1)}
        assert not budget.holds(other) or harm(other) >= harm(bits)
    for up in layout.units:
        other = {**bits, up: min(5, bits[up] + 1)}
        assert not budget.holds(other) or harm(other) >= harm(bits)


@pytest.mark.parametrize("name", SEARCHES)
def test_a_search_stops_at_the_limit_with_the_best_that_fits(name):
    layout = layout_of(12, 1, 4)
    harm = hidden(layout, 5)
    found = random_costs(layout, WIDTHS, 2)
    budget = Budget(layout, WIDTHS, RTN(), "true_bits", 3.6)
    start = Knapsack()(found, budget)
    for limit in (0, 1, 7, 30):
        objective = Made(harm, limit=limit)
        bits = ALLOCATORS[name]()(found, budget, objective)
        assert budget.holds(bits) and objective.spent <= limit + 1
        fitting = [value for plan, value, _ in objective.log if budget.holds(plan)]
        assert harm(bits) <= min([harm(start), *fitting]) or limit > 7  # shares are no verdicts
        if limit == 0:
            assert bits == start
    with pytest.raises(lwq.InputError, match=f"{name} measures plans and needs an objective"):
        lwq.allocate(found, None, WIDTHS, RTN(), name, true_bits=3.6)


def test_stages_see_their_share_of_the_windows_and_pass_on_the_survivors():
    layout = equal_layout(12)
    objective = Made(hidden(layout, 1))
    flat = Scores(dict.fromkeys(layout.units, 1.0), layout, "flat")
    budget = Budget(layout, WIDTHS, RTN(), "avg_bits", 3.0)
    Evolution(Uniform(), offspring=8, stages=((4, 0.125), (2, 0.5)), generations=1)(
        flat, budget, objective
    )
    assert objective.shares == [1.0] + [0.125] * 8 + [0.5] * 4 + [1.0] * 2


def test_offspring_switch_levels_at_equal_size():
    layout = equal_layout(12)
    objective = Made(hidden(layout, 1))
    flat = Scores(dict.fromkeys(layout.units, 1.0), layout, "flat")
    budget = Budget(layout, WIDTHS, RTN(), "avg_bits", 3.0)
    Evolution(Uniform(), generations=5, stages=())(flat, budget, objective)
    assert len(objective.log) > 20
    assert {sum(bits.values()) for bits, *_ in objective.log} == {36}
    changed = [sum(w != 3 for w in bits.values()) for bits, *_ in objective.log[1:17]]
    assert max(changed) <= 6  # three switches, at most


@pytest.mark.parametrize("seed", range(4))
def test_iterate_finds_the_optimum_where_harms_add_up(seed):
    """Scores that are wrong, a harm that is a plain sum: one round of measuring corrects them."""
    layout = layout_of(6, 1, seed)
    true = random_costs(layout, (4, 3, 2), seed)
    harm = lambda bits: sum(true[u][w] for u, w in bits.items())  # noqa: E731
    flat = Scores(dict.fromkeys(layout.units, 1.0), layout, "flat")
    budget = Budget(layout, (4, 3, 2), RTN(), "true_bits", 3.6)
    best = best_of(layout, (4, 3, 2), budget, harm)
    start = harm(Knapsack()(flat, budget))
    bits = Iterate(rounds=6)(flat, budget, Made(harm))
    assert harm(bits) <= best + 0.3 * (start - best)
    exact = Iterate(rescore=lambda plan: true)(flat, budget, Made(harm))
    assert harm(exact) == pytest.approx(best)


def with_pairs(layout, widths, seed, low=-0.1, high=0.3):
    draw = np.random.default_rng(seed)
    pairs = {
        one: {other: float(draw.uniform(low, high)) for other in list(layout.units)[place + 1 :]}
        for place, one in enumerate(layout.units)
    }
    return replace(random_costs(layout, widths, seed), pairs=pairs)


def paired(found, bits):
    """The quadratic harm, pair by pair."""

    def amplitude(unit):
        low, high = (2.0 ** -pick(found[unit]) for pick in (min, max))
        return (2.0 ** -bits[unit] - high) / (low - high)

    return sum(found[u][w] for u, w in bits.items()) + sum(
        value * amplitude(one) * amplitude(other)
        for one, inner in found.pairs.items()
        for other, value in inner.items()
    )


@pytest.mark.parametrize("widths", [(4, 2), (5, 3, 2)])
@pytest.mark.parametrize("seed", range(8))
def test_the_program_with_pairs_is_that_of_brute_force(widths, seed):
    layout = layout_of(7, 1, seed)
    found = with_pairs(layout, widths, seed)
    budget = Budget(layout, widths, RTN(), "true_bits", 3.5)
    best = best_of(layout, widths, budget, lambda bits: paired(found, bits))
    bits = ImpQ()(found, budget)
    assert budget.holds(bits)
    assert paired(found, bits) <= best + 2e-4 * abs(best)


def test_pairs_decide_where_they_are_large():
    """Two pairs of equal units; the two of one pair hurt each other."""
    layout = equal_layout(4)
    units = list(layout.units)
    same = Costs(
        dict.fromkeys(units, {4: 0.0, 2: 1.0}), layout, "s", pairs={units[0]: {units[1]: 5.0}}
    )
    bits = lwq.allocate(same, None, (4, 2), RTN(), "impq", moved=None, avg_bits=3).bits
    assert sorted(bits[u] for u in units[:2]) != [2, 2]
    help_each_other = replace(same, pairs={units[2]: {units[3]: -1.5}})
    bits = lwq.allocate(help_each_other, None, (4, 2), RTN(), "impq", avg_bits=3).bits
    assert bits[units[2]] == bits[units[3]] == 2
    with pytest.raises(lwq.InputError, match="brings no pairs"):
        lwq.allocate(replace(same, pairs={}), None, (4, 2), RTN(), "impq", avg_bits=3)


def test_pairs_are_checked_and_survive_a_file(tmp_path):
    layout = equal_layout(3)
    found = with_pairs(layout, (4, 2), 0)
    found.save(tmp_path / "c.json")
    assert Costs.load(tmp_path / "c.json") == found
    first, second, _ = layout.units
    for pairs in ({first: {first: 1.0}}, {first: {"x": 1.0}}, {first: {second: float("nan")}}):
        with pytest.raises(lwq.InputError, match="two different units and a finite number"):
            replace(found, pairs=pairs)
    with pytest.raises(lwq.InputError, match="a pair stands twice"):
        replace(found, pairs={first: {second: 1.0}, second: {first: 1.0}})


def test_equal_loss_is_the_formula_of_baq():
    """harm = c · 4^-b with c in powers of 4: the formula gives whole bits, and equal losses."""
    layout = equal_layout(5)
    powers = [0, 1, 2, 3, 4]
    scores = Scores({u: 4.0**p for u, p in zip(layout.units, powers, strict=True)}, layout, "s")
    mean = 4.0
    bits = lwq.allocate(
        scores, None, (8, 7, 6, 5, 4, 3, 2), RTN(), "equal_loss", avg_bits=mean
    ).bits
    formula = [mean + 0.5 * np.log2(4.0**p / 4.0 ** np.mean(powers)) for p in powers]
    assert list(bits.values()) == formula
    assert len({scores[u] * 4.0**-w for u, w in bits.items()}) == 1


def test_equal_loss_makes_the_largest_loss_small():
    layout = layout_of(6, 1, 2)
    found = random_costs(layout, WIDTHS, 3)
    budget = Budget(layout, WIDTHS, RTN(), "true_bits", 3.4)
    worst = lambda bits: max(found[u][w] / layout.weights(u) for u, w in bits.items())  # noqa: E731
    bits = ALLOCATORS["equal_loss"]()(found, budget)
    assert worst(bits) == pytest.approx(best_of(layout, WIDTHS, budget, worst))


def test_edges_keep_both_ends_whatever_the_scores():
    layout = equal_layout(8)
    scores = Scores({u: float(-abs(i - 3.5) + 4) for i, u in enumerate(layout.units)}, layout, "s")
    bits = lwq.allocate(scores, None, (4, 2), RTN(), "edges", moved=4).bits
    assert [bits[u] for u in layout.units] == [4, 4, 2, 2, 2, 2, 4, 4]
    shapes = {f"l.{i}.{m}": {f"l.{i}.{m}": (64, 64)} for i in range(5) for m in "ab"}
    inner = Layout(
        "m",
        "0" * 16,
        "matrix",
        {"embed": {"embed": (64, 64)}, **shapes},
        {"": 0, **{f"l.{i}": 1 for i in range(5)}},
    )
    assert middle_first(inner)[:2] == ["l.2.a", "l.2.b"]
    assert middle_first(inner)[-5:] == ["embed", "l.0.a", "l.0.b", "l.4.a", "l.4.b"]


def test_lieq_uses_the_two_ends_of_the_widths():
    layout = equal_layout(8)
    scores = Scores({u: float(i) for i, u in enumerate(layout.units)}, layout, "s")
    bits = lwq.allocate(scores, None, (4, 3, 2), RTN(), "lieq", avg_bits=2.6).bits
    assert list(bits.values()) == [2] * 6 + [4] * 2  # ⌊0.3 · 8⌋
    one = lwq.allocate(scores, None, (4, 3, 2), RTN(), "lieq(protect=1)", avg_bits=2.6).bits
    assert list(one.values()) == [2] * 7 + [4]
    two = lwq.allocate(scores, None, (4, 2), RTN(), "topk", avg_bits=2.6).bits
    assert bits == two
    with pytest.raises(lwq.InputError, match="protect=-1"):
        lwq.allocate(scores, None, (4, 2), RTN(), "lieq(protect=-1)", avg_bits=3)


@pytest.mark.parametrize(
    "name",
    ["greedy", "lagrange", "equal_loss", "impq", *(name for name in SEARCHES if name != "look")],
)
def test_budgets_that_count_units_are_refused(name):
    layout = equal_layout(4)
    found = with_pairs(layout, (4, 2), 0)
    with pytest.raises(lwq.InputError, match=f"{name} spends bits or bytes, not moved=2"):
        ALLOCATORS[name]()(found, Budget(layout, (4, 2), RTN(), "moved", 2), Made(len))


@pytest.mark.parametrize("name", [n for n in ALLOCATORS if n not in ("uniform", "edges", "rates")])
def test_a_unit_made_important_is_kept_and_a_useless_one_is_not(name):
    layout = equal_layout(8)
    importance = dict.fromkeys(layout.units, 1.0) | {"blocks.3": 500.0, "blocks.5": 0.0}
    true = {u: {w: v * 4.0**-w for w in (4, 2)} for u, v in importance.items()}
    given = Scores(importance, layout, "s")
    if name == "impq":
        given = Costs(true, layout, "s", pairs={"blocks.0": {"blocks.1": 1e-9}})
    harm = lambda bits: sum(true[u][w] for u, w in bits.items())  # noqa: E731
    objective = Made(harm, 100) if ALLOCATORS[name]().searches else None
    bits = lwq.allocate(given, None, (4, 2), RTN(), name, avg_bits=3, objective=objective).bits
    assert bits["blocks.3"] == 4 and bits["blocks.5"] == 2
