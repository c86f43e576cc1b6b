"""Intervals against theory and limits; how far an ordering goes, by hand."""

import numpy as np
import pandas as pd
import pytest

from lwq import compare
from lwq.errors import InputError


def test_retained_quality_limits():
    nll = np.random.default_rng(0).normal(3, 0.5, 40)
    assert compare.retained(nll, nll) == (1, 1, 1)
    worse = compare.retained(nll, nll + np.log(2))
    assert worse == pytest.approx((0.5, 0.5, 0.5))  # a constant shift has no paired spread


def test_the_mean_s_interval_is_that_of_theory():
    values = np.random.default_rng(1).normal(0, 1, 400)
    found = compare.mean(values)
    half = 1.96 * values.std(ddof=1) / 20
    assert found.value == pytest.approx(values.mean())
    assert found.high - found.value == pytest.approx(half, rel=0.08)
    assert found.value - found.low == pytest.approx(half, rel=0.08)


def test_equal_models_are_not_told_apart():
    """A/A: two noisy measurements of one thing; the 95 % interval of their ratio covers 1 nearly always."""
    covered = 0
    for seed in range(60):
        draw = np.random.default_rng(seed)
        base = draw.normal(3, 0.5, 64)
        found = compare.retained(base + draw.normal(0, 0.1, 64), base + draw.normal(0, 0.1, 64))
        covered += found.low <= 1 <= found.high
    assert covered >= 52


def test_largest_fraction_by_hand():
    reference = np.full(8, 2.0)
    quality = [1.0, 0.97, 0.93, 0.96, 0.5]  # falls below 95 % at the third point and comes back: only two count
    nll = np.stack([reference - np.log(q) for q in quality])
    fractions = np.array([0, 0.25, 0.5, 0.75, 1.0])
    assert compare.largest_fraction(fractions, nll, reference, 0.95) == (0.25, 0.25, 0.25)
    assert compare.largest_fraction(fractions, nll, reference, 0.90) == (0.75, 0.75, 0.75)
    assert compare.largest_fraction(fractions[::-1], nll[::-1], reference, 0.90).value == 0.75
    assert compare.largest_fraction(fractions, nll + 5, reference, 0.90).value == 0


def test_unpaired_values_are_refused():
    with pytest.raises(InputError, match="paired values are needed"):
        compare.retained(np.zeros(3), np.zeros(4))
    with pytest.raises(InputError, match="two windows or more"):
        compare.mean(np.zeros(1))


def test_limits_pool_the_random_orders():
    rows, arrays = [], []
    for ordering, fall in (("uniform", 0.0), ("lim", 0.01), ("random(seed=0)", 0.2), ("random(seed=1)", 0.05)):
        for moved in range(5):
            key = f"{ordering}{moved}"
            rows.append({"id": key, "ordering": ordering, "metric": "perplexity", "moved": moved, "units": 4})
            arrays.append(pd.DataFrame({"id": key, "window": range(6), "nll": 2 + fall * moved}))
    found = compare.limits(pd.DataFrame(rows), pd.concat(arrays)).set_index(["ordering", "threshold"])["value"]
    assert found["lim", 0.95] == 1 and found["random(seed=0)", 0.95] == 0 and found["random(seed=1)", 0.95] == 0.25
    assert found["random", 0.95] == 0.125


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
    level = np.random.default_rng(0).normal(0, 1, 40)  # what the windows share drops out of the difference
    nll = {key: level + loss for key, loss in {"h": 3.0, "m": 4.0, "l": 8.0, "a": 3.5, "b": 4.5, "c": 1.0}.items()}
    found = compare.against_uniform(rows, nll)
    assert found.keys() == {"a", "b"}, "a size beyond the widths has nothing beside it"
    assert found["a"] == pytest.approx((0.25, 0.25, 0.25)) and found["b"] == pytest.approx((-0.5, -0.5, -0.5))
