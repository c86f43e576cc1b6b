"""How far a peer's answers are from those of the plan in memory; numpy alone, for any peer."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

TOKENS = 64  # that are compared at once: the logits of a window may be half a gigabyte


def compare(answer: Callable[[np.ndarray], np.ndarray]) -> None:
    """Print, as JSON, over all tokens: the share with the same best token, and the mean KL.

    answer: token ids of a window (length,) -> the peer's logits (length, vocabulary). The windows
    and the answers of the plan are in the folder that the last argument names.
    """
    data = Path(sys.argv[-1])
    windows = np.load(data / "windows.npy")
    expected = np.load(data / "answers.npy", mmap_mode="r")  # (n, length, vocabulary)
    same, kl = [], []
    for window, wanted in zip(windows, expected, strict=True):
        found = answer(window)
        for start in range(0, len(window), TOKENS):
            one, other = (
                log_softmax(np.asarray(logits[start : start + TOKENS], dtype=np.float64))
                for logits in (wanted, found[:, : wanted.shape[1]])
            )
            same.append(one.argmax(-1) == other.argmax(-1))
            kl.append((np.exp(one) * (one - other)).sum(-1))
    together = np.concatenate(same)
    print(
        json.dumps(
            {
                "tokens": len(together),
                "same best token": float(together.mean()),
                "KL": float(np.concatenate(kl).mean()),
            }
        )
    )


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """(tokens, vocabulary), in place."""
    logits -= logits.max(-1, keepdims=True)
    logits -= np.log(np.exp(logits).sum(-1, keepdims=True))
    return logits
