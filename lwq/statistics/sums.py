"""Sums over what flows into the matrices of a block while it runs."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn

from lwq import models
from lwq.common.errors import InputError

SUMS = frozenset({"gram", "input_norms", "input_means"})  # over the inputs of each matrix
# columns of a Gram matrix that are summed at once; what lies below its diagonal is mirrored, not
# computed
PANEL = 512


@dataclass
class MatrixStats:
    """What reached one matrix; a statistic that nobody asked for is None, and `require` says so.

    Attributes:
        tokens: how many input vectors were seen (for an expert, those routed to it).
        source: "full" or "quantized", the prefix that made the inputs.
        gram: sum over tokens of t x xᵀ, float32 (in_features, in_features), with t the token's
            weight, 1 where none was given; matrices fed by one tensor share it. Its upper triangle
            is summed; `require` hands out all of it.
        square_sum: sum over tokens of t x², float32 (in_features,); its square root is the norm
            that AWQ and Wanda use.
        total, magnitude: sums over tokens of t x and of t |x|, float32 (in_features,); asked for as
            "input_means".
        derived: what a quantizer worked out from these, kept for the other matrices and widths that
            share them.
    """

    tokens: int = 0
    source: str = "full"
    gram: Tensor | None = None
    square_sum: Tensor | None = None
    total: Tensor | None = None
    magnitude: Tensor | None = None
    derived: dict[str, Any] = field(default_factory=dict)

    def require(self, name: str) -> Tensor:
        value = getattr(self, name)
        if value is None:
            raise InputError(
                f"the statistic {name!r} was not collected; declare it in `needs` "
                f"and pass calibration windows"
            )
        if name == "gram" and "mirrored" not in self.derived:
            _mirror_(value)
            self.derived["mirrored"] = True
        return value

    def add(self, x: Tensor, needs: frozenset[str], token_weights: Tensor | None = None) -> None:
        """Add the rows of `x` (tokens, in_features), each with its weight of `token_weights`
        (tokens,).
        """
        x = x.reshape(-1, x.shape[-1]).float()  # (windows, length, in) -> (tokens, in)
        self.tokens += len(x)
        weighted = x if token_weights is None else x * token_weights.reshape(-1, 1).to(x)
        if "gram" in needs:
            if self.gram is None:
                self.gram = x.new_zeros(x.shape[-1], x.shape[-1])
            for columns in panels(x.shape[-1]):
                self.gram[columns, columns.start :].addmm_(
                    weighted[:, columns].T, x[:, columns.start :]
                )
        if "input_norms" in needs:
            squares = (weighted * x).sum(0)
            self.square_sum = squares if self.square_sum is None else self.square_sum.add_(squares)
        if "input_means" in needs:
            sums = weighted.sum(0), weighted.abs().sum(0)
            before = self.total, self.magnitude
            self.total, self.magnitude = (
                new if old is None else old.add_(new) for old, new in zip(before, sums, strict=True)
            )


def panels(width: int) -> Iterator[slice]:
    """0 … width in even slices of at most PANEL."""
    size = math.ceil(width / math.ceil(width / PANEL))
    yield from (slice(start, min(start + size, width)) for start in range(0, width, size))


def _mirror_(gram: Tensor) -> None:
    """Copy what stands above the diagonal panels below them."""
    for columns in panels(len(gram)):
        gram[columns.stop :, columns] = gram[columns, columns.stop :].T


@dataclass
class Listener:
    """Adds what reaches matrices to `found`, batch after batch of one block.

    Attributes:
        needs: which of SUMS.
        source: of the statistics, "full" or "quantized".
        found: matrix -> MatrixStats; matrices fed by the same tensor share one.
        weights: token weights (windows, length) of each batch, in the order in which the block is
            called; None for 1.
    """

    needs: frozenset[str]
    source: str
    found: dict[str, MatrixStats]
    weights: Sequence[Tensor] | None = None
    _batch: int = -1
    # the tensors of the running batch, and where each is summed
    _current: list[tuple[Tensor, MatrixStats]] = field(default_factory=list)

    @contextmanager
    def hears(self, block: nn.Module, matrices: Mapping[str, models.Matrix]) -> Iterator[None]:
        """Inside, every call of `block` is one batch, and `matrices` of it are listened to."""
        if not self.needs & SUMS:
            yield
            return
        hooks = [block.register_forward_pre_hook(self._start)]
        heard: set[nn.Module] = set()  # modules of experts: one hook for all their matrices
        for key, matrix in matrices.items():
            module = matrix.module
            if matrix.expert is None:
                hooks.append(module.register_forward_pre_hook(self._linear(key)))
            elif module not in heard:
                heard.add(module)
                routed = self._experts(key, matrix, matrices)
                hooks.append(module.register_forward_pre_hook(routed, with_kwargs=True))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _start(self, *_: Any) -> None:
        self._current.clear()
        self._batch += 1

    def _token_weights(self) -> Tensor | None:
        # (windows, length) -> (tokens,)
        return None if self.weights is None else self.weights[self._batch].reshape(-1)

    def _linear(self, key: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
            stats = next((stats for tensor, stats in self._current if tensor is args[0]), None)
            if stats is None:
                stats = self.found.get(key) or MatrixStats(source=self.source)
                stats.add(args[0], self.needs, self._token_weights())
                self._current.append((args[0], stats))
            self.found[key] = stats

        return hook

    def _experts(
        self, key: str, like: models.Matrix, matrices: Mapping[str, models.Matrix]
    ) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]:
        """Of the module whose matrices are named as `key` is, and are oriented as `like` is."""
        prefix = key.removesuffix(f".{like.parameter}.{like.expert}")

        def hook(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            hidden, chosen = [*args, *kwargs.values()][:2]
            parts = models.expert_parts(module)
            bias = getattr(module, f"{parts[0]}_bias", None)
            for expert in range(module.num_experts):
                keys = [f"{prefix}.{part}.{expert}" for part in parts]
                if matrices.keys().isdisjoint(keys):
                    continue
                routed = (chosen == expert).any(-1)
                x, w = hidden[routed], self._token_weights()
                w = None if w is None else w.to(routed.device)[routed]
                # (tokens, in) -> (tokens, 2 · inner), or (tokens, inner) without a gate
                first = x @ replace(like, parameter=parts[0], expert=expert).view().T
                first = first if bias is None else first + bias[expert]
                inner = models.expert_inner(module, first)
                for name, value in zip(keys, (x, inner), strict=True):
                    if name in matrices:
                        stats = self.found.setdefault(name, MatrixStats(source=self.source))
                        stats.add(value, self.needs, w)

        return hook
