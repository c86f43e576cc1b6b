"""A sampled score: a number that remembers its standard error."""

import numpy as np


class Estimate(float):
    """A mean over windows, usable as the float it is, with `.stderr` beside it."""

    stderr: float | None  # None where none can be estimated

    @classmethod
    def of(cls, values: np.ndarray) -> "Estimate":
        """Mean and standard error of one value a window (windows,); the error of a single window is
        not estimable: None.
        """
        estimate = cls(values.mean())
        estimate.stderr = (
            float(values.std(ddof=1) / len(values) ** 0.5) if len(values) > 1 else None
        )
        return estimate
