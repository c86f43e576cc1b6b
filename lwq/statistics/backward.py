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
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lwq import models
from lwq.common import paths
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
from lwq.statistics.heard import Pair, Rows, Seen, flat

LABELS = ("sampled", "empirical")
ROWS = 64  # positions whose vocabulary is added up in float64 at once
# (number of the window, its logits (length, vocabulary)) -> the gradient there, same shape
Slope = Callable[[int, Tensor], Tensor]


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
        return _onto(p, _labels(p, generator))

    return slope


@torch.no_grad()
def drawn_now(model: nn.Module, windows: Tensor, seed: int) -> Slope:
    """`sampled` with labels that the model draws as it is now, in one forward pass: they stay when
    its weights change.
    """
    generator, device = torch.Generator().manual_seed(seed), models.device(model)
    labels = []
    for window in windows.split(1):
        logits = models.call(model, window.to(device), use_cache=False).logits[0]
        labels.append(_labels(logits.float().softmax(-1), generator))
    return labelled(torch.stack(labels))


def _labels(p: Tensor, generator: torch.Generator) -> Tensor:
    """One label for each row of p (tokens, vocabulary): (tokens,)."""
    draws = torch.rand(len(p), 1, generator=generator, dtype=torch.float64).to(p.device)
    found = []
    for some, draw in zip(p.split(ROWS), draws.split(ROWS), strict=True):
        ladder = some.double().cumsum(-1)
        found.append(torch.searchsorted(ladder, draw * ladder[:, -1:])[:, 0])
    return torch.cat(found).clamp_(max=p.shape[-1] - 1)


def labelled(labels: Tensor) -> Slope:
    """Of log p(y), y = `labels` (windows, length); 0 where that is negative."""

    def slope(number: int, logits: Tensor) -> Tensor:
        y = labels[number].to(logits.device)
        found = _onto(logits.float().softmax(-1), y.clamp(min=0))
        found[y < 0] = 0
        return found

    return slope


def _onto(p: Tensor, y: Tensor) -> Tensor:
    """one-hot(y) − p, in place of p (tokens, vocabulary)."""
    return p.neg_().scatter_add_(-1, y[:, None], torch.ones_like(p[:, :1]))


def empirical(windows: Tensor) -> Slope:
    """Of log p(y), y the text's own next token; 0 at the last position, which has none."""
    labels = windows.roll(-1, 1)
    labels[:, -1] = -1
    return labelled(labels)


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
        slopes: list[Tensor] = []
        with models.resident(model, _part(model, model.get_output_embeddings())):
            for number in track(range(len(windows)), f"{label}, head", leave=False):
                window = slice(number % BATCH, number % BATCH + 1)
                states = hidden[number // BATCH][window]
                found = _through_head(model, windows[number : number + 1], states, slope, number)
                slopes.append(found.gradient)
                yield found
        upstream = list(torch.cat(slopes).split(BATCH))
        del hidden, slopes
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
    with paths.aside("backward-") as folder:

        def keep(name: str, states: Tensor) -> Tensor:
            file = str(folder / name)
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
    seen = Seen(window.numel())
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
    seen = Seen(count * length)
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

    rows = Rows(embedding)
    with models.replaced_blocks(model, stop), rows:
        try:
            models.call(model, batch.to(models.device(model)), use_cache=False)
        except Captured:
            torch.autograd.grad(entered[0], rows.found, upstream)
    place = torch.arange(batch.numel(), device=upstream.device)
    assert rows.gradient is not None
    pair = Pair(place, rows.ids.reshape(-1), flat(rows.gradient))
    name = models.module_name(model, embedding)
    count, length = batch.shape
    hidden = entered[0].detach()
    return Gradients(name, number * BATCH, count, length, hidden, upstream, {name: pair})


def _linear(own: Mapping[str, models.Matrix]) -> dict[str, nn.Module]:
    return {key: matrix.module for key, matrix in own.items() if matrix.expert is None}
