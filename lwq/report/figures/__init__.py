"""Results table -> Figure, one function a figure. Nothing is read, saved or measured here."""

from lwq.report.figures.dynamic import gains
from lwq.report.figures.orderings import curves, far, rankings, retained_curve, tasks, thresholds
from lwq.report.figures.pruning import pruning, pruning_gaps
from lwq.report.figures.scale import scale_areas, scale_curves
from lwq.report.figures.strips import plans, strip
from lwq.report.figures.style import all_high, is_random, label

__all__ = [
    "all_high",
    "curves",
    "far",
    "gains",
    "is_random",
    "label",
    "plans",
    "pruning",
    "pruning_gaps",
    "rankings",
    "retained_curve",
    "scale_areas",
    "scale_curves",
    "strip",
    "tasks",
    "thresholds",
]
