"""Products in 16 bits made in float32 are those that the CPU makes itself, to a rounding."""

import architectures
import pytest
import torch
from torch.nn import functional

from lwq import models
from lwq.models import products


@pytest.fixture
def lacking(monkeypatch):
    """As on a CPU without instructions for 16 bits."""
    monkeypatch.setattr(products, "_lacking", lambda: True)


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


def graded(x, weight, bias):
    """The output of `linear`, and the gradients of all that went in."""
    leaves = [part.detach().requires_grad_() for part in (x, weight, bias) if part is not None]
    out = functional.linear(*leaves)
    grown = torch.autograd.grad(out, leaves, drawn(*out.shape, seed=1).to(out.dtype))
    return out.detach(), *grown


@pytest.mark.parametrize("part", [1 << 24, 500])
@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_linear_and_its_gradients_are_rounded_once(lacking, monkeypatch, part, biased, dtype):
    monkeypatch.setattr(products, "PART", part)
    x, weight = drawn(2, 9, 64).to(dtype), (drawn(40, 64, seed=2) / 8).to(dtype)
    bias = drawn(40, seed=3).to(dtype) if biased else None
    with models.multiplying():
        found = graded(x, weight, bias)
    truth = graded(*(None if one is None else one.double() for one in (x, weight, bias)))
    for mine, exact in zip(found, truth, strict=True):
        assert mine.dtype == dtype
        off = (mine.double() - exact).abs() / exact.abs().clamp(min=0.1)
        assert off.max() <= 1.01 * torch.finfo(dtype).eps / 2


@pytest.mark.parametrize("name", ["llama", "gpt2", "mixtral", "gemma3", "gpt_oss"])
def test_models_are_as_near_to_float32_as_without(name, monkeypatch):
    exact = architectures.make(name)
    ids = architectures.tokens()
    truth = models.call(exact, ids, use_cache=False).logits
    rounded = architectures.make(name).bfloat16()
    off = {}
    for lacking in (True, False):
        monkeypatch.setattr(products, "_lacking", lambda lacking=lacking: lacking)
        logits = models.call(rounded, ids, use_cache=False).logits
        assert logits.dtype == torch.bfloat16
        off[lacking] = (logits.float() - truth).square().mean().sqrt()
    assert 0 < off[True] <= 1.2 * off[False]


def test_products_are_found_however_they_are_called(lacking):
    x, weight, bias = drawn(2, 9, 64), drawn(40, 64, seed=2), drawn(40, seed=3)
    with models.multiplying():
        out = functional.linear(x, weight, bias)
        named = functional.linear(x, bias=bias, weight=weight)
        both = functional.linear(input=x, weight=weight, bias=bias)  # as the CPU makes it
        alike = [x @ weight.T, torch.matmul(x, weight.T), x.matmul(weight.T)]
        flat = torch.addmm(bias, x.flatten(0, 1), weight.T).reshape(out.shape)
    assert torch.equal(out, named) and torch.equal(out, flat)
    assert all(torch.equal(one, alike[0]) for one in alike)
    assert (both == out).float().mean() > 0.99


def test_what_is_fast_is_left_alone(lacking, monkeypatch):
    x, weight = drawn(products.FEW, 64), drawn(40, 64)
    alone = functional.linear(x, weight), functional.linear(x.float(), weight.float())
    monkeypatch.setattr(products, "_linear", lambda *_: pytest.fail("made in float32"))
    with models.multiplying():
        found = functional.linear(x, weight), functional.linear(x.float(), weight.float())
    assert all(map(torch.equal, found, alone))
    cpu = torch.device("cpu")
    assert models.fast(torch.float32, cpu) and models.fast(torch.bfloat16, torch.device("cuda"))
    assert not models.fast(torch.bfloat16, cpu)
