"""Applying plans: exact where nothing changes, refused where the plan does not fit, the same
through the bank.
"""

import gc

import architectures
import pytest
import torch

import lwq
from lwq import models
from lwq.contracts import Plan
from lwq.engine.apply import quantize_, quantized
from lwq.quantizers.gptq import GPTQ
from lwq.quantizers.rtn import RTN

NAMES = list(architectures.CONFIGS)


def plan_for(model, widths, quantizer="rtn()", granularity="block"):
    layout = models.layout(model, granularity)
    return Plan(
        {unit: widths[i % len(widths)] for i, unit in enumerate(layout.units)}, layout, quantizer
    )


@pytest.mark.parametrize("name", NAMES)
def test_quantizes_what_the_plan_names_and_nothing_else(name):
    model, before = architectures.make(name), architectures.make(name)
    errors = quantize_(model, plan_for(model, (4, 16, 2)))
    names, after = list(errors), dict(model.named_parameters())
    assert errors[names[1]] == 0 < errors[names[0]] < 0.2 < errors[names[2]] < 0.9
    reached = set(models.matrices(model))
    for key, value in before.named_parameters():
        same = torch.equal(value, after[key])
        quantized = any(
            m.startswith(key.removesuffix(".weight")) for m in reached
        ) and not key.startswith(names[1] + ".")
        assert same != (quantized and value.ndim > 1), key


@pytest.mark.parametrize("name", ["llama", "gpt2", "mixtral"])
def test_the_written_weights_are_the_packed_ones(name):
    model, fresh = architectures.make(name), architectures.make(name)
    quantize_(model, plan_for(model, (3,)))
    for key, matrix in models.matrices(model).items():
        assert torch.equal(matrix.view(), RTN()(models.matrices(fresh)[key].view(), 3).dequantize())


@pytest.mark.parametrize("name", NAMES)
def test_sixteen_bits_is_the_model_bit_for_bit_and_zero_drops(name):
    model, x = architectures.make(name), architectures.tokens(2)
    truth = model(x).logits
    assert set(quantize_(model, plan_for(model, (16,))).values()) == {0.0}
    assert torch.equal(model(x).logits, truth)
    errors = quantize_(model, plan_for(model, (16, 0, 16)))
    assert list(errors.values()) == [0.0, 1.0, 0.0]
    models.drop_(model, ())
    assert torch.equal(model(x).logits, truth)


def test_quantized_inputs_depend_on_the_prefix_and_help(toy, windows):
    model, _ = toy
    full, _ = lwq.load("toy")
    quantize_(full, plan_for(full, (2,), "gptq(inputs='full')"), windows)
    quantize_(model, plan_for(model, (2,), "gptq(inputs='quantized')"), windows)
    first, last = "model.layers.0.mlp.down_proj", "model.layers.3.mlp.down_proj"
    a, b = models.matrices(full), models.matrices(model)
    assert torch.equal(a[first].view(), b[first].view())
    assert not torch.equal(a[last].view(), b[last].view())


@pytest.mark.parametrize("name", ["llama", "gpt2", "qwen3_moe"])
def test_quantized_inputs_are_those_behind_dropped_blocks(name):
    first, model, x = architectures.make(name), architectures.make(name), architectures.tokens(6)
    models.drop_(first, list(models.blocks(first))[1:2])
    plan = plan_for(model, (3, 0, 2), "gptq(inputs='quantized')")
    errors = quantize_(model, plan, x)
    assert errors == quantize_(first, plan, x) and list(errors.values())[1] == 1
    assert models.fingerprint(model) == models.fingerprint(first)
    assert torch.equal(model(x).logits, first(x).logits)


def test_a_failure_drops_nothing(monkeypatch):
    model, x = architectures.make("llama"), architectures.tokens(6)
    truth, plan = model(x).logits, plan_for(model, (3, 0, 2), "gptq(inputs='quantized')")
    with pytest.raises(lwq.InputError, match="calibration windows are needed"):
        quantize_(model, plan)
    assert torch.equal(model(x).logits, truth)
    monkeypatch.setattr(GPTQ, "__call__", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        quantize_(model, plan, x)
    assert torch.equal(model(x).logits, truth)


@pytest.mark.parametrize("name", ["llama", "gemma3", "mixtral"])
def test_uniform_inputs_come_from_blocks_of_the_same_width(name):
    """A plan of one width is what "quantized" makes of it; in a mixed plan each block is as in the
    plan of its width.
    """
    x, made = architectures.tokens(6), {}
    for key, widths, inputs in (
        (3, (3,), "quantized"),
        ("same", (3,), "uniform"),
        (2, (2,), "quantized"),
        ("mixed", (3, 2, 16, 3), "uniform"),
    ):
        model = architectures.make(name)
        errors = quantize_(
            model, plan_for(model, widths, f"gptq(group_size=-1, inputs='{inputs}')"), x
        )
        made[key] = {name: matrix.view().clone() for name, matrix in models.matrices(model).items()}
    assert all(torch.equal(made["same"][key], weight) for key, weight in made[3].items())
    truth = {
        key: matrix.view() for key, matrix in models.matrices(architectures.make(name)).items()
    }
    for i, names in enumerate(models.units(model, "block").values()):
        expected = (made[3], made[2], truth, made[3])[i % 4]
        assert all(torch.equal(made["mixed"][key], expected[key]) for key in names), i
    assert min(errors.values()) == 0 < max(errors.values())


def test_a_pass_that_ends_early_leaves_the_model_as_it_was(toy, windows):
    model, _ = lwq.load("toy")
    before = models.fingerprint(model)
    wanted = {name: {2, 3} for name in models.matrices(model)}
    for _ in zip(range(9), quantized(model, GPTQ(inputs="uniform"), wanted, windows), strict=False):
        pass
    gc.collect()
    assert models.fingerprint(model) == before
    assert len(list(quantized(model, GPTQ(inputs="uniform"), wanted, windows))) == 2 * len(wanted)
    assert models.fingerprint(model) == before


def test_groups_and_matrices(toy):
    for granularity in ("group", "matrix"):
        model, _ = lwq.load("toy")
        errors = quantize_(model, plan_for(model, (8, 2), granularity=granularity))
        assert errors.keys() == lwq.units(model, granularity).keys()
    dropped = plan_for(toy[0], (0, 4), granularity="group")
    with pytest.raises(lwq.InputError, match="0 bits for a part of"):
        quantize_(toy[0], dropped)


def test_what_does_not_fit_is_refused_before_anything_changes(toy):
    model, _ = toy
    before = models.fingerprint(model)
    plan = plan_for(model, (4,))
    with pytest.raises(
        lwq.InputError, match="model.layers.0.self_attn.q_proj: group_size=48 does not divide 64"
    ):
        quantize_(model, Plan(plan.bits, plan.layout, "rtn(group_size=48)"))
    with pytest.raises(
        lwq.InputError,
        match=r"Quanto has no width \[3\], which is asked for .*; it offers \[2, 4, 8\], "
        r"0 and 16",
    ):
        quantize_(model, Plan(dict.fromkeys(plan.bits, 3), plan.layout, "quanto()"))
    with pytest.raises(lwq.InputError, match="calibration windows are needed"):
        quantize_(model, Plan(plan.bits, plan.layout, "gptq()"))
    assert models.fingerprint(model) == before
    quantize_(model, plan)
    with pytest.raises(lwq.InputError, match="made for other weights"):
        quantize_(model, plan)


def test_export_writes_what_transformers_loads(tmp_path, toy):
    from transformers import AutoModelForCausalLM

    model, tokenizer = toy
    plan = plan_for(model, (4, 2))
    lwq.export(model, plan, tmp_path / "out", tokenizer)
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    x = torch.arange(20)[None]
    assert torch.equal(again(x).logits, model(x).logits)
    assert Plan.load(tmp_path / "out" / "plan.json") == plan
    with pytest.raises(lwq.InputError, match="is not empty"):
        lwq.export(model, plan, tmp_path / "out", tokenizer)
    with pytest.raises(lwq.InputError, match="the plan drops"):
        lwq.export(model, plan_for(model, (4, 0)), tmp_path / "new", tokenizer)
    with pytest.raises(lwq.InputError, match="unknown format 'ggml'"):
        lwq.export(model, plan, tmp_path / "new", tokenizer, format="ggml")


def test_matrices_that_cannot_take_a_width_stay_untouched_in_its_pass():
    """gptq's inputs="uniform" beside "quantized", which follows the plan, where they must agree."""
    made, x = {}, architectures.tokens(6)
    for inputs in ("uniform", "quantized"):
        model = architectures.narrow()
        layout = models.layout(model, "matrix")
        bits = {unit: 16 if "down_proj" in unit else 3 for unit in layout.units}
        quantize_(model, lwq.Plan(bits, layout, f"gptq(inputs='{inputs}')"), x)
        made[inputs] = models.fingerprint(model)
    assert made["uniform"] == made["quantized"]
    bits = {unit: "4g32" if "down_proj" in unit else "4g64" for unit in layout.units}
    errors = quantize_(architectures.narrow(), lwq.Plan(bits, layout, "gptq"), x)
    assert min(errors.values()) > 0 and max(errors.values()) < 0.3
