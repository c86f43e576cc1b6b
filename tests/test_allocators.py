"""Every allocator in the dict against one battery; then a slow twin, and the numbers of the paper's
example.
"""

import json
from bisect import bisect_left
from dataclasses import replace

import numpy as np
import pytest
from objectives import Made

import lwq
from lwq.allocators import ALLOCATORS
from lwq.allocators.expected import costs
from lwq.contracts import Budget, Layout, Plan, Scores, Size, load_scores
from lwq.quantizers.masks import Magnitude
from lwq.quantizers.rtn import RTN

WIDTHS = {
    "uniform": (8, 4, 2),
    "topk": (4, 2),
    **dict.fromkeys(["levels", "rates", "edges", "lieq"], (8, 4, 3, 2)),
}
BY_RANK = {"topk", "levels", "rates", "lieq"}  # more important units never have fewer bits
CHEAP = {"refine": "refine(batch=2)", "evolution": "evolution(generations=3, offspring=4)"}


def widths_of(name):
    return WIDTHS.get(name, (8, 4, 3, 0))


def planned(name, made, **arguments):
    """A plan by an allocator with what it needs: pairs, or an objective."""
    given = made
    if name == "impq":
        units = list(made)
        harm = dict.fromkeys(units, {w: 4.0**-w for w in widths_of(name)})
        given = replace(costs(made, harm), pairs={units[0]: {units[1]: 0.1, units[-1]: -0.01}})
    if ALLOCATORS[name]().searches:
        bad = lambda bits: sum(made[u] * 4.0**-w for u, w in bits.items())  # noqa: E731
        arguments["objective"] = Made(bad, limit=60)
    return lwq.allocate(given, None, quantizer="rtn", allocator=CHEAP.get(name, name), **arguments)


def scores(blocks=12, sizes=None):
    sizes = sizes or [64] * blocks
    units = {f"b.{i}": {f"b.{i}.w": (sizes[i], 128)} for i in range(blocks)}
    layout = Layout(
        "m", "f" * 16, "block", units, {**{f"b.{i}": 8 for i in range(blocks)}, "": 1000}
    )
    return Scores({f"b.{i}": float((7 * i + 3) % blocks) for i in range(blocks)}, layout, "made")


@pytest.mark.parametrize("name", ALLOCATORS)
@pytest.mark.parametrize("share", [0.0, 0.13, 0.5, 0.77, 1.0])
@pytest.mark.parametrize("limit", ["avg_bits", "true_bits", "max_bytes"])
def test_keeps_the_budget(name, share, limit):
    made = scores(sizes=[64, 32, 96, 64, 128, 64, 64, 32, 32, 64, 256, 64])
    low, high = _range(made, widths_of(name), limit)
    amount = low + share * (high - low)
    plan = planned(name, made, bits=widths_of(name), **{limit: amount})
    assert plan.bits.keys() == made.keys()
    assert getattr(plan.size(RTN()), {"max_bytes": "total_bytes"}.get(limit, limit)) <= amount * (
        1 + 1e-9
    )
    again = planned(name, made, bits=widths_of(name), **{limit: amount})
    assert again == plan, "an allocator is a function of what it is given"
    if name in BY_RANK:
        order = made.order()
        assert all(plan.bits[a] <= plan.bits[b] for a, b in zip(order, order[1:], strict=False))


def _range(made, widths, limit):
    field = {"max_bytes": "total_bytes"}.get(limit, limit)
    return tuple(
        getattr(Size.of(made.layout, dict.fromkeys(made, w), RTN()), field)
        for w in (widths[-1], widths[0])
    )


@pytest.mark.parametrize("name", ALLOCATORS)
@pytest.mark.parametrize("limit", ["avg_bits", "true_bits", "max_bytes"])
def test_a_generous_limit_leaves_every_unit_at_the_high_width(name, limit):
    plan = planned(name, scores(), bits=widths_of(name), **{limit: 10**9})
    assert set(plan.bits.values()) == {widths_of(name)[0]}
    assert set(lwq.allocate(scores(), None, (4,), "rtn", avg_bits=4.5).bits.values()) == {4}


def slow_steps(order, widths, spread):
    """The way down as (unit, its next width), by the times in the docstring of `steps`."""
    moves = [
        (level + spread * rank / len(order), rank, level)
        for level in range(len(widths) - 1)
        for rank in range(len(order))
    ]
    return [(order[rank], widths[level + 1]) for _, rank, level in sorted(moves)]


def slow_descent(made, budget, spread):
    """As few steps as the budget asks for, by bisection over whole plans."""
    way = slow_steps(made.order(), budget.widths, spread)

    def after(count):
        return {**dict.fromkeys(made, budget.widths[0]), **dict(way[:count])}

    def enough(count):
        spent = budget.spent(after(count))
        return spent >= budget.amount if budget.limit == "moved" else budget.holds(after(count))

    return after(bisect_left(range(len(way) + 1), True, key=enough))


@pytest.mark.parametrize("limit", ["avg_bits", "true_bits", "max_bytes", "moved"])
@pytest.mark.parametrize("widths", [(8, 4, 3, 2), (4, 2), (16, 4, 0), (5, 3, 2)])
@pytest.mark.parametrize("seed", range(4))
def test_running_sums_equal_bisection_over_plans(limit, widths, seed):
    """Sizes, scores with ties and amounts by chance; blocks of one unit, so that 0 may be there."""
    draw = np.random.default_rng(seed)
    plain = scores(37, (32 * draw.integers(1, 9, 37)).tolist())
    made = Scores(dict(zip(plain, draw.integers(0, 12, 37) / 3, strict=True)), plain.layout, "made")
    name, spread = ("topk", 1.0) if len(widths) == 2 else ("levels", 1.0 + seed)
    low, high = Budget(made.layout, widths, RTN(), limit, 36 if limit == "moved" else 1e9).range()
    for share in (0.0, 0.1, 0.37, 0.5, 0.83, 1.0):
        amount = low + share * (high - low)
        budget = Budget(
            made.layout, widths, RTN(), limit, round(amount) if limit == "moved" else amount
        )
        chooser = ALLOCATORS[name]() if name == "topk" else ALLOCATORS[name](spread)
        assert chooser(made, budget) == slow_descent(made, budget, spread)


@pytest.mark.parametrize("spread", [1.0, 2.0, 3.5])
def test_running_sums_equal_walking_every_step(spread):
    made = scores()
    for amount in (2.0, 2.7, 3.3, 4.6, 6.1, 8.0):
        budget = Budget(made.layout, (8, 4, 3, 2), RTN(), "avg_bits", amount)
        bits = dict.fromkeys(made, 8)
        for unit, width in [(None, None), *slow_steps(made.order(), budget.widths, spread)]:
            if unit:
                bits[unit] = width
            if budget.holds(bits):
                break
        assert (
            lwq.allocate(
                made, None, (8, 4, 3, 2), "rtn", f"levels(spread={spread})", avg_bits=amount
            ).bits
            == bits
        )


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
    assert [
        u for u, b in lwq.allocate(flat, None, (4, 2), "rtn", moved=3).bits.items() if b == 2
    ] == ["b.0", "b.1", "b.2"]


def test_dropping_counts_nothing_and_drops_the_norms_too():
    made = scores()
    plan = lwq.allocate(made, None, (16, 0), "rtn", moved=12)
    assert plan.size(RTN()).total_bytes == 2000
    assert lwq.allocate(made, None, (16, 0), "rtn", moved=0).size(RTN()).model_bits == 16


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"avg_bits": 1.5}, "avg_bits=1.5 is out of reach.*2 to 4"),
        (
            {"true_bits": 2},
            r"true_bits=2 is out of reach: bits=\(4, 2\) span 2.28125 to 4.3125; "
            r"allow at least 2.28125",
        ),
        ({"avg_bits": "3"}, "avg_bits='3' is no number"),
        ({"avg_bits": float("nan")}, "out of reach"),
        ({"max_bytes": 95}, r"size=95 bytes is .*allow at least [\d.]+ kB; did you mean 95MB\?$"),
        ({"max_bytes": 1000}, r"size=1.00 kB is .*allow at least [\d.]+ kB$"),
        ({"max_bytes": 1000, "bits": (4, 3)}, "or offer fewer bits$"),
        ({"moved": 13}, "moved=13 is out of reach.*move 0 to 12 units"),
        ({"moved": 1.5}, "whole number"),
        ({}, "exactly one of .*size.*, not none"),
        ({"moved": 1, "avg_bits": 3}, "exactly one of.*, not moved and avg_bits"),
        ({"bits": (4, 9), "avg_bits": 5}, r"\[9\] out of range"),
        ({"bits": (4, 4), "avg_bits": 4}, "each width once"),
        ({"bits": (8, 4, 2), "allocator": "topk", "avg_bits": 4}, "takes two widths"),
        ({"allocator": "levels(spread=0.5)", "avg_bits": 3}, "levels: spread=0.5; it is at least"),
        ({"allocator": "edges(spread=-1)", "avg_bits": 3}, "edges: spread=-1; it is at least 1"),
        ({"allocator": "refine(batch=0)", "avg_bits": 3}, "batch=0; at least one step"),
        ({"allocator": "look(scales=(4.0, 0.0))", "avg_bits": 3}, "each is above 0"),
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
    with pytest.raises(
        lwq.InputError, match="another dtype counts as other weights .the same --dtype"
    ):
        lwq.allocate(made, lwq.load("toy", "bfloat16")[0], (4, 2), "rtn", moved=1)
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


FALLING = dict.fromkeys(scores(), {4: 0.1, 2: 1.0})
MADE = {
    "scores": scores(),
    "plan": lwq.allocate(scores(), None, moved=1),
    "costs": costs(scores(), FALLING),
}


@pytest.mark.parametrize(
    ("kind", "place", "value", "message"),
    [
        (
            "scores",
            ["layout"],
            None,
            r"scores lacks the fields \['layout'\]; correct the file or "
            r"make it again",
        ),
        ("scores", ["layout", "rest"], None, r"scores.layout lacks the fields \['rest'\]"),
        (
            "scores",
            ["note"],
            "mine",
            r"scores has the unknown fields \['note'\]; the known ones "
            r"are \['importance', 'layout'",
        ),
        (
            "scores",
            ["importance", "b.3"],
            "high",
            r"scores.importance\['b.3'\] is 'high'; a "
            r"number is needed",
        ),
        (
            "scores",
            ["importance", "b.3"],
            ...,
            r"scores.importance\['b.3'\] is None; a number is "
            r"needed",
        ),
        ("scores", ["importance", "b.3"], -1.0, "the score of b.3 is -1.0"),
        ("scores", ["importance"], [1.0], r"scores.importance is \[1.0\]; an object is needed"),
        (
            "scores",
            ["layout", "units", "b.3", "b.3.w"],
            [64],
            r"units\['b.3'\]\['b.3.w'\] is "
            r"\[64\]; a list of two is needed",
        ),
        ("plan", ["quantizer"], None, r"plan lacks the fields \['quantizer'\]"),
        ("plan", ["bits", "b.3"], "4", "b.3: an option of '4' bits"),
        ("plan", ["layout", "fingerprint"], 7, "plan.layout.fingerprint is 7; text is needed"),
    ],
)
def test_a_file_that_was_edited_is_refused_with_its_name_and_the_field(
    kind, place, value, message, tmp_path
):
    """None takes the field out; ... stands for null."""
    path = tmp_path / "edited.json"
    MADE[kind].save(path)
    content = json.loads(path.read_text())
    *outer, last = place
    inner = content
    for name in outer:
        inner = inner[name]
    inner[last] = None if value is ... else value
    if value is None:
        del inner[last]
    path.write_text(json.dumps(content))
    with pytest.raises(lwq.InputError, match=rf"edited.json: .*{message}"):
        Plan.load(path) if kind == "plan" else load_scores(path)


def test_scores_that_were_written_by_half_are_refused(tmp_path):
    path = tmp_path / "s.json"
    scores().save(path)
    whole = path.read_bytes()
    for damaged in (
        b"",
        whole[: len(whole) // 2],
        b"\0" * 90,
        b"\xff" + whole,
        b'{"lwq": "scores"}',
    ):
        path.write_bytes(damaged)
        with pytest.raises(lwq.InputError, match="s.json"):
            Scores.load(path)


def test_whole_widths_are_int_however_they_are_written(tmp_path, toy, windows):
    model, _ = toy
    made = lwq.score(model, "zd")
    plan = lwq.allocate(made, model, (4, 2), "gptq", avg_bits=3)
    floats = lwq.allocate(made, model, (4.0, np.int64(2)), "gptq", avg_bits=np.float64(3))
    assert floats == plan and floats.id == plan.id
    floats.save(tmp_path / "p.json")
    content = json.loads((tmp_path / "p.json").read_text())
    content["bits"] = {unit: float(width) for unit, width in content["bits"].items()}
    (tmp_path / "p.json").write_text(json.dumps(content))
    edited = Plan.load(tmp_path / "p.json")
    assert edited.id == plan.id and {type(width) for width in edited.bits.values()} == {int}
    lwq.quantize_(model, edited, windows)


def test_the_widths_of_a_mask_stay_as_it_has_them():
    """5.0 beside 5.16 keeps its id, and 9.0 is no whole number of bits."""
    made = scores()
    plan = lwq.allocate(made, None, (9, 5.16, 5), Magnitude(), avg_bits=5.5)
    assert {type(width) for width in plan.bits.values()} == {float}
    assert set(lwq.allocate(made, None, (9,), Magnitude(), moved=0).bits.values()) == {9.0}


def test_zero_bits_for_a_part_of_a_block_are_refused_when_the_plan_is_made(toy):
    made = lwq.score(toy[0], "random(granularity='matrix')")
    with pytest.raises(
        lwq.InputError, match="0 bits for a part of 'model.layers..'.*granularity='block'"
    ):
        lwq.allocate(made, toy[0], (4, 0), "rtn", "topk", avg_bits=3.5)
    plan = lwq.allocate(made, toy[0], (4, 0), "rtn", "knapsack", avg_bits=3)
    lwq.quantize_(toy[0], plan)


def test_a_plan_checks_itself():
    layout = scores().layout
    with pytest.raises(lwq.InputError, match="one width for each unit"):
        Plan({"b.0": 4}, layout, "rtn()")
    with pytest.raises(lwq.InputError, match="an option of 9 bits"):
        Plan(dict.fromkeys(layout.units, 9), layout, "rtn()")
