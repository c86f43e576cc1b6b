"""Losses equal a plain loop; the reference is the same whichever way it is kept."""

import architectures
import numpy as np
import pytest
import torch

import lwq
from lwq import models
from lwq.contracts import Plan
from lwq.engine.evaluate import evaluate, reference

NAMES = list(architectures.CONFIGS)


def plain_perplexity(model, windows):
    """What a reader would write with transformers alone: the library's own loss, one window at a
    time.
    """
    losses = [float(model(input_ids=w[None], labels=w[None]).loss) for w in windows]
    return float(np.exp(np.mean(losses)))


@pytest.mark.parametrize("name", NAMES)
def test_perplexity_equals_a_plain_loop(name):
    model, x = architectures.make(name), architectures.tokens(7)
    assert evaluate(model, x).perplexity == pytest.approx(plain_perplexity(model, x), rel=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_a_reference_kept_as_hidden_states_is_the_same(name):
    model, x = architectures.make(name), architectures.tokens(5)
    full, lean = reference(model, x), reference(model, x, memory=0)
    assert full.log_probs and not full.remade and lean.remade and not lean.log_probs
    plan = Plan(dict.fromkeys(lwq.units(model), 3), lwq.models.layout(model), "rtn()")
    lwq.quantize_(model, plan)
    a, b = evaluate(model, x, full), evaluate(model, x, lean)
    np.testing.assert_allclose(a.kl, b.kl, rtol=1e-4, atol=1e-6)
    assert np.array_equal(a.nll, b.nll) and (a.kl > 0).all()


def test_a_reference_of_16_bits_keeps_logits_and_takes_half_the_memory(judge):
    model, _ = lwq.load("toy", "bfloat16")
    count = judge.shape[0] * (judge.shape[1] - 1) * lwq.models.vocabulary(model)
    full, lean = (
        reference(model, judge, memory=2 * count),
        reference(model, judge, memory=2 * count - 1),
    )
    assert (
        full.logits[0].dtype == torch.bfloat16
        and not full.remade
        and lean.remade
        and not lean.logits
    )
    lwq.quantize_(
        model, Plan(dict.fromkeys(lwq.units(model), 3), lwq.models.layout(model), "rtn()")
    )
    a, b = evaluate(model, judge, full), evaluate(model, judge, lean)
    np.testing.assert_allclose(a.kl, b.kl, rtol=1e-4, atol=1e-6)
    assert np.array_equal(a.nll, b.nll) and (a.kl > 0).all()


# the last three have tied heads
@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt2", "opt"])
@pytest.mark.parametrize("same", [False, True])
def test_hidden_states_are_judged_by_the_head_that_they_were_taken_with(name, same):
    model, x = architectures.make(name), architectures.tokens(5)
    other = model if same else architectures.make(name)
    full, lean = reference(model, x), reference(model, x, memory=0)
    for weight in (lwq.models.final_norm(other).weight, other.get_output_embeddings().weight):
        before = weight.clone()
        weight.add_(torch.rand_like(weight))
        changed = weight.clone()
        a, b = evaluate(other, x, full), evaluate(other, x, lean)
        np.testing.assert_allclose(a.kl, b.kl, rtol=1e-4, atol=1e-6)
        assert np.array_equal(a.nll, b.nll) and (a.kl > 0).all()
        assert torch.equal(weight, changed)  # the judged model is left as it was
        weight.copy_(before)
        assert (evaluate(other, x, lean).kl == 0).all()


def test_hidden_states_are_judged_in_another_dtype():
    model, x = architectures.make("llama"), architectures.tokens(5)
    full, lean = reference(model, x), reference(model, x, memory=0)
    narrow = lwq.models.cast(model, "bfloat16")
    a, b = evaluate(narrow, x, full), evaluate(narrow, x, lean)
    np.testing.assert_allclose(a.kl, b.kl, rtol=1e-3, atol=1e-6)


def test_hidden_states_are_judged_where_plans_change_head_and_embeddings(tmp_path):
    """As in `compress` of a model with a large vocabulary, in memory and from disk."""
    model, tokenizer = lwq.load("toy")
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    x = lwq.windows("toy", tokenizer, 3, 32, "judge")
    layout = lwq.models.layout(model, "matrix", True)
    plan = Plan(dict.fromkeys(layout.units, 3), layout, "rtn()")
    right = None
    for stream in (False, True):
        found, _ = lwq.load(str(tmp_path), stream=stream)
        for memory in (1 << 30, 0):
            bank = lwq.Bank(found, lwq.QUANTIZERS["rtn"]())
            truth = reference(found, x, memory)
            bank.apply_(plan)
            whole = evaluate(found, x, truth)
            bank.restore_()
            ((_, swept),) = lwq.Sweep(found, x, bank, truth).measure([plan])
            right = right or whole
            for losses in (whole, swept):
                np.testing.assert_allclose(losses.kl, right.kl, rtol=1e-4)
            bank.release()
    assert (right.kl > 0.01).all()


def test_kl_and_agreement_by_hand(toy, judge):
    model, _ = toy
    truth = reference(model, judge)
    before = torch.log_softmax(model(judge).logits[:, :-1].double(), -1)
    model.model.layers[1].mlp.down_proj.weight.mul_(0.5)
    after = torch.log_softmax(model(judge).logits[:, :-1].double(), -1)
    found = evaluate(model, judge, truth)
    np.testing.assert_allclose(
        found.kl, (before.exp() * (before - after)).sum(-1).mean(-1), rtol=1e-4
    )
    np.testing.assert_allclose(
        found.top1, (before.argmax(-1) == after.argmax(-1)).double().mean(-1)
    )
    assert found.summary() == {
        "perplexity": found.perplexity,
        "kl": found.mean_kl,
        "top1": found.agreement,
    }


def test_a_model_is_its_own_reference(toy, judge):
    truth = reference(toy[0], judge)
    same = evaluate(toy[0], judge, truth)
    assert (
        (same.kl == 0).all()
        and (same.top1 == 1).all()
        and np.array_equal(same.nll, truth.losses.nll)
    )


@pytest.mark.assets
def test_perplexity_of_a_real_model_equals_a_plain_loop():
    model, tokenizer = lwq.load("smollm2-135m")
    windows = lwq.windows("wiki", tokenizer, n=4, length=128, split="judge")
    assert evaluate(model, windows).perplexity == pytest.approx(
        plain_perplexity(model, windows), rel=1e-5
    )


def test_bad_windows_are_refused(toy, judge):
    model, _ = toy
    with pytest.raises(lwq.InputError, match="longer than the model's context of 512"):
        evaluate(model, torch.zeros(1, 513, dtype=torch.long))
    with pytest.raises(lwq.InputError, match="nothing to score"):
        evaluate(model, judge[:, :1])
    with pytest.raises(lwq.InputError, match="token id 999 is outside the vocabulary of 257"):
        evaluate(model, judge.clone().fill_(999))
    with pytest.raises(lwq.InputError, match="taken on other windows"):
        evaluate(model, judge[:2], reference(model, judge[2:4]))
    with pytest.raises(lwq.InputError, match="need a reference"):
        _ = evaluate(model, judge).mean_kl
    model.model.norm.weight.fill_(float("nan"))
    with pytest.raises(lwq.InputError, match="answers with NaN or Inf on window 0"):
        evaluate(model, judge)


UNUSED = 40  # ids of the toy's vocabulary from the end that no window holds


def masked(model, windows):
    """`model` with a bias of −inf on ids that `windows` do not hold, as checkpoints have whose
    vocabulary was padded.
    """
    free = sorted(set(range(models.vocabulary(model))) - set(windows.flatten().tolist()))[-UNUSED:]
    bias = torch.zeros(models.vocabulary(model))
    bias[free] = -torch.inf
    model.lm_head.bias = torch.nn.Parameter(bias)
    return model


@pytest.mark.parametrize("memory", [None, 0])
def test_an_id_without_probability_on_both_sides_adds_nothing_to_kl(toy, judge, memory):
    windows = judge[:3]
    model = masked(toy[0], windows)
    truth = reference(model, windows, memory)
    assert evaluate(model, windows, truth).mean_kl == 0
    before = torch.log_softmax(model(windows).logits[:, :-1].double(), -1)
    layout = models.layout(model)
    lwq.quantize_(model, Plan(dict.fromkeys(layout.units, 3), layout, "rtn()"))
    after = torch.log_softmax(model(windows).logits[:, :-1].double(), -1)
    used = model.lm_head.bias.isfinite()
    expected = (before.exp() * (before - after))[..., used].sum(-1).mean()
    losses = evaluate(model, windows, truth, tails=True)
    assert losses.mean_kl == pytest.approx(float(expected.detach()), rel=1e-4)
    assert all(np.isfinite(list(losses.tails.values())))


def test_kl_that_a_plan_makes_infinite_is_refused(toy, judge):
    """A head that leaves out unlikely ids, and a plan that makes other ids unlikely."""
    windows = judge[:3]
    model = masked(toy[0], windows)
    unused = model.lm_head.bias.isinf()
    model.lm_head.bias = None

    def leave_out(module, args, logits):
        return logits.masked_fill(unused & (logits < logits.mean(-1, keepdim=True)), -torch.inf)

    model.lm_head.register_forward_hook(leave_out)
    truth = reference(model, windows)
    assert evaluate(model, windows, truth).mean_kl == 0
    layout = models.layout(model)
    lwq.quantize_(model, Plan(dict.fromkeys(layout.units, 2), layout, "rtn()"))
    assert np.isfinite(evaluate(model, windows).nll).all()
    with pytest.raises(lwq.InputError, match=r"KL of 'toy' to the reference is inf on window 0"):
        evaluate(model, windows, truth)


def test_answers_to_other_positions_than_the_tokens_are_refused(toy, judge, monkeypatch):
    real = type(toy[0]).forward

    def forward(self, *arguments, **settings):
        found = real(self, *arguments, **settings)
        found.logits = found.logits.repeat(1, 2, 1)
        return found

    monkeypatch.setattr(type(toy[0]), "forward", forward)
    with pytest.raises(lwq.InputError, match="one answer a token is needed"):
        lwq.evaluate(toy[0], judge)
