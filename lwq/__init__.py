"""lwq: which layers of a language model can go to fewer bits, how far, and at what cost.

The names below are the whole public interface. They load on first use, so that `lwq --help` needs
no torch.
"""

import ast
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from lwq.common.version import VERSION

if TYPE_CHECKING:
    from lwq.allocators import ALLOCATORS as ALLOCATORS
    from lwq.common.errors import InputError as InputError
    from lwq.common.errors import RunError as RunError
    from lwq.contracts import Budget as Budget
    from lwq.contracts import Costs as Costs
    from lwq.contracts import Layout as Layout
    from lwq.contracts import Losses as Losses
    from lwq.contracts import Plan as Plan
    from lwq.contracts import Row as Row
    from lwq.contracts import Scores as Scores
    from lwq.contracts import Size as Size
    from lwq.contracts.methods import Allocator as Allocator
    from lwq.contracts.methods import Exporter as Exporter
    from lwq.contracts.methods import Quantizer as Quantizer
    from lwq.contracts.methods import Scorer as Scorer
    from lwq.engine.apply import quantize_ as quantize_
    from lwq.engine.bank import Bank as Bank
    from lwq.engine.evaluate import Reference as Reference
    from lwq.engine.evaluate import evaluate as evaluate
    from lwq.engine.evaluate import reference as reference
    from lwq.engine.objective import Objective as Objective
    from lwq.engine.store import Store as Store
    from lwq.engine.sweep import Sweep as Sweep
    from lwq.exporters import EXPORTERS as EXPORTERS
    from lwq.exporters import export as export
    from lwq.exporters.opened import load as load
    from lwq.inputs.texts import windows as windows
    from lwq.models import units as units
    from lwq.quantizers import QUANTIZERS as QUANTIZERS
    from lwq.quantizers import Packed as Packed
    from lwq.recipes.allocate import allocate as allocate
    from lwq.recipes.check import check as check
    from lwq.recipes.compress import compress as compress
    from lwq.recipes.explain import explain as explain
    from lwq.recipes.recommend import Recipe as Recipe
    from lwq.report.bootstrap import Interval as Interval
    from lwq.report.bootstrap import retained as retained
    from lwq.report.intervals import largest_fraction as largest_fraction
    from lwq.results.measurements import Results as Results
    from lwq.scorers import SCORERS as SCORERS
    from lwq.scorers import Estimate as Estimate
    from lwq.scorers import score as score
    from lwq.studies.experiment import Experiment as Experiment

__version__ = VERSION


def _homes() -> dict[str, str]:
    """Public name -> its module, from the imports above: one list for readers, checkers and us."""
    imports = (node for node in ast.walk(ast.parse(Path(__file__).read_text(encoding="utf-8"))))
    return {
        alias.name: node.module
        for node in imports
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lwq.")
        for alias in node.names
        if alias.asname == alias.name and node.module
    }


_MODULE = _homes()

__all__ = sorted(_MODULE)


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
