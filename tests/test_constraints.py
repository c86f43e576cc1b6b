"""What single units may have: every allocator honours it or says that it cannot.

pytest tests/test_constraints.py
"""

import numpy as np
import pytest
from objectives import Made
from test_knapsack import RTN, brute_force, bytes_of, every_plan, layout_of, random_costs

import lwq
from lwq import models
from lwq.allocators import ALLOCATORS
from lwq.allocators.table import table_of
from lwq.contracts import Budget, Costs

WIDTHS = (8, 4, 3, 2)
ADDING = ["knapsack", "lagrange", "greedy", "equal_loss", "impq", "refine", "evolution", "iterate"]
BY_RANK = ["topk", "levels", "edges", "lieq"]
CONSTRAINTS = {
    "pinned": {"blocks.1": 8, "blocks.4": 5},
    "options": {"blocks.0": (4, 2), "blocks.2": (6, 3)},
    "groups": {"blocks.2": "qkv", "blocks.3": "qkv", "blocks.5": "qkv"},
    "least": 3,
}


def chosen(name, found, budget):
    if name == "impq":
        found = Costs(found.harm, found.layout, "s", pairs={"blocks.0": {"blocks.3": 1e-6}})
    objective = Made(lambda bits: sum(found[u].get(w, 9) for u, w in bits.items()), limit=40)
    return ALLOCATORS[name]()(found, budget, objective)


def respects(bits, limits):
    groups = {}
    for unit, group in limits.get("groups", {}).items():
        groups.setdefault(group, set()).add(bits[unit])
    free = bits.keys() - limits.get("pinned", {}).keys()
    return (
        all(bits[unit] == option for unit, option in limits.get("pinned", {}).items())
        and all(bits[unit] in own for unit, own in limits.get("options", {}).items())
        and all(len(options) == 1 for options in groups.values())
        and all(bits[unit] >= limits.get("least", 0) for unit in free)
    )


def asked(*names):
    return {name: CONSTRAINTS[name] for name in names}


@pytest.mark.parametrize("name", ADDING)
@pytest.mark.parametrize(
    "limits",
    [asked(name) for name in CONSTRAINTS] + [asked("pinned", "options", "groups")],
    ids="-".join,
)
def test_constraints_hold_and_so_does_the_budget(name, limits):
    layout = layout_of(6, 1, 3)
    found = random_costs(layout, (8, 6, 5, 4, 3, 2), 1)
    low, high = Budget(layout, WIDTHS, RTN(), "max_bytes", 10**9, **limits).range()
    for share in (0.0, 0.3, 0.8, 1.0):
        amount = int(low + share * (high - low))
        budget = Budget(layout, WIDTHS, RTN(), "max_bytes", amount, **limits)
        bits = chosen(name, found, budget)
        assert respects(bits, limits) and budget.holds(bits)


@pytest.mark.parametrize("seed", range(20))
def test_the_constrained_optimum_is_that_of_brute_force(seed):
    """Unlike the table: every plan is made, and those that break a constraint are left out."""
    layout = layout_of(6, 1, seed)
    widths = (8, 6, 5, 4, 3, 2)
    found = random_costs(layout, widths, seed)
    columns = every_plan(layout, widths)
    plans = np.array(widths)[columns]
    units = list(layout.units)
    limits = asked("pinned", "options", "groups")
    free = [u for u in units if u not in {*limits["pinned"], *limits["options"]}]
    keep = np.all([plans[:, units.index(u)] == w for u, w in limits["pinned"].items()], axis=0)
    keep &= np.all(
        [np.isin(plans[:, units.index(u)], own) for u, own in limits["options"].items()], axis=0
    )
    keep &= np.all([np.isin(plans[:, units.index(u)], WIDTHS) for u in free], axis=0)
    members = [units.index(u) for u in limits["groups"]]
    keep &= (plans[:, members] == plans[:, members[:1]]).all(1)
    size = bytes_of(layout, widths, columns)[keep]
    harm = np.array([[found[u][w] for w in widths] for u in units])
    total = harm[np.arange(6), columns[keep]].sum(1)
    amount = int(np.random.default_rng(seed).integers(size.min(), size.max()))
    budget = Budget(layout, WIDTHS, RTN(), "max_bytes", amount, **limits)
    for name, above in (("knapsack", 1e-9), ("lagrange", 1e-3)):
        bits = chosen(name, found, budget)
        harm_of = sum(found[u][w] for u, w in bits.items())
        assert harm_of <= total[size <= amount].min() * (1 + above) and budget.holds(bits)


@pytest.mark.parametrize("name", BY_RANK)
def test_orders_honour_pinned_units_and_a_least_width(name):
    layout = layout_of(9, 1, 2)
    found = random_costs(layout, WIDTHS, 1)
    widths = (4, 3, 2) if name != "topk" else (4, 2)
    limits = {"pinned": {"blocks.2": 8}, "least": 3 if name != "topk" else 2}
    low, high = Budget(layout, widths, RTN(), "true_bits", 99, **limits).range()
    budget = Budget(layout, widths, RTN(), "true_bits", (low + high) / 2, **limits)
    bits = ALLOCATORS[name]()(found, budget)
    assert respects(bits, limits) and budget.holds(bits) and len(set(bits.values())) == 3
    for wrong in (asked("groups"), {"options": {"blocks.0": (4, 3), "blocks.1": (8, 4)}}):
        with pytest.raises(lwq.InputError, match=f"{name} .*'knapsack'"):
            ALLOCATORS[name]()(found, Budget(layout, widths, RTN(), "true_bits", 7, **wrong))


def test_moved_counts_a_group_by_its_members():
    layout = layout_of(6, 1, 3)
    found = random_costs(layout, (8, 4), 1)
    groups = {"blocks.2": "qkv", "blocks.3": "qkv", "blocks.5": "qkv"}
    for count in (1, 3, 4, 6):
        bits = lwq.allocate(found, None, (8, 4), RTN(), "knapsack", moved=count, groups=groups).bits
        assert sum(width == 4 for width in bits.values()) == count
        assert len({bits[unit] for unit in groups}) == 1


def test_a_block_of_which_one_unit_must_stay_is_not_dropped():
    layout = layout_of(6, 3, 0)
    found = random_costs(layout, (8, 4, 0), 0)
    first, second = list(layout.units)[:3], list(layout.units)[3:]
    budget = Budget(layout, (8, 4, 0), RTN(), "avg_bits", 3.0, pinned={first[0]: 4})
    assert budget.range()[0] > 0
    bits = ALLOCATORS["knapsack"]()(found, budget)
    assert all(bits[unit] for unit in first) and not any(bits[unit] for unit in second)
    gone = Budget(layout, (8, 4, 0), RTN(), "avg_bits", 3.0, pinned={first[0]: 0})
    assert not any(ALLOCATORS["lagrange"]()(found, gone)[unit] for unit in first)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"pinned": {"blocks.9": 4}}, "pinned: .'blocks.9'. are no units"),
        ({"pinned": {"blocks.1": 9}}, r"pinned blocks.1: \[9\] out of range"),
        ({"options": {"blocks.1": (4, 9)}}, r"options of blocks.1: \[9\] out of range"),
        ({"least": 9}, r"least=9: \[9\] out of range"),
        ({"options": {"blocks.1": (2,)}, "least": 3}, "no option is left for .'blocks.1'"),
        (
            {
                "pinned": {"blocks.1": 4, "blocks.2": 3},
                "groups": {"blocks.1": "a", "blocks.2": "a"},
            },
            "no option is left",
        ),
        ({"pinned": {"blocks.1": 8}, "least": 4}, "out of reach"),
    ],
)
def test_constraints_that_cannot_be_met_are_refused(limits, message):
    layout = layout_of(4)
    with pytest.raises(lwq.InputError, match=message):
        Budget(layout, WIDTHS, RTN(), "avg_bits", 3.0, **limits)


def test_a_level_with_a_name_is_an_option_like_others():
    layout = layout_of(6, 1, 3)
    options = ("4g32", 4, 3)
    found = random_costs(layout, options, 1)
    budget = Budget(layout, options, RTN(), "true_bits", 4.3)
    bits = ALLOCATORS["knapsack"]()(found, budget)
    assert budget.holds(bits) and "4g32" in bits.values()
    assert sum(found[u][w] for u, w in bits.items()) == pytest.approx(brute_force(found, budget))


@pytest.mark.parametrize("quantizer", ["rtn", "gptq"])
def test_embeddings_weigh_what_their_own_quantizer_stores_and_are_not_dropped(quantizer):
    """toy: blocks and the tied embedding, in one budget of bytes."""
    layout = models.layout(lwq.load("toy")[0], outside=True)
    assert layout.outside
    packer = lwq.QUANTIZERS[quantizer]()
    found = random_costs(layout, (8, 4, 3, 0), 0)
    low, high = Budget(layout, (8, 4, 3, 0), packer, "max_bytes", 10**9).range()
    for share in np.linspace(0, 1, 9):
        budget = Budget(layout, (8, 4, 3, 0), packer, "max_bytes", int(low + share * (high - low)))
        table = table_of(found, budget)
        for name in ("knapsack", "greedy"):
            bits = ALLOCATORS[name]()(found, budget)
            assert budget.holds(bits) and all(bits[unit] for unit in layout.outside)
            left = table.room - table.weight(table.columns(bits))
            assert left == pytest.approx(budget.amount - budget.spent(bits), abs=1e-3)
