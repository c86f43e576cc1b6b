"""The knapsack against brute force, and its price on large ones."""

import ctypes
import itertools
import os
import time
from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import LinearConstraint

import lwq
from lwq import models
from lwq.allocators import ALLOCATORS, knapsack
from lwq.allocators.expected import costs
from lwq.allocators.greedy import Greedy
from lwq.allocators.knapsack import Knapsack, branched, optimum
from lwq.allocators.lagrange import Lagrange
from lwq.allocators.table import table_of
from lwq.contracts import Budget, Costs, Layout, Scores, Size, load_scores, matrix_bytes
from lwq.engine.bank import Bank
from lwq.engine.costs import measured_costs
from lwq.quantizers.rtn import RTN

WIDTHS = (8, 4, 3, 0)


def layout_of(units, per_block=1, seed=0):
    draw = np.random.default_rng(seed)
    shapes = [(int(draw.integers(1, 4)) * 32, 64) for _ in range(units)]
    names = [
        f"blocks.{i // per_block}.m{i % per_block}" if per_block > 1 else f"blocks.{i}"
        for i in range(units)
    ]
    rest = {"": 500, **{f"blocks.{i}": 70 + i for i in range(-(-units // per_block))}}
    return Layout(
        "m", "0" * 16, "block", {n: {f"{n}.w": s} for n, s in zip(names, shapes, strict=True)}, rest
    )


def random_costs(layout, widths=WIDTHS, seed=0):
    draw = np.random.default_rng(seed)
    return Costs(
        {
            u: dict(zip(widths, np.sort(draw.random(len(widths)) ** 3).tolist(), strict=True))
            for u in layout.units
        },
        layout,
        "s",
    )


def brute_force(found, budget):
    best = np.inf
    for widths in itertools.product(budget.widths, repeat=len(found)):
        bits = dict(zip(found, widths, strict=True))
        blocks = {}
        for unit, width in bits.items():
            blocks.setdefault(budget.layout.block_of(unit), set()).add(width == 0)
        if all(len(kinds) == 1 for kinds in blocks.values()) and budget.holds(bits):
            best = min(best, sum(found[u][w] for u, w in bits.items()))
    return best


@pytest.mark.parametrize("per_block", [1, 3])
@pytest.mark.parametrize(
    ("limit", "share"), [("avg_bits", 0.5), ("true_bits", 0.4), ("max_bytes", 0.6), ("moved", 0.5)]
)
@pytest.mark.parametrize("seed", range(3))
def test_the_optimum_is_that_of_brute_force(limit, share, per_block, seed):
    layout = layout_of(6, per_block, seed)
    found = random_costs(layout, seed=seed)
    low, high = (
        Budget(layout, WIDTHS, RTN(), "moved", 0).range()
        if limit == "moved"
        else ends(layout, limit)
    )
    amount = (
        round(low + share * (high - low))
        if limit in ("moved", "max_bytes")
        else low + share * (high - low)
    )
    if limit == "moved" and per_block > 1:
        return  # whole blocks of three cannot move any number of units
    budget = Budget(layout, WIDTHS, RTN(), limit, amount)
    plan = lwq.allocate(found, None, WIDTHS, RTN(), "knapsack", **{limit: amount})
    assert sum(found[u][w] for u, w in plan.bits.items()) == pytest.approx(
        brute_force(found, budget), abs=1e-9
    )


def ends(layout, limit):
    sizes = [
        Size.of(layout, dict.fromkeys(layout.units, width), RTN())
        for width in (WIDTHS[-1], WIDTHS[0])
    ]
    return [getattr(size, {"max_bytes": "total_bytes"}.get(limit, limit)) for size in sizes]


@pytest.mark.parametrize("per_block", [1, 7])
def test_a_price_is_nearly_as_good(per_block):
    layout = layout_of(140, per_block)
    found = random_costs(layout)
    budget = Budget(layout, WIDTHS, RTN(), "true_bits", 3.7)
    exact, priced = Knapsack()(found, budget), Lagrange()(found, budget)
    harms = [sum(found[u][w] for u, w in bits.items()) for bits in (exact, priced)]
    assert budget.holds(priced) and harms[0] <= harms[1] + 1e-12
    assert harms[1] - harms[0] <= per_block * max(found[u][0] for u in found)
    assert harms[1] < 1.05 * harms[0]


def every_plan(layout, widths):
    """Columns of all plans that drop blocks whole, (plans, units)."""
    columns = np.array(list(itertools.product(range(len(widths)), repeat=len(layout.units))))
    blocks = [layout.block_of(unit) for unit in layout.units]
    for block in set(blocks) if widths[-1] == 0 else ():
        gone = columns[:, [home == block for home in blocks]] == len(widths) - 1
        columns = columns[gone.all(1) == gone.any(1)]
    return columns


def bytes_of(layout, widths, columns):
    """Stored bytes of every plan, rests of dropped blocks left out."""
    total = np.full(len(columns), 2 * sum(layout.rest.values()))
    for place, matrices in enumerate(layout.units.values()):
        sizes = [sum(matrix_bytes(s, w, RTN()) for s in matrices.values()) for w in widths]
        total += np.array(sizes)[columns[:, place]]
    blocks = [layout.block_of(unit) for unit in layout.units]
    for block in set(blocks) if widths[-1] == 0 else ():
        inside = [home == block for home in blocks]
        gone = (columns[:, inside] == len(widths) - 1).all(1)
        total -= gone * 2 * layout.rest.get(block, 0)
    return total


@pytest.mark.parametrize("seed", range(200))
def test_two_hundred_small_instances_against_brute_force(seed):
    """Units of 1 to 3 a block, with and without 0, byte budgets everywhere in reach."""
    draw = np.random.default_rng(seed)
    widths = [(8, 4, 3, 0), (5, 4, 3, 2), (8, 6, 4), (16, 4, 2, 0)][seed % 4]
    layout = layout_of(6, 1 + seed % 3, seed)
    found = random_costs(layout, widths, seed)
    columns = every_plan(layout, widths)
    size = bytes_of(layout, widths, columns)
    budget = Budget(layout, widths, RTN(), "max_bytes", int(draw.integers(size.min(), size.max())))
    harm = np.array([[found[u][w] for w in widths] for u in layout.units])
    total = harm[np.arange(len(harm)), columns].sum(1)
    best = total[size <= budget.amount].min()
    for chooser, above in ((Knapsack(), 1e-9), (Lagrange(), 1e-3), (Greedy(), np.inf)):
        bits = chooser(found, budget)
        assert budget.holds(bits)
        assert best - 1e-9 <= sum(found[u][w] for u, w in bits.items()) <= best * (1 + above)


@pytest.mark.parametrize("per_block", [1, 4])
@pytest.mark.parametrize("seed", range(4))
def test_the_core_has_the_optimum_of_the_whole_program(seed, per_block):
    """120 units, where HiGHS can still solve all of it at once."""
    layout = layout_of(120, per_block, seed)
    found = random_costs(layout, (8, 4, 3, 2, 0), seed)
    budget = Budget(layout, (8, 4, 3, 2, 0), RTN(), "true_bits", 2.0 + seed)
    table = table_of(found, budget)
    everything = np.isfinite(table.harm)
    whole = optimum(table, everything, table.safest(), table.loss(table.safest()) or 1.0)
    bits = Knapsack()(found, budget)
    assert budget.holds(bits)
    assert sum(found[u][w] for u, w in bits.items()) <= table.loss(whole) * (1 + 1e-6)


@pytest.mark.parametrize("name", ["topk", "levels", "edges", "lagrange", "knapsack"])
def test_twenty_thousand_units_take_a_moment(name):
    """A fifth of the size that must take 1 s (by rank) and 5 s (by harm), with time to spare for a
    busy machine.
    """
    widths = {"topk": (4, 2)}.get(name, (8, 7, 6, 5, 4, 3, 2, 0))
    layout = layout_of(20_000)
    found = random_costs(layout, widths)
    budget = Budget(layout, widths, RTN(), "true_bits", 3.0)
    start = time.process_time()
    bits = ALLOCATORS[name]()(found, budget)
    assert time.process_time() - start < (1 if name in ("topk", "levels", "edges") else 3)
    assert 2.999 < budget.spent(bits) <= 3.0


def test_units_that_are_all_the_same_take_no_longer():
    units = {f"blocks.{i}": {f"blocks.{i}.w": (64, 64)} for i in range(5000)}
    layout = Layout("m", "0" * 16, "block", units, {"": 500})
    found = Costs(dict.fromkeys(units, {8: 0.1, 4: 0.5, 2: 1.0}), layout, "s")
    start = time.process_time()
    bits = Knapsack()(found, Budget(layout, (8, 4, 2), RTN(), "avg_bits", 5.0))
    assert time.process_time() - start < 3
    # all at 4 bits first (0.25 a bit), then a quarter of them at 8 (0.1 a bit)
    assert sum(found[u][w] for u, w in bits.items()) == pytest.approx(5000 * 0.4)


def test_more_room_never_hurts():
    layout = layout_of(12)
    found = random_costs(layout)
    harms = []
    for amount in np.linspace(0.5, 8.0, 9):
        bits = lwq.allocate(found, None, WIDTHS, RTN(), "knapsack", avg_bits=amount).bits
        harms.append(sum(found[u][w] for u, w in bits.items()))
    assert harms == sorted(harms, reverse=True)


def test_scores_become_costs():
    layout = layout_of(4)
    scores = Scores(dict(zip(layout.units, [3.0, 1.0, 2.0, 5.0], strict=True)), layout, "s")
    same = Layout(
        "m", "0" * 16, "block", {u: {f"{u}.w": (32, 64)} for u in layout.units}, layout.rest
    )
    plan = lwq.allocate(
        Scores(scores.importance, same, "s"), None, (4, 3, 2), RTN(), "knapsack", avg_bits=3
    )
    assert [plan.bits[u] for u in scores.order()] == sorted(plan.bits.values())
    assert costs(scores, dict.fromkeys(layout.units, {4: 0.1, 2: 1.0}))["blocks.3"] == {
        4: 0.5,
        2: 5.0,
    }
    with pytest.raises(lwq.InputError, match="lack the widths"):
        lwq.allocate(random_costs(layout, (8, 4)), None, (8, 3), RTN(), avg_bits=4)
    named = replace(random_costs(layout, (8, 4)), scorer="fisher_kl(quantizer='hqq', windows=8)")
    assert lwq.allocate(named, avg_bits=5).quantizer.startswith("hqq(")
    foreign = replace(named, scorer="at_option(quantizer='theirs.py:Mine')")
    with pytest.raises(lwq.InputError, match="theirs.py"):  # named by a file: its code is not run
        lwq.allocate(foreign, avg_bits=5)
    assert lwq.allocate(named, quantizer="rtn", avg_bits=5).quantizer.startswith("rtn(")
    assert replace(named, scorer="at_option(quantizer=\"gptq(inputs='full')\")").quantizer == (
        "gptq(inputs='full')"
    )


def test_measured_costs_are_those_of_plain_plans(toy, judge, tmp_path):
    model, _ = toy
    layout = models.layout(model)
    truth = lwq.reference(model, judge)
    sweep = lwq.Sweep(model, judge, Bank(model, RTN()), truth)
    found = measured_costs(sweep, [16, 4, 2, 0], data="d")
    unit = list(layout.units)[1]
    slow = {}
    for width in (16, 4, 2, 0):
        fresh, _ = lwq.load("toy")
        lwq.quantize_(
            fresh, lwq.Plan({**dict.fromkeys(layout.units, 16), unit: width}, layout, "rtn()")
        )
        slow[width] = lwq.evaluate(fresh, judge, truth).mean_kl
    assert list(found[unit].values()) == pytest.approx(
        np.maximum.accumulate([slow[w] for w in (16, 4, 2, 0)]).tolist()
    )
    found.save(tmp_path / "costs.json")
    assert dict(load_scores(tmp_path / "costs.json")) == dict(found)


def test_costs_that_rise_with_bits_are_refused():
    layout = layout_of(1)
    with pytest.raises(lwq.InputError, match="never increase with bits"):
        Costs({"blocks.0": {2: 0.1, 4: 0.2}}, layout, "s")
    with pytest.raises(lwq.InputError, match="missing or unknown"):
        Costs({}, layout, "s")


def test_what_the_solver_prints_stays_inside(monkeypatch, capfd):
    """Lines of C code, in C's own buffer, for no reader; what is said before and after is."""

    def talking(cost, **settings):
        ctypes.CDLL(None).puts(b"for the makers")
        os.write(1, b"straight to the file\n")
        return found

    found, limits = object(), [LinearConstraint(np.ones((1, 2)), 1, 1)]
    monkeypatch.setattr(knapsack, "milp", talking)
    print("before")
    assert branched(np.ones(2), np.ones(2), limits) is found
    print("after")
    ctypes.CDLL(None).fflush(None)  # else what is left there comes after all
    assert capfd.readouterr().out == "before\nafter\n"
