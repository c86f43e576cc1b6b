"""Layer rates: OWL, DLP and LAMP against slow twins, and the allocator that follows them."""

import numpy as np
import pytest
import torch

import lwq
from lwq import models
from lwq.allocators.rates import Rates
from lwq.contracts import Scores
from lwq.quantizers.masks import LEVELS, Magnitude, density_of, width_of
from lwq.scorers.outliers import DLP, LAMP, OWL, _threshold, lamp_scores


def saliences(model, windows):
    """Block -> |w| times the norm of its input, one number a weight, with plain hooks and loops."""
    seen = {}
    handles = []
    for name, matrix in models.matrices(model).items():

        def hook(module, args, name=name):
            seen.setdefault(name, []).append(args[0].detach().reshape(-1, args[0].shape[-1]))

        handles.append(matrix.module.register_forward_pre_hook(hook))
    for window in windows:
        model(window[None])
    for handle in handles:
        handle.remove()
    return {
        block: np.concatenate(
            [
                (
                    models.matrices(model)[name].view().abs()
                    * torch.cat(seen[name]).double().norm(dim=0)
                )
                .flatten()
                .numpy()
                for name in names
            ]
        )
        for block, names in models.units(model, "block").items()
    }


def test_owl_and_dlp_equal_their_slow_twins(toy, windows):
    model, _ = toy
    truth = saliences(model, windows)
    owl = lwq.score(model, OWL(threshold=2.0), windows)
    dlp = lwq.score(model, DLP(), windows)
    total = sum(values.mean() for values in truth.values())
    for block, values in truth.items():
        assert owl[block] == pytest.approx(100 * (values > 2 * values.mean()).mean(), abs=0.01)
        assert dlp[block] == pytest.approx(1 - values.mean() / total, rel=1e-4)
    assert len(set(owl.values())) > 1


def test_lamp_scores_follow_the_formula():
    weight = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    squares = (weight.flatten().double() ** 2).tolist()
    slow = sorted((w / sum(v for v in squares if v >= w) for w in squares), reverse=True)
    assert lamp_scores(weight).tolist() == pytest.approx(slow, rel=1e-6)
    assert lamp_scores(weight)[0] == 1


def test_lamp_ranks_equal_weights():
    """Of two equal weights one counts before the other, as in the paper, which sorts them."""
    assert lamp_scores(torch.tensor([[2.0, -2.0, 1.0]])).tolist() == pytest.approx(
        [1, 1 / 2, 1 / 9]
    )


def test_the_threshold_is_the_kth_value():
    values = torch.rand(101, generator=torch.Generator().manual_seed(0))
    for share in (0.0, 0.3, 1.0):
        truth = values.kthvalue(max(1, round(share * 101))).values
        assert _threshold([values[:40], values[40:]], share) == float(truth)


def test_lamp_keeps_the_asked_share_and_minds_no_scale(toy):
    model, _ = toy
    found = lwq.score(model, LAMP(density=0.3))
    sizes = [found.layout.weights(block) for block in found]
    assert np.average(list(found.values()), weights=sizes) == pytest.approx(0.3, abs=1e-4)
    other, _ = lwq.load("toy")
    # a matrix is compared with itself alone
    list(models.matrices(other).values())[0].view().mul_(10)
    assert list(lwq.score(other, LAMP(density=0.3)).values()) == pytest.approx(
        list(found.values()), abs=1e-6
    )
    with pytest.raises(lwq.InputError, match="lamp: density=1"):
        LAMP(density=1)


@pytest.mark.parametrize("spread", [0.0, 0.08, 0.15, None])
@pytest.mark.parametrize("size", [3.0, 6.5, 9.0])
def test_rates_meet_the_budget_and_follow_the_score(toy, spread, size):
    layout = models.layout(toy[0])
    scores = Scores(dict(zip(layout.units, [0.3, 0.5, 0.35, 0.6], strict=True)), layout, "s")
    plan = lwq.allocate(scores, None, LEVELS, Magnitude(), Rates(spread), true_bits=size)
    found = plan.size(Magnitude()).true_bits
    assert size - 0.4 < found <= size
    order = [plan.bits[unit] for unit in scores.order()]
    assert order == sorted(order)
    if spread == 0.0:
        assert len(set(order)) == 1
    elif spread is not None and size == 6.5:
        assert density_of(order[-1]) - density_of(order[0]) == pytest.approx(2 * spread, abs=0.021)
    elif spread is None and size == 6.5:
        assert density_of(order[-1]) - density_of(order[0]) == pytest.approx(0.3, abs=0.021)


def test_a_width_says_the_density():
    assert [density_of(width_of(density)) for density in (0.01, 0.25, 0.93)] == pytest.approx(
        [0.01, 0.25, 0.93]
    )
    assert LEVELS[0] == 1.16 and LEVELS[-1] < 16 and len(LEVELS) == 93


def test_a_mask_goes_through_bank_sweep_and_quantize_(toy, windows, judge, tmp_path):
    from lwq.engine.store import Store

    model, _ = toy
    layout = models.layout(model)
    scores = lwq.score(model, OWL(), windows)
    plan = lwq.allocate(scores, model, LEVELS, "wanda", "rates", true_bits=7)
    truth = lwq.reference(model, judge)
    swept = [
        losses
        for _ in range(2)  # the second time from the store
        for _, losses in lwq.Sweep(
            model,
            judge,
            lwq.Bank(model, lwq.QUANTIZERS["wanda"](), windows, Store(tmp_path)),
            truth,
        ).measure([plan])
    ]
    fresh, _ = lwq.load("toy")
    errors = lwq.quantize_(fresh, plan, windows)
    slow = lwq.evaluate(fresh, judge, truth)
    assert all(np.array_equal(losses.nll, slow.nll) for losses in swept) and slow.mean_kl > 0
    zeros = {n: float((m.view() == 0).double().mean()) for n, m in models.matrices(fresh).items()}
    assert all(
        zeros[n] == pytest.approx(1 - density_of(plan.bits[u]), abs=0.02)
        for u in layout.units
        for n in layout.units[u]
    )
    assert all(0 < error < 1 for error in errors.values())
