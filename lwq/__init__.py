"""lwq: which layers of a language model can go to fewer bits, how far, and at what cost.

The names below are the whole public interface. They load on first use, so that `lwq --help` needs no torch.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lwq.allocators import ALLOCATORS, allocate
    from lwq.apply import quantize_
    from lwq.bank import Bank
    from lwq.compare import Interval, largest_fraction, retained
    from lwq.contracts import Budget, Costs, Layout, Losses, Plan, Row, Scores, Size
    from lwq.data import windows
    from lwq.errors import InputError
    from lwq.evaluate import Reference, evaluate, reference
    from lwq.experiment import Experiment
    from lwq.export import export
    from lwq.models import load, units
    from lwq.quantizers import QUANTIZERS, Packed
    from lwq.results import Results
    from lwq.scorers import SCORERS, Estimate, score
    from lwq.store import Store
    from lwq.sweep import Sweep

__version__ = "0.1.0"

_HOME = {
    "lwq.allocators": ["ALLOCATORS", "allocate"],
    "lwq.apply": ["quantize_"],
    "lwq.bank": ["Bank"],
    "lwq.compare": ["Interval", "largest_fraction", "retained"],
    "lwq.contracts": ["Budget", "Costs", "Layout", "Losses", "Plan", "Row", "Scores", "Size"],
    "lwq.data": ["windows"],
    "lwq.errors": ["InputError"],
    "lwq.evaluate": ["Reference", "evaluate", "reference"],
    "lwq.export": ["export"],
    "lwq.models": ["load", "units"],
    "lwq.quantizers": ["QUANTIZERS", "Packed"],
    "lwq.results": ["Results"],
    "lwq.scorers": ["SCORERS", "Estimate", "score"],
    "lwq.experiment": ["Experiment"],
    "lwq.store": ["Store"],
    "lwq.sweep": ["Sweep"],
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

    `evaluate` and `export` are functions in files of the same name; importing such a file must not hide the function.
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
