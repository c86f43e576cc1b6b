"""The plain types that cross the seams: Layout, Scores, Costs, Budget, Plan, Size, Losses, Row.

Everything here is data: no torch, no model. Bits and bytes are counted here and nowhere else.
"""

from lwq.contracts.layout import (
    DROPPED,
    GRANULARITIES,
    KEPT,
    Layout,
    Option,
    Shape,
    Size,
    Sizer,
    dropped,
    inside,
    matrix_bytes,
    nominal_bits,
    require_whole_drops,
)
from lwq.contracts.plan import Budget, Plan
from lwq.contracts.results import Losses, Row, TaskScore
from lwq.contracts.scores import Costs, Scores, load_scores

__all__ = [
    "Budget",
    "Costs",
    "DROPPED",
    "GRANULARITIES",
    "KEPT",
    "Layout",
    "Losses",
    "Option",
    "Plan",
    "Row",
    "Scores",
    "Shape",
    "Size",
    "Sizer",
    "TaskScore",
    "dropped",
    "inside",
    "load_scores",
    "matrix_bytes",
    "nominal_bits",
    "require_whole_drops",
]
