"""One streamed pass over calibration windows: what scorers and quantizers need of each block, and
nothing more.

`stream` goes block by block. A block's statistics are handed over before the next block runs, so
memory holds one activation buffer (windows · length · width numbers; two where inputs and outputs
are compared) and the statistics of one block, and of a model from `load(..., stream=True)` the
weights of one block. `collect` keeps the statistics of all blocks, with "hidden_states" a buffer a
block. Sums are float32 or better whatever the model's dtype.
"""

import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from weakref import WeakSet

import numpy as np
import torch
from torch import Tensor, nn

from lwq import models
from lwq.common.errors import InputError
from lwq.common.progress import track
from lwq.contracts import inside
from lwq.statistics.calls import (
    BATCH,
    capture,
    require_finite_states,
    require_separable,
    require_tokens,
)
from lwq.statistics.sums import SUMS, Listener, MatrixStats
from lwq.statistics.windows import require_windows

NEEDS = frozenset(
    {"gram", "input_norms", "input_means", "similarity", "hidden_states", "last_token"}
)
# a need that no pass serves: a scorer that runs the model by itself asks for the windows
WINDOWS = "windows"
# another: a scorer that listens to the pass back through the model
GRADIENTS = "gradients"

_warned: WeakSet[nn.Module] = WeakSet()  # models whose idle matrices were named


@dataclass
class BlockStats:
    """What one block did to its calibration windows.

    Attributes:
        name: of the block.
        matrices: matrix -> MatrixStats.
        similarity: cosine between the block's input and output, one value a window, under each
            reading of the paper: "tokens" (mean of per-token cosines), "flat" (the window as one
            vector), "mean" (token averages); the last block also has them with the final norm
            applied to its output ("tokens_normed", …).
        inputs, outputs: hidden states (windows, length, width), before the final norm; only where
            "hidden_states" was asked.
        last_input, last_output: the same of the last token of each window (windows, width); only
            where "last_token" was asked.
    """

    name: str
    matrices: dict[str, MatrixStats] = field(default_factory=dict)
    similarity: dict[str, np.ndarray] = field(default_factory=dict)
    inputs: Tensor | None = None
    outputs: Tensor | None = None
    last_input: Tensor | None = None
    last_output: Tensor | None = None


class Stats(dict[str, BlockStats]):
    """Block -> what one pass saw of it; and the windows (n, length), where a scorer asked for
    "windows".
    """

    windows: Tensor | None = None


@torch.no_grad()
def stream(
    model: nn.Module,
    windows: Tensor,
    needs: frozenset[str],
    source: str = "full",
    label: str = "collect",
    wanted: Collection[str] | None = None,
    token_weights: Tensor | None = None,
    save: bool = False,
) -> Iterator[BlockStats]:
    """Statistics of each block in turn.

    Args:
        windows: LongTensor (n, length).
        needs: any of NEEDS.
        source: "full" feeds each block what the untouched model would; "quantized" runs the block
            again after the consumer has changed its weights, so that the next block sees the
            quantized prefix.
        label: of the progress bar.
        wanted: the matrices whose statistics are needed; None for all. The pass ends with the last
            of their blocks.
        token_weights: (n, length), what each token counts in "gram" and "input_norms"; None for 1.
        save: keep what the consumer writes into a block (matters to a model from `load(...,
            stream=True)` only).

    Yields:
        BlockStats, in the order of the forward pass; matrices and similarity filled as asked. The
        block's weights are in memory until the next is asked for.
    """
    if token_weights is not None and token_weights.shape != windows.shape:
        raise InputError(
            f"token_weights are {tuple(token_weights.shape)} and the windows "
            f"{tuple(windows.shape)}; they must agree"
        )
    if unknown := needs - NEEDS:
        raise InputError(f"unknown statistics {sorted(unknown)}; choose from {sorted(NEEDS)}")
    blocks = models.blocks(model)
    matrices = {
        key: matrix
        for key, matrix in models.matrices(model).items()
        if wanted is None or key in wanted
    }
    require_separable(model, windows)
    if needs & SUMS:
        models.require_heard(model, matrices)
    names = list(blocks) if wanted is None else _until_last(list(blocks), matrices)
    calls = capture(model, windows)
    if token_weights is not None:
        require_tokens(calls, windows, "token weights")
    hidden = calls.hidden
    weights = None if token_weights is None else token_weights.split(BATCH)
    compared = bool(needs & {"similarity", "hidden_states", "last_token"}) or source == "quantized"
    boundary = None
    for name in track(names, label):
        stats, block = BlockStats(name), blocks[name]
        own = {key: matrix for key, matrix in matrices.items() if inside(key, name)}
        with models.resident(model, name, save):
            # in place where nobody looks at the inputs again
            outputs = list(hidden) if compared else hidden
            listener = Listener(needs, source, stats.matrices, weights)
            with listener.hears(block, own):
                for batch, x in enumerate(hidden):
                    outputs[batch] = calls.run(block, name, batch, x)
            if "similarity" in needs:
                stats.similarity = _similarities(
                    model, hidden, outputs, last=name == list(blocks)[-1]
                )
            if "hidden_states" in needs:
                stats.inputs = torch.cat(hidden) if boundary is None else boundary
                stats.outputs = torch.cat(outputs)
                # the next block's inputs, unless weights change in between
                boundary = stats.outputs if source == "full" else None
            if "last_token" in needs:
                stats.last_input, stats.last_output = (
                    torch.cat([x[:, -1] for x in states]) for states in (hidden, outputs)
                )
            if needs & SUMS:
                _name_idle(model, own, stats, needs, source)
            _require_finite(stats, outputs)
            yield stats
            if source == "quantized":
                outputs = [calls.run(block, name, batch, x) for batch, x in enumerate(hidden)]
        hidden = outputs


def _name_idle(
    model: nn.Module,
    matrices: Mapping[str, models.Matrix],
    stats: BlockStats,
    needs: frozenset[str],
    source: str,
) -> None:
    """Give matrices that no input reached sums of zero tokens, and name them, once a model.

    Such are experts that no token was sent to, and matrices that a forward pass does not use. What
    reads their sums finds zeros: gptq and the like round them to nearest, saliences are 0.
    """
    for key, matrix in matrices.items():
        if key not in stats.matrices:
            stats.matrices[key] = MatrixStats(source=source)
            stats.matrices[key].add(matrix.view()[:0], needs)  # (0, in)
    idle = [key for key in matrices if not stats.matrices[key].tokens]
    if idle and model not in _warned:
        _warned.add(model)
        print(
            f"lwq: warning: in these windows no input reaches {len(idle)} of {len(matrices)} "
            f"matrices of {stats.name}, such as {idle[0]}: they are rounded to nearest and count "
            f"nothing in saliences; more windows may reach experts",
            file=sys.stderr,
        )


def _require_finite(stats: BlockStats, outputs: list[Tensor]) -> None:
    """Raise InputError, naming the place, where the block's statistics or outputs hold NaN or Inf:
    a score would rank them.
    """
    dtype = outputs[0].dtype
    for key, found in stats.matrices.items():
        diagonal = None if found.gram is None else found.gram.diagonal()
        sums = (found.square_sum, found.magnitude, diagonal)
        summed = [tensor for tensor in sums if tensor is not None]
        require_finite_states(key, summed, dtype)
    require_finite_states(stats.name, outputs)


def _until_last(blocks: list[str], matrices: Collection[str]) -> list[str]:
    """The blocks up to the last one that holds any of `matrices`."""
    holding = [i for i, block in enumerate(blocks) if any(inside(key, block) for key in matrices)]
    return blocks[: max(holding, default=-1) + 1]


def _similarities(
    model: nn.Module, hidden: list[Tensor], outputs: list[Tensor], last: bool
) -> dict[str, np.ndarray]:
    found = similarity(hidden, outputs)
    norm = models.final_norm(model) if last else None
    if norm is not None:
        normed = similarity(hidden, [norm(y) for y in outputs])
        found |= {f"{key}_normed": value for key, value in normed.items()}
    return found


def collect(
    model: nn.Module,
    windows: Tensor | None,
    needs: frozenset[str],
    token_weights: Tensor | None = None,
) -> Stats:
    """`stream` gathered into a mapping, for scorers; without needs, no pass is made and no windows
    are needed.
    """
    found = Stats((name, BlockStats(name)) for name in models.blocks(model))
    if WINDOWS in needs:
        found.windows = require_windows(windows, needs)
    if summed := needs - {WINDOWS, GRADIENTS}:
        passed = stream(model, require_windows(windows, needs), summed, token_weights=token_weights)
        found.update((stats.name, stats) for stats in passed)
    return found


def similarity(inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> dict[str, np.ndarray]:
    """cos(x, y) = x·y / (‖x‖ ‖y‖) a window, under the three readings named in BlockStats; float64
    (windows,).
    """
    readings: dict[str, Callable[[Tensor], Tensor]] = {
        "tokens": lambda h: h,
        "flat": lambda h: h.flatten(1).unsqueeze(1),
        "mean": lambda h: h.mean(1, keepdim=True),
    }
    return {
        key: np.concatenate(
            [
                _cosine(read(x.double()), read(y.double()))
                for x, y in zip(inputs, outputs, strict=True)
            ]
        )
        for key, read in readings.items()
    }


def _cosine(x: Tensor, y: Tensor) -> np.ndarray:
    return torch.cosine_similarity(x, y, dim=-1).mean(1).cpu().numpy()
