"""How good is a model on text: perplexity, KL to a reference, top-1 agreement; one value a window."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from lwq import models
from lwq.contracts import Losses
from lwq.errors import InputError
from lwq.progress import track

TOKENS = 1024  # tokens a forward pass; part of the arithmetic, so it is fixed
MEMORY = 2 << 30  # bytes of reference log-probabilities that are kept; above it only hidden states are


@dataclass(frozen=True)
class Reference:
    """What KL and top-1 agreement are measured against.

    Attributes:
        windows: the judging windows, LongTensor (n, length).
        losses: of the reference itself (KL 0, agreement 1).
        log_probs: log-probabilities of each window, float32 (length − 1, vocabulary); empty where they take too much memory.
        hidden: otherwise the last block's output of each window (1, length, width); the head is run again.
    """

    windows: Tensor
    losses: Losses
    log_probs: list[Tensor]
    hidden: list[Tensor]


def batches(windows: Tensor) -> Iterator[Tensor]:
    """Windows in forward passes of about TOKENS tokens."""
    yield from windows.split(max(1, TOKENS // windows.shape[1]))


def log_probabilities(model: nn.Module, windows: Tensor) -> Iterator[Tensor]:
    """Log-probabilities of the next token, one window after the other: float32 (length − 1, vocabulary)."""
    device = models.device(model)
    for batch in batches(windows):
        for logits in model(batch.to(device), use_cache=False).logits:
            yield torch.log_softmax(logits[:-1].float(), dim=-1)


@torch.inference_mode()
def reference(model: nn.Module, windows: Tensor, memory: int = MEMORY) -> Reference:
    """Measure `model` as the reference; take it before `quantize_`.

    Args:
        windows: LongTensor (n, length).
        memory: bytes of log-probabilities to keep (float32: n · (length − 1) · vocabulary · 4). Where that is not enough the
            last hidden states are kept, and each evaluation runs the head once more.
    """
    require_windows_fit(model, windows)
    n, length = windows.shape
    fits = n * (length - 1) * models.vocabulary(model) * 4 <= memory
    log_probs, hidden, nll = [], [], []
    last = list(models.blocks(model).values())[-1]
    hook = None if fits else last.register_forward_hook(lambda module, args, out: hidden.extend(_states(out).split(1)))
    try:
        for window, log_p in zip(windows, track(log_probabilities(model, windows), "reference", n), strict=True):
            nll.append(_nll(log_p, window))
            if fits:
                log_probs.append(log_p)
    finally:
        if hook is not None:
            hook.remove()
    losses = Losses(np.array(nll), np.zeros(n), np.ones(n), length - 1)
    return Reference(windows, losses, log_probs, hidden)


@torch.inference_mode()
def evaluate(model: nn.Module, windows: Tensor, reference: Reference | None = None, label: str = "evaluate") -> Losses:
    """Measure `model` on `windows`.

    Args:
        windows: LongTensor (n, length); the first token of each is not scored.
        reference: from `lwq.reference` on the same windows; without it KL and agreement are not measured.
        label: of the progress bar.

    Returns:
        Losses: per window, mean over its length − 1 scored tokens, in nats per token.

    Raises:
        InputError: for windows longer than the context, ids outside the vocabulary, a reference on other windows, or a model
            that answers with NaN or Inf.
    """
    require_windows_fit(model, windows)
    if reference is not None and not torch.equal(reference.windows, windows):
        raise InputError("the reference was taken on other windows; take both on the same ones")
    truth = iter(_reference_log_probs(model, reference)) if reference else None
    nll, kl, top1 = [], [], []
    for window, log_q in zip(windows, track(log_probabilities(model, windows), label, len(windows), leave=False), strict=True):
        nll.append(_nll(log_q, window))
        if truth is not None:
            log_p = next(truth)
            kl.append(float((log_p.exp() * (log_p - log_q)).sum(-1).double().mean()))
            top1.append(float((log_p.argmax(-1) == log_q.argmax(-1)).double().mean()))
    if not np.isfinite(nll).all():
        raise InputError(f"{models.name(model)!r} answers with NaN or Inf on window {int(np.argmin(np.isfinite(nll)))}")
    return Losses(np.array(nll), np.array(kl) if truth else None, np.array(top1) if truth else None, windows.shape[1] - 1)


def _nll(log_probs: Tensor, window: Tensor) -> float:
    return -float(log_probs.gather(-1, window[1:, None].to(log_probs.device)).double().mean())


def _states(output: Tensor | tuple[Tensor, ...]) -> Tensor:
    return output[0] if isinstance(output, tuple) else output


def _reference_log_probs(model: nn.Module, reference: Reference) -> Iterator[Tensor]:
    """The kept log-probabilities, or those that the model's head makes of the kept hidden states."""
    if reference.log_probs:
        yield from reference.log_probs
        return
    last = list(models.blocks(model))[-1]
    for window, hidden in zip(reference.windows, reference.hidden, strict=True):
        with models.replaced_blocks(model, lambda name, x, *_, kept=hidden: kept if name == last else x):
            logits = model(window[None].to(hidden.device), use_cache=False).logits[0]
        yield torch.log_softmax(logits[:-1].float(), dim=-1)


def require_windows_fit(model: nn.Module, windows: Tensor) -> None:
    """Raise InputError for windows that the model cannot read, before any forward pass."""
    context = getattr(model.config, "max_position_embeddings", None) or getattr(model.config, "n_positions", None)
    if context and windows.shape[1] > context:
        raise InputError(f"windows of {windows.shape[1]} tokens are longer than the model's context of {context}")
    if windows.shape[1] < 2:
        raise InputError("windows of one token leave nothing to score; two or more are needed")
    if (top := int(windows.max())) >= models.vocabulary(model):
        raise InputError(f"token id {top} is outside the vocabulary of {models.vocabulary(model)}; use the model's tokenizer")
