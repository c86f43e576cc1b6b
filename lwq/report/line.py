"""Uniform bits as a line, straight in log KL over size: in every table and figure the same one."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np


class Line(NamedTuple):
    """Uniform bits as a line: straight in log KL over bytes, between sizes that were measured.

    Attributes:
        sizes: bytes of the whole file, ascending (points,).
        ids: of the rows at the corners.
    """

    sizes: np.ndarray
    ids: tuple[str, ...]

    def place(self, size: float) -> tuple[int, int, float] | None:
        """(left corner, right corner, share of the right one) at `size`; None beyond both ends."""
        if not len(self.sizes) or not self.sizes[0] <= size <= self.sizes[-1]:
            return None
        right = max(int(np.searchsorted(self.sizes, size)), min(1, len(self.sizes) - 1))
        left = max(right - 1, 0)
        width = self.sizes[right] - self.sizes[left]
        return left, right, float((size - self.sizes[left]) / width) if width else 0.0


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
