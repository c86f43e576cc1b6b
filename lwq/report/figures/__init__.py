"""Results table -> Figure, one function a figure. Nothing is read, saved or measured here.

Figures of one study alone stand in its section.
"""

from lwq.report.figures.budgets import correlations, plan_map, size_curves
from lwq.report.figures.far import far
from lwq.report.figures.pruned import pruning, pruning_gaps
from lwq.report.figures.strips import plans, strip
from lwq.report.figures.style import all_high, is_random, label
from lwq.report.figures.sweeps import curves, retained_curve, tasks, thresholds
from lwq.report.figures.texts import by_text

__all__ = [
    "all_high",
    "by_text",
    "correlations",
    "curves",
    "far",
    "is_random",
    "label",
    "plan_map",
    "plans",
    "pruning",
    "pruning_gaps",
    "retained_curve",
    "size_curves",
    "strip",
    "tasks",
    "thresholds",
]
