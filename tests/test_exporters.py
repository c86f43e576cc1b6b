"""Every exporter: predicted bytes are those on disk, refusals come before work, a folder is whole
or absent, and what is read back, by code of the test's own, is the plan applied in memory.

pytest tests/test_exporters.py
"""

import copy
import json
import re
import shutil
from dataclasses import dataclass

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import lwq
from lwq import models
from lwq.common.names import rebuild
from lwq.common.sizes import readable
from lwq.contracts import files
from lwq.engine.apply import all_matrices
from lwq.exporters import EXPORTERS, held, mlx, named, nearest, reading, table, targets
from lwq.exporters.held import Held
from lwq.exporters.shared import shards, words
from lwq.exporters.shared.grids import GridFormat, common, fused, rules
from lwq.exporters.shared.shards import narrow
from lwq.inputs import toy
from lwq.quantizers import QUANTIZERS
from lwq.quantizers.rtn import RTN
from tests import architectures

MODELS = ("llama", "qwen2", "gemma3")
GRIDS = [name for name, kind in EXPORTERS.items() if issubclass(kind, GridFormat)]
OURS = [*GRIDS, "lwq", "dequantized", "compressed-tensors(dense=True)"]
QUANTIZER = "rtn(group_size=32)"
OPTIONS = (4, 3, 8, "4g64", 2, 16, 5, 6, 7)


def plan_for(model, quantizer=QUANTIZER, options=OPTIONS, beyond=None, granularity="matrix"):
    """`options` in turn, and `beyond` for embeddings and head."""
    layout = models.layout(model, granularity, outside=beyond is not None)
    bits = {u: options[i % len(options)] for i, u in enumerate(layout.units)}
    bits |= dict.fromkeys(layout.outside, beyond)
    return lwq.Plan(bits, layout, quantizer)


def strategy(plan):
    return rebuild(QUANTIZERS, "quantizer", plan.quantizer)


def in_16_bits(name):
    """A model whose numbers 16 bits hold."""
    return models.cast(models.cast(architectures.make(name), "bfloat16"), "float32")


def written(folder):
    return dict(shards.read(folder))


def export(model, plan, folder, format):
    lwq.export(model, plan, folder, toy.tokenizer(), architectures.tokens(), format=format)
    return written(folder)


@pytest.mark.parametrize("format", OURS)
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("quantizer", [QUANTIZER, "rtn(group_size=64, sym=True)"])
def test_predicted_bytes_are_those_on_disk(format, name, quantizer, tmp_path):
    model = in_16_bits(name)
    if format == "dequantized":
        model = models.cast(model, "bfloat16")
    plan = nearest(plan_for(model, quantizer), format)
    predicted = named(format).nbytes(plan, strategy(plan))
    found = export(model, plan, tmp_path / "out", format)
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert sum(t.nbytes for t in found.values()) == predicted
    assert ("lm_head.weight" in found) is not tied
    assert lwq.Plan.load(tmp_path / "out" / "plan.json").id == plan.id


def stream(words, bits, count):
    """Codes of one row of words, lowest bit first, one bit after the other: slow and plain."""
    found = "".join(f"{int(word) & 0xFFFFFFFF:032b}"[::-1] for word in words)
    return [int(found[i * bits : (i + 1) * bits][::-1], 2) for i in range(count)]


def in_planes(words, bits, count):
    """Codes of planes: of each 32 codes first the low bits of all, then those above."""
    cuts = {2: [2], 3: [2, 1], 4: [4], 5: [4, 1], 6: [4, 2], 7: [4, 2, 1], 8: [8]}[bits]
    codes = []
    for start in range(0, len(words), bits):
        block, low, total = words[start : start + bits], 0, [0] * 32
        for width in cuts:
            plane = stream(block[low : low + width], width, 32)
            total = [code | (part << low) for code, part in zip(total, plane, strict=True)]
            low += width
        codes += total
    return codes[:count]


def unpacked_gptq(found, name, said, rule):
    """ŵ of a matrix from qweight, qzeros and scales, by the published layout."""
    bits = rule.get("bits", said["bits"])
    words, scales = found[f"{name}.qweight"], found[f"{name}.scales"].float()
    size = rule.get("group_size", said["group_size"])
    version = (
        said.get("checkpoint_format")
        or {
            "auto_round:auto_gptq": "gptq",
            "auto_round": "gptq_v2",
        }[said["packing_format"]]
    )
    unpack = in_planes if version == "gptq_p" else stream
    columns, rows = len(words) * 32 // bits, words.shape[1]
    size = columns if size == -1 else size
    q = torch.tensor([unpack(words[:, r].tolist(), bits, columns) for r in range(rows)])
    zeros = torch.tensor([unpack(z.tolist(), bits, rows) for z in found[f"{name}.qzeros"]])
    zeros = zeros + (version == "gptq")  # (groups, out)
    groups = torch.arange(columns) // size
    if f"{name}.g_idx" in found:
        assert found[f"{name}.g_idx"].tolist() == groups.tolist()
    return (q - zeros[groups].T) * scales[groups].T


def own_rule(name, dynamic):
    """What GPTQModel finds first; None for a matrix that stays."""
    for rule, said in dynamic.items():
        if re.match(rule[2:], name):
            return None if rule.startswith("-:") else said
    return {}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    ("quantizer", "options", "version"),
    [
        ("rtn(group_size=32, sym=True)", (4, 8, 3, 16, 2, "4g64"), "gptq"),
        (QUANTIZER, (4, 8, 3, 16, 2, "4g64"), "gptq_v2"),
        (QUANTIZER, (4, 5, 6, 7, 3), "gptq_p"),
        ("mse(group_size=-1)", (4, 3), "gptq_v2"),
    ],
)
def test_gptq_reads_back(name, quantizer, options, version, tmp_path):
    model = in_16_bits(name)
    plan = plan_for(model, quantizer, options)
    found = export(model, plan, tmp_path / "out", "gptq")
    said = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    assert said["checkpoint_format"] == version and said["sym"] is ("sym" in quantizer)
    for unit, option in plan.bits.items():
        rule = own_rule(unit, said.get("dynamic", {}))
        assert (rule is None) is (option == 16)
        if rule is not None:
            weight = all_matrices(model)[unit].view()
            assert torch.equal(unpacked_gptq(found, unit, said, rule), weight)


@pytest.mark.parametrize("quantizer", ["rtn(group_size=32, sym=True)", QUANTIZER])
def test_autoround_reads_back(quantizer, tmp_path):
    model = in_16_bits("qwen2")
    plan = plan_for(model, quantizer, (4, 8, 3, 16, 2, "4g64"))
    found = export(model, plan, tmp_path / "out", "auto-round")
    said = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    for unit in plan.bits:
        rule = said["extra_config"].get(unit, {})
        if rule.get("bits") == 16:
            assert plan.bits[unit] == 16 and f"{unit}.weight" in found
            continue
        weight = all_matrices(model)[unit].view()
        assert torch.equal(unpacked_gptq(found, unit, said, rule), weight)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("quantizer", [QUANTIZER, "rtn(group_size=-1, sym=True)", "gptq"])
def test_compressed_tensors_read_back(name, quantizer, tmp_path):
    model = in_16_bits(name)
    plan = plan_for(model, quantizer, (4, 3, 8, 16, 5, "4g32"))
    found = export(model, plan, tmp_path / "out", "compressed-tensors")
    said = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    assert said["format"] == "pack-quantized"
    for unit, option in plan.bits.items():
        groups = [
            group["weights"]
            for group in said["config_groups"].values()
            if any(re.match(target[3:], unit) for target in group["targets"])
        ]
        assert (unit in said["ignore"]) is (option == 16) and len(groups) == (option != 16)
        if groups:
            assert torch.equal(unpacked_ct(found, unit, *groups), all_matrices(model)[unit].view())


@pytest.mark.parametrize("bits", [2, 3, 5, 8])
def test_dense_words_are_a_stream(bits):
    codes = torch.randint(0, 2**bits, (3, 50), generator=torch.Generator().manual_seed(0)).byte()
    found = words.dense(codes, bits)
    assert found.shape == (3, words.dense_words(50, bits))
    assert [stream(row, bits, 50) for row in found.tolist()] == codes.tolist()


def unpacked_ct(found, name, said):
    """ŵ from weight_packed, weight_scale and weight_zero_point: 32 // bits codes a word."""
    bits, each = said["num_bits"], 32 // said["num_bits"]
    rows, columns = found[f"{name}.weight_shape"].tolist()
    scales = found[f"{name}.weight_scale"].float()

    def codes(words, count):
        found = [(int(w) >> (bits * i)) & (2**bits - 1) for w in words for i in range(each)]
        return found[:count]

    q = torch.tensor([codes(row, columns) for row in found[f"{name}.weight_packed"].tolist()])
    zeros = torch.full_like(scales, 2 ** (bits - 1))
    if not said["symmetric"]:
        columns_of = found[f"{name}.weight_zero_point"].T.tolist()
        zeros = torch.tensor([codes(words, rows) for words in columns_of]).T
    groups = torch.arange(columns) // (said["group_size"] or columns)
    return (q - zeros[:, groups]) * scales[:, groups]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("quantizer", [QUANTIZER, "hqq(group_size=32)"])
def test_mlx_reads_back(name, quantizer, tmp_path):
    model = in_16_bits(name)
    plan = plan_for(model, quantizer, (4, 3, 8, 16, 5, "4g64", 2, 6), beyond=6)
    found = export(model, plan, tmp_path / "out", "mlx")
    said = json.loads((tmp_path / "out" / "config.json").read_text())["quantization"]
    for unit, option in plan.bits.items():
        weight = all_matrices(model)[unit].view()
        assert (f"{unit}.scales" in found) is (option != 16)
        if option == 16:
            continue
        own = said.get(unit, said)
        scales, biases = found[f"{unit}.scales"].float(), found[f"{unit}.biases"].float()
        words = found[f"{unit}.weight"].view(torch.int32).tolist()
        q = torch.tensor([stream(row, own["bits"], weight.shape[1]) for row in words])
        groups = torch.arange(weight.shape[1]) // own["group_size"]
        back = q * scales[:, groups] + biases[:, groups]
        # the bias is rounded to float16
        assert (back - weight).abs().max() <= 2.0**-11 * biases.abs().max() + 1e-7
        assert (back - weight).abs().mean() < scales.mean() / 20


@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt2", "gpt_oss", "qwen3_moe"])
@pytest.mark.parametrize("quantizer", ["gptq(group_size=32)", "spqr", "hqq(group_size=-1)"])
def test_lwq_opens_packed_and_answers_bit_for_bit(name, quantizer, tmp_path):
    model, x = architectures.make(name), architectures.tokens()
    plan = plan_for(model, quantizer, (4, 3, 16), 16 if quantizer == "spqr" else 4, "block")
    export(model, plan, tmp_path / "out", "lwq(dtype='float32')")
    opened, _ = lwq.load(str(tmp_path / "out"))
    expected = lwq.evaluate(model, x)
    assert np.array_equal(lwq.evaluate(opened, x).nll, expected.nll)
    assert models.fingerprint(opened) == models.fingerprint(model)
    assert torch.equal(
        opened.generate(x[:2], max_new_tokens=5, do_sample=False),
        model.generate(x[:2], max_new_tokens=5, do_sample=False),
    )


def test_lwq_keeps_weights_packed(tmp_path):
    model = in_16_bits("llama")
    plan = plan_for(model, options=(4, 3, 16), beyond=4)
    found = export(model, plan, tmp_path / "out", "lwq")
    opened, _ = lwq.load(str(tmp_path / "out"))
    held = {id(p): p for p in opened.parameters()}.values()
    resident = sum(p.stored_bytes if isinstance(p.data, Held) else p.nbytes for p in held)
    assert resident <= 1.2 * sum(t.nbytes for t in found.values())
    with pytest.raises(lwq.InputError, match="load the unquantized model"):
        lwq.quantize_(opened, plan)
    with pytest.raises(RuntimeError, match="cannot be written"):
        opened.get_input_embeddings().weight.data.zero_()
    with pytest.raises(lwq.InputError, match="opens whole"):
        lwq.load(str(tmp_path / "out"), stream=True)


CONVERSIONS = {
    "cpu": lambda model: model.to("cpu"),
    "float32": lambda model: model.float(),
    "bfloat16": lambda model: model.to(torch.bfloat16),
    "float16": lambda model: model.half(),
    "like": lambda model: model.to(torch.ones(1, dtype=torch.bfloat16)),
}


@pytest.mark.parametrize("room", [0, 1 << 30])
@pytest.mark.parametrize("kind", CONVERSIONS)
def test_a_packed_model_computes_after_it_was_converted(kind, room, tmp_path):
    model, x = in_16_bits("gemma3"), architectures.tokens()
    found = export(model, plan_for(model, options=(4, 3, 16), beyond=4), tmp_path / "out", "lwq")
    opened, _ = lwq.load(str(tmp_path / "out"), room=room)
    opened(x)
    again = CONVERSIONS[kind](opened)
    dtype = {"cpu": torch.float32, "like": torch.bfloat16}.get(kind) or getattr(torch, kind)
    held = {id(p): p for p in again.parameters() if isinstance(p, Held)}.values()
    assert sum(p.stored_bytes for p in held) + 2 * sum(
        p.numel() for p in again.parameters() if not isinstance(p, Held)
    ) == sum(t.nbytes for t in found.values())
    assert again.lm_head.weight is again.model.embed_tokens.weight
    weight = again.model.layers[0].mlp.down_proj.weight
    assert torch.equal(weight + 0, model.model.layers[0].mlp.down_proj.weight.to(dtype))
    expected = CONVERSIONS[kind](model)(x).logits
    tolerance = 1e-6 if dtype == torch.float32 else 0.05
    for mode in (torch.enable_grad, torch.no_grad, torch.inference_mode):
        with mode():
            logits = again(x).logits
        assert logits.dtype == dtype
        torch.testing.assert_close(logits, expected, atol=tolerance, rtol=tolerance)
    assert again.generate(x[:2], max_new_tokens=3, do_sample=False).shape == (2, x.shape[1] + 3)


def test_what_is_kept_unpacked_goes_with_its_matrix(tmp_path):
    model, x = in_16_bits("llama"), architectures.tokens()
    export(model, plan_for(model, options=(4,)), tmp_path / "out", "lwq")
    opened, _ = lwq.load(str(tmp_path / "out"), room=1 << 30)
    opened(x)
    weight = opened.model.layers[0].mlp.down_proj.weight
    before = weight.holding.parts[0].room.left
    assert weight.to("meta").is_meta
    assert weight.holding.parts[0].room.left == before + weight.nbytes


@pytest.mark.parametrize("matrices", [0, 3, 1000])
def test_matrices_stay_unpacked_as_far_as_there_is_room(matrices, tmp_path, monkeypatch):
    model = in_16_bits("llama")
    plan = plan_for(model, options=(4, 3), beyond=4)
    export(model, plan, tmp_path / "out", "lwq")
    one = 4 * 64 * 64  # bytes of the first matrices, in float32
    opened, _ = lwq.load(str(tmp_path / "out"), room=matrices * one)
    made = []
    own = held.Stored.made
    monkeypatch.setattr(held.Stored, "made", lambda *args: made.append(1) or own(*args))
    x = architectures.tokens(2)
    first = models.call(opened, x).logits
    once = len(made)
    again = models.call(opened, x).logits
    assert torch.equal(first, again) and torch.equal(first, models.call(model, x).logits)
    kept = once - (len(made) - once)
    assert (kept == 0) if not matrices else (kept == once if matrices > 99 else 1 <= kept < once)


def test_lwq_drops_blocks_and_changes_its_dtype(tmp_path):
    model, x = in_16_bits("llama"), architectures.tokens()
    plan = plan_for(model, options=(4, 0, 3), granularity="block")
    assert named("lwq").nbytes(plan, strategy(plan)) == sum(
        t.nbytes for t in export(model, plan, tmp_path / "out", "lwq").values()
    )
    opened, _ = lwq.load(str(tmp_path / "out"))
    assert np.array_equal(lwq.evaluate(opened, x).nll, lwq.evaluate(model, x).nll)
    narrow = lwq.load(str(tmp_path / "out"), dtype="bfloat16")[0]
    key = "model.layers.0.mlp.up_proj.weight"
    assert torch.equal(opened.to(torch.bfloat16).state_dict()[key] + 0, narrow.state_dict()[key])
    assert torch.equal(narrow.state_dict()[key] + 0, model.state_dict()[key].bfloat16())


@pytest.mark.parametrize("quantizer", ["magnitude", "ggml(imatrix=False)", "quanto", "owq"])
def test_lwq_holds_every_storage(quantizer, tmp_path):
    model, x = in_16_bits("llama"), architectures.tokens()
    plan = plan_for(model, quantizer, rebuild(QUANTIZERS, "quantizer", quantizer).levels[-3:])
    export(model, plan, tmp_path / "out", "lwq")
    opened, _ = lwq.load(str(tmp_path / "out"))
    assert np.array_equal(lwq.evaluate(opened, x).nll, lwq.evaluate(model, x).nll)


FIRST = "model.layers.0.self_attn.q_proj"  # at 4 bits
NORM = "model.layers.0.input_layernorm.weight"


def cut(key, *dims):
    """Tensors with the last number of `key` left out in each of `dims`."""
    return lambda held: {k: t[dims] if k == key else t for k, t in held.items()}


def without(key):
    return lambda held: {k: t for k, t in held.items() if k != key}


def said_of(name, **more):
    """packed.json with an entry that says something else; None: nothing at all."""

    def change(said):
        said["matrices"][name].update(more)
        for key in [key for key, value in more.items() if value is None]:
            del said["matrices"][name][key]

    return change


SHORT, ONE = slice(None, -1), slice(None)
TENSORS = {  # what happened to the weights -> (how, what is said)
    "codes short": (cut(f"{FIRST}/codes", slice(None, -8)), rf"{FIRST} as .*codes is .*\(2040,\)"),
    "codes lost": (without(f"{FIRST}/codes"), rf"{FIRST} as .*\['scales', 'zeros'\], and"),
    "scales lost": (without(f"{FIRST}/scales"), rf"{FIRST} as .*\['codes', 'zeros'\], and"),
    "zeros lost": (without(f"{FIRST}/zeros"), rf"{FIRST} as .*\['codes', 'scales'\], and"),
    "scales of other groups": (cut(f"{FIRST}/scales", ONE, SHORT), "zeros is .*; .*is needed"),
    "scales of other rows": (cut(f"{FIRST}/scales", SHORT, ONE), r"scales is .*\(63, 2\); floats"),
    "scales as whole numbers": (
        lambda held: held | {f"{FIRST}/scales": held[f"{FIRST}/scales"].short()},
        "scales is torch.int16",
    ),
    "a norm short": (cut(NORM, SHORT), rf"{NORM} is \(63,\) and the model needs \(64,\)"),
    "a norm lost": (without(NORM), rf"lacks 1 tensors of the model \({NORM}"),
    "one more": (lambda held: held | {"more": torch.ones(3)}, r"no place for 1 of its \(more\)"),
    "a wrapper": (
        lambda held: {f"module.{key}": tensor for key, tensor in held.items()},
        "does not say how .'module.model.layers.0",
    ),
}
SETTINGS = {  # file, what happened to it -> (how, what is said)
    ("packed.json", "bits"): (said_of(FIRST, bits=8), f"{FIRST} as packed.json says: zeros is"),
    ("packed.json", "no bits"): (said_of(FIRST, bits=None), "bits is None; a whole number"),
    ("packed.json", "too many bits"): (
        said_of(FIRST, bits=9),
        "bits is 9; .*from 1 to 8 is",
    ),
    ("packed.json", "rows"): (said_of(FIRST, rows=32), "scales is .*; floats of the shape"),
    ("packed.json", "a storage of tomorrow"): (
        said_of(FIRST, storage="future"),
        f"{FIRST} as packed.json says: unknown storage 'future'",
    ),
    ("packed.json", "no storage"): (said_of(FIRST, storage=None), "unknown storage 'None'"),
    ("packed.json", "an entry lost"): (
        lambda said: said["matrices"].pop(FIRST),
        f"packed.json does not say how .'{FIRST}'. are packed; export the model again",
    ),
    ("packed.json", "no matrices"): (lambda said: said.pop("matrices"), "lacks the fields"),
    ("packed.json", "a block that is none"): (
        lambda said: said["dropped"].update({"model.layers.9": True}),
        "drops .'model.layers.9'., no blocks",
    ),
    ("config.json", "fewer layers"): (
        lambda said: said.update(num_hidden_layers=2),
        "no place for 9 of its .model.layers.2",
    ),
    ("config.json", "more layers"): (
        lambda said: said.update(num_hidden_layers=4),
        "lacks 9 tensors of the model .model.layers.3",
    ),
    ("config.json", "another width"): (
        lambda said: said.update(intermediate_size=96),
        r"down_proj is \(64, 128\) and the model needs \(64, 96\)",
    ),
}


@pytest.fixture(scope="module")
def packed_folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("packed") / "good"
    export(in_16_bits("llama"), plan_for(in_16_bits("llama")), made, "lwq")
    return made


def damaged(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "bad")


@pytest.mark.parametrize("how", TENSORS)
def test_packed_weights_that_lost_something_are_refused_by_name(how, packed_folder, tmp_path):
    bad, (change, said) = damaged(packed_folder, tmp_path), TENSORS[how]
    held = {key: tensor.contiguous() for key, tensor in change(written(bad)).items()}
    save_file(held, bad / "model.safetensors", {"format": "pt"})
    with pytest.raises(lwq.InputError, match=said) as error:
        lwq.load(bad)
    assert str(bad) in str(error.value)


@pytest.mark.parametrize(("file", "how"), SETTINGS)
def test_packed_settings_that_say_something_else_are_refused(file, how, packed_folder, tmp_path):
    bad, (change, said) = damaged(packed_folder, tmp_path), SETTINGS[file, how]
    settings = json.loads((bad / file).read_text(encoding="utf-8"))
    change(settings)
    (bad / file).write_text(json.dumps(settings), encoding="utf-8")
    with pytest.raises(lwq.InputError, match=said) as error:
        lwq.load(bad)
    assert str(bad) in str(error.value)


def test_packed_folders_that_do_not_list_parts_open(packed_folder, tmp_path):
    """As they were written before."""
    old = damaged(packed_folder, tmp_path)
    said = json.loads((old / "packed.json").read_text(encoding="utf-8"))
    for entry in said["matrices"].values():
        del entry["parts"]
    (old / "packed.json").write_text(json.dumps(said), encoding="utf-8")
    assert lwq.load(old)


REFUSED = [  # format, quantizer, options, what is said
    ("compressed-tensors", "hqq(group_size=32)", (4,), "zero points are numbers"),
    ("compressed-tensors", "spqr", (4,), "no uniform grid alone"),
    ("compressed-tensors", QUANTIZER, (4, 0, 4), "0 bits"),
    ("compressed-tensors(target='vllm')", "rtn(group_size=32, sym=True)", (4, 8), "one matrix"),
    ("gptq", "rtn(group_size=32, scale_dtype='bfloat16')", (4,), "scales in bfloat16"),
    ("gptq(target='vllm')", "rtn(group_size=32, sym=True)", (4, 3), "3 bits"),
    ("gptq(target='vllm')", QUANTIZER, (4,), "sym=True"),
    ("auto-round", QUANTIZER, (4, 5), "5 bits"),
    ("mlx", QUANTIZER, (7,), "7 bits"),
    ("mlx", "rtn(group_size=16)", (4,), "groups of 16"),
    ("dequantized", QUANTIZER, (4, 0, 4), "0 bits"),
]


@pytest.mark.parametrize(("format", "quantizer", "options", "said"), REFUSED)
def test_refusals_come_before_work(format, quantizer, options, said, tmp_path):
    model = architectures.make("llama")
    before = models.fingerprint(model)
    plan = plan_for(model, quantizer, options, granularity="block" if 0 in options else "matrix")
    with pytest.raises(lwq.InputError, match=said):
        export(model, plan, tmp_path / "out", format)
    assert models.fingerprint(model) == before and not list(tmp_path.iterdir())
    if 0 not in options:
        near = nearest(plan, format)
        named(format).require(near, strategy(near))
        assert near.layout == plan.layout and near.bits != plan.bits


def configured(kind, **settings):
    """A model of this type with random weights."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    small = {**architectures.COMMON, "num_hidden_layers": 2, **settings}
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **small)).eval()


ROUTED = {
    "head_dim": 8, "num_key_value_heads": 4, "n_routed_experts": 4, "n_shared_experts": 1,
    "num_experts_per_tok": 2, "moe_intermediate_size": 64, "first_k_dense_replace": 1, "n_group": 1,
    "topk_group": 1, "q_lora_rank": 32, "kv_lora_rank": 16, "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16, "v_head_dim": 16,
}  # fmt: skip


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("format", ["lwq", "lwq(dtype='bfloat16')", "lwq(dtype='float32')"])
def test_lwq_keeps_in_float32_what_the_architecture_does(format, dtype, tmp_path):
    """What a router adds to its choice lies so close together that 16 bits choose otherwise."""
    wide = configured("deepseek_v3", **ROUTED)
    model = models.cast(models.cast(wide, "bfloat16"), dtype)
    biases = {key: b for key, b in model.named_buffers() if key.endswith("correction_bias")}
    for bias in biases.values():
        bias.copy_(10 + 0.02 * torch.randn(bias.shape))
    plan = plan_for(model, options=(16,), granularity="block")
    said = named(format).nbytes(plan, strategy(plan)) + named(format).beyond(plan.layout, model)
    found = export(model, plan, tmp_path / "out", format)
    assert biases and all(found[key].dtype == torch.float32 for key in biases)
    assert sum(t.nbytes for t in found.values()) == said
    opened, x = lwq.load(tmp_path / "out", dtype)[0], architectures.tokens()
    assert all(torch.equal(opened.get_buffer(key), bias) for key, bias in biases.items())
    assert np.array_equal(lwq.evaluate(opened, x).nll, lwq.evaluate(model, x).nll)


LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
LONG = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "factor": 2.0,
    "original_max_position_embeddings": 64,
    "short_factor": [1.0] * 8,
    "long_factor": [2.0] * 8,
}


@pytest.mark.parametrize("format", [*GRIDS, "compressed-tensors(dense=True)"])
@pytest.mark.parametrize(
    ("kind", "settings", "keys"),
    [
        ("llama", {"rope_parameters": LLAMA3}, ["factor", "low_freq_factor", "high_freq_factor"]),
        ("qwen2", {"rope_parameters": {**LONG, "rope_type": "linear"}}, ["factor"]),
        ("phi3", {"rope_parameters": LONG}, ["short_factor", "long_factor", "type"]),
        ("phi", {"rope_parameters": {"partial_rotary_factor": 0.5, "rope_theta": 1e3}}, []),
    ],
)
def test_programs_of_transformers_4_find_how_to_rotate(format, kind, settings, keys, tmp_path):
    model = configured(kind, **settings)
    plan = nearest(plan_for(model, "rtn(group_size=32, sym=True)", (4,)), format)
    export(model, plan, tmp_path / "out", format)
    said = json.loads((tmp_path / "out" / "config.json").read_text())
    ropes = model.config.rope_parameters
    assert said["rope_theta"] == ropes["rope_theta"] != 0
    assert said.get("partial_rotary_factor", 1.0) == ropes.get("partial_rotary_factor", 1.0)
    assert ("rope_scaling" in said) == bool(keys)
    assert all(
        said["rope_scaling"][key] == {**ropes, "type": LONG["rope_type"]}[key] for key in keys
    )
    again = type(model.config).from_pretrained(tmp_path / "out").rope_parameters
    assert {key: again[key] for key in ropes} == dict(ropes)


@pytest.mark.parametrize(
    ("kind", "settings", "said"),
    [
        ("opt", {"ffn_dim": 128, "word_embed_proj_dim": architectures.WIDTH}, "not compared"),
        (
            "qwen2",
            {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1},
            "all are alike",
        ),
        ("gemma3_text", {"head_dim": 16, "layer_types": ["sliding_attention"] * 2}, "opens none"),
        ("llama", {"hidden_act": "gelu"}, "hidden_act='gelu' .usual: 'silu'.: mlx-lm computes"),
        ("gemma2", {"head_dim": 16, "hidden_activation": "silu"}, "hidden_activation='silu'"),
        ("gemma", {"head_dim": 16, "tie_word_embeddings": False}, "head of its own: mlx-lm opens"),
        ("phi", {"tie_word_embeddings": True}, "head tied to the embedding: mlx-lm opens none"),
    ],
)
def test_mlx_refuses_what_mlx_lm_computes_otherwise(kind, settings, said):
    model = configured(kind, **settings)
    with pytest.raises(lwq.InputError, match=said):
        named("mlx").require_model(model, toy.tokenizer())


@pytest.mark.parametrize("kind", mlx.MODELS)
def test_mlx_takes_the_usual_activation_under_any_of_its_names(kind):
    layers = {"layer_types": ["full_attention"] * 2} if kind == "gemma3_text" else {}
    model = configured(kind, head_dim=16, **layers)
    named("mlx").require_model(model, toy.tokenizer())
    for key in ("hidden_act", "hidden_activation"):
        name = getattr(model.config, key, None)
        setattr(
            model.config, key, {"silu": "swish", "gelu_new": "gelu_pytorch_tanh"}.get(name, name)
        )
    named("mlx").require_model(model, toy.tokenizer())


def test_the_old_name_of_gemmas_activation_is_the_usual_one():
    model = configured("gemma", head_dim=16, hidden_act="gelu")  # transformers computes tanh
    named("mlx").require_model(model, toy.tokenizer())


@pytest.mark.parametrize("format", GRIDS)
def test_experts_are_refused_where_other_programs_look_for_other_names(format):
    with pytest.raises(lwq.InputError, match="stack of experts"):
        named(format).require_model(architectures.make("mixtral"), toy.tokenizer())


@pytest.mark.parametrize("format", GRIDS)
def test_a_plan_of_16_bits_is_a_plain_checkpoint(format, tmp_path):
    model = in_16_bits("llama")
    found = export(model, plan_for(model, options=(16,)), tmp_path / "out", format)
    said = json.loads((tmp_path / "out" / "config.json").read_text())
    assert not {"quantization", "quantization_config"} & set(said)
    again = lwq.load(str(tmp_path / "out"), "float32")[0]
    assert models.fingerprint(again) == models.fingerprint(model) and found


def test_where_a_folder_cannot_appear_whole_is_said_before_the_work(tmp_path, monkeypatch):
    model = architectures.make("llama")
    plan = plan_for(model, options=(4,))
    with pytest.raises(lwq.InputError, match="File name too long"):
        export(model, plan, tmp_path / ("x" * 250), "lwq")
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there")
    export(model, plan, tmp_path / "link", "lwq")
    assert (tmp_path / "there" / "plan.json").is_file() and (tmp_path / "link").is_symlink()
    (tmp_path / "here").mkdir()
    with monkeypatch.context() as patch, pytest.raises(lwq.InputError, match="where you are"):
        patch.chdir(tmp_path / "here")
        export(model, plan, ".", "lwq")
    monkeypatch.setattr("pathlib.Path.is_mount", lambda path: True)
    with pytest.raises(lwq.InputError, match="mount point"):
        export(model, plan, tmp_path / "other", "lwq")


def test_the_nearest_plan_changes_no_more_than_it_must():
    model = architectures.make("llama")
    plan = plan_for(model, "rtn(group_size=32, sym=True)", (4, 3, 8, 16, 5))
    near = nearest(plan, "auto-round").bits
    assert all(near[u] == o for u, o in plan.bits.items() if o in (3, 4, 8, 16))
    assert all(str(near[u])[0] == "4" for u, o in plan.bits.items() if o == 5)
    joined = nearest(plan, "gptq(target='vllm')")
    assert set(joined.bits.values()) <= {4, 8, 16, "4g32", "8g32", "4g64", "4g128"}
    members = [own for _, own in fused(plan.bits)]
    assert all(len({joined.bits[name] for name in own}) == 1 for own in members)
    assert any(len({plan.bits[name] for name in own}) > 1 for own in members)


@pytest.mark.parametrize("format", OURS)
@pytest.mark.parametrize("place", ["in the middle", "while it is written", "read back wrong"])
def test_a_folder_is_whole_or_absent(format, place, tmp_path, monkeypatch):
    model = architectures.make("llama")
    plan = nearest(plan_for(model), format)
    if place == "in the middle":
        calls = iter(range(10))

        def fail(*_):
            if next(calls) == 5:
                raise RuntimeError("power cut")
            return 0.0, 1.0

        monkeypatch.setattr("lwq.engine.apply.replace_", fail)
    elif place == "while it is written":
        kind = "lwq.models.save" if format == "dequantized" else f"{shards.__name__}.save_file"

        def full(*_, **__):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(kind, full)
    elif format != "dequantized":
        monkeypatch.setattr(shards, "read", lambda folder: iter([("x", torch.zeros(1))]))
    else:
        monkeypatch.setattr("lwq.models.write.fingerprint", lambda model: str(id(model)))
    with pytest.raises((RuntimeError, lwq.RunError, OSError)):
        lwq.export(model, plan, tmp_path / "out", toy.tokenizer(), format=format)
    assert not list(tmp_path.iterdir())


def test_shards_get_an_index(tmp_path):
    tensors = {f"t{i}": torch.full((100,), float(i)) for i in range(5)}
    with shards.Shards(tmp_path, limit=900) as out:
        for key, tensor in tensors.items():
            out.add(key, tensor)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == out.nbytes == 2000
    assert sorted(set(index["weight_map"].values())) == [
        f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)
    ]
    for key, file in index["weight_map"].items():
        assert torch.equal(load_file(tmp_path / file)[key], tensors[key])


def test_streamed_models_export_the_same(tmp_path):
    architectures.make("llama").save_pretrained(tmp_path / "model")
    toy.tokenizer().save_pretrained(tmp_path / "model")
    found = []
    for stream in (False, True):
        model, _ = lwq.load(str(tmp_path / "model"), stream=stream)
        plan = plan_for(model, options=(4, 3, 16), beyond=4)
        found.append(export(model, plan, tmp_path / str(stream), "mlx"))
    assert found[0].keys() == found[1].keys()
    assert all(torch.equal(found[0][key], found[1][key]) for key in found[0])


def test_16_bits_are_chosen_that_have_room_for_every_number():
    large, exact, rounded = (torch.tensor(n) for n in ([98304.0], [1 + 2.0**-10], [0.1]))
    for some in ([large, exact], [large, rounded], [rounded, large]):
        assert common(some) == torch.bfloat16
    assert common([exact, rounded]) == torch.float16 == narrow(exact)


def with_a_large_norm():
    model = in_16_bits("llama")
    model.model.norm.weight[3] = 98304.0
    model.model.layers[0].input_layernorm.weight[0] = 0.1  # rounded in either
    return model


@pytest.mark.parametrize("format", [*GRIDS, "lwq"])
def test_a_number_too_large_for_float16_is_written_or_refused_before_the_work(
    format, tmp_path, monkeypatch
):
    model = with_a_large_norm()
    found = export(model, plan_for(model, options=(4,)), tmp_path / "out", format)
    assert found["model.norm.weight"][3] == 98304
    if format == "lwq":
        with pytest.raises(lwq.InputError, match="norm.weight: .*98304 .*choose dtype='bfloat16'"):
            lwq.load(str(tmp_path / "out"), dtype="float16")
        assert lwq.load(str(tmp_path / "out"), dtype="bfloat16")
    monkeypatch.setattr(RTN, "__call__", None)  # no matrix is quantized
    call = f"{format.replace('-', '_')}(dtype='float16')"
    with pytest.raises(lwq.InputError, match="norm.weight: .*98304 .*than 65504; .*'bfloat16'"):
        export(model, plan_for(model, options=(4,)), tmp_path / "again", call)


def test_rules_match_their_names_and_no_others():
    names = [f"model.layers.{i}.{part}" for i in range(12) for part in ("a_proj", "b.c_proj")]
    for chosen in (names[:3], names[::4], names[5:6], ["lm_head"], names):
        found = [re.compile(rule) for rule in rules(chosen)]
        matched = [n for n in [*names, "lm_head", "xlm_head"] if any(r.match(n) for r in found)]
        assert sorted(matched) == sorted(chosen)
        assert all(rule.pattern[0] == "^" and rule.pattern[-1] == "$" for rule in found)


@pytest.mark.parametrize("format", ["gptq", "auto-round", "compressed-tensors", "mlx"])
def test_a_plan_comes_back_out_of_a_config(format, tmp_path):
    model = architectures.make("qwen2")
    plan = plan_for(model, "rtn(group_size=32, sym=True)", (4, 4, 8, 3, "4g64", 16))
    plan = nearest(plan, format)
    layout = plan.layout
    export(copy.deepcopy(model), plan, tmp_path / "out", format)
    read = reading.plan_from(tmp_path / "out", layout)
    assert read.bits == plan.bits and 16 in plan.bits.values()
    if format == "mlx":  # the file says nothing of what stays: the tensors beside it do
        return
    assert strategy(read).grid(4) == strategy(plan).grid(4)
    files.write(tmp_path / "x.json", {"lwq": "x"})
    lwq.quantize_(model, read)  # it can be applied


def quantized(method, **settings):
    return {"quantization_config": {"quant_method": method, **settings}}


def group(**weights):
    return {"g": {"targets": ["Linear"], "weights": weights}}


OLD = {"bits": 4, "group_size": 32, "damp_percent": 0.01, "desc_act": False, "sym": True}
FLOAT = {"num_bits": 8, "type": "float", "symmetric": True}
GPTQ, CT = {"bits": 4, "group_size": 32}, "compressed-tensors"
MX = {"bits": 4, "group_size": 32, "mode": "mxfp4"}
FOREIGN = {  # name of a file -> what it holds, what is said of it
    "a.json": ("{", "JSON with the settings of gptq.*JSONDecodeError"),
    "b.json": ([1], "JSON with .*AttributeError"),
    "c.json": (quantized("gptq", bits=4), "KeyError: 'group_size'"),
    "d.json": (quantized(CT), "KeyError: 'config_groups'"),
    "e.json": (
        quantized(CT, config_groups={"g": {"targets": ["Linear"], "weights": None}}),
        "no m",
    ),
    "f.json": (quantized(CT, config_groups={"g": {"targets": ["Linear"]}}), "KeyError: 'weights'"),
    "g.json": (quantized("gptq", **GPTQ, dynamic={"+:(": {"bits": 8}}), "error: missing"),
    "h.json": (quantized("gptq", bits="4", group_size=32, dynamic={".*": {}}), "TypeError"),
    "i.json": (quantized(CT, config_groups=group(**FLOAT)), "codes of type 'float'"),
    "j.json": (quantized("auto-round", **GPTQ, data_type="mx_fp"), "codes of type 'mx_fp'"),
    "k.json": ({"quantization": MX}, "codes of type 'mxfp4'"),
    "l.json": (quantized("awq"), "quantized by 'awq'; read are"),
    "m.json": ({"model_type": "llama"}, "quantized by 'none'; read are"),
    "n.yaml": ("a: [1", "sources and overrides of exllamav3 .ParserError"),
    "o.yaml": ("hello", "sources and overrides .*TypeError"),
    "p.yaml": ("sources: []\noverrides: []", "sources and overrides .*IndexError"),
    "q.gguf": (b"GGUF\x03\0\0\0", "a GGUF file, whole .ValueError"),
    "r.gguf": (b"hello", "a GGUF file, whole .ValueError"),
    "s.safetensors": (b"\x08\0\0\0\0\0\0\0{}\xff\xff", "JSON with .*JSONDecodeError|Unicode"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_file_that_holds_no_plan_is_named_with_what_was_expected(name, tmp_path):
    content, said = FOREIGN[name]
    text = content if isinstance(content, str | bytes) else json.dumps(content)
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    layout = models.layout(architectures.make("llama"), "matrix")
    with pytest.raises(lwq.InputError, match=said) as error:
        reading.plan_from(tmp_path / name, layout)
    assert str(tmp_path / name) in str(error.value)


def test_the_settings_of_autogptq_are_no_mlx(tmp_path):
    files.write(tmp_path / "quantize_config.json", OLD)
    layout = models.layout(architectures.make("llama"), "matrix", outside=True)
    plan = reading.plan_from(tmp_path / "quantize_config.json", layout)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    assert reading.plan_from(tmp_path, layout) == plan
    assert {plan.bits[unit] for unit in layout.outside} == {16}
    assert strategy(plan).sym and strategy(plan).group_size == 32


def test_a_plan_comes_out_of_exl3(tmp_path):
    (tmp_path / "a-4.0bpw").mkdir()
    (tmp_path / "b").mkdir()
    config = {"quantization_config": {"quant_method": "exl3", "bits": 6.0}}
    (tmp_path / "b" / "config.json").write_text(json.dumps(config))
    (tmp_path / "mix.yaml").write_text(
        "sources:\n - {id: 1, model_dir: a-4.0bpw}\n - {id: 2, model_dir: b}\n"
        "overrides:\n - {key: '*.self_attn.v_proj*', source: 2}\n"
    )
    layout = models.layout(architectures.make("llama"), "matrix")
    plan = reading.plan_from(tmp_path / "mix.yaml", layout)
    assert {u.rpartition(".")[2]: o for u, o in plan.bits.items()} == {
        **dict.fromkeys(("q_proj", "k_proj", "o_proj", "gate_proj", "up_proj", "down_proj"), 4),
        "v_proj": 6,
    }
    blocks = models.layout(architectures.make("llama"))
    with pytest.raises(lwq.InputError, match="granularity='matrix'"):
        reading.plan_from(tmp_path / "mix.yaml", blocks)


@dataclass(frozen=True)
class Types(RTN):
    """Has ggml's names for its options."""

    levels = ("q4_0", "q8_0")


def test_a_plan_comes_out_of_a_gguf(tmp_path, monkeypatch):
    layout = models.layout(architectures.make("llama"), "matrix", outside=True)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 3)
    kinds = gguf.GGMLQuantizationType
    turns = (kinds.Q4_0, kinds.Q8_0, kinds.F16)
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "llama")
    writer.add_block_count(3)
    for i, (name, own) in enumerate(layout.units.items()):
        kind = turns[i % 3]
        data = gguf.quantize(np.ones(own[name], np.float32), kind)
        raw = None if kind == kinds.F16 else kind
        place = names.get_name(f"{name}.weight", try_suffixes=(".weight",))
        writer.add_tensor(place, data, raw_dtype=raw)
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file):
        write()
    writer.write_tensors_to_file()
    writer.close()
    monkeypatch.setitem(QUANTIZERS, "ggml", Types)
    plan = reading.plan_from(tmp_path / "x.gguf", layout)
    assert list(plan.bits.values())[:4] == ["q4_0", "q8_0", 16, "q4_0"]


@pytest.mark.parametrize("target", ["lwq", "transformers", "vllm", "mlx"])
@pytest.mark.parametrize("granularity", ["matrix", "group", "block"])
def test_a_target_is_planned_for_in_its_own_bytes(target, granularity, tmp_path):
    model = in_16_bits("llama")
    runtime = targets.TARGETS[target]
    layout = models.layout(model, granularity)
    rounding = f"rtn(sym={'sym=True' in runtime.quantizer})"  # as gptq, without windows
    quantizer = rebuild(QUANTIZERS, "quantizer", rounding)
    budget = targets.budget(target, layout, quantizer, "true_bits", 8.0)
    values = np.random.default_rng(0).random(len(layout.units))
    scores = lwq.Scores(dict(zip(layout.units, values.tolist(), strict=True)), layout, "random()")
    bits = lwq.ALLOCATORS["greedy"]()(scores, budget, None)
    plan = lwq.Plan(bits, layout, rounding)
    named(runtime.format).require(plan, strategy(plan))
    found = export(model, plan, tmp_path / "out", runtime.format)
    assert plan.size(budget.quantizer).total_bytes == sum(t.nbytes for t in found.values())


def test_llama_cpp_is_planned_for_with_its_own_types():
    layout = models.layout(architectures.make("llama"))
    own = rebuild(QUANTIZERS, "quantizer", targets.TARGETS["llama.cpp"].quantizer)
    assert set(targets.budget("llama.cpp", layout, own, "avg_bits", 4).offered) == {
        2,
        3,
        4,
        5,
        6,
        8,
    }
    other = targets.constraints("gguf", layout, rebuild(QUANTIZERS, "quantizer", QUANTIZER))
    assert set(other.options.values()) == {(16,)}


@pytest.mark.parametrize(
    ("target", "quantizer", "widths", "said"),
    [
        ("llama.cpp", QUANTIZER, None, "its own is 'ggml'"),
        ("transformers", "hqq", None, "holds nothing that hqq"),
        ("vllm", "owq", None, "holds nothing that owq"),
        ("mlx", QUANTIZER, (4, 7, 2), r"mlx holds \[7\] nowhere"),
        ("vllm", "rtn(sym=True, group_size=32)", (4, 3), r"vllm holds \[3\] nowhere"),
        ("lwq", "magnitude", None, "name options"),
    ],
)
def test_a_target_names_what_it_cannot_hold(target, quantizer, widths, said):
    layout = models.layout(architectures.make("llama"))
    packer = rebuild(QUANTIZERS, "quantizer", quantizer)
    with pytest.raises(lwq.InputError, match=said):
        targets.budget(target, layout, packer, "true_bits", 8.0, widths)


def test_a_refused_budget_counts_what_stands_beside():
    layout = models.layout(architectures.make("llama"), "matrix", outside=True)
    packer = rebuild(QUANTIZERS, "quantizer", QUANTIZER)
    low, _ = targets.budget("lwq", layout, packer, "max_bytes", 10**9).range()
    least = readable(int(low) + 1000, up=True)
    with pytest.raises(lwq.InputError, match=f"allow at least {least}"):
        targets.budget("lwq", layout, packer, "max_bytes", low - 1, beside=1000)
    assert targets.budget("lwq", layout, packer, "max_bytes", low, beside=1000).amount == low


def test_the_page_of_what_loads_where_is_current():
    page = (lwq.common.paths.DATA / "docs" / "formats.md").read_text(encoding="utf-8")
    assert page == table.page(), "python -m lwq.exporters.table docs/formats.md"
