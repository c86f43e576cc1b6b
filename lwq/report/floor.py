"""The noise floor: what the same model loses when it is computed otherwise.

KL of the untouched model with weights and arithmetic in bfloat16 to itself in float32, as
`Experiment.measure_floor` measures it.
"""

import pandas as pd

from lwq.contracts.results import FLOOR


def text_of(judge: object) -> str:
    """The text that windows come from: "wiki" of "wiki/judge 32x256 …"."""
    return str(judge).partition("/")[0]


def floors(table: pd.DataFrame) -> dict[tuple[str, str], float]:
    """(model, text) -> nats a token; where several were measured, the one on the most windows."""
    rows = table[(table["way"] == FLOOR) & (table["metric"] == "kl") & (table["value"] > 0)]
    rows = rows.sort_values(["n", "id"])
    keys = zip(rows["model"], rows["judge"].map(text_of), strict=True)
    return dict(zip(keys, rows["value"].astype(float), strict=True))
