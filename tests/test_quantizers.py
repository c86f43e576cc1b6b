"""Every quantizer in the dict against one battery; then slow twins, theory and the library it
imitates.
"""

import types

import pytest
import torch

from lwq.common.errors import InputError
from lwq.common.names import build, nickname, spec
from lwq.quantizers import QUANTIZERS, baq, masks, quanto, storage
from lwq.quantizers.baq import BAQ
from lwq.quantizers.gptq import GPTQ
from lwq.quantizers.hqq import HQQ
from lwq.quantizers.owq import OWQ
from lwq.quantizers.rtn import RTN
from lwq.quantizers.shared import grid
from lwq.quantizers.spqr import SpQR
from lwq.quantizers.storage import packed
from lwq.quantizers.storage.bits import pack, unpack
from lwq.statistics.sums import MatrixStats


def some(levels):
    """All of a few levels; of many the ends and some between, fractions and names among them."""
    named = [option for option in levels if isinstance(option, str)]
    levels = [option for option in levels if not isinstance(option, str)]
    few = len(levels) < 10
    ends = levels if few else [levels[0], *levels[3 : -1 : len(levels) // 5], levels[-1]]
    return [*ends, *named[::5]]


MASKS = ("magnitude", "wanda")
CASES = [(name, bits) for name, cls in QUANTIZERS.items() for bits in some(cls.levels)]


def gram_of(columns, tokens=512, seed=1):
    draw = torch.Generator().manual_seed(seed)
    x = (
        torch.randn(tokens, columns, generator=draw)
        @ torch.randn(columns, columns, generator=draw)
        * 0.2
    )
    stats = MatrixStats()
    stats.add(x, frozenset({"gram", "input_norms"}))
    return stats, x


def error(weight, found):
    return float((weight - found.dequantize()).square().sum())


@pytest.mark.parametrize(("name", "bits"), CASES)
def test_stored_tensors_weigh_what_was_promised(name, bits, weight):
    quantizer = QUANTIZERS[name]()
    found = quantizer(weight, bits, gram_of(128)[0])
    assert (
        found.nbytes
        == quantizer.nbytes((32, 128), bits)
        == sum(t.nbytes for t in found.tensors().values())
    )
    if isinstance(found, packed.Packed):
        assert found.codes.dtype == torch.uint8 and (
            found.widths is not None or int(found.codes.max()) < 2 ** int(quantizer.nominal(bits))
        )
    again = storage.read(storage.name_of(found), found.tensors(), found.header())
    assert torch.equal(again.dequantize(), found.dequantize()) and again.nbytes == found.nbytes


@pytest.mark.parametrize(("name", "bits"), CASES)
def test_parts_of_another_size_are_refused(name, bits, weight):
    """Each part of each storage, one number short or missing."""
    made = QUANTIZERS[name]()(weight, bits, gram_of(128)[0])
    kind, tensors, header = storage.name_of(made), made.tensors(), made.header()
    assert storage.shape_of(kind, tensors, header) == (32, 128)
    for key, tensor in tensors.items():
        if not tensor.numel():  # nothing to lose: owq without outliers
            continue
        short = tensor.reshape(-1)[:-1] if tensor.ndim < 2 else tensor[:, :-1]
        with pytest.raises(InputError):
            storage.shape_of(kind, tensors | {key: short}, header)
    for key in header:
        with pytest.raises(InputError, match=f"{key.rpartition('.')[2]} is None; a whole number"):
            storage.shape_of(kind, tensors, {k: v for k, v in header.items() if k != key})


def test_a_stream_of_another_length_is_not_unpacked():
    with pytest.raises(InputError, match="5 bytes of codes; 16 of 3 bits need 6"):
        unpack(pack(torch.zeros(16, dtype=torch.uint8), 3)[:-1], 3, (16,))


@pytest.mark.parametrize("name", QUANTIZERS)
def test_more_bits_never_mean_more_error(name, weight):
    quantizer, stats = QUANTIZERS[name](), gram_of(128)[0]
    levels = [bits for bits in some(quantizer.levels) if isinstance(bits, int) or name in MASKS]
    errors = [error(weight, quantizer(weight, bits, stats)) for bits in levels]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-3 * float(weight.square().sum())


@pytest.mark.parametrize("name", QUANTIZERS)
def test_the_same_twice_and_the_input_untouched(name, weight):
    """Also where the weight is a transposed view, as in gpt2."""
    kept, stats = weight.clone(), gram_of(128)[0]
    found = [
        QUANTIZERS[name]()(w, 4, stats).dequantize()
        for w in (weight, weight, weight.T.contiguous().T)
    ]
    assert (
        torch.equal(found[0], found[1])
        and torch.equal(found[0], found[2])
        and torch.equal(weight, kept)
    )
    view = weight.T.contiguous().T
    QUANTIZERS[name]()(view, 3, stats)
    assert torch.equal(view, kept)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", QUANTIZERS)
def test_damaged_weights_are_refused(name, bad, weight):
    weight[3, 5] = bad
    for bits in (QUANTIZERS[name].levels[0], QUANTIZERS[name].levels[-1]):
        with pytest.raises(InputError, match=r"hold 1 NaN or Inf values, the first at \[3, 5\]"):
            QUANTIZERS[name]()(weight, bits, gram_of(128)[0])


@pytest.mark.parametrize(
    ("quantizer", "bits"),
    [
        (cls(), bits)
        for name, cls in QUANTIZERS.items()
        for bits in (cls.levels[2], 8 if 8 in cls.levels else cls.levels[-1])
    ]
    + [(GPTQ(act_order=False), 3), (RTN(sym=True), 3), (OWQ(), 3.5), (SpQR(), 3.5)],
    ids=str,
)
def test_tensors_are_made_where_the_weight_is(quantizer, bits, weight):
    """As on a GPU: whatever is made without naming a device lands elsewhere, on "meta", and cannot
    meet the weight.
    """
    plain, stats = quantizer(weight, bits, gram_of(128)[0]), gram_of(128)[0]
    with torch.device("meta"):
        found = quantizer(weight, bits, stats)
        again = storage.read(storage.name_of(found), found.tensors(), found.header()).dequantize()
    assert torch.equal(again, plain.dequantize()) and found.nbytes == plain.nbytes


@pytest.mark.parametrize("name", [name for name in QUANTIZERS if name not in MASKS])
def test_zero_and_constant_groups_come_back(name):
    weight = torch.zeros(16, 128)
    weight[1], weight[2, 64:] = 0.5, -0.25
    found = QUANTIZERS[name]()(weight, 4, gram_of(128)[0]).dequantize()
    # its scales are quantized
    loose = {"rtol": 0.1, "atol": 0.05} if name == "spqr" else {"rtol": 1e-3, "atol": 1e-6}
    torch.testing.assert_close(found, weight, **loose)


# SQNR in dB of round-to-nearest on N(0, 1), by bits, over 20 seeds (sd below 0.04 dB for groups,
# 0.09 for rows)
BANDS = [
    (False, 32, {2: 7.83, 3: 15.25, 4: 21.86, 5: 28.16, 6: 34.32, 8: 46.47}),
    (False, 64, {2: 6.81, 3: 14.20, 4: 20.82, 5: 27.13, 6: 33.28, 8: 45.43}),
    (False, 128, {2: 5.97, 3: 13.33, 4: 19.95, 5: 26.26, 6: 32.42, 8: 44.56}),
    (True, 128, {2: 2.30, 3: 11.25, 4: 18.61, 5: 25.23, 6: 31.54, 8: 43.79}),
    (False, -1, {2: 3.30, 3: 10.46, 4: 17.08, 5: 23.39, 6: 29.55, 8: 41.69}),
    (True, -1, {2: 0.83, 3: 8.71, 4: 16.07, 5: 22.69, 6: 29.00, 8: 41.25}),
]


@pytest.mark.parametrize(
    ("sym", "group", "bands"), BANDS, ids=lambda v: str(v) if not isinstance(v, dict) else ""
)
def test_rtn_has_the_signal_to_noise_of_theory(sym, group, bands):
    weight = torch.randn(128, 4096, generator=torch.Generator().manual_seed(3))
    for bits, expected in bands.items():
        found = 10 * torch.log10(
            weight.square().sum() / error(weight, RTN(group, sym)(weight, bits))
        )
        assert float(found) == pytest.approx(expected, abs=0.4 if group == -1 else 0.2)


def slow_rtn(weight, bits, group_size):
    """Loops on the formula: scale from min-max with zero included, kept in float16."""
    out = weight.clone()
    for r in range(weight.shape[0]):
        for g in range(0, weight.shape[1], group_size):
            block = weight[r, g : g + group_size]
            low, high = min(0.0, float(block.min())), max(0.0, float(block.max()))
            scale = float(torch.tensor((high - low) / (2**bits - 1)).half())
            zero = round(-low / scale)
            for i, w in enumerate(block.tolist()):
                out[r, g + i] = (min(max(round(w / scale) + zero, 0), 2**bits - 1) - zero) * scale
    return out


@pytest.mark.parametrize("bits", [2, 3, 5, 8])
def test_rtn_equals_its_slow_twin(bits, weight):
    torch.testing.assert_close(
        RTN(32)(weight, bits).dequantize(), slow_rtn(weight, bits, 32), rtol=1e-5, atol=1e-6
    )


def test_rounding_is_half_to_even():
    scale, zero = torch.tensor(1.0), torch.tensor(0.0)
    assert grid.nearest(torch.tensor([0.5, 1.5, 2.5]), scale, zero, 4).tolist() == [0.0, 2.0, 2.0]


def unpacked(packed, bits):
    """Numbers of a few bits, the lowest of each byte first."""
    return torch.cat([packed >> shift & (1 << bits) - 1 for shift in range(0, 8, bits)])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("columns", [64, 128, 192, 576, 1000, 256])
def test_quanto_equals_the_library_bit_for_bit(dtype, columns, monkeypatch):
    library = pytest.importorskip("optimum.quanto", reason="optimum-quanto is in the test extra")
    extension = library.library.extensions.get_extension("quanto_cpp")
    # what it would start a compiler for
    monkeypatch.setattr(extension, "_lib", types.SimpleNamespace(unpack=unpacked))
    weight = torch.randn(16, columns, generator=torch.Generator().manual_seed(columns)).to(dtype)
    for bits, kind in ((8, library.qint8), (4, library.qint4), (2, library.qint2)):
        linear = torch.nn.Linear(columns, 16, bias=False, dtype=dtype)
        linear.weight.data.copy_(weight)
        module = library.QLinear.from_module(linear, weights=kind)
        module.freeze()
        ours = quanto.Quanto(scale_dtype=str(dtype).removeprefix("torch."))(weight, bits)
        assert torch.equal(ours.dequantize(dtype), module.weight.dequantize()), (bits, columns)


def slow_gptq(weight, gram, tokens, bits, group_size, act_order=False, damp=0.01):
    """The definition, in float64: quantize a column, then change the rest so that the output error
    is least.
    """
    w = weight.double().clone()
    h = gram.double() * 2 / tokens
    h += damp * h.diagonal().mean() * torch.eye(len(h), dtype=torch.float64)
    out = torch.zeros_like(w)
    order = (
        sorted(range(w.shape[1]), key=lambda i: -gram[i, i])
        if act_order
        else list(range(w.shape[1]))
    )
    fits = {}
    for step, i in enumerate(order):
        group = i // group_size
        if group not in fits:
            source = weight if act_order else w.float()
            fits[group] = grid.fit(
                source[:, group * group_size : (group + 1) * group_size], bits, None, torch.float16
            )
        scale, zero = fits[group]
        code = ((w[:, i] / scale).round() + zero).clamp(0, 2**bits - 1)
        out[:, i] = (code - zero) * scale
        left = order[step:]
        # of the columns that are left: no Cholesky shortcut
        inverse = torch.linalg.inv(h[left][:, left])
        w[:, left] -= ((w[:, i] - out[:, i]) / inverse[0, 0])[:, None] * inverse[0]
    return out


@pytest.mark.parametrize("act_order", [True, False])
@pytest.mark.parametrize("bits", [2, 4])
def test_gptq_equals_its_slow_twin(bits, act_order, weight):
    stats, x = gram_of(128)
    slow = slow_gptq(weight, stats.gram, stats.tokens, bits, 32, act_order).float()
    fast = GPTQ(group_size=32, act_order=act_order)(weight, bits, stats).dequantize()
    # float32 may tip a weight that lies between two levels
    assert float((fast != slow).float().mean()) < 0.02
    output = [float(((weight - found) @ x.T).square().sum()) for found in (slow, fast)]
    assert output[1] == pytest.approx(output[0], rel=0.01)


@pytest.mark.parametrize(
    "settings",
    [{}, {"act_order": False}, {"sym": True}, {"group_size": -1}, {"group_size": 32}],
    ids=str,
)
def test_gptq_beats_rounding_on_the_outputs(settings, weight):
    stats, x = gram_of(128)
    quantizer = GPTQ(**settings)
    plain = RTN(quantizer.group_size)(weight, 3).dequantize()
    found = quantizer(weight, 3, stats).dequantize()
    assert ((weight - found) @ x.T).square().sum() < 0.8 * ((weight - plain) @ x.T).square().sum()


def slow_clip(part, d, bits, sym):
    """Scale and zero of one row's group: the range, of twenty, with the least Σ d (w − ŵ)²."""
    best = None
    for fraction in torch.linspace(1, 0.2, 20).tolist():
        ends = [float(end * fraction) for end in (part.min(), part.max())]
        half = (2**bits - 1) / 2 if sym else None
        scale, zero = grid.fit(part.clamp(*ends), bits, half, torch.float16)
        code = ((part / scale).round() + zero).clamp(0, 2**bits - 1)
        harm = float((d * ((code - zero) * scale - part).double().square()).sum())
        if best is None or harm < best[0]:
            best = harm, float(scale), float(zero)
    return best[1:]


@pytest.mark.parametrize("sym", [False, True])
@pytest.mark.parametrize("bits", [2, 4])
def test_clipped_grids_do_the_least_harm_that_the_solver_counts(bits, sym, weight):
    """U_jj² = 1 / (inverse of what is left)_jj, of the columns in their order."""
    stats, _ = gram_of(128)
    h = stats.gram.double() * 2 / stats.tokens
    h += 0.01 * h.diagonal().mean() * torch.eye(len(h), dtype=torch.float64)
    order = sorted(range(128), key=lambda i: -stats.gram[i, i])
    d = torch.empty(128, dtype=torch.float64)
    for step, i in enumerate(order):
        left = order[step:]
        d[i] = 1 / torch.linalg.inv(h[left][:, left])[0, 0]
    found = GPTQ(group_size=32, sym=sym, clip=True)(weight, bits, stats)
    for row in (0, 5):
        for group in range(4):
            part = slice(group * 32, (group + 1) * 32)
            scale, zero = slow_clip(weight[row, part], d[part], bits, sym)
            assert float(found.scales[row, group]) == pytest.approx(scale, rel=1e-6)
            assert sym or float(found.zeros[row, group]) == zero


def test_clipped_grids_err_less_at_few_bits_and_cost_no_byte(weight):
    stats, x = gram_of(128)
    plain, clipped = GPTQ(), GPTQ(clip=True)
    for bits, share in ((2, 0.8), (3, 1.0), (5, 1.02)):
        errors = [
            float(((weight - q(weight, bits, stats).dequantize()) @ x.T).square().sum())
            for q in (plain, clipped)
        ]
        assert errors[1] < share * errors[0]
        assert plain.nbytes((64, 128), bits) == clipped.nbytes((64, 128), bits)
    with pytest.raises(InputError, match="clip=True with act_order=False"):
        GPTQ(clip=True, act_order=False)


def test_gptq_without_correlations_is_rounding(weight):
    stats = MatrixStats(tokens=2, gram=torch.eye(128))
    assert torch.equal(GPTQ()(weight, 4, stats).dequantize(), RTN()(weight, 4).dequantize())
    assert torch.equal(
        GPTQ(act_order=False)(weight, 4, stats).dequantize(), RTN()(weight, 4).dequantize()
    )


def test_gptq_rounds_what_no_input_reaches(weight):
    stats, _ = gram_of(128)
    stats.gram[:, 5] = stats.gram[5] = 0
    assert GPTQ(group_size=-1)(weight, 8, stats).dequantize()[:, 5].abs().max() > 0


SOLVERS = ["gptq", "gptq(clip=True)", "gptq(act_order=False)", "owq", "spqr", "baq"]


@pytest.mark.parametrize("dead", [slice(0), slice(None, None, 2), slice(None)], ids=str)
@pytest.mark.parametrize("name", [*SOLVERS, "ggml(gptq=True)"])
def test_the_scale_of_the_inputs_is_nothing_to_a_solver(name, dead):
    """Columns that no input reaches are damped as the others are."""
    weight = torch.randn(32, 256, generator=torch.Generator().manual_seed(0))
    _, x = gram_of(256)
    x[:, dead] = 0
    made = []
    for scale in (1, 2**-10):
        stats = MatrixStats()
        stats.add(x * scale, frozenset({"gram", "input_norms"}))
        made.append(build(QUANTIZERS, "quantizer", name)(weight, 3, stats).dequantize())
    assert torch.equal(*made)


def test_gptq_group_wider_than_a_block():
    weight = torch.randn(8, 320, generator=torch.Generator().manual_seed(0))
    stats, x = gram_of(320, tokens=1024)
    slow = slow_gptq(weight, stats.gram, stats.tokens, 3, 320).float()
    for size in (320, -1):
        fast = GPTQ(group_size=size, act_order=False)(weight, 3, stats).dequantize()
        ratio = ((weight - fast) @ x.T).square().sum() / ((weight - slow) @ x.T).square().sum()
        assert float(ratio) == pytest.approx(1, rel=0.02)


def slow_hqq(weight, bits, group_size, iters=20):
    """Loops on the formula, in float64, in the library's order of operations."""
    rows, columns = weight.shape
    groups = weight.double().reshape(-1, group_size).tolist()
    top = 2**bits - 1
    scales = [top / (max(g) - min(g)) for g in groups]
    zeros = [-min(g) * s for g, s in zip(groups, scales, strict=True)]
    zeros = [float(round(z)) for z in zeros] if bits == 4 else zeros
    best = float("inf")
    for _ in range(iters):
        total = 0.0
        for k, (g, s) in enumerate(zip(groups, scales, strict=True)):
            means = []
            for w in g:
                q = min(max(round(w * s + zeros[k]), 0), top)
                e = w - (q - zeros[k]) / s
                total += abs(e)
                shrunk = max(abs(e) - abs(e) ** -0.3 / 10, 0) * (1 if e > 0 else -1) if e else 0.0
                means.append(q - (w - shrunk) * s)
            zeros[k] = sum(means) / len(means)
        if total >= best:
            break
        best = total
    found = [
        [(min(max(round(w * s + z), 0), top) - z) / s for w in g]
        for g, s, z in zip(groups, scales, zeros, strict=True)
    ]
    return torch.tensor(found).reshape(rows, columns)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_hqq_equals_its_slow_twin(bits, weight):
    fast = HQQ(scale_dtype="float32")(weight, bits).dequantize()
    torch.testing.assert_close(fast, slow_hqq(weight, bits, 64), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_hqq_lowers_what_it_minimizes(bits, weight):
    errors = [
        float((weight - q(weight, bits).dequantize()).abs().pow(0.7).mean())
        for q in (HQQ(), HQQ(iters=0), RTN())
    ]
    assert errors[0] < 0.985 * min(errors[1:])


def slow_rest(weight, found, stats, damp, order):
    """Given the grids and the kept weights of `found`: column by column in float64, the rest
    changed to make up for the error.

    Returns what comes out, and the share of weights that differ from `found`.
    """
    w = weight.double().clone()
    h = stats.require("gram").double() * 2 / stats.tokens
    h += damp * h.diagonal().mean() * torch.eye(len(h), dtype=torch.float64)
    step, zero = grids(found)
    kept = torch.zeros_like(w, dtype=torch.bool)
    if found.exact.whole_columns:
        kept[:, found.exact.index.long()] = True
    else:
        kept.view(-1)[found.exact.index.long()] = True
    for place, i in enumerate(order):
        left = order[place:]
        inverse = torch.linalg.inv(h[left][:, left])
        codes = (w[:, i] / step[:, i] + zero[:, i]).round().clamp(0, 2**found.bits - 1)
        target = torch.where(kept[:, i], w[:, i], (codes - zero[:, i]) * step[:, i])
        error = (w[:, i] - target) / inverse[0, 0]
        w[:, left] -= error[:, None] * inverse[0]
        w[:, i] = target
    return w.float(), float(((w - found.dequantize()).abs() > 1e-3).double().mean())


def grids(found):
    """Step and zero of each weight, (out, in)."""
    opened = [
        part.dequantize().T if isinstance(part, packed.Packed) else part.double()
        for part in (found.scales, found.zeros)
    ]
    return [part.double().repeat_interleave(found.shape[1] // part.shape[1], 1) for part in opened]


def test_owq_equals_its_slow_twin(weight):
    stats, x = gram_of(128)
    found = OWQ(outlier_bits=0.5, group_size=32)(weight, 3, stats)
    columns = found.exact.index.tolist()
    assert len(columns) == 4  # 0.5 * 128 / 13, even
    slow, differ = slow_rest(
        weight, found, stats, 0.01, [i for i in range(128) if i not in columns] + columns
    )
    assert differ < 0.03
    outputs = [float(((weight - w) @ x.T).square().sum()) for w in (slow, found.dequantize())]
    assert outputs[1] == pytest.approx(outputs[0], rel=0.02)


def test_owq_keeps_the_columns_that_hurt(weight):
    stats = MatrixStats(tokens=2, gram=torch.eye(128))
    stats.gram[[7, 90], [7, 90]] = 1000.0
    found = OWQ(outlier_bits=0.25)(weight, 4, stats)
    assert found.exact.index.tolist() == [7, 90]
    assert torch.equal(found.exact.values.float(), weight[:, [7, 90]].half().float())


def test_a_searched_range_is_never_worse_than_min_max(weight):
    groups = weight.reshape(32, 2, 64)
    for bits in (2, 3, 4):
        errors = []
        for scale, zero in (
            grid.fit(groups, bits, None, torch.float16),
            grid.search(groups, bits, torch.float16),
        ):
            codes = grid.nearest(groups, scale[..., None], zero[..., None], bits)
            errors.append(
                (groups - (codes - zero[..., None]) * scale[..., None]).abs().pow(2.4).sum(-1)
            )
        assert (errors[1] <= errors[0] * (1 + 1e-5)).all() and errors[1].sum() < 0.99 * errors[
            0
        ].sum()


def every_range_tried(groups, bits, dtype, steps, power, half, weights):
    """`grid.search`, with no range left out."""
    best = torch.full(groups.shape[:-1], torch.inf)
    found = grid.fit(groups, bits, half, dtype)
    for fraction in torch.linspace(1, 0.2, steps).tolist():
        low, high = (fraction * end for end in (groups.amin(-1), groups.amax(-1)))
        shrunk = groups.clamp(low[..., None], high[..., None])
        scale, zero = grid.fit(shrunk, bits, half, dtype)
        codes = grid.nearest(groups, scale[..., None], zero[..., None], bits)
        errors = (groups - (codes - zero[..., None]) * scale[..., None]).abs().pow(power)
        size = (weights * errors).sum(-1)
        better = size < best
        best = torch.where(better, size, best)
        pairs = zip((scale, zero), found, strict=True)
        found = [torch.where(better, new, old) for new, old in pairs]
    return found


@pytest.mark.parametrize("bits", [2, 3, 4, 6, 8])
@pytest.mark.parametrize("half", [None, "symmetric"])
@pytest.mark.parametrize("power", [2.0, 2.4])
def test_ranges_that_search_skips_could_not_win(bits, half, power):
    generator = torch.Generator().manual_seed(bits)
    groups = torch.randn(256, 2, 64, generator=generator)
    groups *= 1 + 5 * (torch.rand(groups.shape, generator=generator) < 0.02)
    groups[:8] = groups[:8].abs()  # of one sign
    groups[8:16] = 0.25  # of one value
    groups[16:24] = 0.0
    weights = torch.rand(1, 2, 64, generator=generator).exp()
    half = None if half is None else (2**bits - 1) / 2
    for given in (None, weights):
        fast = grid.search(groups, bits, torch.float16, 20, power, half, given)
        every = torch.ones(()) if given is None else given
        slow = every_range_tried(groups, bits, torch.float16, 20, power, half, every)
        assert all(torch.equal(a, b) for a, b in zip(fast, slow, strict=True))


@pytest.mark.parametrize("outliers", [0.0, 0.02])
def test_spqr_equals_its_slow_twin(outliers, weight):
    stats, x = gram_of(128)
    found = SpQR(outliers=outliers)(weight, 3, stats)
    assert len(found.exact.index) == round(outliers * 32 * 128)
    slow, differ = slow_rest(weight, found, stats, 1.0, list(range(128)))
    assert differ < 0.03
    outputs = [float(((weight - w) @ x.T).square().sum()) for w in (slow, found.dequantize())]
    assert outputs[1] == pytest.approx(outputs[0], rel=0.02)


def test_spqr_weighs_what_its_formula_says():
    shape = (1024, 2048)
    for share in (0.0, 0.01):
        bits = 8 * SpQR(outliers=share).nbytes(shape, 3) / (shape[0] * shape[1])
        assert bits == pytest.approx(3 + 2 * 3 / 16 + 64 / 256 + 48 * share, abs=1e-4)


def test_spqr_saves_what_sticks_out(weight):
    weight = weight.clone()
    weight[torch.arange(32), torch.arange(32) * 4] = 20.0
    stats, x = gram_of(128)
    errors = [
        ((weight - SpQR(outliers=share)(weight, 3, stats).dequantize()) @ x.T).square().sum()
        for share in (0.0, 0.01)
    ]
    assert errors[1] < 0.2 * errors[0]


@pytest.mark.parametrize("method", ["owq", "spqr"])
def test_a_fraction_of_a_bit_buys_outliers(method, weight):
    stats = gram_of(128)[0]
    bare = {"owq": OWQ(outlier_bits=0), "spqr": SpQR(outliers=0)}[method]
    rich = {"owq": OWQ(outlier_bits=0.5), "spqr": SpQR(outliers=0.5 / 48)}[method]
    found = bare(weight, 3.5, stats)
    assert torch.equal(found.dequantize(), rich(weight, 3, stats).dequantize()) and found.bits == 3
    assert 8 * (found.nbytes - bare.nbytes((32, 128), 3)) / weight.numel() == pytest.approx(
        0.5, abs=0.1
    )
    assert bare.nbytes((32, 128), 3) == 3 * 32 * 128 // 8 + bare.nbytes(
        (32, 128), 2
    ) - 2 * 32 * 128 // 8 + (32 * 2 // 8 if method == "owq" else 0)
    assert error(weight, found) < error(weight, bare(weight, 3, stats))


def slow_mask(scores, count):
    kept = sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:count]
    return [i in kept for i in range(len(scores))]


@pytest.mark.parametrize("density", [0.01, 0.37, 0.5, 0.93])
def test_masks_equal_their_slow_twins(density, weight):
    weight = (weight * 4).round() / 4  # many equal magnitudes
    stats = gram_of(128)[0]
    width = masks.width_of(density)
    assert masks.density_of(width) == pytest.approx(density)
    found = masks.Magnitude()(weight, width, stats)
    assert found.mask.flatten().tolist() == slow_mask(
        weight.abs().flatten().tolist(), round(density * weight.numel())
    )
    assert torch.equal(found.dequantize(), weight * found.mask)
    wanda = masks.Wanda()(weight, width, stats)
    scores = weight.abs() * stats.square_sum.sqrt()
    assert wanda.mask.tolist() == [slow_mask(row.tolist(), round(density * 128)) for row in scores]
    even = masks.Wanda()(weight, width, MatrixStats(tokens=1, square_sum=torch.full((128,), 7.0)))
    assert even.mask.tolist() == [
        slow_mask(row.abs().tolist(), round(density * 128)) for row in weight
    ]
    assert found.nbytes == 32 * 128 // 8 + 2 * round(density * weight.numel())


def test_wanda_minds_the_inputs(weight):
    x = torch.randn(256, 128, generator=torch.Generator().manual_seed(3)) * torch.logspace(
        -2, 2, 128
    )
    stats = MatrixStats()
    stats.add(x, frozenset({"input_norms"}))
    errors = [
        float(((weight - q(weight, masks.width_of(0.3), stats).dequantize()) @ x.T).square().sum())
        for q in (masks.Wanda(), masks.Magnitude())
    ]
    assert errors[0] < 0.05 * errors[1]


def test_wanda_keeps_the_largest_weights_where_no_token_came(weight):
    stats, width = MatrixStats(square_sum=torch.zeros(128)), masks.width_of(0.3)
    found = masks.Wanda()(weight, width, stats)
    assert found.mask.tolist() == [
        slow_mask(row.abs().tolist(), round(0.3 * 128)) for row in weight
    ]


@pytest.mark.parametrize("bits", [2, 3, 7])
@pytest.mark.parametrize("zeros", [0, 15, 16, 32, 100, 127, 128])
def test_baq_keeps_its_promise_where_columns_lose_nothing(zeros, bits, weight):
    weight[:, :zeros] = 0
    found = BAQ()(weight, bits, gram_of(128)[0])
    assert found.nbytes == BAQ().nbytes((32, 128), bits) and int(found.widths.sum()) == 128 * bits
    assert torch.equal(found.dequantize()[:, :zeros], weight[:, :zeros])


def test_baq_spends_bits_where_columns_lose():
    losses = 4.0 ** torch.arange(8).double()
    assert (
        baq.column_widths(losses, 4, 2.0).tolist() == [1, 2, 2, 3, 4, 5, 7, 8]
        or baq.column_widths(losses, 4, 2.0).sum() == 32
    )
    assert baq.column_widths(torch.ones(10), 3, 1.95).tolist() == [3] * 10
    found = baq.column_widths(
        torch.rand(100, generator=torch.Generator().manual_seed(0)).pow(8), 3, 1.95
    )
    assert int(found.sum()) == 300 and found.min() >= 1 and found.max() <= 8


def test_baq_with_equal_columns_is_gptq_with_a_fixed_grid(weight):
    stats = MatrixStats(tokens=2, gram=torch.eye(128))
    found = BAQ(exponent=1e9)(weight, 4, stats)
    assert set(found.widths.tolist()) == {4}
    assert torch.equal(found.dequantize(), RTN()(weight, 4).dequantize())


@pytest.mark.parametrize("rows", [1, 33, 34, 36, 65])
@pytest.mark.parametrize("bits", [2, 3, 5])
def test_baq_packs_any_number_of_rows_without_a_gap(rows, bits):
    """A run of columns of one width may end inside a byte."""
    weight = torch.randn(rows, 128, generator=torch.Generator().manual_seed(rows))
    found = BAQ()(weight, bits, gram_of(128)[0])
    assert len(set(found.widths.tolist())) > 2
    assert found.nbytes == BAQ().nbytes((rows, 128), bits)
    again = storage.read("packed", found.tensors(), found.header())
    assert torch.equal(again.codes, found.codes)


def test_baq_lowers_the_output_error_where_columns_differ(weight):
    draw = torch.Generator().manual_seed(1)
    x = (
        torch.randn(512, 128, generator=draw)
        * torch.logspace(-1.5, 1.5, 128)[torch.randperm(128, generator=draw)]
    )
    stats = MatrixStats()
    stats.add(x, frozenset({"gram"}))
    for bits in (2, 3, 4):
        found = [quantizer(weight, bits, stats) for quantizer in (BAQ(), GPTQ())]
        errors = [float(((weight - q.dequantize()) @ x.T).square().sum()) for q in found]
        assert errors[0] < 0.5 * errors[1] and found[0].nbytes == found[1].nbytes + 128


EYE = MatrixStats(tokens=2, gram=torch.eye(128), square_sum=torch.ones(128))
KEEPING = (masks.Magnitude(), masks.Wanda(), OWQ(), SpQR())


def with_one(weight, value):
    weight[3, 5] = value
    return weight


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda w: HQQ(lp_norm=1.5), "0 < lp_norm < 1"),
        (lambda w: OWQ(outlier_bits=9), "outlier_bits=9"),
        (lambda w: BAQ(exponent=0), "exponent=0"),
        (lambda w: SpQR(outliers=0.7), "0 ≤ outliers < 0.5"),
        (
            lambda w: SpQR()(w[:24], 3, gram_of(128)[0]),
            "stat_group=16 does not divide 24 output rows",
        ),
        (
            lambda w: RTN(48)(w, 4),
            r"group_size=48 does not divide 128 input columns; choose one "
            r"of \[-1, 16, 32, 64, 128\]",
        ),
        (lambda w: RTN()(w * 1e9, 4), "float16 cannot hold"),
        (lambda w: RTN()(w * 1e-9, 4), "float16 cannot hold"),
        (lambda w: RTN(scale_dtype="int8"), "unknown scale_dtype"),
        (lambda w: GPTQ()(w, 4, MatrixStats()), "'gram' was not collected"),
        (lambda w: GPTQ(inputs="half"), "unknown inputs"),
        (lambda w: GPTQ(damp_percent=0), "damp_percent=0"),
        (lambda w: GPTQ()(w, 4, MatrixStats(2, gram=-torch.eye(128))), "singular"),
        *(
            (lambda w, q=q: q(with_one(w, 1e5), 4.2, EYE), "value of 100000 .* float16, .* 65504")
            for q in KEEPING
        ),
        (lambda w: SpQR(outliers=0)(w * 1e7, 4, EYE), "float16, .* 65504"),
        (lambda w: HQQ()(w * 1e7, 4), "float16, .* 65504"),
        (lambda w: quanto.Quanto("float16")(w * 1e7, 8), "float16, .* 65504"),
    ],
    ids=range(20),
)
def test_errors_name_the_value_and_the_way_out(make, message, weight):
    with pytest.raises(InputError, match=message):
        make(weight)


def test_enormous_weights_fit_a_wider_scale(weight):
    for scale_dtype in ("bfloat16", "float32"):
        found = RTN(scale_dtype=scale_dtype)(weight * 1e9, 8).dequantize()
        assert (
            torch.isfinite(found).all()
            and error(weight * 1e9, RTN(scale_dtype=scale_dtype)(weight * 1e9, 8)) > 0
        )
    assert torch.isfinite(
        RTN(scale_dtype="float32")(torch.full((1, 64), 3e38), 2).dequantize()
    ).all()


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("count", [1, 7, 8, 9, 64, 1001])
def test_packed_codes_are_one_string_of_bits_lowest_first(bits, count):
    codes = torch.randint(
        0, 2**bits, (count,), dtype=torch.uint8, generator=torch.Generator().manual_seed(count)
    )
    text = "".join(f"{code:0{bits}b}"[::-1] for code in codes.tolist())
    stream = pack(codes, bits)
    assert "".join(f"{byte:08b}"[::-1] for byte in stream.tolist()) == text + "0" * (-len(text) % 8)
    assert torch.equal(unpack(stream, bits, (count,)), codes)


def test_what_readers_call_a_quantizer():
    called = {
        q: nickname(spec(QUANTIZERS, q))
        for q in (GPTQ(), GPTQ(act_order=False, inputs="full"), RTN())
    }
    assert list(called.values()) == ["gptq", "gptq (no act-order, full inputs)", "rtn"]


@pytest.mark.parametrize("name", ["rtn", "gptq", "hqq", "spqr", "owq", "baq", "quanto"])
@pytest.mark.parametrize("scale", [1e-3, 1e-4, 1e-5, 1e-6])
def test_the_error_does_not_depend_on_the_scale_of_the_weights(name, scale):
    """Where a norm before it carries the scale of a matrix, its weights may be tiny. At 1e-6 the
    16-bit scales are subnormal, and a tenth of the error is theirs.
    """
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(64, 128, generator=generator)
    stats = MatrixStats()
    x = torch.randn(500, 128, generator=generator)
    stats.add(x, frozenset({"gram", "input_norms"}))

    def error(scale):
        packed = QUANTIZERS[name]()(weight * scale, 4, stats)
        return float((packed.dequantize() / scale - weight).norm() / weight.norm())

    assert error(scale) == pytest.approx(error(1.0), rel=0.02 if scale > 1e-6 else 0.15)


@pytest.mark.parametrize("name", MASKS)
def test_masks_refuse_weights_that_float16_does_not_hold(name, weight):
    quantizer, stats = QUANTIZERS[name](), gram_of(128)[0]
    plain = quantizer(weight, 9.0, stats).dequantize()
    found = quantizer(weight * 1e-5, 9.0, stats).dequantize() * 1e5
    torch.testing.assert_close(found, plain, rtol=1e-2, atol=1e-2)
    with pytest.raises(InputError, match="a mask loses .* of weights up to .*keep the matrix at"):
        quantizer(weight * 1e-8, 9.0, stats)
