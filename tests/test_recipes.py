"""The default recipe, and the test by which it keeps a mixed plan or gives it up.

pytest tests/test_recipes.py
"""

from dataclasses import dataclass

import architectures
import numpy as np
import pytest
from objectives import Made

import lwq
from lwq.allocators.look import Look
from lwq.contracts import Plan
from lwq.contracts.methods import Allocator
from lwq.engine.objective import Later
from lwq.exporters import targets
from lwq.inputs.texts import WindowSpec
from lwq.recipes.guard import uniform_plan
from lwq.recipes.outlook import Work
from lwq.recipes.recommend import Recipe, looked
from lwq.recipes.sequential import Sequential


def runs(draw, count=400, windows=64):
    """Share of runs in which the test ever decides, looking after every window."""
    decided = 0
    for _ in range(count):
        test = Sequential()
        for difference in draw(windows):
            test.add([difference])
            if test.decided:
                decided += 1
                break
    return decided / count


@pytest.mark.parametrize("spread", [1e-4, 0.01, 3.0])
@pytest.mark.parametrize("kind", ["normal", "standard_cauchy", "laplace"])
def test_equal_plans_are_told_apart_in_at_most_one_of_twenty_runs(kind, spread):
    random = np.random.default_rng(7)
    assert runs(lambda n: getattr(random, kind)(size=n) * spread) <= 0.05


def test_shuffled_halves_of_real_windows_are_told_apart_in_at_most_one_of_twenty_runs():
    """A/A data: losses of one plan on pairs of windows, which is the better half by lot."""
    import pandas as pd

    from lwq.common import paths

    table = pd.read_parquet(paths.RESULTS / "windows.parquet", columns=["id", "kl"]).dropna()
    losses = table.groupby("id")["kl"].apply(np.asarray)
    random = np.random.default_rng(3)

    def draw(_):
        values = random.permutation(losses.iloc[random.integers(len(losses))])
        half = len(values) // 2
        return values[:half] - values[half : 2 * half]

    assert runs(draw) <= 0.05


@pytest.mark.parametrize("spread", [1e-4, 0.01, 3.0])
def test_a_plan_that_is_better_by_two_spreads_is_found_within_forty_windows(spread):
    random = np.random.default_rng(5)
    assert runs(lambda n: random.normal(-2 * spread, spread, n), 100, 40) > 0.95


def test_evidence_is_the_mixture_of_what_each_lambda_gives():
    """The closed form against a sum over λ ~ N(0, ρ²)."""
    from lwq.recipes.sequential import SCALES

    found = np.array([0.2, -0.05, 0.3, 0.1])
    test = Sequential()
    test.add(found)
    total, squares = found.sum(), np.square(found).sum()
    means = []
    for scale in SCALES:  # z = λ / ρ; the grid is as narrow as what is integrated
        spread = 1 + squares / scale**2
        z = total / scale / spread + np.linspace(-9, 9, 2001) / np.sqrt(spread)
        density = np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
        grown = np.exp(z / scale * total - (z / scale) ** 2 * squares / 2)
        means.append(np.trapezoid(density * grown, z))
    assert np.exp(test.log_evidence) == pytest.approx(np.mean(means), rel=1e-9)


def costs(layout):
    return lwq.Costs({unit: {4: 1.0, 3: 4.0, 2: 16.0} for unit in layout.units}, layout, "made up")


def test_the_uniform_plan_is_the_best_that_fits_with_its_own_width_outside(toy):
    layout = lwq.models.layout(toy[0], "block", outside=True)
    packer = lwq.QUANTIZERS["rtn"]()
    whole = {b: lwq.Size.of(layout, dict.fromkeys(layout.units, b), packer) for b in (4, 3, 2)}
    for width in (4, 3, 2):
        budget = lwq.Budget(layout, (4, 3, 2), packer, "max_bytes", whole[width].total_bytes)
        found = uniform_plan(costs(layout), budget)
        assert budget.holds(found)
        inner = {found[unit] for unit in layout.units if unit not in layout.outside}
        assert len(inner) == 1 and inner.pop() >= width


@pytest.mark.parametrize("quantizer", ["rtn", "gptq"])
def test_the_recipe_meets_its_budget_and_says_what_the_guard_found(toy, quantizer):
    model, _ = toy
    calibrate = lwq.windows("toy", toy[1], n=8, length=48)
    tune = lwq.windows("toy", toy[1], n=24, length=48, split="tune")
    plan = lwq.allocate(
        model=model, size="110kB", quantizer=quantizer, windows=calibrate, tune=tune
    )
    packer = lwq.QUANTIZERS[quantizer]()
    assert plan.size(packer).total_bytes <= 110_000 and plan.layout.outside
    guard = plan.provenance["guard"]
    assert guard["kept"] in ("mixed", "uniform")
    inner = {bits for unit, bits in plan.bits.items() if unit not in plan.layout.outside}
    assert (len(inner) == 1) == (guard["kept"] == "uniform")
    again = lwq.allocate(
        model=model, size=110_000, quantizer=quantizer, windows=calibrate, tune=tune
    )
    assert again == plan
    plan = lwq.allocate(model=model, size="1MB", quantizer=quantizer, windows=calibrate, tune=tune)
    assert plan.provenance["guard"]["why"].endswith(
        "for all blocks, and one for embeddings and head"
    )


def test_embeddings_get_the_best_measured_of_neighbouring_options(toy):
    model, tokenizer = toy
    layout = lwq.models.layout(model, "block", outside=True)
    (unit,) = layout.outside
    packer = lwq.QUANTIZERS["rtn"]()
    made_up = lwq.Costs(
        {u: {8: 0.01, 6: 0.02, 5: 0.03, 4: 0.04, 3: 0.09} for u in layout.units}, layout, "made up"
    )
    budget = lwq.Budget(layout, (8, 6, 5, 4, 3), packer, "max_bytes", 110_000)
    best, *others = plans = Look().plans(made_up, budget)
    assert best == lwq.allocators.within(made_up, budget, "knapsack").bits
    places = [budget.widths.index(plan[unit]) for plan in plans]
    assert others and len(set(places)) == len(places)
    assert all(abs(place - places[0]) <= 1 for place in places)
    assert all(budget.holds(plan) for plan in plans)
    windows = lwq.windows("toy", tokenizer, n=4, length=48, split="tune")
    bank = lwq.Bank(model, packer)
    chosen = looked(model, made_up, budget, bank, windows)
    reference, harms = lwq.reference(model, windows), {}
    for plan in plans:
        bank.apply_(Plan(plan, layout, chosen.quantizer))
        harms[plan[unit]] = lwq.evaluate(model, windows, reference).mean_kl
    bank.restore_()
    assert chosen.bits[unit] == min(harms, key=harms.get)
    tried = {trial[unit]: trial["kl"] for trial in chosen.provenance["looked at"]}
    assert tried == pytest.approx(harms) and next(iter(tried)) == best[unit]
    cut = Later(model, bank, windows, layout, limit=1)
    assert Look()(made_up, budget, cut) == best and cut.left == 0


def test_a_look_at_counted_units_stays_within_the_count(toy):
    layout = lwq.models.layout(toy[0], "block", outside=True)
    harm = {u: {8: 0.01, 4: 0.02 * place} for place, u in enumerate(layout.units, 1)}
    budget = lwq.Budget(layout, (8, 4), lwq.QUANTIZERS["rtn"](), "moved", 2)
    plans = Look().plans(lwq.Costs(harm, layout, "made up"), budget)
    assert plans and all(budget.holds(plan) for plan in plans)


def test_an_objective_is_made_when_it_is_asked(toy):
    model, tokenizer = toy
    windows = lwq.windows("toy", tokenizer, n=2, length=48, split="tune")
    bank = lwq.Bank(model, lwq.QUANTIZERS["rtn"]())
    later = Later(model, bank, windows, lwq.models.layout(model, "block"), limit=3)
    assert (later.left, later.log, "made" in vars(later)) == (3, [], False)
    plan = dict.fromkeys(later.layout.units, 4)
    truth = lwq.reference(model, windows)
    assert later(plan).mean_kl == later.many([plan])[0].mean_kl
    bank.apply_(Plan(plan, later.layout, "rtn()"))
    assert later(plan).mean_kl == pytest.approx(lwq.evaluate(model, windows, truth).mean_kl)
    bank.restore_()
    assert later.left == 2 and len(later.log) == 1


def test_large_harms_are_looked_at_as_if_they_saturated(toy):
    """The worst unit counts for less than its square says, and only where little of a model is
    left.
    """
    layout = lwq.models.layout(toy[0], "block")
    packer = lwq.QUANTIZERS["rtn"]()
    budget = lwq.Budget(layout, (8, 4, 2), packer, "avg_bits", 4.0)

    def plans(unit):
        first, *others = layout.units
        harm = {name: {8: 0.0, 4: unit, 2: 9 * unit} for name in others}
        costs = lwq.Costs({first: {8: 0.0, 4: 20 * unit, 2: 21 * unit}, **harm}, layout, "made up")
        found = Look(scales=(0.5,)).plans(costs, budget)
        return sum(costs[name][option] for name, option in found[0].items()), found

    total, found = plans(0.001)
    assert total < Look().large and len(found) == 1
    total, found = plans(0.1)
    assert total >= Look().large
    assert set(found[0].values()) == {8, 4, 2} and set(found[1].values()) == {4}
    assert all(budget.holds(plan) for plan in found)
    assert len({tuple(plan.values()) for plan in found}) == len(found)


def test_a_look_that_is_cut_short_keeps_the_best_so_far(toy):
    layout = lwq.models.layout(toy[0], "block")
    budget = lwq.Budget(layout, (8, 4, 2), lwq.QUANTIZERS["rtn"](), "avg_bits", 4.0)
    first, *others = layout.units
    harm = {first: {8: 0.0, 4: 2.0, 2: 2.1}, **dict.fromkeys(others, {8: 0.0, 4: 0.1, 2: 0.9})}
    made_up = lwq.Costs(harm, layout, "made up")
    look = Look(scales=(0.5,))
    best, other = look.plans(made_up, budget)
    worse = Made(lambda bits: float(bits == best), limit=1)
    assert look(made_up, budget, worse) == best and worse.spent == 1
    assert look(made_up, budget, Made(lambda bits: float(bits == best))) == other


def test_a_paper_budget_leaves_embeddings_alone(toy):
    plan = lwq.allocate(model=toy[0], avg_bits=3.5, quantizer="rtn", guard=False)
    assert not plan.layout.outside and "guard" not in plan.provenance
    assert plan.size(lwq.QUANTIZERS["rtn"]()).avg_bits <= 3.5


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, "give scores"),
        ({"model": True}, "give exactly one of"),
        ({"model": True, "size": "95MB", "max_bytes": 5}, "the same budget"),
        ({"model": True, "size": "95 apples"}, "is no size"),
        ({"model": True, "avg_bits": 3, "allocator": "topk"}, "for scores"),
        ({"model": True, "avg_bits": 3, "objective": print}, r"\['objective'\] are for scores"),
        ({"model": True, "size": "2kB"}, "out of reach"),
        ({"model": True, "moved": 3}, "no uniform plan"),
        ({"model": True, "avg_bits": 4, "bits": 4}, r"bits: 4 is one option .* write \(4,\)"),
        ({"model": True, "avg_bits": 4, "options": {"a": 4}}, "options of a: 4 is one option"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_scored(toy, monkeypatch, arguments, said):
    monkeypatch.setattr(Recipe, "plan", None)
    if "model" in arguments:
        arguments = {**arguments, "model": toy[0]}
    with pytest.raises(lwq.InputError, match=said):
        lwq.allocate(**arguments)


def test_what_only_the_recipe_reads_is_refused_with_scores(toy, windows):
    with pytest.raises(lwq.InputError, match=r"\['outside', 'tune'\] are the recipe's"):
        lwq.allocate(lwq.score(toy[0], "zd"), bits=(4, 3), avg_bits=3.5, outside=True, tune=windows)


@pytest.mark.parametrize(
    ("sizes", "amount"), [({}, 8.0), ({"hidden_size": 96, "intermediate_size": 128}, 14.0)]
)
@pytest.mark.parametrize("guard", [True, False])
def test_what_no_group_size_divides_stays_at_16_bits(sizes, amount, guard):
    """The matrices of 96 columns have one option, and the others are priced at all of theirs."""
    model, x = architectures.narrow(**sizes), architectures.tokens(8)
    layout = lwq.models.layout(model, "matrix")
    packer = lwq.QUANTIZERS["gptq"](clip=True)
    budget = targets.budget("mlx", layout, packer, "true_bits", amount)
    plan = Recipe(guard=guard)(model, budget, packer, x, architectures.tokens(20))
    judge = WindowSpec("toy", "judge", 4, 24, 0)
    assert Work.of(model, budget, packer, Recipe(guard=guard), judge).outlook().total > 0
    wide = {unit for unit in plan.bits if layout.units[unit][unit][1] == 96}
    assert wide == {unit for unit, option in plan.bits.items() if option == 16}


def test_the_recipe_says_once_what_it_does_not_see_of_routers(capsys):
    x = architectures.tokens(4)
    for name, times in (("mixtral", 1), ("qwen3_moe", 1), ("llama", 0)):
        model = architectures.make(name)
        for bits in (4, 5):
            lwq.allocate(model=model, avg_bits=bits, quantizer="rtn", guard=False, windows=x)
        assert capsys.readouterr().err.count("a router chooses experts") == times


def test_a_plan_is_explained_by_its_neighbours(toy):
    layout = lwq.models.layout(toy[0], "block", outside=True)
    harm = costs(layout)
    plan = lwq.allocate(harm, quantizer="rtn", size="110kB")
    told = lwq.explain(plan, harm).set_index("unit")
    packer = lwq.QUANTIZERS["rtn"]()
    assert list(told.index) == list(layout.units) and dict(told["option"]) == dict(plan.bits)
    assert told["bytes"].sum() == plan.size(packer).plan_bytes
    for unit, row in told.iterrows():
        for other, sign, change in (("better", 1, "more_bytes"), ("worse", -1, "saved_bytes")):
            if row[other] is None or np.isnan(row[change]):
                continue
            moved = lwq.Plan({**plan.bits, unit: int(row[other])}, layout, plan.quantizer)
            grown = moved.size(packer).plan_bytes - plan.size(packer).plan_bytes
            assert grown == sign * row[change]
    top = told[told["option"] == 4]
    assert top["better"].isna().all() and (top["more_harm"] == 3.0).all()
    with pytest.raises(lwq.InputError, match="no harm at 5"):
        lwq.explain(lwq.Plan(dict.fromkeys(layout.units, 5), layout, "rtn()"), harm)


def test_a_guard_that_cannot_decide_is_refused_before_the_work(toy):
    """On 16 windows it had 12, and took uniform bits whatever it saw."""
    model, tokenizer = toy
    assert not Sequential(total=13.0, squares=13.0, seen=13).decided
    few = lwq.windows("toy", tokenizer, n=17, length=24, split="tune")
    with pytest.raises(lwq.InputError, match="17 windows of the tune split.*before 14: give 18"):
        lwq.allocate(model=model, avg_bits=4, quantizer="rtn", tune=few)
    assert lwq.allocate(model=model, avg_bits=4, quantizer="rtn", tune=few, guard=False)


@dataclass(frozen=True)
class Gives(Allocator):
    """An allocator of a user's own that gives one unit what it may not have."""

    option: object = 2

    def __call__(self, scores, budget, objective=None):
        found = {unit: own[-1] for unit, own in budget.choices.items()}
        return found if self.option is None else {**found, next(iter(found)): self.option}


def test_a_plan_of_ones_own_allocator_holds_what_units_may_have(toy):
    scores = lwq.score(toy[0], "zd")
    asked = {"bits": (4, 3), "avg_bits": 4}
    assert lwq.allocate(scores, allocator=Gives(None), **asked)
    for option in (2, "3", None.__class__):
        with pytest.raises(lwq.InputError, match=r"gives model\.layers\.0 .*may have \[4, 3\]"):
            lwq.allocate(scores, allocator=Gives(option), **asked)
    together = dict.fromkeys(list(scores)[:2], "one")
    with pytest.raises(lwq.InputError, match="members of the group one"):
        lwq.allocate(scores, allocator=Gives(4), groups=together, **asked)


def test_nothing_left_to_choose_is_no_traceback(toy):
    scores = lwq.score(toy[0], "zd")
    for allocator in ("topk", "levels", "knapsack"):
        plan = lwq.allocate(scores, bits=(4, 3), avg_bits=4, least=4, allocator=allocator)
        assert set(plan.bits.values()) == {4}
    with pytest.raises(lwq.InputError, match="name each width once, at least one"):
        lwq.allocate(scores, bits=(), avg_bits=4)
    with pytest.raises(lwq.InputError, match=r"write lwq\.allocate\(model="):
        lwq.allocate(toy[0], avg_bits=4)
