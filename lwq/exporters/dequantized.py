"""The numbers of a plan in plain weights: any program loads them, and nothing is smaller."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from lwq import models
from lwq.common.errors import InputError
from lwq.contracts import DROPPED, Layout, Option, Plan
from lwq.contracts.methods import Exporter, Quantizer, Storage
from lwq.exporters.shared.sizers import InFormat


@dataclass(frozen=True)
class Dequantized(Exporter):
    """Plain safetensors: `AutoModelForCausalLM.from_pretrained(folder)` loads them anywhere.

    The weights keep the dtype that the model was loaded in, since a narrower one would round the
    numbers of the plan: a float16 checkpoint that was loaded in float32 becomes twice as large.
    """

    @property
    def says(self) -> str:
        return "dequantized weights for transformers: the plan is simulated, the files are large"

    def sizer(self, quantizer: Quantizer) -> InFormat:
        """Two bytes a weight, whatever the plan: of a model that was loaded in 16 bits."""
        return InFormat(quantizer, lambda _, shape, __: 2 * shape[0] * shape[1])

    def options(self, layout: Layout, unit: str, quantizer: Quantizer) -> tuple[Option, ...]:
        return tuple(o for o in Exporter.options(self, layout, unit, quantizer) if o != DROPPED)

    def require(self, plan: Plan, quantizer: Quantizer) -> None:
        """Raise InputError for a plan that drops blocks: plain weights cannot say so."""
        if gone := [unit for unit, option in plan.bits.items() if option == DROPPED]:
            raise InputError(
                f"the plan drops {gone[:4]} (0 bits), and the format 'dequantized' cannot say so; "
                "`lwq eval MODEL --plan PLAN` applies it in memory, as lwq.quantize_ does in Python"
            )

    def __call__(
        self, model: nn.Module, packed: Iterator[tuple[str, Storage]], plan: Plan, folder: Path
    ) -> Path:
        deque(packed, maxlen=0)  # the model holds the numbers of the plan once they have gone by
        models.save(model, folder)
        return folder
