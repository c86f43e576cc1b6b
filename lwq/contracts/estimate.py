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
            documents: where each window comes from; None, or one document, counts each by itself.
        """
        estimate = cls(values.mean())
        names = np.arange(len(values)) if documents is None else documents
        if len(np.unique(names)) == 1:
            names = np.arange(len(values))
        _, places = np.unique(names, return_inverse=True)
        sums = np.bincount(places, values - values.mean())
        groups = len(sums)
        estimate.stderr = (
            float((groups / (groups - 1) * (sums**2).sum()) ** 0.5 / len(values))
            if groups > 1
            else None
        )
        return estimate
