"""lwq: which layers of a language model can go to fewer bits, how far, and at what cost.

The names below are the whole public interface. They load on first use, so that `lwq --help` needs
no torch.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from lwq.common.version import VERSION

if TYPE_CHECKING:
    from lwq.allocators import ALLOCATORS, allocate
    from lwq.common.errors import InputError, RunError
    from lwq.contracts import Budget, Costs, Layout, Losses, Plan, Row, Scores, Size
    from lwq.engine.apply import quantize_
    from lwq.engine.bank import Bank
    from lwq.engine.evaluate import Reference, evaluate, reference
    from lwq.engine.store import Store
    from lwq.engine.sweep import Sweep
    from lwq.exporters.dequantized import export
    from lwq.inputs.texts import windows
    from lwq.models import load, units
    from lwq.quantizers import QUANTIZERS, Packed
    from lwq.report.intervals import Interval, largest_fraction, retained
    from lwq.results.measurements import Results
    from lwq.scorers import SCORERS, Estimate, score
    from lwq.studies.experiment import Experiment

__version__ = VERSION

_HOME = {
    "lwq.allocators": ["ALLOCATORS", "allocate"],
    "lwq.engine.apply": ["quantize_"],
    "lwq.engine.bank": ["Bank"],
    "lwq.report.intervals": ["Interval", "largest_fraction", "retained"],
    "lwq.contracts": ["Budget", "Costs", "Layout", "Losses", "Plan", "Row", "Scores", "Size"],
    "lwq.inputs.texts": ["windows"],
    "lwq.common.errors": ["InputError", "RunError"],
    "lwq.engine.evaluate": ["Reference", "evaluate", "reference"],
    "lwq.exporters.dequantized": ["export"],
    "lwq.models": ["load", "units"],
    "lwq.quantizers": ["QUANTIZERS", "Packed"],
    "lwq.results.measurements": ["Results"],
    "lwq.scorers": ["SCORERS", "Estimate", "score"],
    "lwq.studies.experiment": ["Experiment"],
    "lwq.engine.store": ["Store"],
    "lwq.engine.sweep": ["Sweep"],
}
_MODULE = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "ALLOCATORS",
    "QUANTIZERS",
    "SCORERS",
    "Bank",
    "Budget",
    "Costs",
    "Estimate",
    "InputError",
    "Interval",
    "Layout",
    "Losses",
    "Packed",
    "Plan",
    "Reference",
    "Results",
    "Row",
    "RunError",
    "Scores",
    "Experiment",
    "Size",
    "Store",
    "Sweep",
    "allocate",
    "evaluate",
    "export",
    "largest_fraction",
    "load",
    "quantize_",
    "reference",
    "retained",
    "score",
    "units",
    "windows",
]


class _Lazy(ModuleType):
    """The package: imports a public name when it is first asked for.

    `evaluate` and `export` are functions in files of the same name; importing such a file must not
    hide the function.
    """

    def __getattr__(self, name: str) -> Any:
        if name not in _MODULE:
            raise AttributeError(f"module 'lwq' has no attribute {name!r}; it has {__all__}")
        value = getattr(import_module(_MODULE[name]), name)
        setattr(self, name, value)
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _MODULE and isinstance(value, ModuleType)):
            super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return [*__all__, "__version__"]


sys.modules[__name__].__class__ = _Lazy
