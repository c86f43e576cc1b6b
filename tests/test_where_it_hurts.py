"""The study of kinds of text: quantiles over tokens, several texts, and the noise floor.

pytest tests/test_where_it_hurts.py
"""

import numpy as np
import pandas as pd
import pytest
import torch

import lwq
from lwq.contracts import Row
from lwq.contracts.results import APART, FLOOR, TAILS
from lwq.contracts.section import Picture
from lwq.engine.evaluate import divergence
from lwq.report import beside
from lwq.report.drawing import Drawing
from lwq.report.figures import style
from lwq.report.floor import floors
from lwq.report.sections import SECTIONS, where_it_hurts
from lwq.studies import candidates, experiment

TEXTS = experiment.texts("toy", "toy", 4, 48, 4, 48)
WINDOWS = 12


@pytest.fixture
def rounded():
    model, _ = lwq.load("toy")
    layout = lwq.score(model, "zd").layout
    lwq.quantize_(model, next(candidates.uniform(layout, experiment.quantizer("rtn"), [3])).plan)
    return model


@pytest.fixture
def judge():
    return TEXTS[1].draw(lwq.load("toy")[1]).windows


def test_quantiles_are_exact_and_over_all_tokens(rounded, judge):
    exact = lwq.load("toy")[0]
    found = lwq.evaluate(rounded, judge, lwq.reference(exact, judge), tails=True)
    with torch.inference_mode():
        p, q = (
            torch.log_softmax(model(judge).logits[:, :-1].double(), -1)
            for model in (exact, rounded)
        )
    each = ((p - q) * p.exp()).sum(-1).flatten().numpy()
    assert list(found.tails.values()) == pytest.approx(np.quantile(each, [0.5, 0.9, 0.99]), 1e-4)
    assert found.mean_kl == pytest.approx(each.mean(), 1e-4)
    plain = lwq.evaluate(rounded, judge, lwq.reference(exact, judge))
    assert not plain.tails and not plain.summary().keys() & TAILS.keys()
    assert np.array_equal(plain.kl, found.kl) and np.array_equal(plain.nll, found.nll)


def test_two_models_side_by_side_give_the_numbers_of_a_reference(rounded, judge):
    exact = lwq.load("toy")[0]
    beside_it = divergence(rounded, exact, judge, np.arange(len(judge)))
    kept = lwq.evaluate(rounded, judge, lwq.reference(exact, judge), tails=True)
    assert np.allclose(beside_it.kl, kept.kl, rtol=1e-6, atol=0)
    assert beside_it.tails == pytest.approx(kept.tails, 1e-6)
    assert divergence(exact, exact, judge).mean_kl == 0


def made(folder, **settings):
    return experiment.Experiment(
        "where_it_hurts", "toy", "rtn", *TEXTS, lwq.Results(folder), **settings
    )


def test_each_text_has_its_own_reference_and_all_share_the_bank(tmp_path):
    study = made(tmp_path, tails=True)
    plans = list(candidates.uniform(study.units(), study.quantizer, [4, 3], way=APART))
    study.measure(plans)
    first, seen = study.bank, study.reference
    other = study.using(judge=study.judge.on(seed=1))
    other.measure(plans)
    assert other.bank is first and other.loaded is study.loaded
    assert other.reference is not seen and not torch.equal(other.judging, study.judging)
    table = other.results.table(metric="kl_p99")
    assert len(table) == 4 and table["judge"].nunique() == 2
    assert torch.equal(study.reference.windows, seen.windows)


def test_rows_without_quantiles_are_measured_again_where_they_are_asked_for(tmp_path):
    study = made(tmp_path)
    plans = list(candidates.uniform(study.units(), study.quantizer, [3]))
    study.measure(plans)
    before = study.results.table()
    assert not set(before["metric"]) & set(TAILS)
    with_tails = made(tmp_path, tails=True)
    with_tails.measure(plans)
    after = with_tails.results.table()
    assert set(after["metric"]) >= set(TAILS) and set(after["id"]) == set(before["id"])
    both = before.merge(after, on=["id", "metric"])
    assert np.array_equal(both["value_x"], both["value_y"])


def test_the_noise_floor_is_small_and_measured_once(tmp_path, monkeypatch):
    study = made(tmp_path)
    study.measure(candidates.uniform(study.units(), study.quantizer, [8]))
    study.measure_floor()
    table = study.results.table(metric="kl").set_index("way")["value"]
    assert 0 < table[FLOOR] < table["uniform"]
    floor = study.results.table(way=FLOOR)
    assert set(floor["dtype"]) == {"bfloat16 against float32"}
    monkeypatch.setattr("lwq.studies.experiment.divergence", lambda *a: pytest.fail("again"))
    study.measure_floor()
    made(tmp_path, judge_dtype="bfloat16").measure_floor()
    with pytest.raises(lwq.InputError, match="against float32"):
        made(tmp_path / "other", dtype="bfloat16").measure_floor()


def rows(texts=("tiny", "wiki")):
    """Three plans and a floor on each text, with KL as told."""
    table, windows = [], []
    noise = np.random.default_rng(0).normal(0, 0.05, WINDOWS)
    plans = {
        ("uniform", APART, ""): (4.0, 0.10),
        ("fisher_kl + knapsack", APART, "avg_bits=4"): (3.99, 0.05),
        ("lim + topk", APART, "avg_bits=4"): (4.0, 0.20),
        ("reference, bfloat16", FLOOR, ""): (16.0, 0.001),
    }
    for place, text in enumerate(texts):
        for (ordering, way, budget), (bits, kl) in plans.items():
            key = f"{text}{len(windows)}"
            values = kl * (1 + place) * np.exp(noise)
            base = dict.fromkeys(Row.__dataclass_fields__, "") | {
                "id": key, "plan": key, "study": "where_it_hurts", "model": "m", "quantizer": "rtn",
                "ordering": ordering, "way": way, "budget": budget, "seed": None, "units": 3,
                "judge": f"{text}/judge 12x48 by document seed 0 #1", "avg_bits": bits, "high": 5,
                "low": 3, "total_bytes": 100, "plan_bytes": 50, "family": "grid", "n": WINDOWS,
            }  # fmt: skip
            metrics = {"kl": values.mean(), "perplexity": 9.0}
            metrics |= {name: values.mean() * (1 + at) for name, at in TAILS.items()}
            table += [{**base, "metric": name, "value": v} for name, v in metrics.items()]
            windows.append(
                pd.DataFrame({"id": key, "document": range(WINDOWS), "kl": values, "nll": 2.0})
            )
    return pd.DataFrame(table), pd.concat(windows, ignore_index=True)


def test_the_tables_of_the_page():
    frame = where_it_hurts.compared(*rows())
    assert list(dict.fromkeys(frame["text"])) == ["wiki", "stories"]
    (panel,) = where_it_hurts.tables(frame)
    assert panel["names"] == ["uniform 4", "LIM + topk", "fisher kl + knapsack"]
    web, stories = panel["texts"]
    assert (web["cells"][0], web["floor"]) == ("0.2", "0.002")
    assert web["cells"][2] == "**0.1**" and not web["cells"][1].startswith("**")
    said = panel["said"]
    assert (said["name"], said["most"], said["least"]) == (
        "fisher kl + knapsack",
        "wiki",
        "stories",
    )
    assert (said["better"], said["worse"], said["texts"]) == ("2", "0", "2")
    assert len(panel["plans"]) == 8


def test_the_section_draws_and_is_silent_without_rows():
    table, windows = rows()
    found = SECTIONS["where_it_hurts"](table, {}, windows)
    (picture,) = found.figures[""]
    figure = picture.draw(*picture.arguments)
    assert all("KL" in axis.get_ylabel() for axis in figure.axes)
    assert not SECTIONS["where_it_hurts"](table[:0], {}, windows[:0])
    none = table[table["way"] == FLOOR]  # a study that was stopped: nothing but a floor
    assert where_it_hurts.compared(none, windows)["gain"].isna().all()
    assert SECTIONS["where_it_hurts"](none, {}, windows).tables["panels"] == []


def test_plans_by_text_answer_no_question_of_the_first_screen():
    assert beside.arenas(*rows()) == []


def test_a_floor_is_drawn_where_it_was_measured(tmp_path):
    found = floors(rows()[0])
    assert found == pytest.approx({("m", "tiny"): 0.001, ("m", "wiki"): 0.002}, rel=0.05)
    drawn = []

    def flat(name):
        figure, axes = style.canvas(3, 3)
        axes[0][0].plot([1, 2], [0.1, 0.2])
        drawn.append(figure)
        return figure

    draw = Drawing(tmp_path, found)
    for place in (("m", "wiki"), ("m", "code"), ("", "")):
        made = draw(Picture(flat, ("x",), "x", "alt", "scale='float16'", place))
        assert made["rows"] == "scale=float16"  # a quote would end the title in Markdown
    lines = [len(figure.axes[0].lines) for figure in drawn]
    assert lines == [2, 1, 1]
    low, high = drawn[0].axes[0].get_ylim()
    assert low < found["m", "wiki"] < 0.2 < high
