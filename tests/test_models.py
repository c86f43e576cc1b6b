"""Blocks, matrices and fused groups are found from structure, on a tiny model of every architecture."""

import architectures
import pytest
import torch
from torch import nn

from lwq import models
from lwq.errors import InputError

NAMES = list(architectures.CONFIGS)


@pytest.mark.parametrize("name", NAMES)
def test_finds_blocks_and_reaches_nearly_all_their_weights(name):
    model = architectures.make(name)
    layout = models.layout(model)
    assert len(layout.units) == 3
    assert all(unit.rpartition(".")[2] == str(i) for i, unit in enumerate(layout.units))
    assert 0.95 <= layout.coverage < 1
    everything = layout.total + sum(layout.rest.values())
    assert everything == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_every_granularity_holds_each_matrix_once(name):
    model = architectures.make(name)
    every = sorted(models.matrices(model))
    for granularity in ("block", "group", "matrix"):
        assert sorted(m for ms in models.units(model, granularity).values() for m in ms) == every


def test_groups_are_what_is_fed_by_one_tensor():
    llama = models.units(architectures.make("llama"), "group")
    assert llama["model.layers.1.self_attn.qkv"] == [f"model.layers.1.self_attn.{x}_proj" for x in "qkv"]
    assert llama["model.layers.1.mlp.gate_up"] == [f"model.layers.1.mlp.{x}_proj" for x in ("gate", "up")]
    assert "model.layers.1.self_attn.o_proj" in llama
    assert "transformer.h.0.attn.c_attn" in models.units(architectures.make("gpt2"), "group")
    assert "model.decoder.layers.0.self_attn.qkv" in models.units(architectures.make("opt"), "group")  # declared k, v, q


@pytest.mark.parametrize("name", ["mixtral", "qwen3_moe"])
def test_experts_are_slices_and_routers_stay(name):
    model = architectures.make(name)
    names = list(models.matrices(model))
    assert sum(".experts.down_proj." in key for key in names) == 3 * 4
    assert not any(key.endswith("mlp.gate") for key in names)
    matrix = models.matrices(model)["model.layers.0.mlp.experts.down_proj.2"]
    matrix.view().zero_()
    assert model.model.layers[0].mlp.experts.down_proj[2].abs().sum() == 0
    assert model.model.layers[0].mlp.experts.down_proj[1].abs().sum() > 0


def test_conv1d_is_seen_as_out_by_in():
    model = architectures.make("gpt2")
    matrix = models.matrices(model)["transformer.h.0.attn.c_attn"]
    assert matrix.shape == (192, 64)
    assert torch.equal(matrix.view(), model.transformer.h[0].attn.c_attn.weight.T)


def test_linear_router_and_gate_stay():
    block = nn.Module()
    block.gate, block.shared_gate = nn.Linear(8, 4), nn.Linear(8, 1)
    block.experts = nn.Module()
    block.experts.gate_up_proj = nn.Parameter(torch.zeros(4, 16, 8))
    block.experts.is_transposed, block.experts._apply_gate = False, None
    assert [key for key, _ in models._matrices_of("b", block)] == [f"b.experts.gate_up_proj.{e}" for e in range(4)]


def test_unknown_expert_layout_is_refused():
    block = nn.Module()
    block.odd = nn.Parameter(torch.zeros(4, 16, 8))
    with pytest.raises(InputError, match="unknown expert layout"):
        list(models._matrices_of("b", block))


@pytest.mark.parametrize("name", NAMES)
def test_identity_stand_ins_keep_the_rest_of_the_model(name):
    """Feeding each block its real output through a stand-in gives the model's own logits, exactly."""
    model, x = architectures.make(name), architectures.tokens(2)
    outputs = {}
    hooks = [
        block.register_forward_hook(lambda m, a, out, key=key: outputs.update({key: out[0] if isinstance(out, tuple) else out}))
        for key, block in models.blocks(model).items()
    ]
    truth = model(x, use_cache=False).logits
    for hook in hooks:
        hook.remove()
    with models.replaced_blocks(model, lambda key, *_: outputs[key]):
        assert torch.equal(model(x, use_cache=False).logits, truth)
    assert torch.equal(model(x, use_cache=False).logits, truth)


@pytest.mark.parametrize("name", NAMES)
def test_dropping_a_block_is_the_identity_in_place_and_can_be_undone(name):
    model, x = architectures.make(name), architectures.tokens(2)
    truth = model(x, use_cache=False).logits
    key = list(models.blocks(model))[1]
    models.drop_(model, key)
    gone = model(x, use_cache=False).logits
    with models.replaced_blocks(model, lambda *_: _[1]):
        pass  # stand-ins must leave a dropped block dropped
    assert torch.equal(model(x, use_cache=False).logits, gone)
    assert not torch.allclose(gone, truth)
    models.drop_(model, key, False)
    assert torch.equal(model(x, use_cache=False).logits, truth)


def test_fingerprint_sees_one_changed_weight():
    model = architectures.make("llama")
    before = models.fingerprint(model)
    assert before == models.fingerprint(architectures.make("llama"))
    model.model.layers[2].mlp.up_proj.weight[3, 5] += 1e-6
    assert models.fingerprint(model) != before


def test_a_model_without_blocks_says_what_was_looked_for():
    model = nn.Sequential(nn.Linear(4, 4))
    model.config = type("Config", (), {})()
    with pytest.raises(InputError, match="ModuleList whose items hold Linear"):
        models.blocks(model)


def test_encoder_decoders_are_refused():
    model = nn.Module()
    model.config = type("Config", (), {"is_encoder_decoder": True, "name_or_path": "t5"})()
    with pytest.raises(InputError, match="encoder-decoder"):
        models.blocks(model)


def test_low_coverage_is_refused():
    model = architectures.make("llama")
    model.model.layers[0].odd = nn.Parameter(torch.zeros(400, 400))
    with pytest.raises(InputError, match="a plan would reach"):
        models.matrices(model)


def test_nan_weights_are_named():
    model = architectures.make("llama")
    model.model.layers[1].mlp.up_proj.weight[3, 5] = float("nan")
    with pytest.raises(InputError, match=r"model.layers.1.mlp.up_proj.weight holds 1 NaN or Inf values, the first at \[3, 5\]"):
        models.require_finite(model)


def test_final_norm_is_found_where_the_architecture_has_one():
    assert models.final_norm(architectures.make("llama")) is not None
    assert models.final_norm(architectures.make("gpt2")) is not None


def test_load_errors(tmp_path):
    with pytest.raises(InputError, match="Names that need no hub"):
        models.load(str(tmp_path / "nothing"))
    with pytest.raises(InputError, match="unknown dtype 'float99'"):
        models.load("toy", dtype="float99")
    with pytest.raises(InputError, match="unknown granularity"):
        models.units(architectures.make("llama"), "row")


def test_pickled_weights_are_refused(tmp_path):
    model = architectures.make("llama")
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(InputError, match="cannot load the model"):
        models.load(str(tmp_path))


def test_a_folder_loads_as_it_was_saved(tmp_path, toy):
    model, tokenizer = toy
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    again, _ = models.load(str(tmp_path))
    assert models.fingerprint(again) == models.fingerprint(model)
    assert models.load("toy", dtype="bfloat16")[0].dtype == torch.bfloat16
