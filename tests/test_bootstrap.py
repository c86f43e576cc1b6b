"""One bootstrap over documents: against theory, a slow twin, and draws whose truth is known.

pytest tests/test_bootstrap.py
"""

import numpy as np
import pytest
from scipy import stats

from lwq.common.errors import InputError
from lwq.contracts import Losses
from lwq.contracts.estimate import Estimate
from lwq.report import bootstrap
from lwq.report.bootstrap import Interval, Sample


def test_retained_quality_limits():
    nll = np.random.default_rng(0).normal(3, 0.5, 40)
    assert bootstrap.retained(nll, nll) == (1, 1, 1)
    worse = bootstrap.retained(nll, nll + np.log(2))
    assert worse == pytest.approx((0.5, 0.5, 0.5))  # a constant shift has no paired spread


def test_retained_quality_is_over_documents():
    """Eight documents of four equal windows are worth eight windows, not 32."""
    draw = np.random.default_rng(5)
    nll, shift = draw.normal(3, 0.5, 32), np.repeat(draw.normal(0.1, 0.1, 8), 4)
    documents = np.repeat(np.arange(8), 4)
    of = [Losses(values, values, None, 63, documents) for values in (nll, nll + shift)]
    found = bootstrap.retained(*of)
    alone = bootstrap.retained(nll, nll + shift)
    assert found.value == alone.value and found.high - found.low > 1.8 * (alone.high - alone.low)
    error = Estimate.of(shift, documents).stderr
    assert error == pytest.approx(stats.sem(shift[::4]))
    assert Estimate.of(shift).stderr == pytest.approx(stats.sem(shift)) and error > 1.8 * stats.sem(
        shift
    )
    assert f"{Estimate.of(nll + shift, documents).stderr:.2g}" in of[1]._repr_html_()


@pytest.mark.parametrize("n", [6, 16, 400])
def test_the_mean_s_interval_is_student_s(n):
    values = np.random.default_rng(1).normal(0, 1, n)
    found = bootstrap.mean(values)
    half = stats.t.ppf(0.975, n - 1) * stats.sem(values)
    assert found.value == pytest.approx(values.mean())
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.08)


def test_few_normal_documents_are_covered_as_often_as_is_said():
    draw = np.random.default_rng(0)
    found = [bootstrap.mean(draw.normal(0, 1, 8)) for _ in range(600)]
    covered = np.mean([one.low <= 0 <= one.high for one in found])
    assert 0.93 <= covered <= 0.97


def test_equal_models_are_not_told_apart():
    """A/A: two noisy measurements of one thing; the 95 % interval of their ratio covers 1 nearly
    always.
    """
    covered = 0
    for seed in range(60):
        draw = np.random.default_rng(seed)
        base = draw.normal(3, 0.5, 64)
        found = bootstrap.retained(base + draw.normal(0, 0.1, 64), base + draw.normal(0, 0.1, 64))
        covered += found.low <= 1 <= found.high
    assert covered >= 52


def test_documents_bring_all_their_windows_a_slow_twin():
    documents = np.array([5, 5, 5, 2, 2, 9, 5])
    a, b = np.random.default_rng(2).normal(0, 1, (2, 7))
    seen = []
    bootstrap.paired(
        lambda means: seen.append(means) or means[0], Sample(a, documents), Sample(b, documents)
    )
    names, counts = np.unique(documents), bootstrap._draws(3)
    for draw in range(50):
        windows = [
            place
            for name, times in zip(names, counts[draw], strict=True)
            for _ in range(int(times))
            for place in np.flatnonzero(documents == name)
        ]
        assert seen[1][:, draw] == pytest.approx([a[windows].mean(), b[windows].mean()])
    assert counts.sum(1).tolist() == [3] * bootstrap.RESAMPLES
    assert counts.mean(0) == pytest.approx(1, abs=0.03)


def test_windows_of_one_document_do_not_count_as_many():
    """Documents differ and their windows are alike: four copies of each say nothing new."""
    values = np.random.default_rng(3).normal(0, 1, 12)
    alone = bootstrap.mean(Sample(values, np.arange(12)))
    copies = bootstrap.mean(Sample(np.repeat(values, 4), np.repeat(np.arange(12), 4)))
    assert copies == pytest.approx(alone)
    narrow = bootstrap.mean(np.repeat(values, 4))
    assert narrow.high - narrow.low < 0.6 * (alone.high - alone.low)


def test_what_is_said_of_few_documents():
    assert bootstrap.remark(np.arange(10)) == "" == bootstrap.remark(None)
    assert "come from 9 documents and count as much as 9 of equal" in bootstrap.remark(np.arange(9))
    uneven = np.array([0] * 18 + list(range(1, 15)))
    assert "The 32 windows come from 15 documents and count as much as 3" in bootstrap.remark(
        uneven
    )
    assert "from one document" in bootstrap.remark(np.zeros(4))
    # of one document, its windows are drawn
    values = np.arange(4.0)
    assert bootstrap.mean(Sample(values, np.zeros(4))) == bootstrap.mean(values)


def test_unpaired_values_are_refused():
    with pytest.raises(InputError, match="paired values are needed"):
        bootstrap.retained(np.zeros(3), np.zeros(4))
    with pytest.raises(InputError, match="two windows or more"):
        bootstrap.mean(np.zeros(1))
    first, second = (Sample(np.zeros(3), np.array(places)) for places in ([0, 1, 1], [0, 1, 2]))
    for statistic in (bootstrap.retained, Sample.__sub__):
        with pytest.raises(InputError, match="different documents"):
            statistic(first, second)


def test_a_statistic_without_a_number_is_refused():
    with np.errstate(all="ignore"), pytest.raises(InputError, match="cannot be estimated"):
        bootstrap.paired(lambda means: means[0] + np.inf, np.arange(4.0))


def test_the_difference_of_two_draws():
    found = bootstrap.between(Interval(5, 2, 6), Interval(1, 0, 5))
    assert found == (4, 4 - 5, 4 + np.sqrt(2))


def test_losses_bring_their_documents():
    losses = Losses(np.array([1.0, 2.0, 3.0]), None, None, 7, np.array([4, 4, 6]))
    found = bootstrap.samples(losses)
    assert found.keys() == {"nll"} and found["nll"].documents.tolist() == [4, 4, 6]
    assert losses.first(2).documents.tolist() == [4, 4]
    assert losses.arrays()["document"].tolist() == [4, 4, 6]
