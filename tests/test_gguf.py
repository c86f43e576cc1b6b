"""GGUF files: read back by gguf-py, loaded by transformers' own GGUF reader, weighed to the byte.

pytest tests/test_gguf.py
"""

import json
import os
import re
from dataclasses import replace
from pathlib import Path

import architectures
import pytest
import torch
from gguf import GGUFReader, TokenType, quants
from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers import models as tokenizer_models
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
from transformers.models.gemma3 import Gemma3TextConfig
from transformers.models.llama import LlamaConfig
from transformers.models.qwen2 import Qwen2Config
from transformers.models.qwen3 import Qwen3Config

import lwq
from lwq import models
from lwq.contracts import Plan
from lwq.exporters import export, require_exportable
from lwq.exporters.gguf import FILE, GGUF, TYPES, tensor_types
from lwq.exporters.llama_cpp.settings import Settings
from lwq.exporters.llama_cpp.vocabulary import Vocabulary
from lwq.quantizers.ggml import GGML

LAYERS = 6  # a period of gemma3's local and global layers
COMMON = {**architectures.COMMON, "vocab_size": 260, "num_hidden_layers": LAYERS}
CONFIGS = {
    "llama": LlamaConfig(**COMMON),
    "qwen2": Qwen2Config(**COMMON),
    "qwen3": Qwen3Config(**COMMON, head_dim=32),
    "gemma3": Gemma3TextConfig(**COMMON, head_dim=16, query_pre_attn_scalar=16, sliding_window=8),
}
OPTIONS = ("q8_0", "q4_k", "q5_1", "iq4_nl", "q4_0")
PLAIN = "ggml(imatrix=False)"


def make(name, **settings):
    torch.manual_seed(0)
    config = CONFIGS[name]
    for key, value in settings.items():
        setattr(config := config.__class__.from_dict(config.to_dict()), key, value)
    config.use_cache = False
    model = AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
    for key, tensor in model.named_parameters():
        if tensor.ndim == 1:  # norms and biases that are all alike would hide a mistake
            tensor.add_(torch.rand_like(tensor) * 0.3 * (1 if "norm" in key else 0.2))
    return model


def plan_of(model, options=OPTIONS, quantizer=PLAIN, outside=True):
    layout = models.layout(model, "matrix", outside)
    turns = {unit: options[i % len(options)] for i, unit in enumerate(layout.units)}
    return Plan(turns, layout, quantizer)


@pytest.fixture
def tokenizer():
    return lwq.load("toy")[1]


def written(model, plan, folder, tokenizer, format="gguf"):
    export(model, plan, folder, tokenizer, None, format)
    return folder / FILE


@pytest.mark.parametrize("outside", [True, False])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("name", CONFIGS)
def test_ggml_plan_reads_back_as_it_was_applied(name, tied, outside, tokenizer, tmp_path):
    """transformers turns the file into a model by its own code; the logits are the plan's."""
    model = make(name, tie_word_embeddings=tied)
    plan = plan_of(model, outside=outside)
    written(model, plan, tmp_path / "out", tokenizer)
    # of these two, transformers reads not all settings (head_dim, query_pre_attn_scalar)
    config = {"config": model.config} if name in ("qwen3", "gemma3") else {}
    again = AutoModelForCausalLM.from_pretrained(
        tmp_path / "out", gguf_file=FILE, dtype=torch.float32, **config
    )
    x = torch.randint(0, 256, (2, 24), generator=torch.Generator().manual_seed(1))
    for module in models.outside(model).values() if not outside else ():
        module.view().copy_(module.view().half().float())  # kept: in float16
    ours, theirs = (m.eval()(x, use_cache=False).logits for m in (model, again))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", CONFIGS)
def test_ggml_file_weighs_what_was_promised_and_has_the_types_of_the_plan(
    name, tokenizer, tmp_path
):
    model = make(name)
    plan, out = plan_of(model, (*OPTIONS, 16)), tmp_path / "out"
    (tmp_path / "tokenizer").mkdir()
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    said = GGUF().size(model, plan, tmp_path / "tokenizer")
    assert not list((tmp_path / "tokenizer").glob("*.gguf*"))
    file = written(model, plan, out, tokenizer)
    assert os.path.getsize(file) == said.total
    norms = sum(p.numel() for p in model.parameters() if p.ndim == 1)
    parts = GGUF().parts(model, plan)
    # a plan counts two bytes for what it does not reach, and knows of no padding
    assert sum(part.nbytes for part in parts) == plan.size(GGML()).total_bytes + 2 * norms
    assert said.tensors == sum(-(-part.nbytes // 32) * 32 for part in parts)
    reader, settings = GGUFReader(file), Settings.of(model)
    assert reader.data_offset == said.header
    found = {tensor.name: tensor for tensor in reader.tensors}
    for unit, option in plan.bits.items():
        columns = model.get_submodule(unit).weight.shape[1]
        kind = found[settings.tensor_name(f"{unit}.weight")].tensor_type.name
        assert kind == ("F16" if option == 16 else GGML().kind(columns, option).name)
    assert ("output.weight" in found) != model.config.tie_word_embeddings


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("tied", [True, False])
def test_the_head_is_in_the_file_where_it_is_a_matrix_of_its_own(told, tied, tokenizer, tmp_path):
    model = make("llama", tie_word_embeddings=tied)
    model.config.tie_word_embeddings = told
    plan = plan_of(model, (16,))
    assert ("lm_head.weight" in {part.key for part in GGUF().parts(model, plan)}) != tied


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("llama", {"hidden_act": "gelu"}),
        ("qwen3", {"hidden_act": "relu"}),
        ("gemma3", {"hidden_activation": "gelu"}),
    ],
)
def test_an_activation_that_llama_cpp_does_not_compute_is_refused(name, setting, tokenizer):
    ((key, value),) = setting.items()
    with pytest.raises(lwq.InputError, match=f"has {key}='{value}' .usual.*does not compute"):
        GGUF().require_model(make(name, **setting), tokenizer)


def test_ggml_a_number_too_large_for_float16_is_refused_before_the_work(
    tokenizer, tmp_path, monkeypatch
):
    model = make("llama")
    model.model.embed_tokens.weight[0, 0] = 98304.0
    plan = plan_of(model, outside=False)
    monkeypatch.setattr(GGML, "__call__", None)  # no matrix is quantized
    with pytest.raises(lwq.InputError, match="embed_tokens.weight: .*65504; choose kept='bfloat"):
        export(model, plan, tmp_path / "out", tokenizer, None, "gguf")


def test_ggml_tensors_hold_the_storages_rows(tokenizer, tmp_path):
    model = make("qwen2")
    plan = plan_of(model)
    reader = GGUFReader(written(model, plan, tmp_path / "out", tokenizer))
    found = {tensor.name: tensor for tensor in reader.tensors}
    tensor = found["blk.3.ffn_down.weight"]
    values = torch.from_numpy(quants.dequantize(tensor.data, tensor.tensor_type))
    assert torch.equal(values, model.model.layers[3].mlp.down_proj.weight)
    queries = found["blk.0.attn_q.weight"]  # not llama: nothing changes places
    values = torch.from_numpy(quants.dequantize(queries.data, queries.tensor_type))
    assert torch.equal(values, model.model.layers[0].self_attn.q_proj.weight)


def test_ggml_rows_of_a_llama_turn_as_neighbours():
    """Rows i and i + d/2 of a head become 2i and 2i + 1."""
    settings = Settings.of(make("llama"))
    order = settings.rows("model.layers.0.self_attn.q_proj.weight")
    assert order[:6].tolist() == [0, 8, 1, 9, 2, 10] and order[16:19].tolist() == [16, 24, 17]
    assert settings.rows("model.layers.0.self_attn.v_proj.weight") is None
    assert len(settings.rows("model.layers.0.self_attn.k_proj.bias")) == 32
    assert Settings.of(make("qwen2")).rows("model.layers.0.self_attn.q_proj.weight") is None


def test_ggml_file_of_a_streamed_model_is_the_same(tokenizer, tmp_path):
    model = make("llama")
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    found = []
    for stream in (False, True):
        loaded, own = lwq.load(str(tmp_path / "model"), stream=stream)
        file = written(loaded, plan_of(loaded, (*OPTIONS, 16)), tmp_path / f"{stream}", own)
        found.append(file.read_bytes())
    assert found[0] == found[1]


def test_ggml_rope_of_llama_3_has_its_factors(tokenizer, tmp_path):
    rope = {
        "rope_type": "llama3",
        "rope_theta": 10000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }
    model = make("llama", rope_parameters=rope)
    reader = GGUFReader(written(model, plan_of(model), tmp_path / "out", tokenizer))
    factors = next(t.data for t in reader.tensors if t.name == "rope_freqs.weight")
    assert len(factors) == 8 and factors[0] == pytest.approx(1) and factors[-1] == pytest.approx(8)


def test_ggml_settings_in_the_file(tokenizer, tmp_path):
    reader = GGUFReader(written(make("gemma3"), plan_of(make("gemma3")), tmp_path / "o", tokenizer))
    value = {key: field.contents() for key, field in reader.fields.items()}
    assert value["general.architecture"] == "gemma3"
    assert [value[f"gemma3.{key}"] for key in ("block_count", "attention.sliding_window")] == [6, 8]
    assert value["gemma3.attention.key_length"] == 16
    assert value["tokenizer.ggml.pre"] == "gpt-2" and len(value["tokenizer.ggml.tokens"]) == 260
    assert value["tokenizer.ggml.tokens"][257:] == ["[PAD257]", "[PAD258]", "[PAD259]"]
    assert value["tokenizer.ggml.eos_token_id"] == 256


def test_ggml_types_for_llama_cpps_own_quantizer(tokenizer, tmp_path):
    """Each pattern finds its own tensor and no other."""
    model = make("llama")
    plan = plan_of(model)
    file = written(model, plan, tmp_path / "out", tokenizer)
    lines = (file.parent / TYPES).read_text().splitlines()
    assert "\n".join(lines) + "\n" == tensor_types(plan, Settings.of(model))
    tensors = {tensor.name: tensor.tensor_type.name for tensor in GGUFReader(file).tensors}
    for line in lines:
        pattern, _, kind = line.partition("=")
        (found,) = [name for name in tensors if re.search(pattern, name)]
        assert tensors[found].lower() == kind
    assert len(lines) == len(plan.bits)


def test_ggml_export_that_fails_leaves_nothing(tokenizer, tmp_path):
    model = make("llama")

    def packed():
        yield from ()
        raise RuntimeError("interrupted")

    tokenizer.save_pretrained(tmp_path)
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(RuntimeError, match="interrupted"):
        GGUF()(model, packed(), plan_of(model), tmp_path)
    assert sorted(os.listdir(tmp_path)) == before


def test_ggml_matrices_at_sixteen_bits_in_other_dtypes(tokenizer, tmp_path):
    model = make("llama", tie_word_embeddings=True)
    for kept, kind in (("bfloat16", "BF16"), ("float32", "F32")):
        file = written(
            model, plan_of(model, (16,)), tmp_path / kept, tokenizer, f"gguf(kept={kept!r})"
        )
        kinds = {t.tensor_type.name for t in GGUFReader(file).tensors if len(t.shape) > 1}
        assert kinds == {kind}
    model.model.layers[1].mlp.up_proj.weight[0, 0] = 1e6
    with pytest.raises(lwq.InputError, match=r"layers.1.mlp.up_proj.*no more than 65504"):
        written(model, plan_of(model, (16,)), tmp_path / "narrow", tokenizer)
    assert not (tmp_path / "narrow").exists()


def test_what_a_gguf_cannot_hold_is_refused_before_the_work(tmp_path):
    model = make("llama")
    cases = [
        (plan_of(model, (4, 3), "rtn()"), r"quantizer='ggml' and bits=\[3, 4\]"),
        (replace(plan_of(model), bits=dict.fromkeys(plan_of(model).bits, 0)), "these at 2 .q2_k."),
        (plan_of(architectures.make("gpt2"), (4,)), "no name for .*transformer.h.0"),
    ]
    for plan, message in cases:
        with pytest.raises(lwq.InputError, match=message):
            require_exportable(plan, tmp_path / "out", "gguf")
    with pytest.raises(lwq.InputError, match="unknown kept 'int8'"):
        GGUF(kept="int8")


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("gemma3", {"query_pre_attn_scalar": 24}, "query_pre_attn_scalar=24"),
        ("gemma3", {"layer_types": ["full_attention"] * LAYERS}, "full_attention in layer 1"),
        ("qwen2", {"use_sliding_window": True}, "sliding windows"),
        (
            "llama",
            {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0}},
            "RoPE of type 'yarn'",
        ),
    ],
)
def test_what_llama_cpp_computes_otherwise_is_refused(name, settings, message):
    config = make(name).config
    for key, value in settings.items():
        setattr(config, key, value)
    model = make(name)
    model.config = config
    with pytest.raises(lwq.InputError, match=re.escape(message)):
        Settings.of(model)


def test_an_architecture_that_is_not_written_is_named():
    with pytest.raises(lwq.InputError, match=r"is a 'mistral'; this exporter writes \['llama'"):
        Settings.of(architectures.make("mistral"))


def pieces(tmp_path: Path) -> Path:
    """A tokenizer of pieces with bytes to fall back on, as Gemma's is."""
    vocab = {"<unk>": 0, "<s>": 1, "<0x0A>": 2, "a": 3, "b": 4, "▁": 5, "ab": 6, "▁ab": 7}
    merges = [("a", "b"), ("▁", "ab")]
    inner = Tokenizer(
        tokenizer_models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", byte_fallback=True)
    )
    inner.normalizer = normalizers.Replace(" ", "▁")
    inner.decoder = decoders.ByteFallback()
    made = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>", bos_token="<s>")
    made.add_tokens(["▁▁"])
    made.save_pretrained(tmp_path)
    return tmp_path


class Kept:
    """Stands for a writer; keeps what it is told."""

    def __init__(self):
        self.told = {}

    def __getattr__(self, name):
        return lambda value: self.told.__setitem__(name.removeprefix("add_"), value)


def test_a_vocabulary_of_pieces_has_scores_in_the_order_of_merges(tmp_path):
    found = Kept()
    Vocabulary.read(pieces(tmp_path), 10).write(found)
    told = found.told
    assert told["tokenizer_model"] == "llama" and told["token_list"][8:] == ["  ", "[PAD9]"]
    scores = dict(zip(told["token_list"], told["token_scores"], strict=True))
    assert 0 == scores["ab"] > scores["▁ab"] > scores["a"]
    assert [told["token_types"][i] for i in (0, 1, 2, 3, 8, 9)] == [
        TokenType.UNKNOWN,
        TokenType.CONTROL,
        TokenType.BYTE,
        TokenType.NORMAL,
        TokenType.USER_DEFINED,
        TokenType.UNUSED,
    ]
    assert told["add_space_prefix"] is False and told["add_bos_token"] is False


def test_tokenizers_that_cannot_be_written_are_refused(tmp_path, tokenizer):
    with pytest.raises(lwq.InputError, match="has no tokenizer.json"):
        Vocabulary.read(tmp_path, 300)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(lwq.InputError, match="a token 256, and the model's embedding 200 rows"):
        Vocabulary.read(tmp_path, 200)
    data = json.loads((tmp_path / "tokenizer.json").read_text())
    data["pre_tokenizer"] = {"type": "Whitespace"}
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    with pytest.raises(lwq.InputError, match=r"format=\"gguf\(pre='qwen2'\)\""):
        Vocabulary.read(tmp_path, 300)
    assert Vocabulary.read(tmp_path, 300, "qwen2").cuts() == "qwen2"


@pytest.mark.parametrize(
    ("steps", "name"),
    [
        ([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel()], "smollm"),
        ([pre_tokenizers.ByteLevel(add_prefix_space=False)], "gpt-2"),
    ],
)
def test_ways_to_cut_words_have_llama_cpps_names(steps, name, tmp_path, tokenizer):
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    tokenizer.save_pretrained(tmp_path)
    assert Vocabulary.read(tmp_path, 300).cuts() == name
