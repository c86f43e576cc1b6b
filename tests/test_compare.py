"""How far an ordering goes, what it gains and what is left on tasks, by hand."""

import numpy as np
import pandas as pd
import pytest

from lwq.report import intervals
from lwq.report.bootstrap import Interval, Sample


def test_largest_fraction_by_hand():
    reference = np.full(8, 2.0)
    # falls below 95 % at the third point and comes back: only two count
    quality = [1.0, 0.97, 0.93, 0.96, 0.5]
    nll = np.stack([reference - np.log(q) for q in quality])
    fractions = np.array([0, 0.25, 0.5, 0.75, 1.0])
    assert intervals.largest_fraction(fractions, nll, reference, 0.95) == (0.25, 0.25, 0.25)
    assert intervals.largest_fraction(fractions, nll, reference, 0.90) == (0.75, 0.75, 0.75)
    assert intervals.largest_fraction(fractions[::-1], nll[::-1], reference, 0.90).value == 0.75
    assert intervals.largest_fraction(fractions, nll + 5, reference, 0.90).value == 0


def test_limits_pool_the_random_orders():
    rows, arrays = [], []
    for ordering, fall in (
        ("uniform", 0.0),
        ("lim", 0.01),
        ("random(seed=0)", 0.2),
        ("random(seed=1)", 0.05),
    ):
        for moved in range(5):
            key = f"{ordering}{moved}"
            rows.append(
                {
                    "id": key,
                    "ordering": ordering,
                    "seed": {"random(seed=0)": 0, "random(seed=1)": 1}.get(ordering),
                    "metric": "perplexity",
                    "moved": moved,
                    "units": 4,
                }
            )
            losses = {"id": key, "window": range(6), "document": range(6), "nll": 2 + fall * moved}
            arrays.append(pd.DataFrame(losses))
    found = intervals.limits(pd.DataFrame(rows), pd.concat(arrays)).set_index(
        ["ordering", "threshold"]
    )["value"]
    assert (
        found["lim", 0.95] == 1
        and found["random(seed=0)", 0.95] == 0
        and found["random(seed=1)", 0.95] == 0.25
    )
    assert found["random", 0.95] == 0.125


def test_the_arrays_behind_a_row_keep_their_order():
    windows = pd.DataFrame(
        {
            "id": list("babab"),
            "nll": [1.0, 2.0, 3.0, np.nan, 5.0],
            "correct": [np.nan, 1.0, np.nan, 0.0, np.nan],
            "document": [7, np.nan, 8, np.nan, 7],
        }
    )
    found = intervals.by_id(windows, "nll")
    assert {key: own.values.tolist() for key, own in found.items()} == {"b": [1, 3, 5], "a": [2]}
    assert found["b"].documents.tolist() == [7, 8, 7] and found["a"].documents is None
    assert intervals.by_id(windows, "correct")["a"].values.tolist() == [1, 0]
    assert intervals.by_id(windows.assign(kl=np.nan), "kl") == {}


def test_a_share_of_blocks_in_words():
    assert intervals.span(Interval(0, 0, 0), 0.1, "[{}, {}]") == "< 10%"
    assert intervals.span(Interval(0.2, 0, 0.3), 0.1, "[{}, {}]") == "20% [< 10%, 30%]"


def sweep_of(off, **columns):
    """Rows and windows of one ordering, whose losses are those of the all-high plan plus `off`."""
    base = {
        "study": "s",
        "model": "m",
        "fingerprint": "f",
        "units": 2,
        "quantizer": "rtn()",
        "high": 4,
        "low": 2,
        # fmt: skip
        "calibration": "c",
        "judge": "j",
        "dtype": "float32",
        "metric": "perplexity",
        "value": 1.0,
    }
    plans = [("uniform", 0, 0 * off), *(("lim", moved, moved * off) for moved in range(3))]
    rows = [
        {**base, "id": f"{name}{moved}", "ordering": name, "moved": moved, **columns}
        for name, moved, _ in plans
    ]
    windows = [
        pd.DataFrame({"id": f"{name}{moved}", "nll": 2 + loss, "document": range(len(loss))})
        for name, moved, loss in plans
    ]
    return pd.DataFrame(rows), pd.concat(windows, ignore_index=True)


def test_other_weights_under_one_name_are_another_sweep():
    (mine, _), (other, _) = (sweep_of(np.zeros(4), fingerprint=name) for name in ("f", "g"))
    assert [
        part["fingerprint"].nunique() for part in intervals.sweeps(pd.concat([mine, other]))
    ] == [1, 1]


def test_nothing_is_retained_of_a_guess():
    guess, good = np.tile([1, 0, 0, 0], 50), np.tile([1, 1, 1, 0], 50)
    correct = {("blind", 0): guess, ("blind", 2): good, ("seen", 0): good, ("seen", 2): good}
    base = {"calibration": "c", "fingerprint": "f", "units": 4, "ordering": "lim", "seed": None}
    rows = [
        {
            **base,
            "id": f"{task}{moved}",
            "judge": f"{task} 200 items",
            "moved": moved,
            "metric": metric,
            "value": 0.25,
        }
        for task, moved in correct
        for metric in ("accuracy", "chance")
    ]
    table = pd.DataFrame(rows)
    windows = pd.concat(
        pd.DataFrame({"id": f"{task}{moved}", "correct": own, "document": np.nan})
        for (task, moved), own in correct.items()
    )
    found = intervals.tasks(table, windows)
    assert found["task"].tolist() == ["seen"] and found["value"].tolist() == [1]
    other, worse = (
        table.assign(calibration="d", id=table["id"] + "x"),
        windows.assign(id=windows["id"] + "x", correct=1.0),
    )
    both = intervals.tasks(pd.concat([table, other]), pd.concat([windows, worse]))
    assert both["value"].eq(1).all() and len(both) == 3, (
        "each calibration text has an all-high plan of its own"
    )


def test_gain_over_uniform_bits_of_the_same_size():
    rows = pd.DataFrame(
        [
            ("h", "uniform", 4.0),
            ("l", "uniform", 2.0),
            ("m", "uniform", 3.0),
            ("a", "lim", 3.25),
            ("b", "lim", 3.0),
            ("c", "lim", 5.0),
        ],
        columns=["id", "ordering", "true_bits"],
    )
    # what the windows share drops out of the difference
    level = np.random.default_rng(0).normal(0, 1, 40)
    nll = {
        key: Sample(level + loss, np.arange(40) // 2)
        for key, loss in {"h": 3.0, "m": 4.0, "l": 8.0, "a": 3.5, "b": 4.5, "c": 1.0}.items()
    }
    found = intervals.against_uniform(rows, nll)
    assert found.keys() == {"a", "b"}, "a size beyond the widths has nothing beside it"
    assert found["a"] == pytest.approx((0.25, 0.25, 0.25)) and found["b"] == pytest.approx(
        (-0.5, -0.5, -0.5)
    )
