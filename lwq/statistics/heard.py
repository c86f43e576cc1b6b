"""What one part of a model says in one batch: what reached each matrix, and the gradient at what it
gave.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lwq import models
from lwq.common.errors import InputError


@dataclass(frozen=True)
class Pair:
    """What reached one matrix in one batch, and the gradient at what it gave.

    Attributes:
        rows: LongTensor (tokens,), the place of each token in the batch: window · length +
            position. An expert has those that are routed to it.
        x: (tokens, in) float32; of the embedding, the token ids (tokens,).
        g: (tokens, out) float32.
        dtype: that products with a change are made in, bfloat16 for a model of that, which is
            thrice as fast on a processor that has it; sums over tokens are float32. In float16
            small gradients would vanish.
    """

    rows: Tensor
    x: Tensor
    g: Tensor
    dtype: torch.dtype = torch.float32

    def moved(self, change: Tensor) -> Tensor:
        """g_t · ΔW x_t of each token (tokens,): how far the change ΔW (out, in) moves what was
        differentiated, to first order.
        """
        # the smaller side is the one that is written out; of the embedding there is one only
        if change.shape[0] <= change.shape[1] or not self.x.is_floating_point():
            return (self.shifted(change) * self.g).sum(1)
        return ((self.g.to(self.dtype) @ change.to(self.dtype)) * self.x).sum(1)

    def shifted(self, change: Tensor) -> Tensor:
        """ΔW x_t (tokens, out) of a change ΔW (out, in)."""
        if not self.x.is_floating_point():
            return change[self.x]
        return self.x.to(self.dtype) @ change.to(self.dtype).T

    def weight_gradient(self) -> Tensor:
        """Σ_t g_t x_tᵀ, (out, in); not for the embedding."""
        return self.g.T @ self.x


class Rows(TorchFunctionMode):
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
class Seen:
    """Listens to matrices: their inputs as they come, the gradients at their outputs later.

    Attributes:
        tokens: of the batch.
        cut: outputs that depend on nothing that has a gradient but their matrix.
    """

    tokens: int
    inputs: dict[str, tuple[Tensor, Tensor, torch.dtype]] = field(default_factory=dict)
    slopes: dict[str, Tensor] = field(default_factory=dict)
    cut: dict[str, Tensor] = field(default_factory=dict)

    def note(self, key: str, rows: Tensor, x: Tensor, out: Tensor) -> None:
        if key in self.inputs:
            raise InputError(f"{key} is called twice in one block; no gradient scorer can tell why")
        narrow = x.dtype == torch.bfloat16 and models.fast(x.dtype, x.device)
        dtype = torch.bfloat16 if narrow else torch.float32
        self.inputs[key] = (rows, flat(x.detach()), dtype)
        if not torch.is_grad_enabled():  # the block computes with it without gradients
            return
        if not out.requires_grad:  # its input is cut off from what entered the block
            self.cut[key] = out.requires_grad_()
            return
        out.register_hook(lambda slope: self.slopes.update({key: flat(slope.detach())}))

    def back(self, output: Tensor, states: Tensor, gradient: Tensor) -> Tensor:
        """The gradient at `states`, given that at `output`; those at the matrices are noted."""
        starts = [states, *self.cut.values()]
        found, *rest = torch.autograd.grad(output, starts, gradient, allow_unused=True)
        for key, slope in zip(self.cut, rest, strict=True):
            if slope is not None:
                self.slopes[key] = flat(slope)
        return torch.zeros_like(states) if found is None else found

    def pairs(self) -> dict[str, Pair]:
        """In the order of the forward pass; a matrix that no gradient reached has none."""
        return {
            key: Pair(rows, x, self.slopes[key], dtype)
            for key, (rows, x, dtype) in self.inputs.items()
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
        acts: dict[nn.Module, Callable[..., Tensor]] = {}
        for key, matrix in own.items():
            if matrix.expert is not None and matrix.module not in acts:
                prefix = key.removesuffix(f".{matrix.parameter}.{matrix.expert}")
                acts[matrix.module] = self._experts(matrix.module, prefix, own)
        with models.experts_by(acts):
            yield

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


def flat(states: Tensor) -> Tensor:
    """(windows, length, n) -> (tokens, n), float32."""
    return states.reshape(-1, states.shape[-1]).float()
