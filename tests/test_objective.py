"""What a search is handed: the losses of a plan, counted in forward passes, within a limit.

pytest tests/test_objective.py
"""

import numpy as np
import pytest

import lwq
from lwq.common.errors import LimitSpent
from lwq.engine.apply import packed
from lwq.engine.objective import Objective
from lwq.quantizers import QUANTIZERS


@pytest.fixture
def sweep(toy, windows):
    model, _ = toy
    bank = lwq.Bank(model, QUANTIZERS["rtn"]())
    return lwq.Sweep(model, windows, bank, lwq.reference(model, windows))


def plans(layout):
    """All blocks at 4 bits, and one at 2 bits in each place."""
    units = list(layout.units)
    return [dict.fromkeys(units, 4)] + [{**dict.fromkeys(units, 4), unit: 2} for unit in units]


def test_losses_are_those_of_the_plan_and_passes_are_counted(sweep):
    objective = Objective(sweep, limit=100)
    bits = plans(sweep.bank.layout)
    found = objective.many(bits)
    for losses, wanted in zip(found, bits, strict=True):
        plan = lwq.Plan(wanted, sweep.bank.layout, "rtn()")
        (other,) = (measured for _, measured in sweep.measure([plan]))
        assert np.array_equal(losses.nll, other.nll) and losses.harm == other.mean_kl
    assert len(objective.log) == len(bits)
    assert {trial.harm for trial in objective.log} == {losses.harm for losses in found}


def test_a_plan_tried_before_is_free_and_the_limit_holds(sweep):
    objective = Objective(sweep, limit=1.5)
    first, *others = plans(sweep.bank.layout)
    objective(first)
    spent = objective.spent
    assert spent == 1 and objective(first).harm == objective.log[0].harm
    assert objective.spent == spent and len(objective.log) == 1
    with pytest.raises(LimitSpent, match=r"1\.5 forward passes are spent"):
        objective.many(others)
    assert objective.left == 0 and 1 < len(objective.log) < len(others)
    assert objective(first).harm == objective.log[0].harm  # known: nothing is spent on it


def test_a_search_for_another_quantizer_is_refused(sweep, toy):
    """It returned a plan for rtn that was the best of gptq's."""
    scores, objective = lwq.score(toy[0], "zd"), Objective(sweep, limit=2)
    settings = {"bits": (4, 3, 2), "avg_bits": 3.5, "objective": objective}
    with pytest.raises(lwq.InputError, match=r"measures plans with rtn.*this plan is for gptq"):
        lwq.allocate(scores, quantizer="gptq", allocator="refine", **settings)
    assert objective.spent == 0
    assert lwq.allocate(scores, quantizer="gptq", allocator="levels", **settings)
    assert lwq.allocate(scores, quantizer="rtn", allocator="refine", **settings)


def test_the_model_is_as_before_after_a_limit(sweep, toy):
    before = {name: value.clone() for name, value in toy[0].state_dict().items()}
    with pytest.raises(LimitSpent):
        Objective(sweep, limit=0.1).many(plans(sweep.bank.layout))
    assert all((value == before[name]).all() for name, value in toy[0].state_dict().items())


@pytest.mark.parametrize("quantizer", ["rtn", "gptq(inputs='quantized')", "gptq"])
def test_packed_hands_over_what_quantize_writes(toy, windows, quantizer):
    """The same model as quantize_ leaves; each storage stands for what was written."""
    import copy

    model, _ = toy
    scores = lwq.score(model, "zd")
    plan = lwq.allocate(scores, model, (4, 3), quantizer, moved=2)
    other = copy.deepcopy(model)
    lwq.quantize_(other, plan, windows)
    written = dict(lwq.models.matrices(other))
    seen = {}
    for name, made in packed(model, plan, windows):
        assert name not in seen
        seen[name] = made
    assert set(seen) == set(written)
    for name, made in seen.items():
        assert (written[name].view() == made.dequantize()).all()


def test_a_share_of_the_windows_costs_its_share_and_is_their_beginning(sweep):
    objective = Objective(sweep, limit=100)
    first, second, *_ = plans(sweep.bank.layout)
    half = objective.many([first, second], share=0.5)
    count = round(0.5 * len(sweep.windows))
    assert 0.5 < objective.spent <= 2 * count / len(sweep.windows)
    whole = objective.many([first, second])
    for part, losses in zip(half, whole, strict=True):
        assert len(part.nll) == count
        np.testing.assert_allclose(part.nll, losses.nll[:count], rtol=1e-6)
        np.testing.assert_allclose(part.kl, losses.kl[:count], rtol=1e-4)
    assert [trial.share for trial in objective.log] == [0.5, 0.5, 1.0, 1.0]


def test_a_search_on_a_real_objective_never_loses_to_its_start(sweep):
    scores = lwq.score(sweep.model, "zd")
    for search in (
        "refine",
        "evolution(offspring=6, generations=4, stages=((2, 0.5),))",
        "iterate",
    ):
        objective = Objective(sweep, limit=12)
        plan = lwq.allocate(scores, None, (4, 3, 2), "rtn", search, avg_bits=3, objective=objective)
        start = lwq.allocate(scores, None, (4, 3, 2), "rtn", "knapsack", avg_bits=3)
        assert objective.spent < 14
        assert objective(plan.bits).harm <= objective(start.bits).harm


def killed_after(search, scores, objective, trials):
    """Run a search until so many trials are noted, then kill it."""
    note = objective._journal.note
    left = iter(range(trials))

    def noted(entry):
        note(entry)
        if next(left, None) is None:
            raise KeyboardInterrupt

    objective._journal.note = noted
    with pytest.raises(KeyboardInterrupt):
        lwq.allocate(scores, None, (4, 3, 2), "rtn", search, avg_bits=3, objective=objective)


@pytest.mark.parametrize("search", ["refine", "evolution(offspring=6, stages=((2, 0.5),))"])
def test_a_search_that_was_killed_goes_on_from_its_journal(sweep, tmp_path, search):
    """The same plan as a search that nobody stopped, within the same passes, and no trial twice."""
    scores, path = lwq.score(sweep.model, "zd"), tmp_path / "search.trials"
    settings = {"bits": (4, 3, 2), "quantizer": "rtn", "allocator": search, "avg_bits": 3}
    calm = Objective(sweep, limit=12)
    wanted, spent = lwq.allocate(scores, objective=calm, **settings), calm.spent
    killed_after(search, scores, Objective(sweep, limit=12, journal=path), 4)
    with path.open("a") as file:
        file.write('{"plan": "cut off in the mid')
    before = sweep.blocks_run
    again = Objective(sweep, limit=12, journal=path)
    found = lwq.allocate(scores, objective=again, **settings)
    run = (sweep.blocks_run - before) / len(sweep.blocks)
    assert run < spent - 3 and again.spent == pytest.approx(spent, abs=1)
    assert found.bits == wanted.bits and path.read_text().count("\n") == 1 + len(again.log)
    assert [(trial.bits, trial.harm) for trial in again.log] == [
        (trial.bits, trial.harm) for trial in calm.log[: len(again.log)]
    ]


def test_a_journal_of_another_search_is_refused(sweep, tmp_path):
    path = tmp_path / "search.trials"
    Objective(sweep, limit=2, journal=path)(plans(sweep.bank.layout)[0])
    other = lwq.Sweep(sweep.model, sweep.windows[:1], sweep.bank)
    with pytest.raises(lwq.InputError, match=r"search\.trials holds trials of another"):
        Objective(other, limit=2, journal=path)
    path.write_text("something else\n")
    with pytest.raises(lwq.InputError, match="no journal of trials"):
        Objective(sweep, limit=2, journal=path)
