"""Products in 16 bits, on a CPU that has no instructions for them.

There they take several times as long as in float32. Numbers of 16 bits are exact in float32, and
where the instructions exist they add up in float32 too, so both ways round the same sums once.
"""

import platform
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

NARROW = (torch.bfloat16, torch.float16)
# product -> which of its arguments is multiplied
PRODUCTS = {
    nn.functional.linear: 0,
    torch.matmul: 0,
    Tensor.matmul: 0,
    Tensor.__matmul__: 0,
    torch.bmm: 0,
    torch.addmm: 1,
    torch.baddbmm: 1,
}
FEW = 8  # rows up to which reading the weights takes all the time, whatever they are multiplied in
PART = 1 << 24  # weights that are in float32 at once


def fast(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether the device multiplies numbers of `dtype` at least as fast as float32."""
    return dtype not in NARROW or device.type != "cpu" or not _lacking()


@cache
def _lacking() -> bool:
    """Whether this CPU is of the x86 kind and older than AVX-512."""
    old = torch.backends.cpu.get_cpu_capability() in ("DEFAULT", "AVX2")
    return old and platform.machine().lower() in ("x86_64", "amd64")


def multiplying() -> AbstractContextManager[Any]:
    """Inside, products in 16 bits are made in float32 where that is faster."""
    return _InFloat32() if _lacking() else nullcontext()


class _InFloat32(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        place = PRODUCTS.get(func, len(args))
        if place >= len(args) or "out" in kwargs or not _slow(x := args[place]):
            return func(*args, **kwargs)
        if func is nn.functional.linear:
            return _linear(*args, **kwargs)
        return func(*map(_wide, args), **kwargs).to(x.dtype)


def _slow(x: Tensor) -> bool:
    return not fast(x.dtype, x.device) and x[..., 0].numel() > FEW


def _wide(x: Any) -> Any:
    return x.float() if isinstance(x, Tensor) and x.dtype in NARROW else x


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    found: Tensor = _Linear.apply(input, weight, bias)
    return found


class _Linear(torch.autograd.Function):
    """x Wᵀ + b, rounded once; of W (out, in) never more than a part is in float32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.biased = bias is not None
        wide, found = x.float(), x.new_empty(*x.shape[:-1], len(weight))
        for rows in _parts(weight):
            part = wide @ weight[rows].float().T
            found[..., rows] = part if bias is None else part + bias[rows].float()
        return found

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        wide, flat = upstream.float(), upstream.flatten(0, -2).float()
        at_x = at_weight = at_bias = None
        if ctx.needs_input_grad[0]:
            parts = (wide[..., rows] @ weight[rows].float() for rows in _parts(weight))
            at_x = sum(parts, torch.zeros(())).to(x.dtype)
        if ctx.needs_input_grad[1]:
            at_weight = (flat.T @ x.flatten(0, -2).float()).to(weight.dtype)
        if ctx.biased and ctx.needs_input_grad[2]:
            at_bias = flat.sum(0).to(weight.dtype)
        return at_x, at_weight, at_bias


def _parts(weight: Tensor) -> list[slice]:
    rows = max(1, PART // max(1, weight.shape[1]))
    return [slice(start, start + rows) for start in range(0, len(weight), rows)]
