"""Every allocator in the dict against one battery; then a slow twin, and the numbers of the paper's example."""

import pytest

import lwq
from lwq.allocators import ALLOCATORS
from lwq.allocators.ranked import steps
from lwq.contracts import Budget, Layout, Plan, Scores, Size
from lwq.quantizers.rtn import RTN

WIDTHS = {"uniform": (8, 4, 2), "topk": (4, 2), "levels": (8, 4, 3, 2), "rates": (8, 4, 3, 2), "knapsack": (8, 4, 3, 0)}


def scores(blocks=12, sizes=None):
    sizes = sizes or [64] * blocks
    units = {f"b.{i}": {f"b.{i}.w": (sizes[i], 128)} for i in range(blocks)}
    layout = Layout("m", "f" * 16, "block", units, {**{f"b.{i}": 8 for i in range(blocks)}, "": 1000})
    return Scores({f"b.{i}": float((7 * i + 3) % blocks) for i in range(blocks)}, layout, "made")


@pytest.mark.parametrize("name", ALLOCATORS)
@pytest.mark.parametrize("share", [0.0, 0.13, 0.5, 0.77, 1.0])
@pytest.mark.parametrize("limit", ["avg_bits", "true_bits", "max_bytes"])
def test_keeps_the_budget(name, share, limit):
    made = scores(sizes=[64, 32, 96, 64, 128, 64, 64, 32, 32, 64, 256, 64])
    low, high = _range(made, WIDTHS[name], limit)
    amount = low + share * (high - low)
    plan = lwq.allocate(made, None, WIDTHS[name], "rtn", name, **{limit: amount})
    assert plan.bits.keys() == made.keys()
    assert getattr(plan.size(RTN()), {"max_bytes": "total_bytes"}.get(limit, limit)) <= amount * (1 + 1e-9)
    if name not in ("uniform", "knapsack"):  # one step less would break the budget, so nothing is wasted beyond one unit
        order = made.order()
        assert all(plan.bits[a] <= plan.bits[b] for a, b in zip(order, order[1:], strict=False))


def _range(made, widths, limit):
    field = {"max_bytes": "total_bytes"}.get(limit, limit)
    return tuple(getattr(Size.of(made.layout, dict.fromkeys(made, w), RTN()), field) for w in (widths[-1], widths[0]))


@pytest.mark.parametrize("spread", [1.0, 2.0, 3.5])
def test_bisection_equals_walking_every_step(spread):
    made = scores()
    for amount in (2.0, 2.7, 3.3, 4.6, 6.1, 8.0):
        budget = Budget(made.layout, (8, 4, 3, 2), RTN(), "avg_bits", amount)
        bits = dict.fromkeys(made, 8)
        for unit, width in [(None, None), *steps(made.order(), budget.widths, spread)]:
            if unit:
                bits[unit] = width
            if budget.holds(bits):
                break
        assert lwq.allocate(made, None, (8, 4, 3, 2), "rtn", f"levels(spread={spread})", avg_bits=amount).bits == bits


def test_the_paper_s_example():
    """40 equal layers, 30 at 4 bits and 10 at 2 bits: 3.5 average bits."""
    made = scores(blocks=40)
    plan = lwq.allocate(made, None, (4, 2), "rtn", avg_bits=3.5)
    assert sorted(plan.bits.values()) == [2] * 10 + [4] * 30
    assert {u for u, b in plan.bits.items() if b == 2} == set(made.order()[:10])
    size = plan.size(RTN())
    assert size.avg_bits == size.layer_bits == 3.5 < size.true_bits < size.model_bits


@pytest.mark.parametrize("moved", [0, 1, 7, 12])
def test_moved_is_exact(moved):
    plan = lwq.allocate(scores(), None, (4, 2), "rtn", moved=moved)
    assert sum(b == 2 for b in plan.bits.values()) == moved


def test_spread_one_empties_a_level_first():
    bits = lwq.allocate(scores(), None, (8, 4, 2), "rtn", "levels(spread=1.0)", avg_bits=4.5).bits
    assert sorted(set(bits.values())) == [4, 8]
    bits = lwq.allocate(scores(), None, (8, 4, 2), "rtn", "levels", avg_bits=4.5).bits
    assert sorted(set(bits.values())) == [2, 4, 8]


def test_ties_keep_the_order_of_the_forward_pass():
    made = scores()
    flat = Scores(dict.fromkeys(made, 1.0), made.layout, "flat")
    assert [u for u, b in lwq.allocate(flat, None, (4, 2), "rtn", moved=3).bits.items() if b == 2] == ["b.0", "b.1", "b.2"]


def test_dropping_counts_nothing_and_drops_the_norms_too():
    made = scores()
    plan = lwq.allocate(made, None, (16, 0), "rtn", moved=12)
    assert plan.size(RTN()).total_bytes == 2000
    assert lwq.allocate(made, None, (16, 0), "rtn", moved=0).size(RTN()).model_bits == 16


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"avg_bits": 1.5}, "avg_bits=1.5 is out of reach.*2 to 4"),
        ({"true_bits": 9}, r"true_bits=9 is out of reach: bits=\(4, 2\) span 2.28125 to 4.3125"),
        ({"avg_bits": float("nan")}, "out of reach"),
        ({"max_bytes": 10}, "max_bytes=10 is out of reach"),
        ({"moved": 13}, "moved=13 is out of reach"),
        ({"moved": 1.5}, "whole number"),
        ({}, "exactly one of"),
        ({"moved": 1, "avg_bits": 3}, "exactly one of"),
        ({"bits": (4, 9), "avg_bits": 5}, r"\[9\] out of range"),
        ({"bits": (4, 4), "avg_bits": 4}, "each width once"),
        ({"bits": (8, 4, 2), "allocator": "topk", "avg_bits": 4}, "takes two widths"),
        ({"allocator": "levels(spread=0.5)", "avg_bits": 3}, "at least 1"),
        ({"allocator": "knapsak", "avg_bits": 3}, "unknown allocator"),
        ({"allocator": "uniform", "moved": 3}, "no single width"),
        ({"quantizer": "rtn(group_size=48)", "avg_bits": 3}, "group_size=48 does not divide 128"),
    ],
)
def test_impossible_budgets_say_what_is_possible(arguments, message):
    with pytest.raises(lwq.InputError, match=message):
        lwq.allocate(scores(), None, **{"bits": (4, 2), "quantizer": "rtn", **arguments})


def test_scores_and_plans_survive_json_and_refuse_others(tmp_path, toy, windows):
    made = lwq.score(toy[0], "lim", windows, data="toy")
    made.save(tmp_path / "s.json")
    assert Scores.load(tmp_path / "s.json") == made
    plan = lwq.allocate(made, toy[0], (4, 2), "gptq", avg_bits=3.2)
    plan.save(tmp_path / "p.json")
    assert Plan.load(tmp_path / "p.json") == plan and Plan.load(tmp_path / "p.json").id == plan.id
    with pytest.raises(lwq.InputError, match="does not hold an lwq plan"):
        Plan.load(tmp_path / "s.json")
    with pytest.raises(lwq.InputError, match="does not fit 'toy'"):
        lwq.allocate(scores(), toy[0], (4, 2), "rtn", moved=1)
    toy[0].model.layers[0].mlp.up_proj.weight[0, 0] += 1
    with pytest.raises(lwq.InputError, match="made for other weights of 'toy'"):
        lwq.allocate(made, toy[0], (4, 2), "rtn", moved=1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"lwq": "plan", "lwq": "plan"}', "stands twice"),
        ("{", "is not JSON"),
        ("[]", "does not hold an lwq plan"),
    ],
)
def test_damaged_files_are_refused(content, message, tmp_path):
    (tmp_path / "p.json").write_text(content)
    with pytest.raises(lwq.InputError, match=message):
        Plan.load(tmp_path / "p.json")
    with pytest.raises(lwq.InputError, match="cannot read plan"):
        Plan.load(tmp_path / "missing.json")


def test_a_plan_checks_itself():
    layout = scores().layout
    with pytest.raises(lwq.InputError, match="one width for each unit"):
        Plan({"b.0": 4}, layout, "rtn()")
    with pytest.raises(lwq.InputError, match="a width of 9 bits"):
        Plan(dict.fromkeys(layout.units, 9), layout, "rtn()")
