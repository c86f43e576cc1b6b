"""Every published score against its formula, computed another way; and on planted blocks."""

import itertools

import architectures
import numpy as np
import pytest
import scipy.stats
import torch
from test_fisher import changes, slow_moves

import lwq
from lwq import models
from lwq.scorers import SCORERS
from lwq.scorers.activations import compactness
from lwq.scorers.fisher import FisherKL
from lwq.scorers.gradients import DeltaLoss, Fisher, Hutchinson, OutputFisher, Relevance, Taylor
from lwq.scorers.measured import fitted, smallest
from lwq.scorers.shared.listening import Source
from lwq.scorers.weights import effective_rank
from lwq.statistics.backward import backward, empirical, sampled

USELESS, STRONG = "model.layers.1", "model.layers.2"


def plant(model):
    """One block that adds nothing to the residual stream, and one that adds five times as much."""
    useless, strong = model.get_submodule(USELESS), model.get_submodule(STRONG)
    useless.self_attn.o_proj.weight.zero_()
    useless.mlp.down_proj.weight.zero_()
    strong.self_attn.o_proj.weight.mul_(3)
    strong.mlp.down_proj.weight.mul_(5)


# at block granularity: what is looked at is what a block does, or what its rounding does
SEES_BLOCKS = (
    *("lim", "norm_ratio", "lsaq", "leave_one_low", "leave_one_high"),
    *("attention_drop", "mlp_drop", "oracle"),
    *("prune_sensitivity", "shapley", "fisher_kl(granularity='block')"),
    *("output_fisher(granularity='block')", "at_option", "linearity", "shaped_noise"),
    *("delta_loss(granularity='block')", "taylor(granularity='block')"),
)
# what these look at is not what a block adds: weights by themselves, shares, positions, runs of
# blocks, matrices one by one, what passes by a block, a loss that may fall without one
OTHERS = (
    *("zd", "kurtosis", "entropy", "rank", "weight_error", "lamp", "owl", "dlp", "lieq"),
    *("activation_variance", "nsds"),
    *("gram_error", "fisher", "hutchinson", "relevance", "cca", "angular", "streamline"),
    *("block_drop", "random", "first_to_last", "last_to_first", "deepest", "edges", "reversed"),
)


NAMED = {spec.partition("(")[0] for spec in (*SEES_BLOCKS, *OTHERS)}
# one that is named in neither list has to see them
NEW = tuple(name for name in SCORERS if name not in NAMED)


def test_both_lists_name_scorers_only():
    assert set(SCORERS) >= NAMED and not set(OTHERS) & {s.partition("(")[0] for s in SEES_BLOCKS}


@pytest.mark.parametrize("spec", (*SEES_BLOCKS, *NEW))
def test_a_useless_block_goes_first_and_a_strong_one_stays(spec, toy):
    windows = lwq.windows("toy", toy[1], n=16, length=48)  # of fewer, signed sums are noise
    plant(toy[0])
    found = lwq.score(toy[0], spec, windows)
    order = found.order()
    assert order[0] == USELESS
    assert order.index(STRONG) >= 2


@pytest.mark.parametrize("name", ["angular", "streamline"])
def test_a_run_of_one_is_the_useless_block(name, toy, windows):
    plant(toy[0])
    assert lwq.score(toy[0], name, windows)[USELESS] == 0


def hidden(model, x):
    """What enters each block and what leaves the last, before the final norm."""
    seen = {}
    hooks = [
        block.register_forward_hook(
            lambda m, args, out, key=key: seen.update(
                {key: (args[0], out[0] if isinstance(out, tuple) else out)}
            )
        )
        for key, block in models.blocks(model).items()
    ]
    model(x, use_cache=False)
    for hook in hooks:
        hook.remove()
    return seen


def test_norm_ratio_in_loops(toy, windows):
    found = lwq.score(toy[0], "norm_ratio", windows)
    for key, (x, y) in hidden(toy[0], windows).items():
        rows = zip(x.flatten(0, 1), y.flatten(0, 1), strict=True)
        ratios = [float((b - a).norm() / b.norm()) for a, b in rows]
        assert found[key] == pytest.approx(np.mean(ratios), rel=1e-5)


def test_streamline_grows_around_the_flattest_run(toy, windows):
    seen = hidden(toy[0], windows)
    states = [*(x for x, _ in seen.values()), list(seen.values())[-1][1]]
    for run in (1, 2, 3):
        found = lwq.score(toy[0], f"streamline(run={run})", windows)
        d = [
            1 - float(torch.cosine_similarity(states[i], states[i + run], dim=-1).mean())
            for i in range(4 - run + 1)
        ]
        start = int(np.argmin(d))
        names = list(seen)
        assert [n for n in names if found[n] == 0] == names[start : start + run]
        assert sorted(found.values()) == [0.0] * run + [float(i) for i in range(1, 5 - run)]


def test_lsaq_sees_all_that_follows_the_blocks():
    model, x = architectures.projected(), architectures.tokens()
    found, states = lwq.score(model, "lsaq(top=9)", x), hidden(model, x)
    out, top = model.model.decoder.project_out, []
    for state in next(zip(*states.values(), strict=True)):
        top.append(model.lm_head(out(state[:, -1])).topk(9).indices.tolist())
    top.append(model(x).logits[:, -1].topk(9).indices.tolist())
    for name, *pair in zip(found, top, top[1:], strict=False):
        shares = [1 - len({*a} & {*b}) / len({*a} | {*b}) for a, b in zip(*pair, strict=True)]
        assert found[name] == pytest.approx(np.mean(shares))


def test_lsaq_counts_tokens(toy, windows):
    model = toy[0]
    found = lwq.score(model, "lsaq(top=9)", windows)
    for key, pair in hidden(model, windows).items():
        shares = []
        for window in range(len(windows)):
            a, b = (
                set(model.lm_head(model.model.norm(s[window, -1])).topk(9).indices.tolist())
                for s in pair
            )
            shares.append(1 - len(a & b) / len(a | b))
        assert found[key] == pytest.approx(np.mean(shares))


def test_cca_of_principal_directions(toy, windows):
    seen = hidden(toy[0], windows)
    states = [*(x for x, _ in seen.values()), list(seen.values())[-1][1]]
    pooled = [x.mean(1).double().numpy() for x in states]
    reduced = []
    for x in pooled:
        centred = x - x.mean(0)
        _, vectors = np.linalg.eigh(centred.T @ centred)
        reduced.append(centred @ vectors[:, -2:])
    found = lwq.score(toy[0], "cca(keep=2)", windows)

    def correlation(a, b):
        qa, qb = np.linalg.qr(a)[0], np.linalg.qr(b)[0]
        return np.linalg.svd(qa.T @ qb, compute_uv=False).mean()

    for index, key in enumerate(seen):
        others = [m for m in range(5) if m != index]
        mean = np.mean([correlation(reduced[index], reduced[m]) for m in others])
        assert found[key] == pytest.approx(1 - mean, abs=1e-4)
    with pytest.raises(lwq.InputError, match="more windows than twice the directions"):
        lwq.score(toy[0], "cca(keep=3)", windows)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma3", "mixtral", "opt"])
def test_halves_of_a_block_turn_the_stream(kind):
    """By hooks on what is added: x, x + attention, x + attention + mlp."""
    model, x = architectures.make(kind), architectures.tokens(3)
    between = {}
    for key, block in models.blocks(model).items():
        norm = next(
            part
            for name, part in block.named_children()
            if name in ("post_attention_layernorm", "ln_2", "final_layer_norm")
            and kind != "gemma3"
            or name == "pre_feedforward_layernorm"
        )
        norm.register_forward_pre_hook(lambda m, args, key=key: between.update({key: args[0]}))
    seen = hidden(model, x)
    first, second = (lwq.score(model, name, x) for name in ("attention_drop", "mlp_drop"))
    for key, (entered, left) in seen.items():
        between[key] = between[key].reshape(entered.shape)
        for found, pair in ((first, (entered, between[key])), (second, (between[key], left))):
            cosines = torch.cosine_similarity(*(one.double() for one in pair), dim=-1)
            assert found[key] == pytest.approx(float((1 - cosines).mean()), rel=1e-4, abs=1e-9)


def test_the_oracle_knows_the_best_sets(toy, windows):
    model = toy[0]
    found = lwq.score(model, "oracle(low=2, windows=2)", windows)
    few, units = windows[:2], list(lwq.units(model))
    truth = lwq.reference(model, few)
    rounded = changes(model, "rtn", 2)

    def harm(lowered):
        for unit in lowered:
            for name in lwq.units(model)[unit]:
                models.matrices(model)[name].view().add_(rounded[name])
        kl = lwq.evaluate(model, few, truth).mean_kl
        for unit in lowered:
            for name in lwq.units(model)[unit]:
                models.matrices(model)[name].view().sub_(rounded[name])
        return kl

    best = [min(itertools.combinations(units, count), key=harm) for count in range(1, len(units))]
    assert dict(found) == {u: sum(u not in lowered for lowered in best) for u in units}
    with pytest.raises(lwq.InputError, match="12 blocks have 2.12 sets"):
        lwq.score(lwq.load("toy-12")[0], "oracle", windows)


def test_nsds_by_numpy(toy):
    model, blocks = toy[0], [f"model.layers.{i}" for i in range(4)]
    head = model.lm_head.weight.double().numpy()
    values, vectors = np.linalg.eigh(head.T @ head)
    values, vectors = values[::-1], vectors[:, ::-1]
    basis = vectors[:, : int(np.searchsorted(np.cumsum(values) / values.sum(), 0.9)) + 1]
    table = models.matrices(model)
    logs = {block: [] for block in blocks}
    for kind in [name.removeprefix(f"{blocks[0]}.") for name in table if blocks[0] in name]:
        numbers = []
        for block in blocks:
            w = table[f"{block}.{kind}"].view().double().numpy()
            u, s, v = np.linalg.svd(w, full_matrices=False)
            keep = int(np.searchsorted(np.cumsum(s**2) / (s**2).sum(), 0.9)) + 1
            if kind.endswith(("o_proj", "down_proj")):
                beta = np.linalg.norm(basis.T @ u[:, :keep], axis=0)
            else:
                beta = np.log1p(np.maximum(scipy.stats.kurtosis(v[:keep], axis=1), 0))
            p = s[:keep] * beta
            spectrum = p.sum() / np.exp(scipy.stats.entropy(p))
            numbers.append((scipy.stats.kurtosis(w, axis=None), spectrum))
        numbers = np.array(numbers)
        middle = np.median(numbers, axis=0)
        spread = np.median(np.abs(numbers - middle), axis=0)
        for block, row in zip(blocks, numbers, strict=True):
            logs[block].append(np.log(1 - scipy.special.expit((row - middle) / spread)))
    found = lwq.score(model, "nsds")
    for block in blocks:
        assert found[block] == pytest.approx(1 - np.exp(np.mean(logs[block])), rel=1e-4)


def weights(model, unit):
    table = models.matrices(model)
    return [table[name].view().double().numpy() for name in lwq.units(model)[unit]]


def test_weight_scores_by_scipy_and_numpy(toy):
    model, unit = toy[0], "model.layers.1"
    flat = [w.ravel() for w in weights(model, unit)]
    tails = np.mean([scipy.stats.kurtosis(w, fisher=False) for w in flat])
    assert lwq.score(model, "kurtosis")[unit] == pytest.approx(tails, rel=1e-6)
    shares = [scipy.stats.entropy(scipy.special.softmax(w)) / np.log(w.size) for w in flat]
    mean = np.average(shares, weights=[w.size for w in flat])
    assert lwq.score(model, "entropy")[unit] == pytest.approx(mean, rel=1e-6)
    ranks = []
    for w in weights(model, unit):
        p = np.linalg.svd(w, compute_uv=False) ** 2
        ranks.append(np.exp(scipy.stats.entropy(p)) / min(w.shape))
    assert lwq.score(model, "rank")[unit] == pytest.approx(np.mean(ranks), rel=1e-5)


def test_rank_of_one_direction(toy):
    module = toy[0].model.layers[0].mlp.down_proj
    module.weight.copy_(torch.outer(module.weight[:, 0], module.weight[0]))
    found = lwq.score(toy[0], "rank(granularity='matrix')")
    assert found["model.layers.0.mlp.down_proj"] == pytest.approx(1 / 64, rel=1e-3)


def test_weight_error_is_the_rounding(toy):
    rounded = changes(toy[0], "rtn", 3)
    found = lwq.score(toy[0], "weight_error(granularity='block')")
    shares = lwq.score(toy[0], "weight_error(granularity='block', relative=True)")
    for unit, names in lwq.units(toy[0]).items():
        error = sum(float(rounded[name].square().sum()) for name in names)
        whole = sum(float((w**2).sum()) for w in weights(toy[0], unit))
        assert found[unit][3] == pytest.approx(error, rel=1e-5)
        assert shares[unit][3] == pytest.approx(error / whole, rel=1e-5)


def inputs(model, x):
    """Matrix -> its inputs (tokens, in)."""
    seen, hooks = {}, []
    for key, matrix in models.matrices(model).items():
        hooks.append(
            matrix.module.register_forward_pre_hook(
                lambda m, args, key=key: seen.update({key: args[0].flatten(0, 1)})
            )
        )
    model(x, use_cache=False)
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.parametrize("relative", [True, False])
def test_gram_error_is_the_error_of_outputs(relative, toy, windows):
    model, table = toy[0], models.matrices(toy[0])
    rounded, seen = changes(model, "rtn", 4), inputs(toy[0], windows)
    found = lwq.score(model, f"gram_error(granularity='group', relative={relative})", windows)
    for unit, names in lwq.units(model, "group").items():
        error = sum(float((seen[n] @ rounded[n].T).square().sum()) for n in names)
        whole = sum(float((seen[n] @ table[n].view().T).square().sum()) for n in names)
        scale = 1 / whole if relative else 1 / windows.numel()
        assert found[unit][4] == pytest.approx(error * scale, rel=1e-3)


def test_lieq_counts_directions_of_outputs(toy, windows):
    model, table, seen = toy[0], models.matrices(toy[0]), inputs(toy[0], windows)
    generator = torch.Generator().manual_seed(0)

    def compact(z):
        p = np.linalg.svd(z.double().numpy(), compute_uv=False) ** 2
        return np.exp(scipy.stats.entropy(p))

    gained = {}
    for key in table:
        random = torch.randn(table[key].shape, generator=generator)
        plain, drawn = (compact(seen[key] @ w.T) for w in (table[key].view(), random))
        gained[key] = (drawn - plain) / drawn
    found = lwq.score(model, "lieq", windows)
    means = {u: np.mean([gained[n] for n in names]) for u, names in lwq.units(model).items()}
    shift = min(0.0, *means.values())
    for unit, mean in means.items():
        assert found[unit] == pytest.approx(mean - shift, abs=2e-3)


@pytest.mark.parametrize("rows", [3, 8, 24])
def test_directions_of_outputs_hang_on_no_shape(rows):
    """Of many rows the energies come from a smaller matrix; they are the same."""
    weight, x = torch.randn(rows, 8).double(), torch.randn(50, 8).double()
    energies = torch.linalg.svdvals(x @ weight.T).square()
    assert compactness(weight, x.T @ x) == pytest.approx(effective_rank(energies), rel=1e-9)


@pytest.mark.parametrize("criterion", ["mean_variance", "max_variance", "magnitude", "hessian"])
def test_nncf_s_criteria(criterion, toy, windows):
    model, seen = toy[0], inputs(toy[0], windows)
    found = lwq.score(
        model, f"activation_variance(criterion={criterion!r}, granularity='matrix')", windows
    )
    for name, matrix in models.matrices(model).items():
        w, x = matrix.view().double().numpy(), seen[name].double().numpy()
        scale = (np.abs(w).max(1, keepdims=True) / 127).astype(np.float16).astype(float)
        error = np.clip(np.rint(w / scale), -128, 127) * scale - w
        size = {
            "mean_variance": x.var(0).mean(),
            "max_variance": x.var(0).max(),
            "magnitude": np.abs(x).mean(),
            "hessian": (x**2).mean(),
        }[criterion]
        noise = (error**2).mean()
        true = size * np.sqrt((error**2).sum()) if criterion == "hessian" else size / noise
        assert found[name] == pytest.approx(true, rel=2e-3)


@pytest.mark.parametrize("labels", ["sampled", "empirical"])
def test_first_order_scores_in_loops(labels, toy, windows):
    model, x = toy[0], windows[:3, :16]
    slope = sampled(0) if labels == "sampled" else empirical(x)
    scored = 16 if labels == "sampled" else 15
    moves = slow_moves(model, x, slope, changes(model, "rtn", 3))
    plain = {"labels": labels, "options": (3,), "granularity": "block"}
    loss, size = (lwq.score(model, cls(**plain), x) for cls in (Taylor, DeltaLoss))
    for unit, names in lwq.units(model).items():
        together = sum(moves[name] for name in names)
        mean = float(together.sum()) / scored / 3
        assert loss[unit][3] == pytest.approx(abs(mean), rel=1e-3, abs=1e-6)
        mean = float(together.abs().sum()) / scored / 3
        assert size[unit][3] == pytest.approx(mean, rel=1e-3)


def graph(model, x, slope):
    """Matrix -> (window, gradient of the weight), and output gradients (tokens, out) a window."""
    found, outputs = {}, {}
    model.requires_grad_(True)
    for number, window in enumerate(x):
        hooks, seen = [], {}
        for key, matrix in models.matrices(model).items():

            def note(module, args, out, key=key, seen=seen):
                out.retain_grad()
                seen[key] = out

            hooks.append(matrix.module.register_forward_hook(note))
        model.zero_grad()
        with torch.enable_grad():
            logits = model(window[None], use_cache=False).logits
        logits.backward(slope(number, logits[0].detach())[None])
        for hook in hooks:
            hook.remove()
        for key, matrix in models.matrices(model).items():
            found.setdefault(key, []).append(matrix.module.weight.grad.clone())
            outputs.setdefault(key, []).append(seen[key].grad[0])
    model.zero_grad()
    model.requires_grad_(False)
    return found, outputs


def test_fit_is_noise_times_squared_gradients(toy, windows):
    model, x = toy[0], windows[:3, :16]
    gradients, _ = graph(model, x, empirical(x))
    rounded = changes(model, "rtn", 3)
    found = lwq.score(model, Fisher(options=(3,), granularity="block"), x)
    for unit, names in lwq.units(model).items():
        harm = sum(
            float(rounded[n].square().mean())
            / 2
            * np.mean([float(g.square().sum()) / 15 for g in gradients[n]])
            for n in names
        )
        assert found[unit][3] == pytest.approx(harm, rel=1e-3)


def test_fit_of_experts_counts_the_windows_that_do_not_reach_them():
    """An expert that one batch alone reaches has zeros for the windows of the other."""
    model, x = architectures.make("mixtral"), architectures.tokens(8, 2)
    x[4:] = x[4]  # a batch of few experts
    rounded, total, seen = changes(model, "rtn", 3), {}, {}
    for number in range(8):
        for part in backward(model, x[number, None], empirical(x[number, None])):
            for name in part.pairs.keys() & rounded.keys():
                pair = part.pairs[name]
                trace = float(pair.weight_gradient().square().sum())
                total[name] = total.get(name, 0.0) + trace / 8
                seen.setdefault(name, set()).add(number // 4)
    alone = [n for n, m in models.matrices(model).items() if len(seen.get(n, ())) == 1]
    assert alone  # else nothing is tested
    for granularity in ("matrix", "block"):
        found = lwq.score(model, Fisher(options=(3,), granularity=granularity), x)
        for unit, names in lwq.units(model, granularity).items():
            harm = sum(float(rounded[n].square().mean()) / 2 * total.get(n, 0.0) for n in names)
            assert found[unit][3] == pytest.approx(harm, rel=1e-3)


@pytest.mark.parametrize("cls", [DeltaLoss, OutputFisher, Fisher, FisherKL, Relevance])
def test_labels_drawn_at_a_window_are_no_windows(cls, toy, windows, monkeypatch):
    """With the same labels in each of 9 drawings, all is as with one, standard errors too."""
    monkeypatch.setattr(Source, "slope", lambda self, drawn: empirical(drawn))
    one, nine = (cls(labels="sampled", samples=n) for n in (1, 9))
    one, nine = (lwq.score(toy[0], scorer, windows[:4, :16]) for scorer in (one, nine))
    np.testing.assert_allclose(flat(nine), flat(one), rtol=1e-4)
    np.testing.assert_allclose(flat(nine.stderr), flat(one.stderr), rtol=1e-3)


def test_output_fisher_is_diagonal(toy, windows):
    model, x = toy[0], windows[:3, :16]
    _, slopes = graph(model, x, sampled(0))
    rounded = changes(model, "rtn", 3)
    found = lwq.score(model, OutputFisher(options=(3,)), x)
    for name, harm in found.items():
        total = 0.0
        for window, slope in zip(x, slopes[name], strict=True):
            moved = inputs(model, window[None])[name] @ rounded[name].T
            total += float((moved * slope).square().sum())
        assert harm[3] == pytest.approx(total / 2 / 16 / 3, rel=1e-3)


def test_relevance_is_gradient_times_input(toy, windows):
    model, x = toy[0], windows[:2, :16]
    found = lwq.score(model, Relevance(), x)
    values = {}
    for number, window in enumerate(x):
        seen, hooks = {}, []
        for key, block in models.blocks(model).items():

            def note(module, args, key=key, seen=seen):
                seen[key] = args[0].requires_grad_() if args[0].is_leaf else args[0]
                seen[key].retain_grad()

            hooks.append(block.register_forward_pre_hook(note))
        with torch.enable_grad():
            logits = model(window[None], use_cache=False).logits
        logits.backward(empirical(x)(number, logits[0].detach())[None])
        for hook in hooks:
            hook.remove()
        for key, state in seen.items():
            values.setdefault(key, []).append(
                float((state.detach() * state.grad).abs().sum(-1).mean())
            )
    for key, each in values.items():
        assert found[key] == pytest.approx(np.mean(each), rel=1e-3)


@pytest.mark.parametrize("labels", ["empirical", "sampled"])
def test_hutchinson_is_a_product_with_the_hessian(labels, toy, windows):
    """The same v through autograd, twice: vᵀ H v of the negative log-likelihood of labels that do
    not move with the weights.
    """
    model, x = toy[0], windows[:2, :12]
    hutchinson = Hutchinson(windows=2, labels=labels)
    slope = hutchinson.source.kept(model, x)
    y = torch.stack([slope(n, model(x).logits[n]).argmax(-1) for n in range(2)])
    draw = hutchinson._draw(
        model,
        lwq.statistics.forward.collect(model, x, frozenset({"windows"})),
        torch.Generator().manual_seed(5),
        slope,
    )
    assert labels == "sampled" or torch.equal(y[:, :-1], x[:, 1:])
    scored = hutchinson.source.scored(12)
    generator = torch.Generator().manual_seed(5)
    table = models.matrices(model)
    signs, sizes = {}, {}
    for name, m in table.items():
        v = torch.randint(0, 2, m.shape, generator=generator, dtype=torch.int8) * 2 - 1
        signs[name], sizes[name] = v.float(), m.view().square().mean().sqrt()
    model.requires_grad_(True)
    model.set_attn_implementation("eager")
    leaves = [m.module.weight for m in table.values()]
    with torch.enable_grad():
        log_p = model(x, use_cache=False).logits[:, :scored].log_softmax(-1)
        loss = -log_p.gather(-1, y[:, :scored, None]).sum() / (2 * scored)
        gradients = torch.autograd.grad(loss, leaves, create_graph=True)
        along = sum((g * signs[n] * sizes[n]).sum() for n, g in zip(table, gradients, strict=True))
        products = torch.autograd.grad(along, leaves)
    true = {
        name: float((p * signs[name]).sum() / sizes[name])
        for name, p in zip(table, products, strict=True)
    }
    scale = np.std(list(true.values()))
    for name, value in true.items():
        assert draw[name] == pytest.approx(value, abs=0.02 * scale)


def test_hutchinson_refuses_steps_that_rounding_swallows(toy, windows):
    model = models.cast(toy[0], "bfloat16")
    with pytest.raises(lwq.InputError, match="in bfloat16 is lost in rounding.*dtype='float32'"):
        lwq.score(model, "hutchinson", windows)


def kl(model, x, truth):
    return lwq.evaluate(model, x, truth).mean_kl


def swapped(model, names, rounded):
    table = models.matrices(model)
    for name in names:
        table[name].view().add_(rounded[name])


def restored(model, kept):
    for name, m in models.matrices(model).items():
        m.view().copy_(kept[name])


def test_measured_harms_are_those_of_evaluate(toy, windows):
    model, x = toy[0], windows[:4]
    kept = {name: m.view().clone() for name, m in models.matrices(model).items()}
    truth = lwq.reference(model, x)
    low = changes(model, "rtn", 3)
    found = lwq.score(model, "at_option(options=(3,), granularity='group')", windows)
    alone = lwq.score(model, "leave_one_low(low=3, granularity='group')", windows)
    units = lwq.units(model, "group")
    for unit, names in units.items():
        swapped(model, names, low)
        assert found[unit][3] == pytest.approx(kl(model, x, truth), rel=1e-4)
        assert alone[unit] == found[unit][3]
        restored(model, kept)
    gains = {}
    swapped(model, low, low)
    start = kl(model, x, truth)
    for unit, names in units.items():
        for name in names:
            models.matrices(model)[name].view().copy_(kept[name])
        gains[unit] = start - kl(model, x, truth)
        swapped(model, names, low)
    restored(model, kept)
    high = lwq.score(model, "leave_one_high(low=3, granularity='group')", windows)
    shift = min(0.0, *gains.values())
    for unit, gain in gains.items():
        assert high[unit] == pytest.approx(gain - shift, rel=1e-3, abs=1e-6)


def test_pruned_weights_are_the_smallest(toy, windows):
    model, x = toy[0], windows[:4]
    truth, unit = lwq.reference(model, x), "model.layers.2"
    found = lwq.score(model, "prune_sensitivity(sparsity=0.5)", windows)
    for name in lwq.units(model)[unit]:
        weight = models.matrices(model)[name].view()
        weight[weight.abs() <= float(np.quantile(weight.abs(), 0.5, method="lower"))] = 0
    assert found[unit] == pytest.approx(kl(model, x, truth), rel=1e-3)


def test_of_equal_weights_no_more_are_pruned_than_asked():
    weight = torch.tensor([[1.0, -1.0, 1.0], [1.0, 2.0, 0.5]])
    assert smallest(weight, 0.5).tolist() == [[1.0, -1.0, 0.0], [0.0, 0.0, 0.5]]
    assert int(smallest(torch.ones(4, 5), 0.3).count_nonzero()) == 6


def test_linearity_is_alpha_times_relative_error(toy, windows):
    alpha = np.array([2.0, 3.0])
    noise = (0.1, 0.2, 0.3)
    assert fitted(noise, [alpha * t**2 for t in noise]) == pytest.approx(alpha)
    found = lwq.score(toy[0], "linearity", windows)
    errors = lwq.score(toy[0], "weight_error(granularity='block', relative=True)")
    for unit, harm in found.items():
        ratios = [harm[option] / errors[unit][option] for option in harm]
        assert ratios == pytest.approx([ratios[0]] * 6, rel=1e-4)
    # white noise of the quantizer's size does about what the quantizer does
    true = lwq.score(toy[0], "at_option", windows)
    for unit, harm in found.items():
        assert 0.4 < harm[4] / true[unit][4] < 2.5


def test_shaped_noise_is_as_large_as_asked_where_inputs_look(toy, windows):
    from lwq.scorers.measured import _shaped
    from lwq.scorers.shared.rounding import Rounding
    from lwq.statistics.forward import collect

    stats = collect(toy[0], windows, frozenset({"gram"}))["model.layers.1"].matrices
    found = Rounding(toy[0], "rtn", (4,), None)
    change = _shaped(found, stats, torch.Generator().manual_seed(0), 0.1)
    seen = inputs(toy[0], windows)
    for name in stats:
        weight = models.matrices(toy[0])[name].view()
        moved = float((seen[name] @ change(name).T).norm() / (seen[name] @ weight.T).norm())
        assert moved == pytest.approx(0.1, rel=1e-3)


def test_shapley_of_one_order_is_its_marginal_harms(toy, windows):
    model, x = toy[0], windows[:4]
    kept = {name: m.view().clone() for name, m in models.matrices(model).items()}
    truth, units = lwq.reference(model, x), lwq.units(model)
    low = changes(model, "rtn", 2)
    drawn = torch.randperm(4, generator=torch.Generator().manual_seed(3)).tolist()
    order = [list(units)[i] for i in drawn]
    rises, before = {}, 0.0
    for unit in order:
        swapped(model, units[unit], low)
        after = kl(model, x, truth)
        rises[unit], before = after - before, after
    restored(model, kept)
    found = lwq.score(model, "shapley(low=2, permutations=1, seed=3)", windows)
    shift = min(0.0, *rises.values())
    for unit, rise in rises.items():
        assert found[unit] == pytest.approx(rise - shift, rel=1e-3, abs=1e-6)


def test_edges(toy):
    assert list(lwq.score(toy[0], "edges").values()) == [1.5, 0.5, 0.5, 1.5]


# these move weights that a streamed model has on disk
WHOLE_ONLY = ("hutchinson", "leave_one_high")
MADE_OF_OTHERS = ("reversed",)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llama")
    architectures.make("llama").save_pretrained(folder)
    lwq.load("toy")[1].save_pretrained(folder)
    return str(folder)


def flat(found):
    rows = [list(v.values()) if isinstance(v, dict) else [v] for v in found.values()]
    return np.array(rows, dtype=float)


@pytest.mark.parametrize("name", [name for name in SCORERS if name not in MADE_OF_OTHERS])
def test_a_streamed_model_has_the_scores_of_a_whole_one(name, checkpoint):
    x = architectures.tokens(6)
    streamed, _ = lwq.load(checkpoint, stream=True)
    if name in WHOLE_ONLY:
        with pytest.raises(lwq.InputError, match="load the model whole"):
            lwq.score(streamed, name, x)
        return
    found = flat(lwq.score(streamed, name, x))
    true = flat(lwq.score(lwq.load(checkpoint)[0], name, x))
    np.testing.assert_allclose(found, true, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("name", [name for name in SCORERS if name not in MADE_OF_OTHERS])
def test_experts_are_scored_too(name):
    found = flat(lwq.score(architectures.make("mixtral"), name, architectures.tokens(6)))
    assert np.isfinite(found).all() and found.std() > 0
