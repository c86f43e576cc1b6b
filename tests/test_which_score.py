"""The study of scores: plans of equal size, uniform bits at any size, and its verdicts."""

import itertools
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import lwq
from lwq import models
from lwq.contracts import Costs, Row, Scores
from lwq.contracts.results import BLOCKS, WHOLE
from lwq.engine import evaluate
from lwq.quantizers import QUANTIZERS
from lwq.quantizers.rtn import RTN
from lwq.report import claims, interactions
from lwq.report.figures import budgets as drawn
from lwq.report.figures import style
from lwq.report.intervals import SAME
from lwq.report.line import corners
from lwq.report.sections import which_score
from lwq.studies import agreement, budgets, experiment, setup
from lwq.studies import interactions as lowering

WINDOWS = 40


class Tables:
    """Rows and windows with KL as told, the same ups and downs on every window."""

    def __init__(self):
        self.rows, self.windows = [], []
        self.shared = np.random.default_rng(0).normal(0, 0.1, WINDOWS)

    def add(self, kl, total, ordering="uniform", way="blocks", budget="", **columns):
        key = f"id{len(self.windows)}"
        values = kl * np.exp(self.shared - self.shared.mean())
        base = dict.fromkeys(Row.__dataclass_fields__, "") | {
            "id": key, "plan": key, "study": "which_score", "model": "m", "quantizer": "rtn()",
            "ordering": ordering, "way": way, "budget": budget, "seed": None, "units": 3,
            "total_bytes": total, "true_bits": 3.0, "n": WINDOWS, **columns,
        }  # fmt: skip
        self.rows += [
            {**base, "metric": metric, "value": value}
            for metric, value in (("kl", float(values.mean())), ("perplexity", 9.0), ("top1", 0.5))
        ]
        self.windows.append(
            pd.DataFrame(
                {"id": key, "window": range(WINDOWS), "document": range(WINDOWS), "kl": values}
            )
        )
        return self

    def done(self):
        return pd.DataFrame(self.rows), pd.concat(self.windows, ignore_index=True)


def ladder():
    return Tables().add(1.0, 100).add(0.1, 200).add(0.02, 300)


def verdicts(tables, key):
    claim = which_score.grid.claims()[key]
    return claims.verdicts(*tables.done(), {key: claim}, which_score.RULES)


def test_uniform_bits_between_two_sizes_are_a_line_in_log_kl():
    tables = ladder().add(0.2, 150, "a + topk", budget="true_bits=3")
    (line,) = which_score.compared(*tables.done()).to_dict("records")
    assert line["ratio"] == pytest.approx(0.2 / np.sqrt(0.1), rel=1e-3)
    assert line["beside"] == ("id0", "id1") and line["asked"] == 3
    assert line["low"] <= line["gain"] <= line["high"]


def test_a_size_beyond_the_uniform_ones_is_compared_with_nothing():
    tables = ladder().add(0.2, 99, "a + topk").add(0.2, 301, "b + topk")
    frame = which_score.compared(*tables.done())
    assert frame["gain"].isna().all() and not any(frame["beside"])


def test_a_uniform_plan_that_another_beats_is_no_yardstick():
    tables = ladder().add(0.9, 150)
    flat = corners(which_score.plans_of(tables.done()[0]))
    assert flat["total_bytes"].tolist() == [100, 200, 300]


def test_the_untouched_model_is_no_corner():
    """With 16 among the options of a study, every plan lost to a line at a KL of 0."""
    tables = ladder().add(0.0, 900).add(0.05, 200, "fisher_kl + look", budget="true_bits=3")
    flat = corners(which_score.plans_of(tables.done()[0]).query("ordering == 'uniform'"))
    assert flat["total_bytes"].tolist() == [100, 200, 300]
    (found,) = verdicts(tables, "e")
    assert found.verdict == claims.HOLDS


@pytest.mark.parametrize(
    ("kl", "expected"), [(0.05, claims.HOLDS), (0.1, claims.HOLDS), (0.2, claims.FAILS)]
)
def test_never_worse_than_uniform(kl, expected):
    tables = ladder().add(kl, 200, "fisher_kl + look", budget="true_bits=3")
    (found,) = verdicts(tables, "e")
    assert found.verdict == expected and found.ids == ("id1", "id3")


@pytest.mark.parametrize(
    ("kl", "expected"), [(0.05, claims.HOLDS), (0.1, claims.UNDECIDED), (0.2, claims.FAILS)]
)
def test_beats_another_at_the_same_limit(kl, expected):
    tables = ladder().add(kl, 200, "fisher_kl + look", budget="true_bits=3")
    tables.add(0.1, 198, "lim + topk", budget="true_bits=3")
    tables.add(0.1, 198, "lim + topk", budget="true_bits=4")
    (found,) = verdicts(tables, "e, LIM")
    assert found.verdict == expected and found.ids == ("id4", "id3")


def test_the_tables_of_the_page():
    tables = ladder().add(0.05, 200, "fisher_kl + knapsack", budget="true_bits=3")
    tables.add(0.4, 200, "random(seed=0) + topk", budget="true_bits=3", seed=0)
    tables.add(0.2, 200, "random(seed=1) + topk", budget="true_bits=3", seed=1)
    frame = which_score.compared(*tables.done())
    (table,) = which_score.quality(frame)
    assert [(line["method"], line["cells"]) for line in table["lines"]] == [
        ("fisher kl + knapsack", ["**0.050**"]),
        ("random + topk", ["0.301 (0.201 to 0.401)"]),
    ]
    best, chance = which_score.which(frame, tables.done()[0])
    assert (best["worth"], best["better"], best["worse"]) == ("0.50", 1, 0)
    assert (chance["settings"], chance["worse"]) == (2, 2)


@pytest.fixture
def layout():
    return models.layout(lwq.load("toy")[0], "matrix")


def test_plans_hold_the_size_and_say_who_made_them(layout):
    scores = Scores({unit: float(i) for i, unit in enumerate(layout.units)}, layout, "made")
    made = list(budgets.fitting({"a": scores}, RTN(), (8, 4, 2), "knapsack", [1.0, 3.0, 4.5]))
    assert [candidate.ordering for candidate in made] == ["a + knapsack"] * 2
    for candidate, size in zip(made, (3.0, 4.5), strict=True):
        assert candidate.plan.size(RTN()).true_bits <= size
        assert candidate.budget == f"true_bits={size:g}" and (candidate.high, candidate.low) == (
            8,
            2,
        )


def test_without_options_the_two_nearest_widths_are_taken(layout):
    scores = Scores({unit: float(i) for i, unit in enumerate(layout.units)}, layout, "made")
    (made,) = budgets.fitting({"a": scores}, RTN(), (), "topk", [4.0])
    assert set(made.plan.bits.values()) == {4, 3}


def test_settings_that_a_label_names_stay():
    names = ["fisher_kl", "fisher_kl(granularity='block', windows=2)", "lim"]
    found = budgets.fitted(names, RTN(32), (4, 2), "group")
    assert "granularity='group'" in found[names[0]] and "group_size=32" in found[names[0]]
    assert "granularity='block'" in found[names[1]] and "options=(4, 2)" in found[names[1]]
    assert list(found) == names and found["lim"].startswith("lim(")
    assert list(budgets.of_kind(found, "block")) == names[1:]


def test_whole_files_have_an_option_for_what_is_outside():
    whole = models.layout(lwq.load("toy")[0], "block", outside=True)
    made = list(budgets.mixed_uniform(whole, RTN(), (8, 4, 2), (8,), [3.8]))
    assert [{candidate.plan.bits[unit] for unit in whole.outside} for candidate in made] == [
        {8}
    ] * 2


def test_scores_of_a_whole_file_serve_for_its_blocks_too(layout):
    whole = models.layout(lwq.load("toy")[0], "matrix", outside=True)
    harm = {unit: {4: 0.0, 2: float(i)} for i, unit in enumerate(whole.units)}
    costs = Costs(harm, whole, "made")
    scores = Scores({unit: float(i) for i, unit in enumerate(whole.units)}, whole, "made")
    found = budgets.inside_blocks({"a": costs, "b": scores}, layout)
    assert all(set(one) == set(layout.units) for one in found.values())
    assert found["a"].layout.outside == frozenset() and not found["b"].layout.outside
    unit = next(iter(layout.units))
    assert found["a"][unit] == harm[unit]


def test_pairs_with_what_is_left_out_go_with_it(layout):
    whole = models.layout(lwq.load("toy")[0], "matrix", outside=True)
    harm = {unit: {4: 0.0, 2: 1.0} for unit in whole.units}
    first, second, *_ = layout.units
    beyond, *_ = whole.outside
    pairs = {first: {second: 0.5, beyond: 1.0}, beyond: {second: 2.0}}
    found = budgets.inside_blocks({"a": Costs(harm, whole, "made", pairs=pairs)}, layout)
    assert found["a"].pairs == {first: {second: 0.5}}


def test_uniform_files_may_keep_what_is_outside_ggml():
    whole = models.layout(lwq.load("toy")[0], "block", outside=True)
    made = list(budgets.mixed_uniform(whole, QUANTIZERS["ggml"](), (8,), (16,), [9.5]))
    assert [(one.high, one.low) for one in made] == [(16, 8)]


def test_harm_at_an_option_is_what_is_ranked(layout):
    harm = {unit: {4: 1.0, 2: float(2 + i)} for i, unit in enumerate(layout.units)}
    found = agreement.values_at(Costs(harm, layout, "made"), 2)
    assert found.tolist() == [float(2 + i) for i in range(len(layout.units))]
    with pytest.raises(lwq.InputError, match=r"made has no harm at 3; it has \[4, 2\]"):
        agreement.values_at(Costs(harm, layout, "made"), 3)


def test_a_plan_is_drawn_by_block_and_kind():
    bits = {"l.0.a.q": 4, "l.0.b.up": "2g32", "l.1.a.q": 3, "embed": 8}
    figure = drawn.plan_map(bits, "")
    axis = figure.axes[0]
    assert [text.get_text() for text in axis.get_yticklabels()] == ["0", "1", "outside"]
    assert "2g32" in {text.get_text() for text in axis.texts}


def table_of(harm, judge="wiki"):
    """Rows and plans of blocks lowered together, from numbers of blocks -> KL."""
    rows, plans = [], {}
    for places, kl in harm.items():
        key = f"p{places}"
        plans[key] = {"bits": {f"b{i}": 3 if i in places else 16 for i in range(4)}}
        rows.append({**dict.fromkeys(SAME, ""), "model": "m", "quantizer": "rtn()", "judge": judge,
                     "low": 3, "plan": key, "metric": "kl", "value": kl})  # fmt: skip
    return pd.DataFrame(rows), plans


def sets_of(count):
    return [c for n in range(1, count + 1) for c in itertools.combinations(range(count), n)]


def test_harms_that_add_up_lose_nothing_by_it():
    harm = {places: float(sum(1 + i for i in places)) for places in sets_of(4)}
    (line,) = interactions.lines(*table_of(harm))
    assert line["pairs"] == "6" and line["ratio"] == "1.00 (×/÷ 1.00)"
    assert (line["far"], line["order"]) == ("0%", "1.000")
    assert line["sets"] == "3 of 3" and line["regret"] == "0.0% (0.0%)"


def test_pairs_are_compared_with_blocks_alone_on_the_same_windows():
    """Rows of two judging texts in one folder were taken for one: ratios of 2 and of a half."""
    harm = {places: float(sum(1 + i for i in places)) for places in sets_of(4)}
    twice = {places: 2 * value for places, value in harm.items() if len(places) < 3}
    (rows, plans), (more, _) = table_of(harm), table_of(twice, "c4")
    both = pd.concat([rows, more.iloc[::-1]], ignore_index=True)
    found = {line["judge"]: line for line in interactions.lines(both, plans)}
    assert {judge: line["ratio"] for judge, line in found.items()} == dict.fromkeys(
        ("wiki", "c4"), "1.00 (×/÷ 1.00)"
    )
    assert found["wiki"]["sets"] == "3 of 3" and found["c4"]["pairs"] == "6"


def test_a_pair_that_does_more_together_is_seen():
    harm = {places: float(sum(1 + i for i in places)) for places in sets_of(4)}
    harm[0, 1] = 30.0  # by the sums the best pair
    found = interactions.harms(*table_of(harm))
    sets = interactions.of_sets(found)
    assert sets["same"] == 2 and sets["worst"] == pytest.approx(30 / 4 - 1)
    assert interactions.of_pairs(found)["far"] == 1.0  # the mean ratio is off for all
    assert interactions.expected(found, frozenset({"b0", "b3"})) == 5.0


def test_too_few_sets_say_nothing():
    found = interactions.harms(*table_of({(0,): 1.0, (1,): 1.0, (0, 1): 2.0}))
    assert interactions.of_pairs(found) is None and interactions.of_sets(found) is None


def test_sets_of_blocks_stand_at_the_low_width():
    layout = models.layout(lwq.load("toy")[0])
    made = list(lowering.pairs(layout, RTN(), 3))
    assert [candidate.moved for candidate in made] == [1] * 4 + [2] * 6
    assert all(set(candidate.plan.bits.values()) == {16, 3} for candidate in made)
    assert len({candidate.scorer for candidate in made}) == 10
    some = list(lowering.subsets(layout, RTN(), 3, 3))
    assert len(some) == 7 and some[-1].scorer == "lowered(0, 2, 3)"


def test_searches_of_blocks_and_of_whole_files_are_kept_apart(tmp_path):
    """At the same limit; and a plan that is kept is not searched for again."""
    texts = experiment.texts("toy", "toy", 2, 32, 4, 32)
    study = lwq.Experiment("which_score", "toy", RTN(), *texts, lwq.Results(tmp_path))
    options = [8, 4, 3]
    files = study.orderings(budgets.fitted(["fisher_kl"], RTN(), options, outside=True))
    blocks = budgets.inside_blocks(files, study.units("matrix"))
    (inner,) = budgets.searching(study, blocks, "look", options, [5.0], 8)
    (whole,) = budgets.searching(study, files, "look", options, [5.0], 8, WHOLE)
    assert not inner.plan.layout.outside and whole.plan.layout.outside
    assert (inner.ordering, inner.way) == ("fisher_kl + look", BLOCKS) and whole.way == WHOLE
    kept = {file: file.stat().st_mtime_ns for file in tmp_path.glob("scores/plan-*")}
    (again,) = budgets.searching(study, files, "look", options, [5.0], 8, WHOLE)
    assert again.plan == whole.plan and len(kept) == 2
    assert {file: file.stat().st_mtime_ns for file in tmp_path.glob("scores/plan-*")} == kept
    (label, old), *_ = blocks.items()  # as a scorer of other code would say under its name
    turned = dict(zip(old, list(old.values())[::-1], strict=True))
    (other,) = budgets.searching(
        study, {label: replace(old, harm=turned)}, "look", options, [5.0], 8
    )
    assert other.plan != inner.plan


def test_searches_of_one_study_share_their_reference(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(
        setup, "reference", lambda *given, **named: made.append(1) or evaluate.reference(*given)
    )
    options = [8, 4, 3]

    def searched(folder, sizes):
        texts = experiment.texts("toy", "toy", 2, 32, 4, 32)
        study = lwq.Experiment("which_score", "toy", RTN(), *texts, lwq.Results(folder))
        found = study.orderings(budgets.fitted(["fisher_kl"], RTN(), options))
        plans = budgets.searching(study, found, "refine", options, sizes, 6)
        return [candidate.plan.bits for candidate in plans]

    both = searched(tmp_path / "both", [4.5, 5.5])
    assert len(made) == 1
    assert both == [*searched(tmp_path / "a", [4.5]), *searched(tmp_path / "b", [5.5])]


def test_the_best_methods_are_drawn_whatever_stands_beside_nothing():
    """A ratio that is no number stood between others, and their order was left as it was."""
    ratios = [("a + topk", 0.9), ("b + topk", np.nan), ("c + topk", 0.5), ("d + topk", 0.7)]
    frame = pd.DataFrame(ratios, columns=["ordering", "ratio"]).assign(way=BLOCKS)
    drawn_first = [own["ordering"].iloc[0][0] for own, _ in drawn._lines(frame)]
    assert drawn_first == ["c", "d", "a", "b"]


def test_a_method_has_one_marker_in_every_figure():
    looks = style.looks(["lim", "zd", "fisher_kl", "taylor"])
    names = [(name, "blocks") for name in ("zd + topk", "fisher_kl + look", "lim + topk")]
    few = drawn._markers(names, looks)
    more = drawn._markers([("taylor + knapsack", "blocks"), *names[::-1]], looks)
    assert few.items() < more.items() and len(set(more.values())) == len(more) == 4
