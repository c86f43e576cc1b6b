"""What lwq says of a model beside an independent computation: transformers' own forward pass, its
hooks, and arithmetic written out here. Each check passes, fails, or ends in an InputError.
"""

import copy
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import every_architecture
import torch
import transformers
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

import lwq
from lwq import models
from lwq.engine.likelihoods import loglikelihoods
from lwq.inputs import toy
from lwq.statistics import forward

RTN = "rtn(group_size=-1)"  # rows of any length
REQUESTS = [
    ("the layer keeps", " four bits."),
    ("the layer keeps", " nothing at all"),
    ("a small model, which is longer than any window of these models, rounds", " its weights"),
    ("a small model, which is longer than any window of these models, rounds", " so"),
    ("one matrix", " scores two bits, and nothing changes."),
]


@dataclass
class Case:
    """A checkpoint of one architecture, and what transformers makes of it.

    Attributes:
        kind: model type.
        folder: holds the checkpoint in `saved`; what is written goes beside it.
    """

    kind: str
    folder: Path

    def __post_init__(self) -> None:
        self.plain = every_architecture.make(self.kind).float()
        self.tokenizer = toy.tokenizer()
        self.plain.save_pretrained(self.folder / "saved")
        self.tokenizer.save_pretrained(self.folder / "saved")
        draw = torch.Generator().manual_seed(1)
        self.windows = torch.randint(3, 250, (5, 24), generator=draw)

    @cached_property
    def model(self) -> Any:
        """What lwq loads; no check leaves it changed."""
        return lwq.load(str(self.folder / "saved"))[0]

    @cached_property
    def layout(self) -> lwq.Layout:
        return models.layout(self.model)

    def plan(self, *bits: int) -> lwq.Plan:
        """The blocks with `bits` in turn, over and over."""
        units = list(self.layout.units)
        return lwq.Plan(
            {unit: bits[i % len(bits)] for i, unit in enumerate(units)}, self.layout, RTN
        )

    def weights(self, model: nn.Module) -> dict[str, Tensor]:
        """Matrix -> its weights as they are stored, a view."""
        return {name: stored(model, name) for names in self.layout.units.values() for name in names}

    def rounded(self, plan: lwq.Plan) -> nn.Module:
        """A copy of transformers' model with the numbers of `plan`."""
        model = copy.deepcopy(self.plain)
        for unit, names in self.layout.units.items():
            for name in names if plan.bits[unit] not in (0, 16) else ():
                turned = is_transposed(model, name)
                weight = stored(model, name)
                near = nearest(weight.T if turned else weight, int(plan.bits[unit]))
                weight.copy_(near.T if turned else near)
            if not plan.bits[unit]:
                drop(model.get_submodule(unit), self.tuples[unit])
        return model

    @cached_property
    def states(self) -> dict[str, list[tuple[Tensor, Tensor]]]:
        """Block -> (input, output) of each window, from hooks of our own."""
        found: dict[str, list[tuple[Tensor, Tensor]]] = {unit: [] for unit in self.layout.units}

        def noting(unit: str) -> Callable[..., None]:
            def hook(module: Any, args: Any, kwargs: Any, out: Any) -> None:
                given = args[0] if args else kwargs["hidden_states"]
                found[unit].append((given, out[0] if isinstance(out, tuple | list) else out))
                self.tuples[unit] = isinstance(out, tuple | list)

            return hook

        self.tuples: dict[str, bool] = {}
        with hooked(
            self.plain.get_submodule(unit).register_forward_hook(noting(unit), with_kwargs=True)
            for unit in self.layout.units
        ):
            for window in self.windows:
                logits(self.plain, window)
        return found


@contextmanager
def hooked(hooks: Iterator[Any]) -> Iterator[None]:
    """Inside, the hooks are there."""
    kept = list(hooks)
    try:
        yield
    finally:
        for hook in kept:
            hook.remove()


@torch.no_grad()
def logits(model: Any, window: Tensor) -> Tensor:
    """(length, vocabulary) of one window alone."""
    return model(window[None], use_cache=False).logits[0].float()


def log_likelihoods(model: Any, windows: Tensor) -> Tensor:
    """Mean over the tokens of each window of −log p (n,)."""
    found = []
    for window in windows:
        log_p = logits(model, window)[:-1].double().log_softmax(-1)
        found.append(-log_p[torch.arange(len(window) - 1), window[1:]].mean())
    return torch.stack(found)


def stored(model: nn.Module, name: str) -> Tensor:
    """The parameter that a matrix is, or the slice of one."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    if f"{name}.weight" in parameters:
        return parameters[f"{name}.weight"].data
    path, _, expert = name.rpartition(".")
    return parameters[path].data[int(expert)]


def is_transposed(model: nn.Module, name: str) -> bool:
    """Whether it is stored as (in, out)."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    if f"{name}.weight" in parameters:
        return type(model.get_submodule(name)).__name__ == "Conv1D"
    return bool(model.get_submodule(name.rpartition(".")[0].rpartition(".")[0]).is_transposed)


def nearest(weight: Tensor, bits: int) -> Tensor:
    """Round to nearest on the min-max grid of each row, written out."""
    top = 2**bits - 1
    low, high = weight.amin(1, keepdim=True).clamp(max=0), weight.amax(1, keepdim=True).clamp(min=0)
    scale = (high / top - low / top).half().float()
    scale = torch.where(scale > 0, scale, 1.0)
    zero = (-low / scale).round().clamp(0, top)
    return ((weight / scale).round() + zero).clamp(0, top).sub(zero) * scale


def drop(block: nn.Module, returns_tuple: bool) -> None:
    """Let a block give back what it gets."""

    def forward(*args: Any, **kwargs: Any) -> Any:
        given = args[0] if args else kwargs["hidden_states"]
        return (given, None) if returns_tuple else given

    block.forward = forward


def close(found: Any, right: Any, tolerance: float, what: str) -> None:
    """Fail, saying by how much, where two tensors differ."""
    found, right = (torch.as_tensor(value, dtype=torch.float64) for value in (found, right))
    off = float((found - right).abs().max())
    assert off <= tolerance, f"{what}: off by {off:.2g}"


def check_scores(case: Case) -> None:
    """lim from hooks on the blocks, zd from the weights, taylor from autograd of the whole."""
    states = case.states
    for unit, value in lwq.score(case.model, "lim", case.windows).items():
        cosines = [torch.cosine_similarity(x.double(), y.double(), -1) for x, y in states[unit]]
        right = 1 - torch.cat([cosine.reshape(-1) for cosine in cosines]).mean()
        close(value, right.clamp(min=0), 1e-5, f"lim of {unit}")
    weights = case.weights(case.plain)
    for unit, value in lwq.score(case.model, "zd").items():
        names = case.layout.units[unit]
        every = torch.cat([weights[name].reshape(-1) for name in names] or [torch.zeros(0)])
        every = every.double()
        z = (every - every.mean()) / every.std()
        close(value, 1 - (z > 1).double().mean() if names else 0, 1e-9, f"zd of {unit}")


def check_gradients(case: Case) -> None:
    """taylor at 4 bits: |⟨∂L/∂W, Ŵ − W⟩| of each matrix, by autograd through the whole model."""
    scorer = f"taylor(quantizer='{RTN}', options=(4,))"
    found = lwq.score(case.model, scorer, case.windows)
    model = copy.deepcopy(case.plain).requires_grad_(True)
    total = 0.0
    for window in case.windows:
        log_p = model(window[None], use_cache=False).logits[0, :-1].float().log_softmax(-1)
        total = total + log_p[torch.arange(len(window) - 1), window[1:]].sum()
    (total / case.windows[:, 1:].numel()).backward()
    for parameter in model.parameters():  # a view of the gradients, read as the weights are
        parameter.data = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    slopes, weights = case.weights(model), case.weights(case.plain)
    largest = max(float(value[4]) for value in found.values())
    for name, value in found.items():
        weight, slope = weights[name], slopes[name]
        if is_transposed(model, name):
            weight, slope = weight.T, slope.T
        right = ((nearest(weight, 4) - weight).double() * slope.double()).sum().abs()
        close(value[4], right, 1e-3 * largest + 1e-7, f"taylor of {name}")


class Products(TorchFunctionMode):
    """Sums x xᵀ of whatever is multiplied with one of `weights` while it is active."""

    def __init__(self, weights: dict[str, Tensor]):
        super().__init__()
        self.names = {(w.data_ptr(), w.numel()): name for name, w in weights.items()}
        self.grams: dict[str, Tensor] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tensors = [a for a in args if isinstance(a, Tensor) and a.is_floating_point()]
        for left, right in zip(tensors, tensors[1:], strict=False):
            name = self.names.get((right.data_ptr(), right.numel()))
            if name is not None and getattr(func, "__name__", "") in MULTIPLY:
                x = left.detach().reshape(-1, left.shape[-1]).double()
                self.grams[name] = self.grams.get(name, 0) + x.T @ x
        return func(*args, **(kwargs or {}))


MULTIPLY = ("linear", "matmul", "__matmul__", "addmm", "mm", "bmm")


def check_gram(case: Case) -> None:
    """Σ x xᵀ of each matrix, from what it is multiplied with in transformers' own pass."""
    case.plain.set_experts_implementation("eager")
    weights = case.weights(case.plain)
    with Products(weights) as seen:
        for window in case.windows:
            logits(case.plain, window)
    for stats in forward.stream(case.model, case.windows, frozenset({"gram"})):
        for name, found in stats.matrices.items():
            gram = found.require("gram")
            right = seen.grams.get(name, torch.zeros_like(gram))
            close(gram, right, 1e-4 * float(right.abs().max()) + 1e-6, f"Gram of {name}")


def check_losses(case: Case) -> None:
    """NLL of each window, alone."""
    found = lwq.evaluate(case.model, case.windows).nll
    close(found, log_likelihoods(case.plain, case.windows), 1e-5, "NLL")


def check_rtn(case: Case) -> None:
    """The weights that a plan leaves, and what the model answers with them."""
    plan = case.plan(4, 3)
    model, right = copy.deepcopy(case.model), case.rounded(plan)
    lwq.quantize_(model, plan)
    state = right.state_dict()
    for key, found in model.state_dict().items():
        close(found, state[key], 1e-6 * max(1.0, float(state[key].abs().max())), key)
    close(
        lwq.evaluate(model, case.windows).nll,
        log_likelihoods(right, case.windows),
        1e-5,
        "NLL after rtn",
    )


def check_sweep(case: Case) -> None:
    """Losses of plans, one of them with a dropped block."""
    _ = case.states
    plans = [case.plan(4), case.plan(4, 4, 4, 2), case.plan(3, 4), case.plan(4, 0, 4, 4)]
    bank = lwq.Bank(case.model, lwq.QUANTIZERS["rtn"](group_size=-1))
    try:
        reference = lwq.reference(case.model, case.windows)
        measured = {
            plan.id: losses
            for plan, losses in lwq.Sweep(case.model, case.windows, bank, reference).measure(plans)
        }
    finally:
        bank.release()
    for plan in plans:
        right = log_likelihoods(case.rounded(plan), case.windows)
        close(measured[plan.id].nll, right, 1e-5, f"NLL of {list(plan.bits.values())}")


def check_tasks(case: Case) -> None:
    """Log-probabilities of continuations, one request a pass."""
    found = loglikelihoods(case.model, case.tokenizer, REQUESTS)
    for (context, answer), (value, _) in zip(REQUESTS, found, strict=True):
        before = len(case.tokenizer(context).input_ids)
        ids = torch.tensor(case.tokenizer(context + answer).input_ids)
        log_p = logits(case.plain, ids[:-1]).double().log_softmax(-1)[before - 1 :]
        right = log_p[torch.arange(len(log_p)), ids[before:]].sum()
        close(value, right, 1e-3, f"log-probability of {answer!r}")


def check_saved(case: Case) -> None:
    """What is exported, as transformers reads it."""
    from transformers import AutoModelForCausalLM

    plan = case.plan(4, 3)
    model = copy.deepcopy(case.model)
    lwq.export(model, plan, case.folder / "out", case.tokenizer)
    again = AutoModelForCausalLM.from_pretrained(case.folder / "out", dtype=torch.float32).eval()
    state = again.state_dict()
    for key, right in model.state_dict().items():
        assert torch.equal(state[key], right), f"{key} reads back otherwise"
    right = log_likelihoods(case.rounded(plan), case.windows)
    close(log_likelihoods(again, case.windows), right, 1e-5, "NLL as it reads back")


def check_streamed(case: Case) -> None:
    """From disk as in memory: weights, losses, scores, and what is exported."""
    model, _ = lwq.load(str(case.folder / "saved"), stream=True)
    assert models.fingerprint(model) == models.fingerprint(case.model), "other weights"
    assert models.configuration(model) == models.configuration(case.model), "other settings"
    for what in (
        lambda found: list(lwq.evaluate(found, case.windows).nll),
        lambda found: dict(lwq.score(found, "lim", case.windows)),
        lambda found: dict(lwq.score(found, "zd")),
    ):
        assert what(model) == what(case.model), "streamed gives other numbers"
    plan = case.plan(4, 3)
    lwq.export(model, plan, case.folder / "streamed", case.tokenizer)
    again = lwq.load(str(case.folder / "streamed"))[0]
    whole = copy.deepcopy(case.model)
    lwq.quantize_(whole, plan)
    assert models.fingerprint(again) == models.fingerprint(whole), "exported other weights"


CHECKS: dict[str, Callable[[Case], None]] = {
    "lim, zd": check_scores,
    "taylor": check_gradients,
    "Gram": check_gram,
    "NLL": check_losses,
    "rtn": check_rtn,
    "sweep": check_sweep,
    "tasks": check_tasks,
    "saved": check_saved,
    "streamed": check_streamed,
}


def outcomes(kind: str, folder: Path) -> dict[str, str]:
    """Check -> "" where lwq's numbers are right, or the sentence that it refuses with.

    Raises AssertionError for another number, and whatever else than InputError a check ends in.
    """
    case = Case(kind, folder)
    return {name: _outcome(check, case) for name, check in CHECKS.items()}


def _outcome(check: Callable[[Case], None], case: Case) -> str:
    try:
        check(case)
        return ""
    except lwq.InputError as error:
        return " ".join(str(error).replace(f"{case.folder}/saved", case.kind).split())


HEADER = """# Architectures

Made by `python tests/battery.py docs/architectures.md`, which builds a tiny random model of every
causal language model that transformers {version} can build, and sets what lwq says of it beside an
independent computation: transformers' own forward pass and hooks, autograd through the whole model,
and arithmetic written out in the test. There is no third outcome: a number that differs, or any
other error than a refusal, fails the test (`make test PYTEST_ARGS="-m slow"`), which compares this
page, too. The models are random: that a family of checkpoints is read says nothing of how well it
can be quantized.

| column | beside |
|---|---|
| lim, zd | hooks on the blocks; the weights |
| taylor | autograd through the whole model |
| Gram | Σ x xᵀ of what each matrix is multiplied with |
| NLL | each window alone |
| rtn | every weight rounded by a loop; the answers of such a model |
| sweep | plans of several widths, one with a dropped block, each in a model of its own |
| tasks | log-probabilities, one request a pass, with the tokenizer's own ids |
| saved | the exported folder in `AutoModelForCausalLM`, to the bit |
| streamed | `stream=True`: weights, settings, losses, scores and export, to the bit |

"""


def line(kind: str, found: dict[str, str]) -> str:
    """A row of the page's table."""
    cells = [f"no ({number})" if found[name] else "right" for name, number in _notes(found).items()]
    return f"| `{kind}` | {every_architecture.class_name(kind)} | {' | '.join(cells)} |\n"


def refusals(kind: str, found: dict[str, str]) -> str:
    """The sentences that a row's numbers stand for."""
    told = {number: found[name] for name, number in _notes(found).items() if found[name]}
    return "".join(f"- `{kind}` ({number}): {short(text)}\n" for number, text in told.items())


def _notes(found: dict[str, str]) -> dict[str, int]:
    """Check -> number of its refusal, the same for the same words."""
    words = list(dict.fromkeys(text for text in found.values() if text))
    return {name: words.index(text) + 1 if text else 0 for name, text in found.items()}


def short(text: str) -> str:
    """A refusal in a line: lists of names that go on and on are cut."""
    text = text.replace("|", "\\|")
    return text if len(text) <= 300 else text[:300].rpartition(" ")[0] + " …"


def page(found: dict[str, dict[str, str]]) -> str:
    """The whole page, Markdown."""
    version = transformers.__version__
    whole = [kind for kind, checks in found.items() if not any(checks.values())]
    none = [kind for kind, checks in found.items() if all(checks.values())]
    counts = (
        f"{len(found)} model types: {len(whole)} right in all columns, "
        f"{len(found) - len(whole) - len(none)} right in some and refused in the others, "
        f"{len(none)} refused in all; {len(every_architecture.UNBUILT)} are not built.\n\n"
    )
    head = f"| model type | class | {' | '.join(CHECKS)} |\n|---|---|{'---|' * len(CHECKS)}\n"
    rows = "".join(line(kind, checks) for kind, checks in found.items())
    why = "".join(refusals(kind, checks) for kind, checks in found.items())
    unbuilt = "".join(f"- `{k}`: {why}\n" for k, why in every_architecture.UNBUILT.items())
    return (
        f"{HEADER.format(version=version)}{counts}{head}{rows}\n## Refused, and why\n\n{why}"
        f"\n## Not built by transformers\n\n{unbuilt}"
    )


def measured(kinds: list[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """(model type, outcomes) of each."""
    for kind in kinds:
        with tempfile.TemporaryDirectory() as folder:
            yield kind, outcomes(kind, Path(folder))


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page(dict(measured(every_architecture.kinds()))), "utf-8")
