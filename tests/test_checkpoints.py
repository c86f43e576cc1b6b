"""A checkpoint is the model's, all of it, whichever way it is read; an export counts once it was
read back.
"""

import json
import shutil
from fnmatch import fnmatch
from pathlib import Path

import architectures
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

import lwq
from lwq import models
from lwq.common import paths
from lwq.inputs import resolve
from lwq.inputs.toy import model as toy_model

BOTH = pytest.mark.parametrize("stream", [False, True])
MOE = {
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 64,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
}
BUFFERED = {  # architectures that keep numbers in buffers
    "deepseek_v3": {
        **MOE,
        "num_key_value_heads": 4,
        "q_lora_rank": 32,
        "kv_lora_rank": 16,
        "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 16,
        "v_head_dim": 16,
    },
    "glm4_moe": {**MOE, "head_dim": 16},
    "apertus": {},
}


@pytest.fixture
def saved(tmp_path, toy):
    """The folder of a checkpoint of the toy model."""
    for part in toy:
        part.save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def edit_weights(folder, edit):
    file = folder / "model.safetensors"
    save_file(edit(load_file(file)), file, metadata={"format": "pt"})


def edit_config(folder, **settings):
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))


LOST = "model.layers.1.mlp.down_proj.weight"


@BOTH
@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            lambda s: {f"_orig_mod.{k}": v for k, v in s.items()},
            r"lacks 39 tensors of the model .*no place for 38 of its \(_orig_mod.model",
        ),
        (lambda s: {f"module.{k}": v for k, v in s.items()}, "no place for 38 of its"),
        (lambda s: {k: v for k, v in s.items() if k != LOST}, f"lacks 1 tensors .*{LOST}"),
        (lambda s: {k: v for k, v in s.items() if ".layers.2." not in k}, "lacks 9 tensors"),
        (lambda s: {**s, "model.layers.4.x.weight": torch.ones(2)}, "no place for 1 of its"),
        (lambda s: {**s, LOST: s[LOST][:, :96].clone()}, rf"{LOST} is \(64, 96\) .*\(64, 128\)"),
    ],
    ids=["compiled", "wrapped", "one lost", "a layer lost", "one too many", "another shape"],
)
def test_a_checkpoint_that_is_not_the_models_is_refused(edit, message, stream, saved):
    edit_weights(saved, edit)
    with pytest.raises(lwq.InputError, match=message):
        lwq.load(str(saved), stream=stream)


@BOTH
@pytest.mark.parametrize("layers", [3, 5])
def test_a_config_with_too_few_or_too_many_layers_is_refused(layers, stream, saved):
    edit_config(saved, num_hidden_layers=layers)
    with pytest.raises(lwq.InputError, match="no place for 9|lacks 9 tensors"):
        lwq.load(str(saved), stream=stream)


@BOTH
@pytest.mark.parametrize("dtype", ["int8", "bool", "float8_e4m3fn"])
def test_codes_are_not_read_as_numbers(dtype, stream, saved):
    edit_weights(saved, lambda s: {**s, LOST: (s[LOST] * 9).to(getattr(torch, dtype))})
    with pytest.raises(lwq.InputError, match=f"{LOST} holds .*which stand for weights"):
        lwq.load(str(saved), stream=stream)


@pytest.mark.parametrize("dtype", [torch.int8, torch.bool, torch.float8_e4m3fn])
def test_codes_in_a_model_in_memory_are_refused(dtype, toy):
    layer = toy[0].model.layers[1].mlp.down_proj
    layer.weight = torch.nn.Parameter((layer.weight * 9).to(dtype), requires_grad=False)
    with pytest.raises(lwq.InputError, match="down_proj.weight holds .*load the unquantized model"):
        models.layout(toy[0])


@BOTH
@pytest.mark.parametrize("method", ["gptq", "awq", "bitsandbytes", "hqq", "torchao", "quanto", ""])
def test_a_quantized_checkpoint_is_refused_by_its_format(method, stream, saved):
    edit_config(saved, quantization_config={"bits": 4, "quant_method": method})
    with pytest.raises(lwq.InputError, match=f"already quantized .{method or 'unknown format'}."):
        lwq.load(str(saved), stream=stream)


@pytest.fixture
def fp8(saved):
    """An FP8 checkpoint, and the state that its codes stand for."""
    state = load_file(saved / "model.safetensors")
    own = dict(state)
    for key in [key for key in state if key.endswith("_proj.weight")]:
        scale = state[key].abs().max() / 448
        state[key] = (state[key] / scale).to(torch.float8_e4m3fn)
        state[key.replace(".weight", ".weight_scale_inv")] = scale.reshape(1, 1)
        own[key] = state[key].float() * scale
    edit_weights(saved, lambda _: state)
    settings = {"quant_method": "fp8", "weight_block_size": [128, 128], "fmt": "e4m3"}
    edit_config(saved, quantization_config={**settings, "activation_scheme": "dynamic"})
    return saved, own


def test_a_format_that_transformers_reads_becomes_plain_numbers(fp8, judge, toy, tmp_path):
    folder, own = fp8
    found, tokenizer = lwq.load(str(folder))
    toy[0].load_state_dict(own, strict=False)
    assert lwq.evaluate(found, judge).nll == pytest.approx(lwq.evaluate(toy[0], judge).nll)
    layout = models.layout(found)
    plan = lwq.Plan(dict.fromkeys(layout.units, 4), layout, "rtn()")
    lwq.export(found, plan, tmp_path / "out", tokenizer)
    assert "quantization_config" not in (tmp_path / "out" / "config.json").read_text()
    again = lwq.load(str(tmp_path / "out"))[0]
    assert models.fingerprint(again) == models.fingerprint(found)
    with pytest.raises(lwq.InputError, match="already quantized .fp8.*without stream=True"):
        lwq.load(str(folder), stream=True)


def damage(folder, kind):
    file = folder / "model.safetensors"
    content = {
        "cut off": file.read_bytes()[:30_000],
        "empty": b"",
        "a Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n",
    }[kind]
    file.write_bytes(content)


@BOTH
@pytest.mark.parametrize("kind", ["cut off", "empty", "a Git LFS pointer"])
def test_a_damaged_file_is_named(kind, stream, saved):
    damage(saved, kind)
    with pytest.raises(lwq.InputError, match=f"saved/model.safetensors is {kind}"):
        lwq.load(str(saved), stream=stream)


@BOTH
def test_a_lost_shard_is_named(stream, toy, tmp_path):
    toy[0].save_pretrained(tmp_path / "shards", max_shard_size="100KB")
    toy[1].save_pretrained(tmp_path / "shards")
    (tmp_path / "shards" / "model-00002-of-00008.safetensors").unlink()
    with pytest.raises(lwq.InputError, match="model-00002-of-00008.safetensors is missing"):
        lwq.load(str(tmp_path / "shards"), stream=stream)


@BOTH
@pytest.mark.parametrize("whole", [True, False])
def test_one_file_counts_before_an_index_that_is_older(whole, stream, saved, tmp_path):
    toy_model(1).save_pretrained(tmp_path / "both", max_shard_size="100KB")
    for shard in () if whole else (tmp_path / "both").glob("model-*"):
        shard.unlink()
    for file in saved.iterdir():
        (tmp_path / "both" / file.name).write_bytes(file.read_bytes())
    model = lwq.load(str(tmp_path / "both"), stream=stream)[0]
    assert models.fingerprint(model) == models.fingerprint(lwq.load(str(saved))[0])
    assert models.stand_in(str(tmp_path / "both"))


@BOTH
def test_what_a_library_raises_becomes_a_sentence(stream, saved, monkeypatch):
    def broken(*_, **__):
        raise Exception("data did not match any variant")  # as tokenizers does

    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", broken)
    with pytest.raises(lwq.InputError, match="cannot load the model .*did not match any variant"):
        lwq.load(str(saved), stream=stream)


def buffered(kind, folder, tokenizer):
    """A checkpoint whose stored buffers hold what training leaves there."""
    torch.manual_seed(0)
    common = {**architectures.COMMON, "vocab_size": 257}
    model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[kind](**{**common, **BUFFERED[kind]}))
    parameters = dict(model.named_parameters(remove_duplicate=False))
    stored = [key for key in model.state_dict() if key not in parameters]
    for key in stored:
        buffer = model.get_buffer(key)
        buffer.copy_(buffer + 0.3 * torch.randn(buffer.shape))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model.eval(), stored


@pytest.mark.parametrize("kind", BUFFERED)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_stored_buffers_are_read_and_written_whole_and_streamed(kind, dtype, toy, judge, tmp_path):
    model, stored = buffered(kind, tmp_path / "saved", toy[1])
    assert stored, "the case tests nothing"
    prints = set()
    for stream in (False, True):
        found, tokenizer = lwq.load(str(tmp_path / "saved"), dtype, stream=stream)
        for key in stored:
            buffer = found.get_buffer(key)
            assert torch.equal(buffer, model.get_buffer(key).to(buffer.dtype))
        assert models.fingerprint(found) == models.fingerprint(models.cast(model, dtype))
        nll = lwq.evaluate(found, judge[:2]).nll
        if dtype == "float32":
            assert nll == pytest.approx(lwq.evaluate(model, judge[:2]).nll, abs=1e-9)
        layout = models.layout(found)
        plan = lwq.Plan(dict.fromkeys(layout.units, 8), layout, "rtn(group_size=-1)")
        out = tmp_path / f"out-{stream}"
        lwq.export(found, plan, out, tokenizer)
        again = lwq.load(str(out), dtype)[0]
        prints |= {models.fingerprint(found), models.fingerprint(again)}
        held = {key for file in out.glob("*.safetensors") for key in load_file(file)}
        assert set(stored) <= held
    assert len(prints) == 1


HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


@pytest.fixture
def own_head(saved):
    """A checkpoint with a trained head, whose config.json still says that it is tied."""
    edit_weights(saved, lambda s: {**s, HEAD: s[EMBEDDING].flip(0).contiguous()})
    return saved


@BOTH
@pytest.mark.parametrize("format", ["lwq", "dequantized", "mlx"])
def test_a_head_of_its_own_is_read_and_written_whatever_the_config_says(
    format, stream, own_head, tmp_path
):
    model, tokenizer = lwq.load(str(own_head), stream=stream)
    layout = models.layout(model, "matrix", outside=True)
    assert (
        layout.outside == models.layout(models.stand_in(str(own_head))[0], "matrix", True).outside
    )
    assert models.outline(str(own_head)).parameters == sum(p.numel() for p in model.parameters())
    bits = {u: 16 if u in layout.outside and format == "dequantized" else 8 for u in layout.units}
    lwq.export(model, lwq.Plan(bits, layout, "rtn()"), tmp_path / "out", tokenizer, format=format)
    held = {k for file in (tmp_path / "out").glob("*.safetensors") for k in load_file(file)}
    assert any(key.startswith("lm_head") for key in held)
    assert not json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"]
    if format == "mlx":
        return
    x = torch.arange(20)[None]
    again = lwq.load(str(tmp_path / "out"))[0]
    torch.testing.assert_close(again(x).logits, model(x).logits, atol=0.02, rtol=0)


def test_a_packed_head_opens_beside_a_config_that_says_tied(own_head, tmp_path):
    model, tokenizer = lwq.load(str(own_head))
    layout = models.layout(model, "matrix", outside=True)
    plan = lwq.Plan(dict.fromkeys(layout.units, 8), layout, "rtn()")
    lwq.export(model, plan, tmp_path / "out", tokenizer, format="lwq")
    edit_config(tmp_path / "out", tie_word_embeddings=True)  # as earlier versions wrote it
    x = torch.arange(20)[None]
    again = lwq.load(str(tmp_path / "out"))[0]
    torch.testing.assert_close(again(x).logits, model(x).logits, atol=0.02, rtol=0)


@BOTH
def test_a_head_that_is_stored_twice_stays_tied(stream, saved):
    edit_weights(saved, lambda s: {**s, HEAD: s[EMBEDDING].clone()})
    model = lwq.load(str(saved), stream=stream)[0]
    assert model.lm_head.weight is model.model.embed_tokens.weight


@pytest.mark.parametrize("format", ["lwq", "dequantized"])
def test_a_head_that_the_caller_tied_opens_tied(format, tmp_path, toy):
    model = architectures.make("llama")
    model.lm_head.weight = model.model.embed_tokens.weight
    layout = models.layout(model)
    plan = lwq.Plan(dict.fromkeys(layout.units, 8), layout, "rtn()")
    before = model.config.to_dict()
    lwq.export(model, plan, tmp_path / "out", toy[1], format=format)
    assert model.config.to_dict() == before
    x = torch.arange(20)[None]
    again = lwq.load(str(tmp_path / "out"))[0]
    torch.testing.assert_close(again(x).logits, model(x).logits, atol=0.02, rtol=0)


@pytest.mark.parametrize("packed", [False, True])
def test_a_path_names_a_model_as_text_does(packed, saved, tmp_path):
    folder = saved
    if packed:
        model, tokenizer = lwq.load(saved)
        layout = models.layout(model)
        plan = lwq.Plan(dict.fromkeys(layout.units, 8), layout, "rtn()")
        folder = tmp_path / "packed"
        lwq.export(model, plan, folder, tokenizer, format="lwq")
    expected = models.fingerprint(lwq.load(str(folder))[0])
    assert models.fingerprint(lwq.load(folder)[0]) == expected
    assert models.name(lwq.load(folder)[0]) == str(folder)
    if not packed:
        assert models.fingerprint(models.load(folder, stream=True)[0]) == expected
        assert models.outline(folder) == models.outline(str(folder))
        assert lwq.check(folder, avg_bits=4).blocks == lwq.check(str(folder), avg_bits=4).blocks


def test_a_path_is_never_a_name_of_ours(toy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert resolve.said(Path("toy")) == "./toy" and resolve.said("toy") == "toy"
    with pytest.raises(lwq.InputError, match="no such folder: './toy'"):
        lwq.load(Path("toy"))
    for what in (None, 3, b"toy", toy[0]):
        with pytest.raises(lwq.InputError, match="named by text or a path, not by a"):
            lwq.load(what)


@pytest.mark.parametrize("place", ["cuda", "cuda:7", "nowhere", 0])
@pytest.mark.parametrize("kind", ["toy", "plain", "stream", "packed"])
def test_a_device_that_is_not_there_is_refused_at_the_top(
    place, kind, saved, tmp_path, monkeypatch
):
    monkeypatch.setattr(torch, "empty", no_device)
    if kind == "packed":
        (saved / "packed.json").touch()
    name = "toy" if kind == "toy" else saved
    with pytest.raises(lwq.InputError, match=f"device_map={place!r} is no device of this machine"):
        lwq.load(name, device_map=place, stream=kind == "stream")


def no_device(*shape, device=None):
    raise RuntimeError(f"no {device}\nC++ stack")


@pytest.mark.parametrize("kind", ["stream", "packed"])
@pytest.mark.parametrize("spread", ["auto", {"": "cpu"}])
def test_what_goes_to_one_device_is_not_spread(spread, kind, saved):
    if kind == "packed":
        (saved / "packed.json").touch()
    with pytest.raises(
        lwq.InputError, match=f"spreads a model, and a {kind}(ed)? model goes to one"
    ):
        lwq.load(saved, device_map=spread, stream=kind == "stream")


def test_the_toy_goes_where_it_is_told():
    assert next(lwq.load("toy", device_map="meta")[0].parameters()).is_meta
    assert not next(lwq.load("toy", device_map="auto")[0].parameters()).is_meta


def test_a_streamed_model_of_a_hub_has_its_chat_template(saved, toy, tmp_path, monkeypatch):
    toy[1].chat_template = "{{ messages }}"
    toy[1].save_pretrained(saved)
    (saved / "qwen.tiktoken").touch()
    (saved / "pytorch_model.bin").touch()

    def download(name, allow_patterns):
        folder = tmp_path / "snapshot"
        folder.mkdir(exist_ok=True)
        for file in saved.iterdir():
            if any(fnmatch(file.name, pattern) for pattern in allow_patterns):
                shutil.copy(file, folder)
        return folder

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    monkeypatch.setattr("socket.getaddrinfo", lambda *_: [])
    assert lwq.load("owner/name", stream=True)[1].chat_template == "{{ messages }}"
    held = {file.name for file in (tmp_path / "snapshot").iterdir()}
    assert {file.name for file in saved.iterdir()} - held == {"pytorch_model.bin"}


CODE = {
    "modeling_own.py": """
from transformers import LlamaForCausalLM
from .configuration_own import OwnConfig

class OwnForCausalLM(LlamaForCausalLM):
    config_class = OwnConfig
""",
    "configuration_own.py": """
from transformers import LlamaConfig

class OwnConfig(LlamaConfig):
    model_type = "own_llama"
""",
}
OWN = {
    "model_type": "own_llama",
    "architectures": ["OwnForCausalLM"],
    "auto_map": {
        "AutoConfig": "configuration_own.OwnConfig",
        "AutoModelForCausalLM": "modeling_own.OwnForCausalLM",
    },
}


@pytest.fixture(scope="module")
def code_folder(tmp_path_factory):
    """Where transformers puts code that checkpoints bring."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("modules")
        patch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(folder))
        patch.syspath_prepend(folder)
        yield folder


@pytest.fixture
def with_code(saved, code_folder):
    """A checkpoint whose model is code beside its weights."""
    for name, text in CODE.items():
        (saved / name).write_text(text)
    edit_config(saved, **OWN)
    return saved


@BOTH
@pytest.mark.parametrize("format", ["lwq", "dequantized", "compressed-tensors"])
def test_code_of_the_models_own_goes_with_it(format, stream, with_code, tmp_path):
    model, tokenizer = lwq.load(str(with_code), stream=stream, trust_remote_code=True)
    layout = models.layout(model)
    plan = lwq.Plan(dict.fromkeys(layout.units, 8), layout, "rtn(group_size=32)")
    out = tmp_path / "out"
    lwq.export(model, plan, out, tokenizer, format=format)
    assert {name: (out / name).read_text() for name in CODE} == CODE
    assert json.loads((out / "config.json").read_text())["auto_map"] == OWN["auto_map"]
    if format == "compressed-tensors":
        return
    x = torch.arange(20)[None]
    logits = model(x).logits
    with_code.rename(tmp_path / "elsewhere")  # what is written stands alone
    with pytest.raises(lwq.InputError, match="cannot load the model .*out.*custom code"):
        lwq.load(str(out))
    again = lwq.load(str(out), trust_remote_code=True)[0]
    torch.testing.assert_close(again(x).logits, logits, atol=0.02, rtol=0)


@BOTH
@pytest.mark.parametrize("odd", [False, True])
def test_the_generation_settings_are_kept(odd, stream, saved, tmp_path):
    """Also those that contradict themselves, which transformers by itself refuses to save."""
    settings = {"do_sample": not odd, "temperature": 0.6, "eos_token_id": [256, 10]}
    (saved / "generation_config.json").write_text(json.dumps(settings))
    model, tokenizer = lwq.load(str(saved), stream=stream)
    models.save(model, tmp_path / "out")
    found = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert {key: found[key] for key in settings} == settings


def exported(model, tokenizer, folder):
    layout = models.layout(model)
    plan = lwq.Plan(dict.fromkeys(layout.units, 4), layout, "rtn()")
    return lwq.export(model, plan, folder, tokenizer)


@BOTH
def test_an_export_that_reads_back_otherwise_does_not_count(stream, saved, tmp_path, monkeypatch):
    model, tokenizer = lwq.load(str(saved), stream=stream)
    monkeypatch.setattr("lwq.models.write.fingerprint", lambda model: str(id(model)))
    with pytest.raises(lwq.RunError, match="reads back with other weights"):
        exported(model, tokenizer, tmp_path / "out")
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out*"))


@BOTH
def test_nothing_half_written_stays(stream, saved, tmp_path, monkeypatch):
    model, tokenizer = lwq.load(str(saved), stream=stream)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(tokenizer), "save_pretrained", full)
    with pytest.raises(lwq.RunError, match="out: No space left on device.*make room"):
        exported(model, tokenizer, tmp_path / "out")
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out*"))
    with (
        pytest.raises(lwq.RunError, match="No space left"),
        paths.replacing(tmp_path / "x") as file,
    ):
        full(file)
    assert not list(tmp_path.glob(".x*"))
