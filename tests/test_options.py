"""Options beside whole widths: levels with a name, in quantizers, budgets, plans and files.

pytest tests/test_options.py
"""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

import lwq
from lwq.common.names import build
from lwq.contracts import nominal_bits
from lwq.contracts.scores import falling
from lwq.quantizers import QUANTIZERS
from lwq.statistics.sums import MatrixStats

GROUPED = [name for name, cls in QUANTIZERS.items() if "4g32" in cls.levels]


@pytest.mark.parametrize("name", GROUPED)
def test_a_named_group_size_is_the_quantizer_with_that_setting(name):
    weight = torch.randn(16, 128, generator=torch.Generator().manual_seed(3))
    x = torch.randn(256, 128, generator=torch.Generator().manual_seed(4))
    quantizer = QUANTIZERS[name]()
    named = quantizer(weight, "3g32", MatrixStats(gram=x.T @ x, tokens=256))
    own = replace(quantizer, group_size=32)
    set_so = own(weight, 3, MatrixStats(gram=x.T @ x, tokens=256))
    assert torch.equal(named.dequantize(), set_so.dequantize())
    assert quantizer.nbytes((16, 128), "3g32") == own.nbytes((16, 128), 3) == named.nbytes
    assert quantizer.nominal("3g32") == 3.0


def test_sixteen_and_zero_are_nobodys_to_interpret():
    assert [nominal_bits(option, QUANTIZERS["rtn"]()) for option in (0, 16, 3, "5g64")] == [
        0.0,
        16.0,
        3.0,
        5.0,
    ]


def test_a_budget_orders_options_by_bits_and_then_by_bytes(toy):
    scores = lwq.score(toy[0], "zd")
    budget = lwq.Budget(scores.layout, (3, "4g32", 4, 16), QUANTIZERS["rtn"](), "avg_bits", 4.0)
    assert budget.widths == (16, "4g32", 4, 3)
    with pytest.raises(lwq.InputError, match="4g48.* out of range"):
        lwq.Budget(scores.layout, ("4g48", 3), QUANTIZERS["rtn"](), "avg_bits", 4.0)


def test_a_plan_of_names_goes_from_budget_to_file_to_weights(toy, tmp_path):
    model, _ = toy
    scores = lwq.score(model, "zd")
    plan = lwq.allocate(scores, model, ("4g32", 3), "rtn", "knapsack", true_bits=4.4)
    assert {"4g32", 3} == set(plan.bits.values())
    plan.save(tmp_path / "plan.json")
    again = lwq.Plan.load(tmp_path / "plan.json")
    assert again == plan and again.id == plan.id
    size = plan.size(build(QUANTIZERS, "quantizer", plan.quantizer))
    assert 3 < size.avg_bits < 4 and size.true_bits <= 4.4
    errors = lwq.quantize_(model, again)
    fine = [error for unit, error in errors.items() if plan.bits[unit] == "4g32"]
    coarse = [error for unit, error in errors.items() if plan.bits[unit] == 3]
    assert 0 < max(fine) < min(coarse)


def test_a_name_that_no_shape_allows_is_refused_by_matrix(toy):
    model, _ = toy
    scores = lwq.score(model, "zd")
    bits = dict.fromkeys(scores.layout.units, "4g128")
    plan = lwq.Plan(bits, scores.layout, "rtn()")
    with pytest.raises(lwq.InputError, match="_proj: group_size=128 does not divide"):
        lwq.quantize_(model, plan)


@pytest.mark.parametrize("name", QUANTIZERS)
def test_more_nominal_bits_never_take_fewer_bytes(name):
    quantizer = QUANTIZERS[name]()
    sizes: dict[float, list[int]] = {}
    for option in quantizer.levels:
        stored = quantizer.nbytes((4096, 4096), option)
        sizes.setdefault(quantizer.nominal(option), []).append(stored)
    order = [sizes[bits] for bits in sorted(sizes)]
    assert all(max(fewer) <= min(more) for fewer, more in pairwise(order))


def test_a_whole_width_with_outliers_may_hold_more_than_a_fraction_above_it(toy, windows):
    options = (4, 3.95, 3.25, 3, 2)
    found = falling(dict(zip(options, (1.0, 0.5, 2.0, 1.5, 1.9), strict=True)))
    assert found == dict(zip(options, (1.0, 1.0, 2.0, 1.5, 2.0), strict=True))
    costs = lwq.score(toy[0], "fisher_kl(quantizer='spqr')", windows, options=options)
    assert sum(costs[unit][3] < costs[unit][3.25] for unit in costs) > len(costs) / 2
    budget = lwq.Budget(costs.layout, options, QUANTIZERS["spqr"](), "true_bits", 5.0)
    assert budget.widths == (4, 3.95, 3, 3.25, 2)


def test_a_strip_draws_names_by_their_nominal_bits(toy):
    from lwq.report import figures

    layout = lwq.models.layout(toy[0])
    quantizer = QUANTIZERS["rtn"]()
    options = ["4g32", 3, 4, 16]
    plan = dict(zip(layout.units, options, strict=True))
    nominal = {option: nominal_bits(option, quantizer) for option in options}
    figure = figures.plans({"mine": plan}, nominal)
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts == ["4g32", "3", "4", "16"]
    colors = figure.axes[0].collections[0].get_array().ravel().tolist()
    assert colors[0] == colors[2] > colors[1] and colors[3] == max(colors)
