"""The first screen: what it says of plans whose truth is known."""

import numpy as np
import pandas as pd
import pytest
from scipy.spatial import ConvexHull
from test_page import rows_of

from lwq.common.errors import InputError
from lwq.common.names import build, spec
from lwq.quantizers import QUANTIZERS
from lwq.report import answers, beside, line, llama, overview, page
from lwq.report.bootstrap import Interval, Sample
from lwq.report.line import Line, hull, on_windows, ratio


def arena_of(factors):
    """One model with uniform bits at 2 to 5 bits; LIM and a random order have KL of theirs times
    `factors`.
    """
    noise = np.random.default_rng(0).uniform(-0.2, 0.2, 16)
    rows, windows = [], []
    for own, losses, _ in rows_of("m", noise):
        factor = factors.get(own[0]["ordering"], 1.0)
        kl = np.asarray(losses["kl"]) * factor
        rows += [
            {**row, "value": kl.mean() if row["metric"] == "kl" else row["value"]} for row in own
        ]
        windows.append(pd.DataFrame({**losses, "kl": kl, "document": range(16)}))
    (arena,) = beside.arenas(pd.DataFrame(rows), pd.concat(windows, ignore_index=True))
    return arena


@pytest.mark.parametrize(("factor", "verdict"), [(1.0, "mixed"), (4.0, "uniform"), (2.0, "open")])
def test_mixed_or_uniform(factor, verdict):
    """LIM has half of the KL of uniform bits on the line, times a factor; the other has 6."""
    arena = arena_of({"lim": factor, "random(seed=0)": 4.0})
    found = answers.answers([arena])
    assert found["verdict"] == verdict and found["best"]["label"] == "LIM"
    value, low, high = arena.methods[0].worth
    assert (value, low, high) == pytest.approx([factor / 2] * 3, rel=1e-6)
    assert [line["label"] for line in found["shown"]] == ["LIM", "random"] and found["clear"]
    wins = {"mixed": (3, 0), "uniform": (0, 3), "open": (0, 0)}[verdict]
    assert verdict == "open" or (found["best"]["better"], found["best"]["worse"]) == wins


def test_about_n_mb_it_names_the_best_measured_plan_of_that_size():
    """LIM, half of the line's KL at 2.8, 3.8 and 4.8 stored bits; else a uniform plan."""
    sizes = answers.answers([arena_of({})])["sizes"]
    assert [(line["mb"], line["bits"]) for line in sizes] == [
        *(("35.0", "2.80"), ("45.0", "3.80"), ("55.0", "4.80"))
    ]
    assert {line["label"] for line in sizes} == {"LIM"}
    assert [line["ratio"] for line in sizes] == ["0.50 [0.50, 0.50]"] * 3
    kl, uniform = float(sizes[0]["kl"].partition(" ")[0]), float(sizes[0]["uniform"])
    assert kl == pytest.approx(uniform / 2, rel=0.04)  # both as text
    worse = answers.answers([arena_of({"lim": 7.0, "random(seed=0)": 8.0})])["sizes"]
    assert [line["label"] for line in worse] == [f"uniform {bits} bits" for bits in (2, 3, 4)]
    assert {line["ratio"] for line in worse} == {"1"}


def test_plans_of_studies_go_by_their_score():
    """The study of scores calls it "lim + topk", and "fisher_kl + knapsack" with its allocator."""
    row = {"seed": None, "allocator": "topk()", "ordering": "lim + topk"}
    assert beside._method(row, whole=False) == "LIM"
    row = {"seed": None, "allocator": "knapsack(exact=2000)", "ordering": "fisher_kl + knapsack"}
    assert beside._method(row, whole=True) == "fisher kl + knapsack (whole file)"


def test_a_better_setting_is_not_superseded():
    texts = {
        name: spec(QUANTIZERS, build(QUANTIZERS, "quantizer", name))
        for name in ("gptq", "gptq(clip=True)", "gptq(act_order=False)", "rtn")
    }
    assert overview.superseded(texts.values()) == {texts["gptq(act_order=False)"]}


def test_nothing_to_say_without_mixes():
    assert answers.answers([]) is None
    assert answers.verdict(Interval(1.0, 0.9, 1.1)) == "open"


def test_the_corners_are_those_of_the_lower_convex_hull():
    rng = np.random.default_rng(0)
    for _ in range(20):
        sizes, losses = np.sort(rng.uniform(0, 10, 12)), np.exp(-rng.uniform(0, 8, 12))
        points = np.column_stack([sizes, np.log(losses)])
        whole = ConvexHull(points)
        lower = {
            int(place)
            for simplex, (_, up, _) in zip(whole.simplices, whole.equations, strict=True)
            if up < 0
            for place in simplex
        }
        assert hull(sizes, losses) == sorted(lower)


def test_a_larger_and_worse_file_is_no_corner():
    rows = {"id": list("abcd"), "total_bytes": [1.0, 2.0, 3.0, 4.0], "kl": [1.0, 0.1, 0.05, 2.0]}
    assert line.corners(pd.DataFrame(rows))["id"].tolist() == ["a", "b", "c"]


def test_a_place_on_the_line():
    line = Line(np.array([10.0, 20.0, 40.0]), ("a", "b", "c"))
    assert line.at(25.0) == {"b": 0.75, "c": 0.25}
    assert line.at(10.0) == {"a": 1.0} and line.at(40.0) == {"c": 1.0}
    assert line.at(9.0) is None and line.at(41.0) is None


def test_the_line_on_each_window_is_never_above_the_line_of_means():
    draw = np.random.default_rng(1)
    kl = {key: Sample(np.exp(draw.normal(size=40)), None) for key in ("a", "b", "plan")}
    shares = {"a": 0.3, "b": 0.7}
    between = np.exp(sum(share * np.log(kl[key].mean()) for key, share in shares.items()))
    assert ratio({"plan": shares}, kl).value == pytest.approx(kl["plan"].mean() / between)
    assert on_windows(shares, kl).mean() < between
    assert on_windows({"a": 1.0}, kl) is kl["a"]


def test_mixes_of_llama_cpp(tmp_path):
    assert llama.read(tmp_path).empty
    path = tmp_path / llama.FILE
    head = ",".join(llama.COLUMNS)
    path.write_text(f"{head}\nm,Q4_K_M,True,35000000,0.05,,,16,llama.cpp\n")
    found = llama.read(tmp_path)
    assert found["bytes"].tolist() == [35_000_000] and found["imatrix"].all()
    path.write_text("model,mix\nm,Q2_K\n")
    with pytest.raises(InputError, match="its columns are model, mix, imatrix"):
        llama.read(tmp_path)


def test_numbers_stay_readable_and_names_become_text():
    assert str(page._as_text("0.63 [0.60, 0.66]")) == "0.63 [0.60, 0.66]"
    assert str(page._as_text("**0.750** [0.73, 0.77]")) == "**0.750** [0.73, 0.77]"
    assert str(page._as_text(" and ")) == " and " and str(page._as_text(", ")) == ", "
    for hostile in ("[1](2)", "![1](2)", "<b>", "**x**", "[0.1](0.2)"):
        assert str(page._as_text(hostile)) != hostile
