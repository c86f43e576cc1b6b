"""The code that a score is computed by: a cache must miss where any of it changes."""

from dataclasses import fields, is_dataclass
from typing import Any

from lwq.common.hashing import codes
from lwq.common.names import build
from lwq.quantizers import QUANTIZERS
from lwq.statistics import forward


def scorer_codes(scorer: Any) -> list[str]:
    """Digests of the code of a scorer, of those in its fields, of the pass that feeds it, and of
    the quantizers that its settings name in text (they are found in a dict, which no import shows).
    """
    found = codes(scorer, forward)
    named = fields(scorer) if is_dataclass(scorer) else ()
    settings = {field.name: getattr(scorer, field.name) for field in named}
    for name, value in settings.items():
        if name == "quantizer" and isinstance(value, str):
            found += codes(build(QUANTIZERS, "quantizer", value))
        elif is_dataclass(value) and not isinstance(value, type):
            found += scorer_codes(value)
    return found
