"""Results table -> Figure, one function a figure. Nothing is read, saved or measured here."""

from lwq.figures.dynamic import gains
from lwq.figures.look import all_high, is_random, label
from lwq.figures.orderings import curves, far, rankings, retained_curve, tasks, thresholds
from lwq.figures.pruning import pruning, pruning_gaps
from lwq.figures.scale import scale_areas, scale_curves
from lwq.figures.strips import plans, strip

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
