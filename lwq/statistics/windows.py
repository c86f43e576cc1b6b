"""What windows of tokens are, told before a pass over them."""

from typing import Any

from torch import Tensor, nn

from lwq import models
from lwq.common.errors import InputError


def require_windows(windows: Any, needs: frozenset[str]) -> Tensor:
    """`windows`, or an InputError that says what they are needed for or what is wrong with them."""
    if windows is None:
        raise InputError(
            f"calibration windows are needed for {sorted(needs)}; pass lwq.windows(text, tokenizer)"
        )
    require_token_ids(windows)
    return windows


def require_token_ids(windows: Any) -> None:
    """Raise InputError for what is no LongTensor (n, length) of token ids with a window or more.

    Of a single window without its first dimension, gradient scores would read a few tokens.
    """
    if not isinstance(windows, Tensor):
        shown = f"a {type(windows).__name__}"
    elif windows.dim() != 2 or not windows.numel() or windows.dtype.is_floating_point:
        shown = f"{str(windows.dtype).removeprefix('torch.')} {tuple(windows.shape)}"
    elif (least := int(windows.min())) < 0:
        shown = f"padded with {least}"
    else:
        return
    raise InputError(
        f"windows are a LongTensor (n, length) of token ids, one window or more, and these are "
        f"{shown}; lwq.windows(text, tokenizer) makes some, and windows[:1] is the first alone"
    )


def require_readable(model: nn.Module, windows: Any) -> None:
    """Raise InputError for what is no windows, for some that are longer than the context, and for
    tokens that the model does not have.
    """
    require_token_ids(windows)
    context = models.context_length(model.config)
    if context and windows.shape[1] > context:
        raise InputError(
            f"windows of {windows.shape[1]} tokens are longer than the model's context of {context}"
        )
    if (top := int(windows.max())) >= models.vocabulary(model):
        raise InputError(
            f"token id {top} is outside the vocabulary of "
            f"{models.vocabulary(model)}; use the model's tokenizer"
        )
