"""Log-probabilities of continuations after their contexts, many of them in one forward pass."""

import inspect
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lwq import models
from lwq.common.errors import InputError
from lwq.common.progress import track

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TOKENS = 512  # of a forward pass, over all the questions in it
CLOSE = {torch.float32: 1e-3}  # nats by which a packed pass may differ from a plain one
ROUGH = 0.5  # the same for 16-bit arithmetic

Request = tuple[str, str]  # context, continuation
Encoded = Sequence[tuple[tuple[int, ...], tuple[int, ...]]]


@torch.inference_mode()
def loglikelihoods(
    model: nn.Module, tokenizer: "PreTrainedTokenizerBase", requests: Sequence[Request]
) -> list[tuple[float, bool]]:
    """(log-probability of the continuation after its context, whether it is the greedy one) of each
    request.

    Requests that share their context share its computation: a context stands once in a row of
    tokens, all its continuations behind it, rows stand side by side, and a mask keeps each from
    seeing the others. Whether a model makes the same of it is tried on the passes that ask most of
    it; where it does not (recurrence, a mask of its own), and for rows longer than a window, every
    request has a forward pass of its own.
    """
    encoded = [encode(model, tokenizer, *request) for request in requests]
    groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for index, (context, _) in enumerate(encoded):
        groups[context].append(index)
    reach = models.reach(model.config) or math.inf
    batches = list(
        _batches([row for row in groups.values() if _span(row, encoded) <= reach], encoded)
    )
    found: dict[int, tuple[float, bool]] = {}
    packs = True
    for batch in _hardest(batches, encoded):
        plain = _plain(model, [index for row in batch for index in row], encoded)
        packs = packs and _same(model, batch, encoded, plain)
        found |= plain
    left = [[row for row in batch if row[0] not in found] for batch in batches]
    packed = [partial(_packed, model, batch, encoded) for batch in left if batch and packs]
    done = {index for batch in batches if packs for row in batch for index in row} | found.keys()
    alone = [partial(_plain, model, row, encoded) for row in groups.values() if row[0] not in done]
    for answer in track([*packed, *alone], "answer questions", leave=False):
        found |= answer()
    return [found[index] for index in range(len(encoded))]


def _span(row: list[int], encoded: Encoded) -> int:
    return len(encoded[row[0]][0]) + max(len(encoded[index][1]) for index in row)


def _length(row: list[int], encoded: Encoded) -> int:
    """Tokens of a packed row."""
    return len(encoded[row[0]][0]) + sum(len(encoded[index][1]) for index in row)


def _hardest(batches: list[list[list[int]]], encoded: Encoded) -> list[list[list[int]]]:
    """The first pass, the one with the longest row, and the one with the longest request."""
    if not batches:
        return []
    longest = [
        max(batches, key=lambda batch: max(size(row, encoded) for row in batch))
        for size in (_length, _span)
    ]
    return list({batch[0][0]: batch for batch in (batches[0], *longest)}.values())


def _same(
    model: nn.Module,
    batch: list[list[int]],
    encoded: Encoded,
    plain: Mapping[int, tuple[float, bool]],
) -> bool:
    """Whether the model makes the same of packed rows as of plain ones."""
    try:
        packed = _packed(model, batch, encoded)
    except models.UNREADABLE:  # it takes no such mask, or no positions
        return False
    limit = CLOSE.get(next(model.parameters()).dtype, ROUGH)
    return max(abs(packed[index][0] - plain[index][0]) for index in packed) <= limit


def _plain(model: nn.Module, row: list[int], encoded: Encoded) -> dict[int, tuple[float, bool]]:
    """Request -> answer, one forward pass each."""
    found = {}
    for index in row:
        context, answer = encoded[index]
        tokens = torch.tensor([context + answer[:-1]], device=models.device(model))
        logits = models.call(model, tokens, use_cache=False).logits[0, len(context) - 1 :]
        found[index] = _judge(logits, answer)
    return found


def encode(
    model: nn.Module, tokenizer: "PreTrainedTokenizerBase", context: str, continuation: str
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Token ids of both, as lm-eval cuts them: together, with the spaces at the end of the context
    moved over, and with the special tokens (such as BOS) that the tokenizer itself adds to a text.
    """
    spaces = len(context) - len(context.rstrip())
    if spaces:
        context, continuation = context[:-spaces], context[-spaces:] + continuation
    prefix = tokenizer.bos_token or tokenizer.eos_token
    # a text that brings its BOS with it gets no second one
    special = not (prefix and context.startswith(prefix))
    before, whole = (
        tokenizer(text, add_special_tokens=special, verbose=False).input_ids
        for text in (context, context + continuation)
    )
    limit = models.context_length(model.config) or len(whole)
    cut = max(0, len(whole) - 1 - limit)
    if not before or cut >= len(before):
        raise InputError(
            f"a question with {len(before)} tokens before its answer does not fit a "
            f"context of {limit}"
        )
    return tuple(before[cut:]), tuple(whole[len(before) :])


def _batches(rows: list[list[int]], encoded: Encoded) -> Iterator[list[list[int]]]:
    """Rows side by side, up to TOKENS tokens."""
    batch: list[list[int]] = []
    size = 0
    for row in rows:
        length = _length(row, encoded)
        if batch and size + length > TOKENS:
            yield batch
            batch, size = [], 0
        batch.append(row)
        size += length
    if batch:
        yield batch


def _packed(
    model: nn.Module, rows: list[list[int]], encoded: Encoded
) -> dict[int, tuple[float, bool]]:
    """Request -> answer, from one forward pass over `rows`; each holds the requests that share a
    context.
    """
    tokens: list[int] = []
    positions: list[int] = []
    groups: list[int] = []
    parts: list[int] = []
    places: dict[int, Tensor] = {}
    for group, row in enumerate(rows):
        context = encoded[row[0]][0]
        start = len(tokens)
        tokens += context
        positions += range(len(context))
        parts += [0] * len(context)
        for part, index in enumerate(row, start=1):
            answer = encoded[index][1]
            own = torch.arange(len(tokens), len(tokens) + len(answer) - 1)
            places[index] = torch.cat([torch.tensor([start + len(context) - 1]), own])
            tokens += answer[:-1]
            positions += range(len(context), len(context) + len(answer) - 1)
            parts += [part] * (len(answer) - 1)
        groups += [group] * (len(tokens) - start)
    kept = torch.cat(list(places.values())).unique()
    device = models.device(model)
    logits = models.call(
        model,
        torch.tensor([tokens], device=device),
        attention_mask=_mask(
            torch.tensor(groups), torch.tensor(parts), next(model.parameters()).dtype
        ).to(device),
        position_ids=torch.tensor([positions], device=device),
        use_cache=False,
        **_only(model, kept.to(device)),
    ).logits[0]
    if len(logits) == len(kept):
        places = {index: torch.searchsorted(kept, place) for index, place in places.items()}
    return {index: _judge(logits[place], encoded[index][1]) for index, place in places.items()}


def _only(model: Any, kept: Tensor) -> dict[str, Tensor]:
    """What makes the head run at the positions `kept` and nowhere else; nothing where the model
    cannot.
    """
    return (
        {"logits_to_keep": kept}
        if "logits_to_keep" in inspect.signature(model.forward).parameters
        else {}
    )


def _mask(groups: Tensor, parts: Tensor, dtype: torch.dtype) -> Tensor:
    """(1, 1, tokens, tokens), added to the attention scores: 0 where a token sees another of its
    own group and part.
    """
    same = groups[:, None] == groups
    sees = same & ((parts == 0) | (parts[:, None] == parts)) & torch.ones_like(same).tril()
    return torch.zeros(sees.shape, dtype=dtype).masked_fill_(~sees, torch.finfo(dtype).min)[
        None, None
    ]


def _judge(logits: Tensor, answer: Sequence[int]) -> tuple[float, bool]:
    log_p = torch.log_softmax(logits.float(), dim=-1)
    wanted = torch.tensor(answer, device=logits.device)
    return float(log_p.gather(-1, wanted[:, None]).double().sum()), bool(
        (log_p.argmax(-1) == wanted).all()
    )
