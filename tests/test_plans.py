"""The plans of the studies: sizes that are equal, and who moves where."""

from dataclasses import replace
from functools import partial

import pytest

import lwq
from lwq import models
from lwq.contracts import Layout, Scores, Size
from lwq.engine.bank import Bank
from lwq.engine.sweep import Sweep
from lwq.quantizers.gptq import GPTQ
from lwq.quantizers.owq import OWQ
from lwq.quantizers.rtn import RTN
from lwq.studies import candidates


@pytest.fixture
def scores():
    model, _ = lwq.load("toy-8")
    layout = models.layout(model)
    return Scores(
        {unit: float((5 * i + 2) % 8) for i, unit in enumerate(layout.units)}, layout, "made"
    )


def bytes_of(candidate, quantizer):
    return Size.of(candidate.plan.layout, candidate.plan.bits, quantizer).plan_bytes


def test_a_toy_has_as_many_blocks_as_its_name_says():
    assert (
        len(models.blocks(lwq.load("toy-8")[0])) == 8
        and len(models.blocks(lwq.load("toy")[0])) == 4
    )


def test_a_curve_moves_the_least_important_and_meets_nominal_sizes(scores):
    made = list(candidates.curve({"a": scores}, RTN(), 4, 2, [0, 3, 8], [2.85, 9.0]))
    assert [candidate.moved for candidate in made] == [0, 3, 5, 8]
    for candidate in made:
        low = {unit for unit, width in candidate.plan.bits.items() if width == 2}
        assert low == set(scores.order()[: candidate.moved])
    assert Size.of(scores.layout, made[2].plan.bits, RTN()).avg_bits <= 2.85


def test_orderings_of_units_of_several_sizes_share_their_points():
    shapes = {f"b{i}": {f"b{i}.w": (64 * (3 if i < 3 else 1), 64)} for i in range(8)}
    layout = Layout("m", "0" * 16, "block", shapes, {"": 0})
    first, last = (
        Scores({unit: float(sign * i + 7) for i, unit in enumerate(shapes)}, layout, "made")
        for sign in (1, -1)
    )
    made = list(candidates.curve({"a": first, "b": last}, RTN(), 4, 2, [0, 4, 8], [2.85]))
    moved = {label: [c.moved for c in made if c.ordering == label] for label in "ab"}
    assert moved["a"] == moved["b"] and set(moved["a"]) > {0, 4, 8}


def test_ends_hold_every_width_between(scores):
    made = list(candidates.ends(scores.layout, RTN(), 4, 2))
    assert [(c.ordering, set(c.plan.bits.values()), c.moved) for c in made] == [
        ("original", {16}, 0), ("uniform", {2}, 8), ("uniform", {3}, 8), ("uniform", {4}, 0),
    ]  # fmt: skip
    pruned = list(candidates.ends(scores.layout, OWQ(), 16, 0))
    assert all(isinstance(width, int) for c in pruned for width in c.plan.bits.values())
    assert {next(iter(c.plan.bits.values())) for c in pruned} == {16, 0, 2, 3, 4, 5, 6, 7, 8}


def test_the_same_size_is_never_larger_and_off_by_less_than_a_block(scores):
    for dropped in (1, 2, 4):
        (drop,) = candidates.drops({"a": scores}, GPTQ(), [dropped])
        size = 16 * (1 - dropped / 8)
        assert bytes_of(drop, GPTQ()) == size * scores.layout.total / 8
        (made,) = candidates.same_size({"a": scores}, GPTQ(), 16, 4, [size])
        assert (
            bytes_of(made, GPTQ())
            <= bytes_of(drop, GPTQ())
            < bytes_of(made, GPTQ()) + 2 * scores.layout.total / 8
        )
    assert not list(candidates.same_size({"a": scores}, GPTQ(), 16, 8, [4.0])), (
        "8 bits cannot weigh 4"
    )


def test_swaps_keep_the_bytes(scores):
    plain = next(candidates.uniform(scores.layout, GPTQ(), [3]))
    for candidate in candidates.swaps({"a": scores}, GPTQ(), 3, [1, 4]):
        assert bytes_of(candidate, GPTQ()) == bytes_of(plain, GPTQ())
        assert {u for u, b in candidate.plan.bits.items() if b == 2} == set(
            scores.order()[: candidate.moved]
        )
        assert {u for u, b in candidate.plan.bits.items() if b == 4} == set(
            scores.order()[-candidate.moved :]
        )
    with pytest.raises(
        lwq.InputError, match="5 units up and 5 down need 10 units; the model has 8"
    ):
        list(candidates.swaps({"a": scores}, GPTQ(), 3, [5]))


def test_outlier_budgets_are_shared_by_the_more_important_half(scores):
    bare = candidates.without_outliers("owq")
    (plain,) = candidates.uniform(scores.layout, bare, [3.4], "plain")
    (candidate,) = candidates.outlier_budgets({"a": scores}, bare, 3, 0.4)
    rich = {unit for unit, width in candidate.plan.bits.items() if width == 3.8}
    assert rich == set(scores.order()[4:]) and candidate.high == candidate.low == plain.high == 3
    assert all(isinstance(value, int) for value in (candidate.high, plain.high, plain.low))
    with pytest.raises(lwq.InputError, match="extra=0.5: 4 of 8 units would spend 1 bits"):
        list(candidates.outlier_budgets({"a": scores}, bare, 3, 0.5))


def test_chosen_takes_all_random_orders(scores):
    names = ["lim", "zd", "random(seed=0)", "random(seed=1)"]
    orders = {name: replace(scores, scorer=name) for name in names}
    assert list(candidates.chosen(orders, ["zd", "random"])) == [
        "zd",
        "random(seed=0)",
        "random(seed=1)",
    ]


def test_runs_pair_each_score_with_its_count(scores):
    made = list(
        candidates.runs(
            {"angular(run=1)": scores, "angular(run=2)": scores}, RTN(), [1, 2], "angular"
        )
    )
    assert [(c.ordering, c.moved) for c in made] == [("angular", 1), ("angular", 2)]


def edited(plan, **changes):
    """The plan with its layout edited, as somebody might in its file."""
    return replace(plan, layout=replace(plan.layout, **changes))


def taller(units):
    return {
        unit: {name: (shape[0] + 64, shape[1]) for name, shape in shapes.items()}
        for unit, shapes in units.items()
    }


def swapped(units):
    """The first matrix of each of the first two units, in the other's place."""
    (one, two), found = list(units)[:2], {unit: dict(shapes) for unit, shapes in units.items()}
    a, b = next(iter(found[one])), next(iter(found[two]))
    found[one][b], found[two][a] = found[two].pop(b), found[one].pop(a)
    return found


def renamed(units):
    return {unit: {f"{name}_x": s for name, s in shapes.items()} for unit, shapes in units.items()}


@pytest.mark.parametrize("granularity", ["block", "matrix"])
@pytest.mark.parametrize("change", [taller, swapped, renamed])
def test_a_plan_with_other_matrices_than_the_model_is_refused(change, granularity, toy, judge):
    model = toy[0]
    layout = models.layout(model, granularity)
    plan = lwq.Plan(dict.fromkeys(layout.units, 4), layout, "rtn()")
    wrong = edited(plan, units=change(layout.units))
    bank = Bank(model, RTN())
    for use in (
        partial(lwq.quantize_, model),
        bank.apply_,
        lambda p: list(Sweep(model, judge, bank).measure([p])),
    ):
        with pytest.raises(lwq.InputError, match="does not fit .* has the matrices"):
            use(wrong)
    assert models.fingerprint(model) == layout.fingerprint


def test_a_plan_with_other_counts_beside_its_units_is_refused(toy):
    layout = models.layout(toy[0])
    plan = lwq.Plan(dict.fromkeys(layout.units, 4), layout, "rtn()")
    wrong = edited(plan, rest={**layout.rest, "": 7})
    with pytest.raises(lwq.InputError, match="outside blocks: 7 and "):
        lwq.quantize_(toy[0], wrong)
