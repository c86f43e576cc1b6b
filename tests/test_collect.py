"""The streamed pass sees exactly what the model's own forward pass does."""

import architectures
import numpy as np
import pytest
import torch

from lwq import models
from lwq.common.errors import InputError
from lwq.statistics.forward import collect, similarity, stream
from lwq.statistics.sums import MatrixStats, panels


def hooked(model, x):
    """Slow twin: inputs and outputs of blocks, and inputs of Linear and Conv1D modules, from one
    plain forward pass.
    """
    blocks, inputs, hooks = {}, {}, []
    for key, block in models.blocks(model).items():

        def note(m, args, out, key=key):
            blocks[key] = (args[0], out[0] if isinstance(out, tuple) else out)

        hooks.append(block.register_forward_hook(note))
    for key, matrix in models.matrices(model).items():
        if matrix.expert is None:
            hooks.append(
                matrix.module.register_forward_pre_hook(
                    lambda m, args, key=key: inputs.update({key: args[0]})
                )
            )
    model(x, use_cache=False)
    for hook in hooks:
        hook.remove()
    return blocks, inputs


@pytest.mark.parametrize("name", list(architectures.CONFIGS))
def test_streamed_equals_hooked(name):
    model, x = architectures.make(name), architectures.tokens(4)
    blocks, inputs = hooked(model, x)
    for stats in stream(model, x, frozenset({"gram", "input_norms", "hidden_states"})):
        torch.testing.assert_close(stats.inputs, blocks[stats.name][0], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(stats.outputs, blocks[stats.name][1], rtol=1e-5, atol=1e-5)
        for key, matrix in stats.matrices.items():
            if ".experts." not in key:
                flat = inputs[key].reshape(-1, inputs[key].shape[-1]).double()
                torch.testing.assert_close(
                    matrix.gram.double(), flat.T @ flat, rtol=1e-4, atol=1e-3
                )
                torch.testing.assert_close(
                    matrix.square_sum.double(), flat.square().sum(0), rtol=1e-4, atol=1e-3
                )
                assert matrix.tokens == len(flat)
    own = [key for key in models.matrices(model) if key.startswith(stats.name + ".")]
    assert sorted(stats.matrices) == sorted(own)


def test_batches_add_up():
    # three batches; q, k, v and fc1 share one input
    model, x = architectures.make("phi"), architectures.tokens(9)
    stats = collect(model, x, frozenset({"gram"}))["model.layers.1"].matrices
    assert stats["model.layers.1.self_attn.q_proj"] is stats["model.layers.1.mlp.fc1"]
    assert all(matrix.tokens == x.numel() for matrix in stats.values())


def test_experts_see_the_tokens_routed_to_them():
    model, x = architectures.make("mixtral"), architectures.tokens(4)
    experts = model.model.layers[1].mlp.experts
    seen = {}
    hook = experts.register_forward_pre_hook(
        lambda m, args: seen.update(hidden=args[0], chosen=args[1])
    )
    model(x, use_cache=False)
    hook.remove()
    stats = collect(model, x, frozenset({"gram"}))["model.layers.1"].matrices
    for expert in range(4):
        rows = [
            h for h, chosen in zip(seen["hidden"], seen["chosen"], strict=True) if expert in chosen
        ]
        inputs = torch.stack(rows)
        gate, up = (inputs @ experts.gate_up_proj[expert].T).chunk(2, -1)
        inner = experts.act_fn(gate) * up
        for key, value in (("gate_up_proj", inputs), ("down_proj", inner)):
            found = stats[f"model.layers.1.mlp.experts.{key}.{expert}"]
            torch.testing.assert_close(found.gram, value.T @ value, rtol=1e-4, atol=1e-3)
            assert found.tokens == len(rows)


def test_experts_with_biases_and_a_gate_of_their_own(monkeypatch):
    """gpt-oss: what its own forward hands to the gate and to down_proj, one call an expert."""
    model, x = architectures.make("gpt_oss"), architectures.tokens(4)
    experts = model.model.layers[1].mlp.experts
    experts.gate_up_proj_bias.normal_(generator=torch.Generator().manual_seed(2))
    stats = collect(model, x, frozenset({"gram"}))["model.layers.1"].matrices
    inner, gate = [], experts._apply_gate
    monkeypatch.setattr(experts.config, "_experts_implementation", "eager")
    monkeypatch.setattr(
        experts, "_apply_gate", lambda gate_up: inner.append(gate(gate_up)) or inner[-1]
    )
    model(x, use_cache=False)
    assert len(inner) == 4
    for expert, value in enumerate(inner):
        found = stats[f"model.layers.1.mlp.experts.down_proj.{expert}"]
        torch.testing.assert_close(found.gram, value.T @ value, rtol=1e-4, atol=1e-3)
        assert found.tokens == len(value)


def test_activations_that_overflow_are_refused():
    model, x = architectures.make("llama").half(), architectures.tokens(4)
    mlp = model.model.layers[1].mlp
    for weight, place in (
        (mlp.down_proj.weight, "model.layers.1"),
        (mlp.up_proj.weight, "model.layers.1.mlp.down_proj"),
    ):
        kept = weight.clone()
        weight.fill_(6e4)
        for needs in ("gram", "input_norms"):
            with pytest.raises(
                InputError,
                match=f"^{place}: its activations hold NaN or Inf in float16; load the model with",
            ):
                list(stream(model, x, frozenset({needs})))
        weight.copy_(kept)


def test_quantized_source_feeds_the_changed_prefix():
    model, x = architectures.make("llama"), architectures.tokens(4)
    passes = stream(model, x, frozenset({"hidden_states"}), source="quantized")
    first = next(passes)
    model.model.layers[0].mlp.down_proj.weight.zero_()
    second = next(passes)
    assert not torch.allclose(second.inputs, first.outputs)
    blocks, _ = hooked(model, x)
    torch.testing.assert_close(second.inputs, blocks["model.layers.1"][0], rtol=1e-5, atol=1e-5)


def test_similarity_of_known_vectors():
    x = torch.tensor([[[1.0, 0.0], [0.0, 2.0]]])
    y = torch.tensor([[[1.0, 0.0], [2.0, 0.0]]])
    found = similarity([x], [y])
    assert found["tokens"] == pytest.approx([0.5])
    assert found["flat"] == pytest.approx([1 / 5])
    assert found["mean"] == pytest.approx([0.5 * 1.5 / (np.hypot(0.5, 1) * 1.5)])


def test_what_is_missing_is_an_error():
    with pytest.raises(InputError, match="'gram' was not collected"):
        MatrixStats().require("gram")
    with pytest.raises(InputError, match="unknown statistics"):
        list(stream(architectures.make("llama"), architectures.tokens(), frozenset({"grams"})))
    with pytest.raises(InputError, match="calibration windows are needed"):
        collect(architectures.make("llama"), None, frozenset({"gram"}))


@pytest.mark.parametrize("name", ["llama", "mixtral"])
def test_token_weights_count_tokens(name):
    """A token of weight 2 is one that was seen twice; one of weight 0 was not seen."""
    model, x = architectures.make(name), architectures.tokens(4)
    needs = frozenset({"gram", "input_norms"})
    ones = collect(model, x, needs, torch.ones(x.shape))
    plain = collect(model, x, needs)
    twice = collect(model, x, needs, 2 * torch.ones(x.shape))
    first = torch.zeros(x.shape)
    first[0] = 1
    only_first, alone = collect(model, x, needs, first), collect(model, x[:1], needs)
    for block, stats in plain.items():
        for matrix, found in stats.matrices.items():
            gram = found.require("gram")
            assert torch.equal(gram, gram.T)
            assert torch.equal(ones[block].matrices[matrix].require("gram"), gram)
            torch.testing.assert_close(twice[block].matrices[matrix].require("gram"), 2 * gram)
            torch.testing.assert_close(
                twice[block].matrices[matrix].require("square_sum"), 2 * found.require("square_sum")
            )
            if matrix in alone[block].matrices and alone[block].matrices[matrix].gram is not None:
                expected = alone[block].matrices[matrix].require("gram")
                torch.testing.assert_close(
                    only_first[block].matrices[matrix].require("gram"),
                    expected,
                    rtol=1e-4,
                    atol=1e-3,
                )
    with pytest.raises(InputError, match=r"token_weights are \(2, 3\)"):
        collect(model, x, needs, torch.ones(2, 3))


def test_wide_gram_matrices_are_summed_in_panels_and_mirrored():
    x = torch.randn(40, 1100, generator=torch.Generator().manual_seed(0))
    stats = MatrixStats()
    for part in x.split(16):
        stats.add(part, frozenset({"gram"}))
    torch.testing.assert_close(stats.require("gram"), x.T @ x, rtol=1e-5, atol=1e-4)
    assert [(s.start, s.stop) for s in panels(1100)] == [(0, 367), (367, 734), (734, 1100)]


def test_a_pass_ends_where_nothing_more_is_wanted(toy, windows):
    model, _ = toy
    found = list(
        stream(model, windows, frozenset({"gram"}), wanted=["model.layers.1.mlp.down_proj"])
    )
    assert [stats.name for stats in found] == ["model.layers.0", "model.layers.1"]
    assert [list(stats.matrices) for stats in found] == [[], ["model.layers.1.mlp.down_proj"]]


@pytest.mark.parametrize("name", ["mixtral", "gpt_oss"])
def test_some_matrices_of_some_experts(name):
    model, x = architectures.make(name), architectures.tokens(4)
    whole = {
        key: stats
        for block in stream(model, x, frozenset({"gram"}))
        for key, stats in block.matrices.items()
    }
    for wanted in (["gate_up_proj.1"], ["down_proj.0", "down_proj.2"], ["gate_up_proj.0"]):
        keys = [f"model.layers.1.mlp.experts.{part}" for part in wanted]
        *_, last = stream(model, x, frozenset({"gram"}), wanted=keys)
        assert set(last.matrices) == set(keys)
        assert all(
            torch.equal(last.matrices[key].require("gram"), whole[key].require("gram"))
            for key in keys
        )
