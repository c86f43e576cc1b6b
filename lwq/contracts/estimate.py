"""A sampled score: a number that remembers its standard error."""

import numpy as np


class Estimate(float):
    """A mean over windows, usable as the float it is, with `.stderr` beside it."""

    stderr: float | None  # None where none can be estimated

    @classmethod
    def of(cls, values: np.ndarray, documents: np.ndarray | None = None) -> "Estimate":
        """Mean and standard error of one value a window (windows,); the error of a single window is
        not estimable: None.

        Windows of one document do not err independently, so that deviations are summed by document
        (Liang and Zeger, Biometrika 73:13, 1986): √(G / (G − 1) · Σ_g (Σ_i∈g (x_i − x̄))²) / n,
        which is the usual standard error where each window is a document of its own.

        Args:
            documents: as `clusters` has them.
        """
        estimate = cls(values.mean())
        _, places = np.unique(clusters(len(values), documents), return_inverse=True)
        sums = np.bincount(places, values - values.mean())
        groups = len(sums)
        estimate.stderr = (
            float((groups / (groups - 1) * (sums**2).sum()) ** 0.5 / len(values))
            if groups > 1
            else None
        )
        return estimate


def clusters(count: int, documents: np.ndarray | None) -> np.ndarray:
    """What each of `count` windows errs together with, (count,): the windows of its document; of a
    single document, or where none are known (None), itself alone.
    """
    alone = np.arange(count)
    return alone if documents is None or len(np.unique(documents)) == 1 else documents
