"""A model whose blocks come from disk is the same model, and holds one block at a time."""

import contextlib

import architectures
import pytest
import torch
from test_apply import plan_for

import lwq
from lwq import models
from lwq.engine.evaluate import evaluate, reference
from lwq.inputs import toy
from lwq.statistics.forward import collect

NAMES = list(architectures.CONFIGS)


def saved(tmp_path, name, **options):
    """A tiny checkpoint in a folder, and the model in memory."""
    folder = tmp_path / name
    architectures.make(name).save_pretrained(folder, **options)
    toy.tokenizer().save_pretrained(folder)
    return str(folder), lwq.load(str(folder))[0]


def weights_in_memory(model):
    return sum(p.numel() for p in model.parameters() if not p.is_meta)


@pytest.mark.parametrize("name", NAMES)
def test_same_logits_fingerprint_and_layout(tmp_path, name):
    folder, whole = saved(tmp_path, name)
    streamed, _ = lwq.load(folder, stream=True)
    x = architectures.tokens(3)
    assert weights_in_memory(streamed) == 0
    assert torch.equal(streamed(x).logits, whole(x).logits)
    assert weights_in_memory(streamed) == 0
    assert models.layout(streamed) == models.layout(whole)
    assert models.layout(streamed, "group") == models.layout(whole, "group")


@pytest.mark.parametrize("name", NAMES)
def test_scores_quantizes_and_writes_like_a_model_in_memory(tmp_path, name):
    folder, whole = saved(tmp_path, name)
    streamed, tokenizer = lwq.load(folder, stream=True)
    x = architectures.tokens(6)
    for scorer in ("lim", "zd"):
        assert dict(lwq.score(streamed, scorer, x)) == dict(lwq.score(whole, scorer, x))
    plan = plan_for(whole, (4, 16, 2), "gptq()")
    errors = lwq.export(streamed, plan, tmp_path / "a", tokenizer, x)
    assert errors == lwq.quantize_(whole, plan, x)
    assert torch.equal(streamed(x).logits, whole(x).logits)
    assert torch.equal(lwq.load(str(tmp_path / "a"))[0](x).logits, whole(x).logits)
    again, _ = lwq.load(folder, stream=True)
    assert models.fingerprint(again) == plan.layout.fingerprint, (
        "the checkpoint itself was written to"
    )


def test_one_block_at_a_time(tmp_path):
    folder, whole = saved(tmp_path, "llama")
    streamed, _ = lwq.load(folder, stream=True)
    block = sum(p.numel() for p in models.blocks(whole)["model.layers.0"].parameters())
    seen = []
    for layer in models.blocks(streamed).values():
        layer.register_forward_pre_hook(lambda *_: seen.append(weights_in_memory(streamed)))
    collect(streamed, architectures.tokens(6), frozenset({"gram", "similarity"}))
    evaluate(streamed, architectures.tokens(6))
    assert set(seen) == {0, block}  # 0: a call that is only recorded
    with models.resident(streamed, "model.layers.1.mlp"):
        assert weights_in_memory(streamed) == block
        with models.resident(streamed, "model.layers.1"):
            pass
        assert weights_in_memory(streamed) == block
    assert weights_in_memory(streamed) == 0


@pytest.mark.parametrize(
    "quantizer", ["rtn()", "gptq(inputs='quantized')", "gptq(inputs='uniform')"]
)
def test_changed_blocks_are_kept_and_later_blocks_see_them(tmp_path, quantizer):
    folder, whole = saved(tmp_path, "gemma3", max_shard_size="100KB")
    streamed, _ = lwq.load(folder, stream=True)
    x = architectures.tokens(6)
    truth = reference(streamed, x)
    lwq.quantize_(whole, plan_for(whole, (3, 2), quantizer), x)
    lwq.quantize_(streamed, plan_for(streamed, (3, 2), quantizer), x)
    assert models.fingerprint(streamed) == models.fingerprint(whole)
    assert (evaluate(streamed, x, truth).nll == evaluate(whole, x, truth).nll).all()


@pytest.mark.parametrize("error", [lwq.InputError, KeyboardInterrupt])
@pytest.mark.parametrize("inside", [True, False], ids=["resident", "called"])
def test_a_load_that_fails_leaves_nothing_behind(tmp_path, error, inside):
    folder, whole = saved(tmp_path, "llama")
    streamed, _ = lwq.load(folder, stream=True)
    x, acts = architectures.tokens(2), []

    def act(part):
        acts.append(part)
        if acts.count("model.layers.1") == 1 and part == "model.layers.1":
            raise error

    streamed._offload.after_load.append(act)
    with pytest.raises(error):
        if inside:
            with models.resident(streamed, "model.layers.1"):
                pass
        streamed(x)
    assert not any(streamed._offload._held.values())
    assert torch.equal(streamed(x).logits, whole(x).logits)
    assert acts.count("model.layers.1") == 2 and weights_in_memory(streamed) == 0


@pytest.mark.parametrize("inside", [True, False], ids=["resident", "called"])
def test_after_an_interrupted_call_a_block_is_loaded_again(tmp_path, inside):
    folder, whole = saved(tmp_path, "llama")
    streamed, _ = lwq.load(folder, stream=True)
    x, loads, name = architectures.tokens(2), [], "model.layers.1"
    streamed._offload.after_load.append(loads.append)

    def stop(*_):
        hook.remove()
        raise KeyboardInterrupt

    hook = streamed.get_submodule(name).mlp.register_forward_pre_hook(stop)
    with (
        pytest.raises(KeyboardInterrupt),
        models.resident(streamed, name) if inside else contextlib.nullcontext(),
    ):
        streamed(x)
    assert not any(streamed._offload._held.values()) and loads.count(name) == 1
    with models.resident(streamed, name):
        assert loads.count(name) == 2
    assert torch.equal(streamed(x).logits, whole(x).logits)
    assert loads.count(name) == 3 and weights_in_memory(streamed) == 0


def test_other_dtypes(tmp_path):
    folder, _ = saved(tmp_path, "qwen2")
    whole, streamed = lwq.load(folder, "bfloat16")[0], lwq.load(folder, "bfloat16", stream=True)[0]
    x = architectures.tokens(2)
    assert streamed(x).logits.dtype == torch.bfloat16
    assert torch.equal(streamed(x).logits, whole(x).logits)


def test_what_cannot_be_streamed_says_so(tmp_path):
    folder, _ = saved(tmp_path, "llama")
    streamed, _ = lwq.load(folder, stream=True)
    with pytest.raises(
        lwq.InputError,
        match=r"model.layers.0.self_attn.q_proj is on disk "
        r".*lwq.models.resident",
    ):
        models.matrices(streamed)["model.layers.0.self_attn.q_proj"].view()
    with pytest.raises(lwq.InputError, match="'x' is not a part"), models.resident(streamed, "x"):
        pass
    with pytest.raises(lwq.InputError, match="'toy' is made in memory"):
        lwq.load("toy", stream=True)
    (tmp_path / "llama" / "model.safetensors").write_bytes(b"short")
    with pytest.raises(lwq.InputError, match="cut off or no safetensors file"):
        lwq.load(folder, stream=True)
