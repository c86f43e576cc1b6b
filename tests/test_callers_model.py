"""A caller's model is not pristine: it may be training, patched, looped, shared or have several
towers. What was there is there again after; what does not fit is refused by name.
"""

import copy

import architectures
import pytest
import torch
from accelerate.hooks import ModelHook, add_hook_to_module
from torch import nn
from transformers import AutoModelForCausalLM, BartConfig, Gemma3Config, GPT2Config, GPT2LMHeadModel

import lwq
from lwq import models
from lwq.engine.bank import Bank
from lwq.engine.likelihoods import loglikelihoods
from lwq.engine.sweep import Sweep
from lwq.quantizers.gptq import GPTQ
from lwq.quantizers.rtn import RTN


@pytest.fixture
def training():
    """A model with dropout, some of it in training mode."""
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=257,
        n_embd=64,
        n_layer=3,
        n_head=4,
        n_positions=256,
        initializer_range=0.1,
        bos_token_id=256,
        eos_token_id=256,
    )
    model = GPT2LMHeadModel(config).train()
    model.transformer.h[1].eval()
    return model


def everything(model, windows, judge):
    """What lwq measures of a model, each by its public name."""
    reference = lwq.reference(model, judge)
    plan = lwq.allocate(lwq.score(model, "lim", windows), model, (4, 3), GPTQ(), moved=1)
    sweep = Sweep(model, judge, Bank(model, GPTQ(), windows), reference)
    ((_, swept),) = sweep.measure([plan])
    tokenizer = lwq.load("toy")[1]
    return [
        reference.losses.nll,
        lwq.evaluate(model, judge, reference).kl,
        *(list(lwq.score(model, name, windows).values()) for name in ("owl", "block_drop")),
        swept.nll,
        loglikelihoods(model, tokenizer, [("the layer", " keeps"), ("the layer", " a")]),
        list(lwq.quantize_(copy.deepcopy(model), plan, windows).values()),
    ]


def test_what_is_measured_does_not_depend_on_the_mode(training, windows, judge):
    modes = [module.training for module in training.modules()]
    assert len(set(modes)) == 2
    found = everything(training, windows[:3], judge[:3])
    assert [module.training for module in training.modules()] == modes
    slow = everything(copy.deepcopy(training).eval(), windows[:3], judge[:3])
    for one, other in zip(found, slow, strict=True):
        assert one == pytest.approx(other, abs=0) if not isinstance(one, list) else one == other


def test_the_mode_is_restored_after_an_error(training, monkeypatch):
    monkeypatch.setattr(training.lm_head, "forward", lambda x: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        models.call(training, torch.zeros(1, 2, dtype=torch.long))
    assert training.training and not training.transformer.h[1].training


class Halve(ModelHook):
    """Stands for accelerate's hooks that move a block's inputs: it must run at every call."""

    def post_forward(self, module, output):
        return output * 0.5


def hooked(modules):
    for module in modules:
        add_hook_to_module(module, Halve())


def patched(modules):
    for module in modules:
        own = module.forward
        module.forward = lambda *args, own=own, **kwargs: own(*args, **kwargs) * 0.5


@pytest.mark.parametrize("change", [hooked, patched])
def test_a_forward_that_was_replaced_stays(change, toy, judge, windows):
    model = toy[0]
    table = models.blocks(model)
    change(table.values())
    before = {key: block.__dict__["forward"] for key, block in table.items()}
    nll = lwq.evaluate(model, judge).nll
    layout = models.layout(model)
    lwq.quantize_(model, lwq.Plan(dict.fromkeys(layout.units, 16), layout, "rtn()"))
    assert (lwq.evaluate(model, judge).nll == nll).all()
    lwq.score(model, "lim", windows)
    bank = Bank(model, RTN())
    bank.apply_(
        lwq.Plan({**dict.fromkeys(layout.units, 16), next(iter(table)): 0}, layout, "rtn()")
    )
    assert (lwq.evaluate(model, judge).nll != nll).all()
    bank.restore_()
    assert {key: block.__dict__["forward"] for key, block in table.items()} == before
    assert (lwq.evaluate(model, judge).nll == nll).all()


@pytest.mark.parametrize("change", [hooked, patched])
def test_what_a_caller_put_around_experts_is_used_and_stays(change):
    """As accelerate does, where a block is too large for one device."""
    windows, judge = architectures.tokens(4), architectures.tokens(2)
    model, halved = architectures.make("mixtral"), architectures.make("mixtral")
    with torch.no_grad():
        for block in models.blocks(halved).values():
            block.mlp.experts.down_proj.mul_(0.5)
    experts = [block.mlp.experts for block in models.blocks(model).values()]
    change(experts)
    before = [module.__dict__["forward"] for module in experts]
    nll = lwq.evaluate(model, judge).nll
    assert nll == pytest.approx(lwq.evaluate(halved, judge).nll, rel=1e-5)
    scorer = "fisher_kl(options=(3,), granularity='matrix')"
    found = lwq.score(model, scorer, windows)
    assert [module.__dict__["forward"] for module in experts] == before
    assert (lwq.evaluate(model, judge).nll == nll).all()
    for name, harms in lwq.score(halved, scorer, windows).items():
        assert found[name] == pytest.approx(harms, rel=1e-2), name


def test_experts_that_a_caller_computes_otherwise_are_refused():
    model = architectures.make("mixtral")
    for block in models.blocks(model).values():
        block.mlp.experts.forward = lambda hidden, *_: hidden
    with pytest.raises(lwq.InputError, match="does not call that of its class"):
        lwq.score(model, "fisher_kl", architectures.tokens(2))


def refused(model, match):
    with pytest.raises(lwq.InputError, match=match):
        models.layout(model)


def test_blocks_that_share_weights_are_refused():
    whole = architectures.make("llama")
    whole.model.layers[2] = whole.model.layers[0]
    refused(whole, r"model.layers.0 and model.layers.2 share self_attn.q_proj.weight")
    part = architectures.make("llama")
    part.model.layers[2].mlp = part.model.layers[1].mlp  # as in Zamba
    refused(part, r"model.layers.1 and model.layers.2 share mlp.gate_proj.weight")


def test_blocks_that_run_twice_or_never_are_refused(monkeypatch):
    looped = architectures.make("llama")
    own = looped.model.forward
    looped.model.forward = lambda *args, **kwargs: own(*args, **kwargs) and own(*args, **kwargs)
    refused(looped, r"model.layers: 3 modules with .* run 2 times each")
    fewer = architectures.make("llama")
    fewer.model.config = copy.deepcopy(fewer.config)
    fewer.model.config.num_hidden_layers = 2
    refused(fewer, "model.layers: 3 modules with .* run 0 to 1 times")


def test_a_second_list_of_blocks_is_refused():
    model = architectures.make("llama")
    model.model.after = nn.ModuleList([nn.Linear(64, 64) for _ in range(3)])
    own = model.model.norm.forward
    model.model.norm.forward = lambda x: own(sum(layer(x) for layer in model.model.after))
    refused(model, "model.layers: 3 modules .*once each; model.after: 3 modules .* once each")


def test_the_text_decoder_is_found_beside_a_larger_tower():
    torch.manual_seed(0)
    text = {**architectures.COMMON, "num_hidden_layers": 2, "head_dim": 16}
    vision = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 3}
    vision |= {"num_attention_heads": 2, "image_size": 28, "patch_size": 14}
    config = Gemma3Config(
        text_config={**text, "layer_types": ["sliding_attention", "full_attention"]},
        vision_config=vision,
        mm_tokens_per_image=4,
        image_token_id=95,
        boi_token_id=94,
        eoi_token_id=93,
    )
    model = AutoModelForCausalLM.from_config(config).eval()
    assert list(models.blocks(model)) == [f"model.language_model.layers.{i}" for i in (0, 1)]
    assert models.context_length(config) == 128
    layout = models.layout(model)
    before = lwq.evaluate(model, architectures.tokens(2)).nll
    lwq.quantize_(model, lwq.Plan(dict.fromkeys(layout.units, 2), layout, "rtn()"))
    assert (lwq.evaluate(model, architectures.tokens(2)).nll != before).all()


class Experts(nn.Module):
    """Experts in a list beside a Linear router, as most models with code of their own have them."""

    def __init__(self, width=64, count=8):
        super().__init__()
        self.gate = nn.Linear(width, count, bias=False)
        self.shared_expert_gate = nn.Linear(width, 1, bias=False)
        self.experts = nn.ModuleList(nn.Linear(width, width) for _ in range(count))

    def forward(self, x):
        weights, chosen = torch.topk(self.gate(x).softmax(-1), 2)  # (batch, tokens, 2)
        parts = [
            (weights * (chosen == i)).sum(-1, keepdim=True) * expert(x)
            for i, expert in enumerate(self.experts)
        ]
        return sum(parts) * self.shared_expert_gate(x).sigmoid()


def test_a_router_beside_a_list_of_experts_stays():
    model = architectures.make("llama")
    for block in model.model.layers:
        block.mlp = Experts()
    assert not [name for name in models.matrices(model) if "gate" in name]
    assert sum(".experts." in name for name in models.matrices(model)) == 3 * 8
    before = model.model.layers[0].mlp.gate.weight.clone()
    layout = models.layout(model)
    lwq.quantize_(model, lwq.Plan(dict.fromkeys(layout.units, 2), layout, "rtn()"))
    assert torch.equal(model.model.layers[0].mlp.gate.weight, before)


def test_a_short_convolution_stays():
    from transformers.models.lfm2 import Lfm2Config

    torch.manual_seed(0)
    config = Lfm2Config(**architectures.COMMON, layer_types=["conv", "full_attention", "conv"])
    model = AutoModelForCausalLM.from_config(config).eval()
    assert not [name for name in models.matrices(model) if name.endswith("conv.conv")]
    assert "model.layers.0.conv.in_proj" in models.matrices(model)
    assert models.layout(model).coverage > 0.95


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("llama", "model.norm"),
        ("gpt2", "transformer.ln_f"),
        ("opt", "model.decoder.final_layer_norm"),
        ("gpt_neox", "gpt_neox.final_layer_norm"),
        ("bloom", "transformer.ln_f"),
        ("gemma3", "model.norm"),
    ],
)
def test_the_final_norm_is_what_runs_between_the_last_block_and_the_head(name, path):
    model = architectures.make(name)
    assert models.final_norm(model) is model.get_submodule(path)


def test_a_final_norm_of_any_name_and_place_is_found():
    model = architectures.make("llama")
    model.model.norm, model.scale = nn.Identity(), model.model.norm
    own = model.lm_head.forward
    model.lm_head.forward = lambda x: own(model.scale(x))
    assert models.final_norm(model) is model.scale


def lone_decoder():
    """A decoder made for an encoder: a pass over text alone does not use its cross-attention."""
    torch.manual_seed(0)
    config = BartConfig(
        vocab_size=96,
        d_model=64,
        decoder_layers=2,
        decoder_attention_heads=4,
        decoder_ffn_dim=128,
        max_position_embeddings=128,
        is_encoder_decoder=False,
    )
    return AutoModelForCausalLM.from_config(config).eval()


def test_matrices_that_no_input_reaches_are_named_and_have_sums_of_nothing(capsys):
    model, windows = lone_decoder(), architectures.tokens(2)
    idle = models.traced(model).idle
    assert idle == {key for key in models.matrices(model) if ".encoder_attn." in key}
    own = {
        key: matrix.view().clone() for key, matrix in models.matrices(model).items() if key in idle
    }
    for scorer in ("owl", "dlp"):
        assert len(lwq.score(model, scorer, windows)) == 2
    err = capsys.readouterr().err
    assert err.count("no input reaches 4 of 10 matrices of model.decoder.layers.0") == 1
    layout = models.layout(model)
    lwq.quantize_(model, lwq.Plan(dict.fromkeys(layout.units, 4), layout, "gptq()"), windows)
    for key, weight in own.items():
        rounded = RTN()(weight, 4, None).dequantize()
        assert torch.equal(models.matrices(model)[key].view(), rounded)


class Through(nn.Module):
    """A block without anything to quantize."""

    def forward(self, hidden, *_, **__):
        return hidden * 1.0


@pytest.mark.parametrize("name", ["lim", "zd", "owl", "dlp", "lamp", "angular"])
def test_a_block_without_matrices_is_worth_nothing(name):
    model = architectures.make("llama")
    model.model.layers[1] = Through()
    scores = lwq.score(model, name, architectures.tokens(4))
    assert list(scores) == list(models.blocks(model))
    assert scores["model.layers.1"] == min(scores.values())
