"""What calibration windows are, told before a pass."""

from typing import Any

from torch import Tensor

from lwq.common.errors import InputError


def require_windows(windows: Any) -> None:
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
