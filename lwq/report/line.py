"""Uniform bits as a line, straight in log KL over bytes: in every figure of sizes the same one.

What the KL is between two sizes that were measured, there are two rules for, one a kind of claim:

- `ratio` takes the line through the means over windows: what the figures draw. A plan's KL over it
  has a geometric mean over plans.
- `on_windows` takes the line on each window: a sample, from which a plan's KL is subtracted for a
  paired gain in nats a token. Its mean never lies above the other line (Hölder's inequality): it is
  harder to win against.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from lwq.report import bootstrap
from lwq.report.bootstrap import Interval, Sample


class Line(NamedTuple):
    """Uniform bits as a line between sizes that were measured.

    Attributes:
        sizes: bytes of the whole file, ascending (points,).
        ids: of the rows at the corners.
    """

    sizes: np.ndarray
    ids: tuple[str, ...]

    @classmethod
    def through(cls, uniform: pd.DataFrame) -> "Line":
        """Uniform plans' corners."""
        rows = corners(uniform)
        return cls(rows["total_bytes"].to_numpy(dtype=float), tuple(rows["id"]))

    def at(self, size: float) -> dict[str, float] | None:
        """Id of a corner -> its share at `size`, one corner or two; None beyond both ends."""
        if not len(self.sizes) or not self.sizes[0] <= size <= self.sizes[-1]:
            return None
        right = int(np.searchsorted(self.sizes, size))
        if self.sizes[right] == size:
            return {self.ids[right]: 1.0}
        left = right - 1
        share = float((size - self.sizes[left]) / (self.sizes[right] - self.sizes[left]))
        return {self.ids[left]: 1 - share, self.ids[right]: share}


def ratio(plans: Mapping[str, Mapping[str, float]], kl: Mapping[str, Sample]) -> Interval:
    """Geometric mean, over plans, of KL over that of uniform bits at the same bytes.

    Args:
        plans: id of a plan -> what `Line.at` says of its size.
        kl: id -> KL on each window.
    """
    weights: dict[str, float] = {}
    for plan, shares in plans.items():
        for key, weight in {plan: 1.0, **{key: -share for key, share in shares.items()}}.items():
            weights[key] = weights.get(key, 0.0) + weight / len(plans)
    exponents = np.array(list(weights.values()))
    samples = [kl[key] for key in weights]
    return bootstrap.paired(lambda means: np.exp(exponents @ np.log(means)), *samples)


def on_windows(shares: Mapping[str, float], kl: Mapping[str, Sample]) -> Sample:
    """KL of uniform bits on each window, at a size of which `Line.at` says the shares."""
    if len(shares) == 1:
        return kl[next(iter(shares))]
    logs = sum(share * np.log(kl[key].values) for key, share in shares.items())
    return Sample(np.exp(logs), kl[next(iter(shares))].documents)


def corners(uniform: pd.DataFrame) -> pd.DataFrame:
    """Of uniform plans those at the corners of the line, from the smallest: on the lower convex
    hull, so that no mean of two sizes is better than a third; one that is no better than a smaller
    one is left out, and so is the untouched model at 16 bits: a KL of 0 has no logarithm.
    """
    rows = uniform[uniform["kl"] > 0].sort_values(["total_bytes", "kl"])
    rows = rows[rows["kl"] < rows["kl"].cummin().shift(fill_value=np.inf)].reset_index(drop=True)
    return rows.loc[hull(rows["total_bytes"], rows["kl"])]


def hull(sizes: Iterable[float], losses: Iterable[float]) -> list[int]:
    """Places of the corners of the lower convex hull of log loss over size, from small to large.

    Args:
        sizes: ascending; of equal ones the first counts.
        losses: above 0.
    """
    kept: list[tuple[float, float, int]] = []
    for place, (size, loss) in enumerate(zip(sizes, losses, strict=True)):
        corner = (float(size), float(np.log(loss)), place)
        if kept and kept[-1][0] == corner[0]:
            continue
        while len(kept) > 1 and _turns_up(kept[-2], kept[-1], corner):
            kept.pop()
        kept.append(corner)
    return [place for _, _, place in kept]


def _turns_up(first: tuple[Any, ...], middle: tuple[Any, ...], last: tuple[Any, ...]) -> bool:
    """Whether `middle` lies on or above the straight line between the two others."""
    share = (middle[0] - first[0]) / (last[0] - first[0])
    return bool(middle[1] >= (1 - share) * first[1] + share * last[1])
