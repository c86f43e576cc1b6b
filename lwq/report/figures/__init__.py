"""Results table -> Figure, one function a figure. Nothing is read, saved or measured here.

Figures of one study alone stand in its section.
"""

from lwq.report.figures.far import far
from lwq.report.figures.strips import plans, strip
from lwq.report.figures.style import all_high, is_random, label
from lwq.report.figures.sweeps import curves, retained_curve, tasks, thresholds

__all__ = [
    "all_high",
    "curves",
    "far",
    "is_random",
    "label",
    "plans",
    "retained_curve",
    "strip",
    "tasks",
    "thresholds",
]
