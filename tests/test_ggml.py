"""ggml's types: against ggml's own dequantizing, its sizes, and what GPTQ's codes must keep.

pytest tests/test_ggml.py
"""

import ctypes
import importlib.util

import pytest
import torch
from gguf import GGML_QUANT_SIZES

import lwq
from lwq.common.errors import InputError
from lwq.quantizers.ggml import BITS, FALLBACKS, GGML, TYPES, Kind
from lwq.quantizers.shared import ggml_codes, libggml
from lwq.quantizers.storage.ggml import Blocks
from lwq.statistics.sums import MatrixStats

WIDTHS = (512, 96, 40)  # 256 divides it, 32 does, none does


def weight_of(columns, rows=24):
    generator = torch.Generator().manual_seed(columns)
    return torch.randn(rows, columns, generator=generator) * 0.05


def inputs_of(columns, tokens=1024):
    """Correlated inputs whose columns differ in size, and their statistics."""
    generator = torch.Generator().manual_seed(7)
    mixed = torch.randn(columns, columns, generator=generator) / columns**0.5 + torch.eye(columns)
    x = torch.randn(tokens, columns, generator=generator) @ mixed
    x *= torch.rand(columns, generator=generator) + 0.05
    stats = MatrixStats()
    stats.add(x, frozenset({"gram", "input_norms"}))
    return x, stats


class Traits(ctypes.Structure):
    """struct ggml_type_traits of ggml.h, up to what is read here."""

    _fields_ = [
        ("type_name", ctypes.c_char_p),
        ("blck_size", ctypes.c_int64),
        ("blck_size_interleave", ctypes.c_int64),
        ("type_size", ctypes.c_size_t),
        ("is_quantized", ctypes.c_bool),
        (
            "to_float",
            ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64),
        ),
    ]


def traits(kind):
    library = libggml._library()
    library.ggml_get_type_traits.restype = ctypes.POINTER(Traits)
    return library.ggml_get_type_traits(int(kind)).contents


@pytest.mark.parametrize("option", TYPES)
@pytest.mark.parametrize("columns", WIDTHS)
def test_a_round_trip_through_ggml_itself(option, columns):
    made = GGML(imatrix=False)(weight_of(columns), option)
    theirs = torch.empty(made.shape)
    traits(made.kind).to_float(made.data.data_ptr(), theirs.data_ptr(), theirs.numel())
    assert torch.equal(made.dequantize(), theirs)
    assert float((theirs - weight_of(columns)).norm() / weight_of(columns).norm()) < 0.4


@pytest.mark.parametrize("option", GGML.levels)
@pytest.mark.parametrize("columns", WIDTHS)
def test_ggml_bytes_are_those_of_the_rows(option, columns):
    quantizer = GGML(imatrix=False)
    made = quantizer(weight_of(columns), option)
    libggml._library().ggml_row_size.restype = ctypes.c_size_t
    row = libggml._library().ggml_row_size(int(made.kind), ctypes.c_int64(columns))
    assert made.nbytes == 24 * row == quantizer.nbytes((24, columns), option)
    assert made.kind == quantizer.kind(columns, option)


def test_rows_fall_back_as_in_llama_cpp():
    quantizer = GGML()
    kinds = {name: quantizer.kind(576, name) for name in TYPES}
    assert {kinds[n] for n in ("q2_k", "q3_k", "iq3_s", "iq4_xs", "iq2_xxs")} == {Kind.IQ4_NL}
    assert [kinds[n] for n in ("q4_k", "q5_k", "q6_k")] == list(FALLBACKS.values())
    assert kinds["q4_0"] == Kind.Q4_0 and quantizer.kind(40, "q8_0") == Kind.F16
    assert [quantizer.kind(512, n) for n in TYPES] == [kind for kind, _ in TYPES.values()]


def test_whole_widths_are_names():
    assert [GGML().kind(256, width).name for width in (2, 3, 4, 5, 6, 8)] == [
        *("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q8_0")
    ]
    assert [GGML().nominal(option) for option in (4, "iq3_xxs", "q6_k")] == [4.0, 3.0, 6.0]


@pytest.mark.parametrize("option", [name for name in TYPES if name != "q8_0"])
def test_ggml_columns_that_count_more_err_less(option):
    x, stats = inputs_of(512)
    weight, counts = weight_of(512), x.square().mean(0)

    def error(quantizer):
        return float(((weight - quantizer(weight, option, stats).dequantize()) ** 2 @ counts).sum())

    assert error(GGML()) < (1.01 if option == "iq2_xxs" else 0.99) * error(GGML(imatrix=False))


def test_ggml_without_the_statistic_that_it_asked_for(weight):
    with pytest.raises(InputError, match="was not collected"):
        GGML()(weight, "q4_0")
    assert GGML(gptq=True).needs == {"gram", "input_norms"} and not GGML().outside.needs


def test_ggml_columns_that_no_input_reaches_have_a_grid():
    weight, stats = weight_of(512), MatrixStats(tokens=4, square_sum=torch.zeros(512))
    plain = GGML(imatrix=False)(weight, "q4_k")
    assert torch.equal(GGML()(weight, "q4_k", stats).data, plain.data)
    stats.square_sum[:7] = 1.0
    found = GGML()(weight, "q4_k", stats).dequantize()
    assert float((found - weight).norm()) < 3 * float((plain.dequantize() - weight).norm())


@pytest.mark.parametrize("kind", ggml_codes.LAYOUTS, ids=lambda kind: kind.name)
def test_ggml_blocks_come_apart_and_together(kind):
    made = GGML(imatrix=False)(weight_of(512), kind.name.lower())
    scales, zeros = ggml_codes.grids(made)
    codes = (made.dequantize() / scales + zeros).round()
    assert codes.min() >= 0 and codes.max() < 2 ** BITS[kind]
    torch.testing.assert_close((codes - zeros) * scales, made.dequantize())
    assert torch.equal(ggml_codes.with_codes(made, codes.byte()).data, made.data)


@pytest.mark.parametrize("kind", ggml_codes.LAYOUTS, ids=lambda kind: kind.name)
def test_ggml_with_gptq_errs_less_on_the_outputs(kind):
    x, stats = inputs_of(512)
    weight = weight_of(512)
    plain, found = (q(weight, kind.name.lower(), stats) for q in (GGML(), GGML(gptq=True)))
    errors = [float(((weight - m.dequantize()) @ x.T).square().sum()) for m in (plain, found)]
    assert errors[1] < 0.75 * errors[0]
    assert found.nbytes == plain.nbytes
    for ours, theirs in zip(ggml_codes.grids(found), ggml_codes.grids(plain), strict=True):
        assert torch.equal(ours, theirs), "GPTQ chooses codes, not scales"


@pytest.mark.parametrize("kind", ggml_codes.LAYOUTS, ids=lambda kind: kind.name)
def test_ggml_with_gptq_and_inputs_without_correlation_rounds(kind):
    """To the nearest level of the scales that ggml found."""
    stats = MatrixStats(tokens=2, gram=torch.eye(512), square_sum=torch.ones(512))
    weight = weight_of(512)
    found = GGML(gptq=True)(weight, kind.name.lower(), stats)
    scales, zeros = ggml_codes.grids(found)
    nearest = (weight / scales + zeros).round().clamp(0, 2 ** BITS[kind] - 1)
    assert float(((nearest - zeros) * scales - found.dequantize()).abs().max()) < 1e-6


def test_ggml_with_gptq_of_constant_blocks():
    """Their scale is zero, and their codes say nothing."""
    weight = torch.full((4, 512), 0.25)
    weight[1], weight[2, :32] = 0.0, -0.5
    _, stats = inputs_of(512)
    for name in ("q4_1", "q5_1", "q4_0", "q8_0"):
        found = GGML(gptq=True)(weight, name, stats).dequantize()
        torch.testing.assert_close(found, weight, rtol=2e-2, atol=1e-6)


def test_ggml_in_threads_is_the_same():
    weight = weight_of(512, rows=37)
    found = []
    for threads in (1, 5):
        torch.set_num_threads(threads)
        found.append(GGML(imatrix=False)(weight, "q3_k").data)
    torch.set_num_threads(1)
    assert torch.equal(*found)


def test_ggml_scales_that_float16_cannot_hold():
    with pytest.raises(InputError, match=r"weights up to 2.*e\+12 need scales that float16"):
        GGML(imatrix=False)(weight_of(512) * 1e13, "q4_k")
    with pytest.raises(InputError, match="holds no more than 65504"):
        GGML(imatrix=False)(weight_of(40) * 1e8, "q4_k")


@pytest.mark.parametrize("option", [*TYPES, "f16"])
def test_ggml_holds_tiny_weights_or_refuses_them(option):
    """Where a norm before it carries the scale of a matrix, float16 scales may fade."""
    columns, option = (40, "q8_0") if option == "f16" else (512, option)
    quantizer, weight = GGML(imatrix=False), 20 * weight_of(columns)

    def error(scale):
        found = quantizer(weight * scale, option).dequantize()
        return float((found / scale - weight).norm() / weight.norm())

    plain, refused = error(1.0), 0
    for scale in (1e-3, 1e-4, 1e-5, 3e-6, 1e-6, 3e-7, 1e-7, 1e-8, 1e-30):
        try:
            assert error(scale) < plain + 0.06
            assert not refused
        except InputError as problem:
            refused += 1
            assert "of weights up to" in str(problem) and "keep the matrix at 16" in str(problem)
    assert refused >= 2


def test_ggml_of_zeros_is_zeros():
    assert not GGML(imatrix=False)(torch.zeros(4, 512), "q4_k").dequantize().any()


def test_a_missing_library_says_how_to_install_it(monkeypatch, weight):
    libggml._library.cache_clear()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'lwq\[gguf\]' \(libggml-python\)"):
        GGML(imatrix=False)(weight, "q8_0")
    libggml._library.cache_clear()


def test_the_sizes_need_no_library(monkeypatch):
    monkeypatch.setattr(libggml, "_library", None)
    assert GGML().nbytes((10, 512), "q4_k") == 10 * 2 * GGML_QUANT_SIZES[Kind.Q4_K][1]
    with pytest.raises(InputError, match="unknown ggml type 'q4_x'"):
        GGML().nbytes((10, 512), "q4_x")
    with pytest.raises(InputError, match="unknown ggml type '7'"):
        GGML().nbytes((10, 512), 7)


def test_rows_that_are_no_blocks_are_not_sound():
    with pytest.raises(InputError, match=r"rows of 19 torch.uint8; Q4_0 needs torch.uint8, 18"):
        Blocks(torch.zeros(2, 19, dtype=torch.uint8), Kind.Q4_0).require_sound("mine")


def test_a_ggml_plan_over_types_is_the_budgets_best(toy, windows):
    """Scored, planned and applied; the bytes are those of the storages."""
    model, _ = toy
    options = ("q8_0", "q5_1", "q4_0")
    costs = lwq.score(
        model,
        f"fisher_kl(quantizer='ggml(gptq=True)', options={options}, outside=True, windows=2)",
        windows,
    )
    plan = lwq.allocate(costs, model, options, "ggml(gptq=True)", "knapsack", true_bits=6.0)
    assert len(set(plan.bits.values())) > 1
    stored = {name: made.nbytes for name, made in lwq.engine.apply.packed(model, plan, windows)}
    assert sum(stored.values()) == plan.size(GGML()).plan_bytes
