"""The streamed pass back gives what plain autograd gives: gradients of every matrix, of the
embedding and of the head.
"""

import architectures
import pytest
import torch

import lwq
from lwq import models
from lwq.common.errors import InputError
from lwq.statistics.backward import backward, drawn_now, empirical, sampled, towards
from lwq.statistics.calls import require_separable
from lwq.statistics.passes import counted


def whole(model, x, slope):
    """Slow twin: parameter -> gradient of the summed log-probability, in one graph."""
    model.requires_grad_(True)
    model.config._experts_implementation = "eager"
    for number, window in enumerate(x.split(1)):
        logits = model(window, use_cache=False).logits
        logits.backward(slope(number, logits[0].detach())[None])
    found = {key: p.grad for key, p in model.named_parameters()}
    model.requires_grad_(False)
    return found


def summed(model, x, slope):
    """Matrix -> Σ g xᵀ over all pairs; the rows of the embedding under its own name."""
    embedding = models.module_name(model, model.get_input_embeddings())
    found = {}
    for part in backward(model, x, slope):
        for key, pair in part.pairs.items():
            if part.part == embedding:
                weight = torch.zeros(model.get_input_embeddings().weight.shape)
                grown = weight.index_add(0, pair.x, pair.g)
            else:
                grown = pair.weight_gradient()
            key = part.part + "(rows)" if part.part == embedding else key
            found[key] = found.get(key, 0) + grown
    return found


def same(found, true):
    torch.testing.assert_close(found, true, rtol=2e-4, atol=2e-5 * float(true.abs().max()))


@pytest.mark.parametrize("name", list(architectures.CONFIGS))
def test_equals_plain_autograd(name):
    model, x = architectures.make(name), architectures.tokens(6)  # a full batch and a part of one
    found, true = summed(model, x, empirical(x)), whole(model, x, empirical(x))
    for key, matrix in models.matrices(model).items():
        parameter = key if matrix.expert is None else key.rpartition(".")[0]
        grad = true[f"{parameter}.weight" if matrix.expert is None else parameter]
        grad = grad if matrix.expert is None else grad[matrix.expert]
        if key not in found:  # no token was routed to it
            assert matrix.expert is not None and not grad.any()
            continue
        same(found[key], grad.T if matrix.transposed else grad)
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    rows = found[models.module_name(model, embedding) + "(rows)"]
    table = found[models.module_name(model, head)]
    tied = embedding.weight is head.weight
    same(rows + table if tied else rows, true[f"{models.module_name(model, embedding)}.weight"])
    if not tied:
        same(table, true[f"{models.module_name(model, head)}.weight"])


def test_a_pair_moves_what_is_differentiated():
    """g · ΔW x, summed over tokens, is the derivative along ΔW, ⟨Σ g xᵀ, ΔW⟩; the same for rows of
    the embedding.
    """
    model, x = architectures.make("llama"), architectures.tokens(6)
    generator, moved = torch.Generator().manual_seed(3), {}
    gradients = summed(model, x, empirical(x))
    change = {key: torch.randn(w.shape, generator=generator) for key, w in gradients.items()}
    for part in backward(model, x, empirical(x)):
        for key, pair in part.pairs.items():
            key = f"{key}(rows)" if key == "model.embed_tokens" else key
            assert pair.moved(change[key]).shape == pair.rows.shape
            moved[key] = moved.get(key, 0.0) + float(pair.moved(change[key]).double().sum())
    for key, gradient in gradients.items():
        size = float(gradient.norm() * change[key].norm())
        assert moved[key] == pytest.approx(float((gradient * change[key]).sum()), abs=1e-5 * size)


def test_draws_follow_the_model_and_the_seed():
    logits = torch.randn(1, 7, generator=torch.Generator().manual_seed(0)).repeat(40_000, 1)
    p = logits[0].softmax(-1)
    found = sampled(0)(0, logits)
    assert torch.equal(found, sampled(0)(0, logits))
    assert not torch.equal(found, sampled(1)(0, logits))
    # one-hot(y) − p: mean 0, covariance diag p − p pᵀ
    assert float(found.mean(0).abs().max()) < 0.01
    torch.testing.assert_close(
        found.T @ found / len(found), p.diag() - torch.outer(p, p), rtol=0, atol=0.01
    )


def test_labels_that_are_kept_are_those_of_the_model_now():
    model, x = architectures.make("llama"), architectures.tokens(3)
    kept, anew = drawn_now(model, x, 5), sampled(5)
    for number, logits in enumerate(model(x, use_cache=False).logits):
        torch.testing.assert_close(kept(number, logits), anew(number, logits))


def test_towards_itself_is_flat():
    logits = torch.randn(5, 9)
    assert not towards(lambda number: logits)(0, logits).any()


def test_the_last_position_has_no_next_token():
    x = architectures.tokens(2)
    found = empirical(x)(1, torch.zeros(x.shape[1], 96))
    assert not found[-1].any() and found[0, x[1, 1]] > 0.9


def test_experts_say_which_tokens_they_saw():
    model, x = architectures.make("mixtral"), architectures.tokens(4)
    experts, seen = model.model.layers[1].mlp.experts, {}
    hook = experts.register_forward_pre_hook(lambda m, args: seen.update(chosen=args[1]))
    model(x, use_cache=False)
    hook.remove()
    for part in backward(model, x, empirical(x)):
        if part.part == "model.layers.1":
            for expert in range(4):
                pair = part.pairs[f"model.layers.1.mlp.experts.down_proj.{expert}"]
                rows = (seen["chosen"] == expert).any(-1).nonzero()[:, 0]
                assert torch.equal(pair.rows.sort().values, rows)
    assert "forward" not in experts.__dict__


def test_streamed_equals_whole(tmp_path):
    model, x = architectures.make("llama"), architectures.tokens(6)
    model.save_pretrained(tmp_path)
    lwq.load("toy")[1].save_pretrained(tmp_path)
    plain, _ = lwq.load(str(tmp_path))
    streamed, _ = lwq.load(str(tmp_path), stream=True)
    pairs = zip(backward(plain, x, sampled(0)), backward(streamed, x, sampled(0)), strict=True)
    for one, other in pairs:
        assert (one.part, one.first, list(one.pairs)) == (
            other.part,
            other.first,
            list(other.pairs),
        )
        for key, pair in one.pairs.items():
            torch.testing.assert_close(pair.g, other.pairs[key].g)
    assert all(p.is_meta for p in streamed.model.layers.parameters())


def test_what_it_costs():
    model, x = architectures.make("llama"), architectures.tokens(6)
    models.units(model, "group")  # traced once a model
    require_separable(model, x)  # tried once a model
    with counted(model) as passes:
        list(backward(model, x, sampled(0)))
    assert passes.over(x.numel()) == {"forwards": 2.0, "backwards": 1.0}
    with counted(model) as passes:
        model(x, use_cache=False)
    assert passes.over(x.numel()) == {"forwards": 1.0, "backwards": 0.0}


def test_activations_that_overflow_name_their_block():
    model, x = architectures.make("llama").half(), architectures.tokens(2)
    model.model.layers[1].mlp.down_proj.weight.fill_(6e4)
    with pytest.raises(InputError, match="^model.layers.1: its activations hold NaN or Inf"):
        list(backward(model, x, sampled(0)))
