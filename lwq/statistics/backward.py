"""One streamed pass back through the model: what reached each matrix, and what the log-probability
of a token says of each of its outputs.

A forward pass keeps what enters each block. Then, from the last block back, a block runs again with
gradients on, and the gradient at its output becomes the one at its input. Memory holds one block,
what autograd keeps of it for one batch, the hidden states between blocks (n · length · width
numbers each; on disk for a model from `load(..., stream=True)`) and one window of logits. Weights
have no gradients of their own: who wants them sums g xᵀ of the pairs that are handed out.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lwq import models
from lwq.common import paths
from lwq.common.errors import InputError
from lwq.common.progress import track
from lwq.statistics.calls import (
    BATCH,
    Calls,
    Captured,
    capture,
    logits_after,
    require_separable,
    require_tokens,
    run_blocks,
)

LABELS = ("sampled", "empirical")
ROWS = 64  # positions whose vocabulary is added up in float64 at once
# (number of the window, its logits (length, vocabulary)) -> the gradient there, same shape
Slope = Callable[[int, Tensor], Tensor]


@dataclass(frozen=True)
class Pair:
    """What reached one matrix in one batch, and the gradient at what it gave.

    Attributes:
        rows: LongTensor (tokens,), the place of each token in the batch: window · length +
            position. An expert has those that are routed to it.
        x: (tokens, in) float32; of the embedding, the token ids (tokens,).
        g: (tokens, out) float32.
    """

    rows: Tensor
    x: Tensor
    g: Tensor

    def moved(self, change: Tensor) -> Tensor:
        """g_t · ΔW x_t of each token (tokens,): how far the change ΔW (out, in) moves what was
        differentiated, to first order.
        """
        # the smaller side is the one that is written out; of the embedding there is one only
        if change.shape[0] <= change.shape[1] or not self.x.is_floating_point():
            return (self.shifted(change) * self.g).sum(1)
        return ((self.g @ change) * self.x).sum(1)

    def shifted(self, change: Tensor) -> Tensor:
        """ΔW x_t (tokens, out) of a change ΔW (out, in)."""
        return self.x @ change.T if self.x.is_floating_point() else change[self.x]

    def weight_gradient(self) -> Tensor:
        """Σ_t g_t x_tᵀ, (out, in); not for the embedding."""
        return self.g.T @ self.x


@dataclass(frozen=True)
class Gradients:
    """The pairs of one part of the model in some windows.

    Attributes:
        part: a block, the input embedding or the head, by its name in the model.
        first: number of the first window.
        count, length: windows, and tokens of each.
        hidden, gradient: what entered the part and the gradient there, (count, length, width); of
            the embedding, what entered the first block.
        pairs: matrix -> Pair, in the order of the forward pass.
    """

    part: str
    first: int
    count: int
    length: int
    hidden: Tensor
    gradient: Tensor
    pairs: Mapping[str, Pair]


def sampled(seed: int) -> Slope:
    """Of log p(y), y drawn from the model's own p at every position: one-hot(y) − p.

    The draws are made on the CPU, so that they are the same on every device.
    """
    generator = torch.Generator().manual_seed(seed)

    def slope(number: int, logits: Tensor) -> Tensor:
        p = logits.float().softmax(-1)
        draws = torch.rand(len(p), 1, generator=generator, dtype=torch.float64).to(p.device)
        for some, draw in zip(p.split(ROWS), draws.split(ROWS), strict=True):
            ladder = some.double().cumsum(-1)
            y = torch.searchsorted(ladder, draw * ladder[:, -1:]).clamp_(max=p.shape[-1] - 1)
            some.neg_().scatter_add_(-1, y, torch.ones_like(y, dtype=p.dtype))
        return p

    return slope


def empirical(windows: Tensor) -> Slope:
    """Of log p(y), y the text's own next token; 0 at the last position, which has none."""

    def slope(number: int, logits: Tensor) -> Tensor:
        found = -logits.float().softmax(-1)
        y = windows[number, 1:, None].to(found.device)
        found[:-1].scatter_add_(-1, y, torch.ones_like(y, dtype=found.dtype))
        found[-1] = 0
        return found

    return slope


def towards(answers: Callable[[int], Tensor]) -> Slope:
    """Of −KL(p₀ ‖ p), p₀ from the logits that `answers` gives of a window: p₀ − p."""
    return lambda number, logits: (
        answers(number).float().softmax(-1).sub_(logits.float().softmax(-1))
    )


@torch.no_grad()
def backward(
    model: Any, windows: Tensor, slope: Slope, label: str = "backward"
) -> Iterator[Gradients]:
    """Pairs of every matrix, from the head back to the embedding.

    Args:
        windows: LongTensor (n, length).
        slope: the gradient at the logits; `sampled`, `empirical` or `towards`. What is
            differentiated is its sum over positions, so that the gradient at a token counts all
            later ones.
        label: of the progress bar.

    Yields:
        Gradients: of the head, window by window; of the blocks from the last to the first, batch
        by batch; of the embedding, batch by batch. A part's weights are in memory until the next
        is asked for.

    Raises:
        InputError, naming the block, where its output holds NaN or Inf; or for a matrix that sees
        tokens that cannot be told apart.
    """
    blocks, matrices = models.blocks(model), models.matrices(model)
    require_separable(model, windows)
    models.require_heard(model, matrices)
    with _memory(model) as keep:
        calls = capture(model, windows)
        require_tokens(calls, windows, "gradient scorers")
        inputs, hidden = _forward(model, calls, keep)
        upstream: list[Tensor] = []
        with models.resident(model, _part(model, model.get_output_embeddings())):
            for batch, states in zip(windows.split(BATCH), hidden, strict=True):
                slopes: list[Tensor] = []
                for window, state in zip(batch.split(1), states.split(1), strict=True):
                    number = len(upstream) * BATCH + len(slopes)
                    found = _through_head(model, window, state, slope, number)
                    slopes.append(found.gradient)
                    yield found
                upstream.append(torch.cat(slopes))
        del hidden
        for name in track(list(blocks)[::-1], label):
            own = {key: m for key, m in matrices.items() if key.startswith(name + ".")}
            with models.resident(model, name):
                for number, states in enumerate(inputs.pop(name)):
                    found = _through_block(calls, name, blocks[name], own, number, states, upstream)
                    upstream[number] = found.gradient
                    yield found
        with models.resident(model, _part(model, model.get_input_embeddings())):
            for number, batch in enumerate(windows.split(BATCH)):
                yield _through_embedding(model, batch, number, upstream[number])


def _part(model: nn.Module, module: nn.Module) -> str:
    """The matrix outside the blocks that an embedding or head computes with."""
    path = models.module_name(model, module)
    return next((name for name, paths in models.places(model).items() if path in paths), path)


Keep = Callable[[str, Tensor], Tensor]


@contextmanager
def _memory(model: nn.Module) -> Iterator[Keep]:
    """Where hidden states between blocks are kept: as they are, or in files where the model's
    weights are in files too.
    """
    if models.streamed(model) is None:
        yield lambda name, states: states
        return
    with TemporaryDirectory(dir=paths.cache(), prefix="backward-") as folder:

        def keep(name: str, states: Tensor) -> Tensor:
            file = str(Path(folder, name))
            kept = torch.from_file(file, shared=True, size=states.numel(), dtype=states.dtype)
            return kept.view(states.shape).copy_(states)

        yield keep


def _forward(
    model: nn.Module, calls: Calls, keep: Keep
) -> tuple[dict[str, list[Tensor]], list[Tensor]]:
    """Block -> its input, a batch an entry; and the last block's output."""
    kept: dict[str, list[Tensor]] = {}
    for name, inputs, outputs in run_blocks(model, calls):
        kept[name] = [keep(f"{name}-{batch}", states) for batch, states in enumerate(inputs)]
        hidden = outputs
    return kept, hidden


@torch.enable_grad()
def _through_head(
    model: Any, window: Tensor, states: Tensor, slope: Slope, number: int
) -> Gradients:
    """window: (1, length); states: the last block's output (1, length, width)."""
    head = model.get_output_embeddings()
    name = models.module_name(model, head)
    states = states.detach().requires_grad_()
    seen = _Seen(window.numel())
    with seen.of_linear({name: head}):
        logits = logits_after(model, window, states)
    # (length, vocabulary) -> (1, length, vocabulary)
    gradient = slope(number, logits[0].detach()).to(logits.dtype)[None]
    found = seen.back(logits, states, gradient)
    return Gradients(name, number, 1, window.shape[1], states.detach(), found, seen.pairs())


@torch.enable_grad()
def _through_block(
    calls: Calls,
    name: str,
    block: nn.Module,
    own: Mapping[str, models.Matrix],
    number: int,
    states: Tensor,
    upstream: Sequence[Tensor],
) -> Gradients:
    count, length = states.shape[:2]
    states = states.detach().to(upstream[number].device).requires_grad_()
    seen = _Seen(count * length)
    with seen.of_linear(_linear(own)), seen.of_experts(own):
        output = calls.run(block, name, number, states)
        found = seen.back(output, states, upstream[number])
    return Gradients(name, number * BATCH, count, length, states.detach(), found, seen.pairs())


@torch.enable_grad()
def _through_embedding(model: Any, batch: Tensor, number: int, upstream: Tensor) -> Gradients:
    embedding = model.get_input_embeddings()
    entered: list[Tensor] = []

    def stop(name: str, hidden: Tensor, *_: Any) -> Tensor:
        entered.append(hidden)
        raise Captured

    rows = _Rows(embedding)
    with models.replaced_blocks(model, stop), rows:
        try:
            models.call(model, batch.to(models.device(model)), use_cache=False)
        except Captured:
            torch.autograd.grad(entered[0], rows.found, upstream)
    place = torch.arange(batch.numel(), device=upstream.device)
    assert rows.gradient is not None
    pair = Pair(place, rows.ids.reshape(-1), _flat(rows.gradient))
    name = models.module_name(model, embedding)
    count, length = batch.shape
    hidden = entered[0].detach()
    return Gradients(name, number * BATCH, count, length, hidden, upstream, {name: pair})


class _Rows(TorchFunctionMode):
    """Notes the rows that `embedding` looks up, before it scales them, and the gradient there."""

    def __init__(self, embedding: nn.Module) -> None:
        super().__init__()
        self.embedding = embedding
        self.found, self.ids = torch.empty(0), torch.empty(0)
        self.gradient: Tensor | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func is nn.functional.embedding and args[1] is self.embedding.weight:
            self.ids, self.found = args[0], out.detach().requires_grad_()
            self.found.register_hook(self._note)
            return self.found.clone()  # some models scale what they looked up in place
        return out

    def _note(self, gradient: Tensor) -> None:
        self.gradient = gradient.detach()


@dataclass
class _Seen:
    """Listens to matrices: their inputs as they come, the gradients at their outputs later.

    Attributes:
        tokens: of the batch.
        cut: outputs that depend on nothing that has a gradient but their matrix.
    """

    tokens: int
    inputs: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    slopes: dict[str, Tensor] = field(default_factory=dict)
    cut: dict[str, Tensor] = field(default_factory=dict)

    def note(self, key: str, rows: Tensor, x: Tensor, out: Tensor) -> None:
        if key in self.inputs:
            raise InputError(f"{key} is called twice in one block; no gradient scorer can tell why")
        self.inputs[key] = (rows, _flat(x.detach()))
        if not torch.is_grad_enabled():  # the block computes with it without gradients
            return
        if not out.requires_grad:  # its input is cut off from what entered the block
            self.cut[key] = out.requires_grad_()
            return
        out.register_hook(lambda slope: self.slopes.update({key: _flat(slope.detach())}))

    def back(self, output: Tensor, states: Tensor, gradient: Tensor) -> Tensor:
        """The gradient at `states`, given that at `output`; those at the matrices are noted."""
        starts = [states, *self.cut.values()]
        found, *rest = torch.autograd.grad(output, starts, gradient, allow_unused=True)
        for key, slope in zip(self.cut, rest, strict=True):
            if slope is not None:
                self.slopes[key] = _flat(slope)
        return torch.zeros_like(states) if found is None else found

    def pairs(self) -> dict[str, Pair]:
        """In the order of the forward pass; a matrix that no gradient reached has none."""
        return {
            key: Pair(rows, x, self.slopes[key])
            for key, (rows, x) in self.inputs.items()
            if key in self.slopes
        }

    @contextmanager
    def of_linear(self, modules: Mapping[str, nn.Module]) -> Iterator[None]:
        def listen(key: str) -> Callable[..., None]:
            def hook(module: nn.Module, args: tuple[Any, ...], out: Tensor) -> None:
                rows = torch.arange(self.tokens, device=out.device)
                if out[..., 0].numel() != self.tokens:
                    raise InputError(
                        f"{key} sees {out[..., 0].numel()} of {self.tokens} tokens, and nothing "
                        f"says which; gradient scorers cannot tell its windows apart"
                    )
                self.note(key, rows, args[0], out)

            return hook

        hooks = [module.register_forward_hook(listen(key)) for key, module in modules.items()]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    @contextmanager
    def of_experts(self, own: Mapping[str, models.Matrix]) -> Iterator[None]:
        """Inside, modules of experts run one expert after the other, so that each can be heard."""
        replaced: list[nn.Module] = []
        for key, matrix in own.items():
            if matrix.expert is not None and matrix.module not in replaced:
                replaced.append(matrix.module)
                prefix = key.removesuffix(f".{matrix.parameter}.{matrix.expert}")
                matrix.module.forward = self._experts(matrix.module, prefix, own)
        try:
            yield
        finally:
            for module in replaced:
                del module.forward

    def _experts(
        self, module: Any, prefix: str, own: Mapping[str, models.Matrix]
    ) -> Callable[..., Tensor]:
        def product(part: str, expert: int, rows: Tensor, x: Tensor) -> Tensor:
            key = f"{prefix}.{part}.{expert}"
            bias = getattr(module, f"{part}_bias", None)
            out = x @ own[key].view().T + (0 if bias is None else bias[expert])
            self.note(key, rows, x, out)
            return out

        def forward(*args: Any, **kwargs: Any) -> Tensor:
            parts = models.expert_parts(module)
            hidden, chosen, weights = [*args, *kwargs.values()][:3]
            total = torch.zeros_like(hidden)
            for expert in range(module.num_experts):
                place, rows = torch.where((chosen == expert).T)
                if not len(rows):
                    continue
                first = product(parts[0], expert, rows, hidden[rows])
                down = product(parts[1], expert, rows, models.expert_inner(module, first))
                weighted = down * weights[rows, place, None]
                total = total.index_add(0, rows, weighted.to(total.dtype))
            return total

        return forward


def _linear(own: Mapping[str, models.Matrix]) -> dict[str, nn.Module]:
    return {key: matrix.module for key, matrix in own.items() if matrix.expert is None}


def _flat(states: Tensor) -> Tensor:
    return states.reshape(-1, states.shape[-1]).float()  # (windows, length, n) -> (tokens, n)
