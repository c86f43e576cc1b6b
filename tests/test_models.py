"""Blocks, matrices and fused groups are found from structure, on a tiny model of every
architecture.
"""

import json

import architectures
import every_architecture
import pytest
import torch
from torch import nn

import lwq
from lwq import models
from lwq.common.errors import InputError
from lwq.inputs import resolve, toy
from lwq.models import structure

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
    assert llama["model.layers.1.self_attn.qkv"] == [
        f"model.layers.1.self_attn.{x}_proj" for x in "qkv"
    ]
    assert llama["model.layers.1.mlp.gate_up"] == [
        f"model.layers.1.mlp.{x}_proj" for x in ("gate", "up")
    ]
    assert "model.layers.1.self_attn.o_proj" in llama
    assert "transformer.h.0.attn.c_attn" in models.units(architectures.make("gpt2"), "group")
    # declared k, v, q
    assert "model.decoder.layers.0.self_attn.qkv" in models.units(
        architectures.make("opt"), "group"
    )


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
    assert [key for key, _ in structure._matrices_of("b", block)] == [
        f"b.experts.gate_up_proj.{e}" for e in range(4)
    ]


def parts(count):
    """Experts of an MLP, as modules."""
    return [nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 8)) for _ in range(count)]


def held(**children):
    """A module that holds others."""
    holder = nn.Module()
    for name, child in children.items():
        holder.add_module(name, child)
    return holder


DEEP = nn.Sequential(nn.Sequential(nn.Linear(8, 4)))
MLP = nn.Sequential(nn.Linear(8, 6), nn.SiLU(), nn.Linear(6, 4))
NAMED = nn.ModuleDict({f"expert_{number}": part for number, part in enumerate(parts(4))})
ROUTED = {
    "two levels deep": held(experts=nn.ModuleList(parts(4)), router=DEEP),
    "an MLP": held(experts=nn.ModuleList(parts(4)), router=MLP),
    "beside what holds the experts": held(
        moe=held(experts=nn.ModuleList(parts(4))), gate=nn.Linear(8, 4)
    ),
    "experts that do nothing": held(experts=nn.ModuleList(parts(4)), gate=nn.Linear(8, 5)),
    "experts in a dict": held(some=NAMED, gate=nn.Linear(8, 4)),
}


@pytest.mark.parametrize("mlp", ROUTED.values(), ids=ROUTED)
def test_a_router_of_any_layout_stays(mlp):
    found = [key for key, _ in structure._matrices_of("b", held(mlp=mlp))]
    assert len(found) == 8 and not any("gate" in key or "router" in key for key in found)


def test_what_is_only_called_a_gate_is_a_matrix():
    """Of an MLP beside the experts, of an expert, of attention."""
    experts = nn.ModuleList(held(gate=nn.Linear(8, 4), up=nn.Linear(8, 4)) for _ in range(4))
    mlp = held(experts=experts, shared=held(gate=nn.Linear(8, 4)), gate=nn.Linear(8, 9))
    dense = held(gate_proj=nn.Linear(8, 4), gate=nn.Linear(8, 4))
    block = held(mlp=mlp, dense=dense, attention=held(gate=nn.Linear(8, 4)))
    found = [key for key, _ in structure._matrices_of("b", block)]
    own = ["mlp.gate", "dense.gate_proj", "dense.gate", "attention.gate"]
    assert {f"b.{key}" for key in own} < set(found)
    assert sum(".experts." in key for key in found) == 8


def test_the_router_of_zaya_stays_whole():
    """An MLP with one output more than there are experts, for a token that none is to see."""
    model = every_architecture.make("zaya")
    assert models.routed(model) and not any(".gate." in key for key in models.matrices(model))


def test_unknown_expert_layout_is_refused():
    block = nn.Module()
    block.odd = nn.Parameter(torch.zeros(4, 16, 8))
    with pytest.raises(InputError, match="unknown expert layout"):
        list(structure._matrices_of("b", block))


@pytest.mark.parametrize("name", NAMES)
def test_identity_stand_ins_keep_the_rest_of_the_model(name):
    """Feeding each block its real output through a stand-in gives the model's own logits,
    exactly.
    """
    model, x = architectures.make(name), architectures.tokens(2)
    outputs = {}
    hooks = [
        block.register_forward_hook(
            lambda m, a, out, key=key: outputs.update(
                {key: out[0] if isinstance(out, tuple) else out}
            )
        )
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
    models.drop_(model, [key])
    gone = model(x, use_cache=False).logits
    with models.replaced_blocks(model, lambda *_: _[1]):
        pass  # stand-ins must leave a dropped block dropped
    assert torch.equal(model(x, use_cache=False).logits, gone)
    assert not torch.allclose(gone, truth)
    models.drop_(model, ())
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
    with pytest.raises(
        InputError,
        match=r"model.layers.1.mlp.up_proj.weight holds 1 NaN or Inf "
        r"values, the first at \[3, 5\]",
    ):
        models.require_finite(model)


def test_final_norm_is_found_where_the_architecture_has_one():
    assert models.final_norm(architectures.make("llama")) is not None
    assert models.final_norm(architectures.make("gpt2")) is not None


def test_load_errors(tmp_path):
    for name in (str(tmp_path / "nothing"), "~/nothing", "./nothing", "not/a/hub/id"):
        with pytest.raises(InputError, match=f"no such folder: '{name}'"):
            models.load(name)
    with pytest.raises(InputError, match="unknown dtype 'float99'"):
        models.load("toy", dtype="float99")
    with pytest.raises(InputError, match="unknown granularity"):
        models.units(architectures.make("llama"), "row")


def here(name, folder, monkeypatch):
    """A model of two blocks in a folder of this name, in the working folder."""
    toy.model(blocks=2).save_pretrained(folder / name)
    toy.tokenizer().save_pretrained(folder / name)
    monkeypatch.chdir(folder)


@pytest.mark.parametrize("name", ["toy", "toy-8", "ladder-2", "smollm2-135m"])
def test_a_folder_that_is_called_as_a_model_of_ours_is_not_passed_over(name, tmp_path, monkeypatch):
    here(name, tmp_path, monkeypatch)
    for call in (lwq.load, models.load, models.stand_in, resolve.model_kind):
        with pytest.raises(InputError, match=f"'{name}' is a model .* write ./{name} for that"):
            call(name)
    with pytest.raises(InputError, match=f"write ./{name} for that"):
        lwq.compress(name, tmp_path / "out", avg_bits=4)
    assert len(models.blocks(lwq.load(f"./{name}")[0])) == 2


def test_a_folder_without_a_model_is_nobodys_name(tmp_path, monkeypatch):
    (tmp_path / "toy").mkdir()
    monkeypatch.chdir(tmp_path)
    assert len(models.blocks(lwq.load("toy")[0])) == toy.BLOCKS


def test_the_folder_that_a_carried_name_means_is_no_other_model(tmp_path, monkeypatch):
    monkeypatch.setenv("LWQ_CACHE", str(tmp_path))
    here("smollm2-135m", tmp_path / "models", monkeypatch)
    assert resolve.model_kind("smollm2-135m") == "carried"


def test_a_folder_may_be_called_like_a_rung(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="unknown rung 'ladder-x'"):
        lwq.load("ladder-x")
    here("ladder-x", tmp_path, monkeypatch)
    assert len(models.blocks(lwq.load("ladder-x")[0])) == 2
    assert not resolve.is_own("ladder-x")


@pytest.mark.parametrize(
    ("name", "near"), [("toyy", "toy"), ("ladder2", "ladder-2"), ("SmolLM2-135M", "smollm2-135m")]
)
def test_a_name_that_is_nearly_one_of_ours_is_not_looked_for_on_a_hub(name, near, monkeypatch):
    monkeypatch.setattr(
        "transformers.AutoTokenizer.from_pretrained", lambda *_, **__: pytest.fail("asked a hub")
    )
    with pytest.raises(InputError, match=f"unknown model '{name}' .did you mean '{near}'"):
        models.load(name)


@pytest.mark.parametrize("name", ["gpt2", "distilgpt2", "bert-base-uncased", "owner/toyy"])
def test_other_names_are_looked_for_on_a_hub(name, monkeypatch):
    monkeypatch.setattr("socket.getaddrinfo", lambda *_: [])
    monkeypatch.setattr(
        "transformers.AutoTokenizer.from_pretrained",
        lambda *_, **__: (_ for _ in ()).throw(OSError("no hub")),
    )
    with pytest.raises(
        InputError, match=f"cannot load the model '{name}': no hub. Names that need no hub"
    ):
        models.load(name)


@pytest.mark.parametrize("stream", [False, True])
def test_a_hub_that_cannot_be_reached_is_not_waited_for(stream, monkeypatch):
    def unknown(*_):
        raise OSError(-2, "Name or service not known")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("socket.getaddrinfo", unknown)
    monkeypatch.setattr("lwq.inputs.resolve.getproxies", dict)
    monkeypatch.setattr(
        "transformers.AutoTokenizer.from_pretrained", lambda *_, **__: pytest.fail("asked a hub")
    )
    with pytest.raises(InputError, match="no model 'mine'.*no such folder here.*Name or service"):
        models.load("mine", stream=stream)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("gone", "message"),
    [
        ("config.json", "lacks config.json; save_pretrained"),
        (
            "*.safetensors",
            r"lacks weights \(\*.safetensors\); save_pretrained .*pickled weights "
            r"are not read",
        ),
        ("tokenizer*", "lacks a tokenizer"),
        ("[ct]o*.json", "lacks config.json and a tokenizer"),
    ],
)
def test_what_a_folder_lacks_is_named(gone, message, stream, saved):
    torch.save({}, saved / "pytorch_model.bin")
    for file in saved.glob(gone):
        file.unlink()
    with pytest.raises(InputError, match=f"cannot load the model .*: the folder {message}"):
        models.load(str(saved), stream=stream)


def test_a_folder_below_home_is_found(saved, monkeypatch):
    monkeypatch.setenv("HOME", str(saved.parent))
    assert models.name(models.load(f"~/{saved.name}")[0]) == f"~/{saved.name}"


@pytest.fixture
def saved(tmp_path, toy):
    """The folder of a checkpoint of the toy model."""
    for part in toy:
        part.save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def edit(folder, **settings):
    """Change the configuration of a checkpoint."""
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))


def test_a_folder_loads_as_it_was_saved(saved, toy):
    again, _ = models.load(str(saved))
    assert models.fingerprint(again) == models.fingerprint(toy[0])
    assert models.load("toy", dtype="bfloat16")[0].dtype == torch.bfloat16


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "setting",
    [{"rope_parameters": {"rope_theta": 5.0, "rope_type": "default"}}, {"rms_norm_eps": 1e-5}],
)
def test_the_configuration_sees_what_weights_compute_with(setting, stream, saved):
    before = models.load(str(saved))[0]
    edit(saved, **setting)
    after = models.load(str(saved), stream=stream)[0]
    assert models.configuration(after) != models.configuration(before)
    assert models.fingerprint(after) == models.fingerprint(before)


def test_the_configuration_sees_no_dtype_name_cache_or_streaming(saved, toy):
    edit(saved, use_cache=True, transformers_version="5.0.0", id2label={"0": "a"})
    whole, streamed = models.load(str(saved))[0], models.load(str(saved), stream=True)[0]
    same = [
        toy[0],
        whole,
        streamed,
        models.load(str(saved), "bfloat16")[0],
        models.cast(whole, "float16"),
    ]
    assert len({models.configuration(model) for model in same}) == 1
    whole.config.use_cache = True
    assert models.configuration(whole) == models.configuration(streamed) != ""
    assert models.configuration(nn.Linear(1, 1)) == ""


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_cast_model_is_the_one_that_loads_in_that_dtype(dtype, saved):
    cast, loaded = models.cast(models.load(str(saved))[0], dtype), models.load(str(saved), dtype)[0]
    made = dict(cast.named_buffers())
    assert made and all(torch.equal(made[name], buffer) for name, buffer in loaded.named_buffers())
    assert {name: buffer.dtype for name, buffer in loaded.named_buffers()} == {
        name: b.dtype for name, b in made.items()
    }
    x = architectures.tokens(2, 64)
    assert torch.equal(cast(x).logits, loaded(x).logits) and models.fingerprint(
        cast
    ) == models.fingerprint(loaded)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("cache", [False, True])
def test_an_exported_model_keeps_the_cache_setting_of_its_checkpoint(
    cache, stream, saved, tmp_path
):
    edit(saved, use_cache=cache)
    model, tokenizer = models.load(str(saved), stream=stream)
    layout = models.layout(model)
    lwq.export(
        model,
        lwq.Plan(dict.fromkeys(layout.units, 4), layout, "rtn()"),
        tmp_path / "out",
        tokenizer,
    )
    assert json.loads((tmp_path / "out" / "config.json").read_text())["use_cache"] is cache
    assert model.config.use_cache is False


def test_an_exported_model_has_the_dtype_that_it_was_loaded_in(saved, tmp_path):
    models.load(str(saved), "float16")[0].save_pretrained(saved)
    for dtype in ("float16", "float32"):
        model, tokenizer = models.load(str(saved), dtype)
        layout = models.layout(model)
        lwq.export(
            model,
            lwq.Plan(dict.fromkeys(layout.units, 4), layout, "rtn()"),
            tmp_path / dtype,
            tokenizer,
        )
        assert json.loads((tmp_path / dtype / "config.json").read_text())["dtype"] == dtype
        again, _ = models.load(str(tmp_path / dtype), dtype)
        assert models.fingerprint(again) == models.fingerprint(model), (
            "other numbers than those of the plan"
        )


def test_a_weight_that_float16_cannot_hold_is_refused(toy):
    with torch.no_grad():
        toy[0].model.norm.weight[3] = 98304.0
    with pytest.raises(lwq.InputError, match=r"\(64,\) of 'toy' holds 9.83e\+04, .*take bfloat16"):
        models.cast(toy[0], "float16")
    assert float(models.cast(toy[0], "bfloat16").model.norm.weight[3]) == 98304.0
