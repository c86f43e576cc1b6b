"""The carried models' hidden units in another order: the same function, other groups of columns.

pytest tests/test_permuted.py
"""

import json
import os
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, Gemma3TextConfig, LlamaConfig, Qwen2Config

import lwq
from lwq.inputs import assets, catalogue, toy
from lwq.inputs import permuted as permuted_module
from lwq.inputs.permuted import Orders, permuted

SIZES = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
CONFIGS = {
    "llama": LlamaConfig(**SIZES),
    "qwen2": Qwen2Config(**SIZES, tie_word_embeddings=True),
    "gemma3": Gemma3TextConfig(**SIZES, head_dim=16),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_the_function_stays_and_every_order_changes(name):
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(CONFIGS[name]).eval()
    for tensor in model.state_dict().values():  # biases and norms that are not all alike
        tensor.add_(torch.randn_like(tensor) * 0.05)
    x = torch.randint(0, 96, (3, 20))
    before = model(x).logits.double()
    orders = Orders.of(CONFIGS[name].to_dict())
    state = {key: permuted(key, tensor, orders) for key, tensor in model.state_dict().items()}
    changed = {
        key for key, tensor in state.items() if not torch.equal(tensor, model.state_dict()[key])
    }
    assert not {key for key in state if "proj.weight" in key} - changed
    model.load_state_dict(state)
    after = model(x).logits.double()
    assert (before - after).abs().max() < 1e-4 * before.abs().max()
    assert (before - after).abs().max() > 0  # sums in another order


def test_the_value_order_is_shared_by_the_query_heads_of_a_group():
    values = Orders(64, 96, 4, 2, 16)("values", 1)
    queries = Orders(64, 96, 4, 2, 16)("values of queries", 1)
    assert sorted(queries.tolist()) == list(range(64))
    for head in range(4):
        own, shared = queries[16 * head : 16 * head + 16], values[16 * (head // 2) :][:16]
        assert torch.equal(own - 16 * head, shared - 16 * (head // 2))


def test_the_same_seed_gives_the_same_orders_and_blocks_have_their_own():
    orders, again = Orders(64, 96, 4, 2, 16), Orders(64, 96, 4, 2, 16)
    assert torch.equal(orders("neurons", 0), again("neurons", 0))
    assert not torch.equal(orders("neurons", 0), orders("neurons", 1))
    assert torch.equal(orders("residual", 0), orders("residual", 1))


@pytest.mark.parametrize("key", ["model.layers.0.mixer.in_proj.weight", "model.norm.bias"])
def test_a_tensor_of_another_architecture_is_refused(key):
    with pytest.raises(lwq.InputError, match="is no tensor of a llama, qwen2 or gemma3"):
        permuted(key, torch.zeros(64, 64), Orders(64, 96, 4, 2, 16))


NAME = "smollm2-135m"


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """A cache whose carried model is a toy; `cached(seed)` is its folder, with other weights."""
    monkeypatch.setenv("LWQ_CACHE", str(tmp_path))
    source = tmp_path / "models" / NAME

    def written(seed):
        toy.model(seed).save_pretrained(source)
        toy.tokenizer().save_pretrained(source)
        assets.seal(source, {})
        return source

    monkeypatch.setattr(assets, "fetch", lambda name: source)
    written(0)
    return written


def first(folder):
    return load_file(folder / "model.safetensors")["model.embed_tokens.weight"].clone()


def test_another_file_is_permuted_anew(cached, capsys):
    before = first(permuted_module.fetch(NAME))
    assert "making it again" not in capsys.readouterr().err
    cached(1)
    folder = permuted_module.fetch(NAME)
    assert not torch.equal(first(folder), before)
    assert "was made of another file than there is now; making it" in capsys.readouterr().err
    assert not torch.equal(first(folder).sort().values, before.sort().values)


@pytest.mark.parametrize("member", ["tokenizer.json", "model.safetensors", assets.RECORD])
def test_a_damaged_folder_is_permuted_anew(member, cached, capsys):
    before = first(permuted_module.fetch(NAME))
    os.truncate(permuted_module.place(NAME) / member, 100)
    assert torch.equal(first(permuted_module.fetch(NAME)), before)
    assert "making it again" in capsys.readouterr().err


@pytest.mark.parametrize("source", ["is there", "is gone"])
def test_a_whole_folder_of_an_older_lwq_stays(source, cached, monkeypatch):
    folder = permuted_module.fetch(NAME)
    record = json.loads((folder / assets.RECORD).read_text())
    del record["gguf"]
    (folder / assets.RECORD).write_text(json.dumps(record))
    if source == "is gone":
        shutil.rmtree(cached(0))
    monkeypatch.setattr(assets, "fetch", lambda name: pytest.fail("made again"))
    assert permuted_module.fetch(NAME) == folder


def test_the_file_that_lwq_names_now_is_permuted_anew(cached, monkeypatch, capsys):
    permuted_module.fetch(NAME)
    other = replace(catalogue.MODELS[NAME], sha256="0")
    monkeypatch.setitem(catalogue.MODELS, NAME, other)
    permuted_module.fetch(NAME)
    assert "was made of another gguf than there is now" in capsys.readouterr().err


@pytest.mark.assets
def test_a_carried_model_and_its_file_compute_the_same():
    (model, tokenizer), (file, _) = lwq.load("smollm2-135m"), lwq.load("smollm2-135m@file")
    windows = lwq.windows("wiki", tokenizer, n=2, length=64, split="judge")
    losses = lwq.evaluate(model, windows, lwq.reference(file, windows))
    assert losses.mean_kl < 1e-6 and losses.agreement == 1
    finer = [groups_of_many_values(each, "model.layers.4.mlp.gate_proj") for each in (file, model)]
    assert finer[0] == 0 and finer[1] > 0.9


def groups_of_many_values(model, name):
    """Share of the groups of 32 columns that hold more values than 4 bits have levels."""
    rows = lwq.models.matrices(model)[name].view().reshape(-1, 32).sort(1).values
    return float(((rows.diff(dim=1) > 0).sum(1) > 15).float().mean())
