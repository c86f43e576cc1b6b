"""What the report says of each study: one file a study, and a line here, in the order of the page.

A section is a function `section(table, plans, windows) -> Section`: the rows of the study, plans by
id, and the arrays behind the rows.
"""

from collections.abc import Callable, Mapping
from typing import TypeAlias

import pandas as pd

from lwq.contracts.section import Section
from lwq.report.sections import (
    dynamic_methods,
    model_scale,
    orderings,
    pruning,
    template,
    where_it_hurts,
    which_score,
)
from lwq.results.plans import StoredPlan

Sectioner: TypeAlias = Callable[[pd.DataFrame, Mapping[str, StoredPlan], pd.DataFrame], Section]

SECTIONS: dict[str, Sectioner] = {
    "orderings": orderings.section,
    "model_scale": model_scale.section,
    "pruning": pruning.section,
    "dynamic_methods": dynamic_methods.section,
    "which_score": which_score.section,
    "where_it_hurts": where_it_hurts.section,
    "template": template.section,
}
