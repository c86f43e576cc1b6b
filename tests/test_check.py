"""What can be told of a compression before its weights are read.

pytest tests/test_check.py
"""

import architectures
import pytest
import torch
from typer.testing import CliRunner

import lwq
from lwq import models
from lwq.cli.commands import app
from lwq.exporters.targets import TARGETS
from lwq.recipes.check import check
from lwq.recipes.outlook import took


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("model")
    model, tokenizer = lwq.load("toy")
    model.save_pretrained(place)
    tokenizer.save_pretrained(place)
    return place


def test_an_outline_has_the_layout_of_the_model_and_none_of_its_numbers(folder):
    whole, _ = lwq.load(str(folder))
    found, tokenizer = models.stand_in(str(folder))
    for outside in (False, True):
        for granularity in ("block", "group", "matrix"):
            own = models.layout(found, granularity, outside, known="x")
            other = models.layout(whole, granularity, outside, known="x")
            assert own == other
    assert tokenizer("a").input_ids == models.tokenizer(whole)("a").input_ids
    weight = found.model.layers[0].mlp.up_proj.weight
    assert weight.stride() == (0, 0) and weight.untyped_storage().nbytes() == 4
    assert found.lm_head.weight is found.model.embed_tokens.weight


@pytest.mark.parametrize("name", architectures.CONFIGS)
def test_outlines_of_other_architectures(name, tmp_path):
    model = architectures.make(name)
    model.save_pretrained(tmp_path)
    models.tokenizer(lwq.load("toy")[0]).save_pretrained(tmp_path)
    found, _ = models.stand_in(str(tmp_path))
    whole, _ = lwq.load(str(tmp_path))
    assert models.layout(found, "group", True, "x") == models.layout(whole, "group", True, "x")


@pytest.mark.parametrize("target", TARGETS)
def test_it_says_what_compress_does(folder, target):
    found = check(str(folder), size="200kB", target=target)
    low, high = found.reach
    assert low <= found.amount == 200_000 - found.beyond and low < high
    assert not found.targets[target]
    said = "\n".join(found.lines())
    assert "4 blocks, 29 matrices of 163,904 weights" in said and "stays at 16 bits" in said
    assert "norms, biases, routers, 576 weights" in said and "GB of memory" in said
    if target in ("transformers", "vllm"):
        assert "embed_tokens, 16,448 weights (the format" in said and "keeps embeddings" in said
    for name, size in found.sizes.items():
        assert f"{(size.total_bytes + found.beyond) / 1e6:,.2f}" in found.table.to_string(), name
    assert "<table" in found._repr_html_()


def test_a_size_out_of_reach_names_the_targets_that_hold_it(folder):
    with pytest.raises(lwq.InputError, match=r"vllm: .*out of reach.*Targets that hold it: \['lwq"):
        check(str(folder), size="100kB", target="vllm")
    found = check(str(folder), size="100kB", target="llama.cpp")
    assert "out of reach" in found.targets["vllm"] and not found.targets["lwq"]


def test_a_model_that_a_format_has_no_words_for_is_refused_before_the_work(tmp_path, monkeypatch):
    model = architectures.make("gpt2")
    model.save_pretrained(tmp_path / "gpt2")
    models.tokenizer(lwq.load("toy")[0]).save_pretrained(tmp_path / "gpt2")
    with pytest.raises(lwq.InputError, match="'gpt2'"):
        check(str(tmp_path / "gpt2"), avg_bits=5, target="llama.cpp")
    monkeypatch.setattr(lwq.Recipe, "costs", lambda *_: pytest.fail("scored"))
    for target, said in (("llama.cpp", "'gpt2'"), ("transformers", "Conv1D")):
        with pytest.raises(lwq.InputError, match=said):
            lwq.compress(str(tmp_path / "gpt2"), tmp_path / "out", avg_bits=5, target=target)
    found = check(str(tmp_path / "gpt2"), avg_bits=5)
    assert "Conv1D" in found.targets["mlx"] and not found.targets["lwq"]


def test_a_file_that_is_cut_off_or_lacks_a_tensor_is_refused(folder, tmp_path):
    from safetensors.torch import load_file, save_file

    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    tensors = load_file(folder / "model.safetensors")
    tensors.pop("model.layers.1.mlp.up_proj.weight")
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(lwq.InputError, match=r"layers\.1\.mlp\.up_proj"):
        check(str(tmp_path), size="140kB")


def test_a_plan_of_blocks_leaves_embeddings_and_says_so(folder):
    found = check(str(folder), avg_bits=4)
    weights, why = found.stays["model.embed_tokens"]
    assert weights == 257 * 64 and "size" in why


def test_more_than_16_bits_is_more_than_there_is(folder):
    remark = "16 bits a weight is all there is"
    assert any(remark in line for line in check(str(folder), avg_bits=20).lines())
    assert not any(remark in line for line in check(str(folder), avg_bits=16).lines())


def test_times_in_words():
    assert [took(s) for s in (0.2, 47.1, 170, 9000)] == ["1 s", "48 s", "3 min", "2.5 h"]


def test_the_estimate_follows_the_work(folder):
    """Twice the calibration tokens, about twice the operations; the guard and the judge alike."""
    one = check(str(folder), size="140kB", recipe=lwq.Recipe(nsamples=16, seqlen=512))
    two = check(str(folder), size="140kB", recipe=lwq.Recipe(nsamples=16, seqlen=64, guard=False))
    assert two.outlook.seconds["guard"] == 0 < one.outlook.seconds["guard"]
    assert one.outlook.memory >= two.outlook.memory and one.outlook.disk == two.outlook.disk
    assert torch.get_default_dtype() == torch.float32


def call(*arguments):
    result = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_in_the_shell(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(lwq.Recipe, "costs", lambda *_: pytest.fail("scored"))
    output = call("check", folder, "--size", "140kB", "--target", "llama.cpp")
    assert "4 blocks, 29 matrices" in output and "all 4" in output and "estimate" not in output
    dry = call("compress", folder, "--avg-bits", "4", "--dry-run")
    assert "can be reached" in dry and "written" not in dry
    with pytest.raises(lwq.InputError, match="--out names"):
        call("compress", folder, "--avg-bits", "4")


def test_a_plan_of_another_program_is_taken_over_in_the_shell(folder, tmp_path):
    model, tokenizer = lwq.load("toy")
    layout = models.layout(model, "matrix")
    bits = {unit: (4, 3, 8)[i % 3] for i, unit in enumerate(layout.units)}
    plan = lwq.Plan(bits, layout, "rtn(group_size=32, sym=True)")
    lwq.export(model, plan, tmp_path / "gptq", tokenizer, format="gptq")
    out = tmp_path / "plan.json"
    said = call("plan", "toy", "--from", tmp_path / "gptq" / "config.json", "--out", out)
    found = lwq.Plan.load(out)
    assert {unit: found.bits[unit] for unit in bits} == bits and "true bits" in said
    assert found.bits["model.embed_tokens"] == 16
    with pytest.raises(lwq.InputError, match="size of its own"):
        call("plan", "toy", "--from", tmp_path / "gptq", "--avg-bits", "4", "--out", out)


def test_a_limit_of_0_bits_is_not_the_size_of_a_plan_beside_it(folder, tmp_path):
    """The bytes of the plan in `like` were taken for bits a weight, and everything got 8."""
    (tmp_path / "config.json").write_text('{"quantization": {"bits": 4, "group_size": 64}}')
    with pytest.raises(lwq.InputError, match="avg_bits=0 is out of reach"):
        check(str(folder), avg_bits=0, like=tmp_path / "config.json")
    assert check(str(folder), like=tmp_path / "config.json").limit == "max_bytes"
