"""How good is a model on text: perplexity, KL to a reference, top-1 agreement; one value a
window.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from lwq import models
from lwq.common.errors import InputError
from lwq.common.progress import track
from lwq.contracts import Losses
from lwq.contracts.results import TAILS
from lwq.engine import room
from lwq.engine.remade import Remade
from lwq.statistics.calls import logits_after
from lwq.statistics.windows import require_readable

TOKENS = 1024  # tokens a forward pass; part of the arithmetic, so it is fixed
# logits that are turned into losses at once: a few arrays of them stay in a processor's cache
NUMBERS = 1 << 19


@dataclass(frozen=True)
class Reference:
    """What KL and top-1 agreement are measured against.

    Attributes:
        windows: the judging windows, LongTensor (n, length).
        losses: of the reference itself (KL 0, agreement 1).
        log_probs: log-probabilities of each window, float32 (length − 1, vocabulary), of a float32
            model.
        logits: the same of a model with 16 bits, as it gave them: half of the memory.
        remade: where those take too much memory, what makes them again; else None.
    """

    windows: Tensor
    losses: Losses
    log_probs: list[Tensor]
    logits: list[Tensor]
    remade: Remade | None = None

    def first(self, count: int) -> "Reference":
        """The reference on the first `count` windows."""
        windows, remade = self.windows[:count], self.remade
        if remade is not None:
            hidden = list(batches(torch.cat(list(remade.hidden))[:count]))
            remade = replace(remade, batches=list(batches(windows)), hidden=hidden)
        return replace(
            self,
            windows=windows,
            losses=self.losses.first(count),
            log_probs=self.log_probs[:count],
            logits=self.logits[:count],
            remade=remade,
        )


def batches(windows: Tensor) -> Iterator[Tensor]:
    """Windows in forward passes of about TOKENS tokens."""
    yield from windows.split(max(1, TOKENS // windows.shape[1]))


def logits(model: nn.Module, windows: Tensor) -> Iterator[Tensor]:
    """Logits of the next token, one window after the other: (length − 1, vocabulary)."""
    for batch in batches(windows):
        answer = models.call(model, batch.to(models.device(model)), use_cache=False).logits
        if answer.shape[:2] != batch.shape:
            raise InputError(
                f"{models.name(model)!r} answers {tuple(answer.shape)} to tokens of "
                f"{tuple(batch.shape)}: one answer a token is needed"
            )
        for window in answer:
            yield window[:-1]


def head(model: nn.Module, windows: Tensor, hidden: Sequence[Tensor]) -> Iterator[Tensor]:
    """`logits`, from the last block's outputs: everything that follows the blocks runs as it does
    always.
    """
    for batch, states in zip(batches(windows), hidden, strict=True):
        for window in logits_after(model, batch, states):
            yield window[:-1]


@torch.inference_mode()
def reference(
    model: nn.Module,
    windows: Tensor,
    memory: int | None = None,
    documents: np.ndarray | None = None,
) -> Reference:
    """Measure `model` as the reference; take it before `quantize_`.

    Args:
        windows: LongTensor (n, length).
        memory: bytes of answers to keep (n · (length − 1) · vocabulary · 4, or · 2 for a model with
            16 bits). Where that is not enough the last hidden states are kept, and the weights that
            follow the blocks; each evaluation runs the head once more, with those. None: as `room`
            says of the model.
        documents: where each window comes from (n,), for intervals; see `Losses`.
    """
    require_windows_fit(model, windows)
    n, length = windows.shape
    wide = next(model.parameters()).dtype
    memory = room.of_reference(model) if memory is None else memory
    fits = n * (length - 1) * models.vocabulary(model) * wide.itemsize <= memory
    log_probs, answers, hidden, nll = [], [], [], []
    last = list(models.blocks(model).values())[-1]
    hook = (
        None
        if fits
        else last.register_forward_hook(
            lambda module, args, out: hidden.append(models.hidden_of(out))
        )
    )
    try:
        for window, found in zip(
            windows, track(logits(model, windows), "reference", n), strict=True
        ):
            log_p = torch.log_softmax(found.float(), dim=-1)
            nll.append(_nll(log_p, window))
            if fits and found.dtype == torch.float32:
                log_probs.append(log_p)
            elif fits:
                answers.append(found)
    finally:
        if hook is not None:
            hook.remove()
    losses = Losses(np.array(nll), np.zeros(n), np.ones(n), length - 1, documents)
    remade = None if fits else Remade.of(model, list(batches(windows)), hidden)
    return Reference(windows, losses, log_probs, answers, remade)


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    windows: Tensor,
    reference: Reference | None = None,
    label: str = "evaluate",
    documents: np.ndarray | None = None,
    tails: bool = False,
) -> Losses:
    """Measure `model` on `windows`.

    Args:
        windows: LongTensor (n, length); the first token of each is not scored.
        reference: from `lwq.reference` on the same windows; without it KL and agreement are not
            measured.
        label: of the progress bar.
        documents: where each window comes from (n,), for intervals; None: what the reference says.
        tails: quantiles of KL over tokens, too.

    Returns:
        Losses: per window, mean over its length − 1 scored tokens, in nats per token.

    Raises:
        InputError: for windows longer than the context, ids outside the vocabulary, a reference on
            other windows, a model that answers with NaN or Inf, or KL that is infinite.
    """
    require_windows_fit(model, windows, reference)
    answers = track(logits(model, windows), label, len(windows), leave=False)
    found = measured(model, windows, answers, reference, tails)
    return found if documents is None else replace(found, documents=documents)


@torch.inference_mode()
def divergence(
    model: nn.Module, exact: nn.Module, windows: Tensor, documents: np.ndarray | None = None
) -> Losses:
    """Measure `model` against `exact`, quantiles over tokens included, a forward pass of both at a
    time: no answers are kept, and the two may differ in dtype and in every weight.
    """
    require_windows_fit(model, windows)
    found = track(logits(model, windows), "noise floor", len(windows), leave=False)
    return replace(
        _losses(model, windows, found, logits(exact, windows), True, True), documents=documents
    )


def measured(
    model: nn.Module,
    windows: Tensor,
    found: Iterable[Tensor],
    reference: Reference | None,
    tails: bool = False,
) -> Losses:
    """Losses of logits, one tensor a window; the other arguments and errors are those of
    `evaluate`.
    """
    if reference is None:
        return _losses(model, windows, found, None, False, False)
    truth = _answers(reference)
    losses = _losses(model, windows, found, truth, not reference.log_probs, tails)
    return replace(losses, documents=reference.losses.documents)


def _losses(
    model: nn.Module,
    windows: Tensor,
    found: Iterable[Tensor],
    truth: Iterable[Tensor] | None,
    raw: bool,
    tails: bool,
) -> Losses:
    """Losses of logits against `truth`, one tensor a window: log-probabilities or, where `raw`,
    logits.

    KL of every token is kept where quantiles are asked for: a float32 a token.
    """
    answers = iter(truth) if truth is not None else None
    nll: list[float] = []
    kl: list[float] = []
    top1: list[float] = []
    tokens: list[np.ndarray] = []
    for window, answer in zip(windows, found, strict=True):
        if answers is None:
            nll.append(_nll(torch.log_softmax(answer.float(), dim=-1), window))
            continue
        each = _against(next(answers), raw, answer, window)
        for values, own in zip((nll, kl, top1), each, strict=True):
            values.append(float(own.double().mean()))
        if tails:
            tokens.append(each[1].cpu().numpy())
    if not np.isfinite(nll).all():
        raise InputError(
            f"{models.name(model)!r} answers with NaN or Inf on window "
            f"{int(np.argmin(np.isfinite(nll)))}"
        )
    if not np.isfinite(kl).all():
        number = int(np.argmin(np.isfinite(kl)))
        raise InputError(
            f"KL of {models.name(model)!r} to the reference is {kl[number]} on window {number}: it "
            f"gives probability 0 where the reference does not, or the reference answers with NaN; "
            f"measure without a reference (perplexity alone), or take another plan"
        )
    return Losses(
        np.array(nll),
        np.array(kl) if answers else None,
        np.array(top1) if answers else None,
        windows.shape[1] - 1,
        tails=_tails(np.concatenate(tokens)) if tokens else {},
    )


def _tails(kl: np.ndarray) -> dict[str, float]:
    """Quantiles over tokens (n,)."""
    ends = np.quantile(kl.astype(np.float64), list(TAILS.values()))
    return dict(zip(TAILS, ends.tolist(), strict=True))


def _against(
    truth: Tensor, raw: bool, answer: Tensor, window: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """NLL, KL and top-1 agreement of each token of one window, a few rows at a time: the arrays in
    between stay in the cache.

    truth: of the reference (length − 1, vocabulary), log-probabilities or, where `raw`, logits;
        answer: logits, the same
    shape; window: (length,).
    """
    rows = max(1, NUMBERS // answer.shape[-1])
    nll, kl, top1 = [], [], []
    for p, logits, token in zip(
        truth.split(rows), answer.split(rows), window[1:].to(answer.device).split(rows), strict=True
    ):
        p = torch.log_softmax(p.float(), dim=-1) if raw else p
        q = torch.log_softmax(logits.float(), dim=-1)
        nll.append(-q.gather(-1, token[:, None])[:, 0])
        top1.append(_likeliest(p) == _likeliest(q))
        kl.append(_divergence(p, q))
    return torch.cat(nll), torch.cat(kl), torch.cat(top1)


def _divergence(p: Tensor, q: Tensor) -> Tensor:
    """Σ p (log p − log q) of each row (rows,), of log-probabilities (rows, n); writes over `q`."""
    chance = p.exp()
    each = torch.sub(p, q, out=q).mul_(chance)
    found = each.sum(-1)
    if found.isfinite().all():
        return found
    return each.masked_fill_(chance == 0, 0.0).sum(-1)  # 0 · (log 0 − log q) is 0, not NaN


def _likeliest(log_probs: Tensor) -> Tensor:
    """Number of the largest in each row, of the first where several are; (rows, n) -> (rows,)."""
    if log_probs.device.type != "cpu":
        return log_probs.argmax(-1)
    return torch.from_numpy(log_probs.numpy().argmax(-1))  # 13 times as fast as torch's


def _nll(log_probs: Tensor, window: Tensor) -> float:
    return -float(log_probs.gather(-1, window[1:, None].to(log_probs.device)).double().mean())


def _answers(reference: Reference) -> Iterable[Tensor]:
    """The kept log-probabilities, or logits, kept or made again."""
    kept = reference.log_probs or reference.logits
    return kept if reference.remade is None else reference.remade.logits()


def require_windows_fit(
    model: nn.Module, windows: Tensor, reference: Reference | None = None
) -> None:
    """Raise InputError for windows that the model cannot read, or that `reference` was not taken
    on.
    """
    require_readable(model, windows)
    if reference is not None and not torch.equal(reference.windows, windows):
        raise InputError("the reference was taken on other windows; take both on the same ones")
    if windows.shape[1] < 2:
        raise InputError("windows of one token leave nothing to score; two or more are needed")
