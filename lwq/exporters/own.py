"""lwq's own format: the packed parts of every storage, exactly; `lwq.load` opens the folder."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lwq import models
from lwq.common import paths
from lwq.common.names import pick
from lwq.contracts import KEPT, Layout, Plan, dropped, inside
from lwq.contracts.methods import Exporter, Quantizer, Storage
from lwq.engine.apply import all_matrices, matrix_bits
from lwq.exporters.shared.shards import (
    Shards,
    by_parameter,
    cast,
    narrow,
    parameter,
    require_held,
    write_settings,
)
from lwq.exporters.shared.sizers import InFormat
from lwq.quantizers import storage

MARK = "packed.json"  # in the folder: which matrices are packed, and how
DTYPES: dict[str, torch.dtype | None] = {"auto": None, **models.DTYPES}


@dataclass(frozen=True)
class Own(Exporter):
    """Every quantizer, option, dropped block and outlier, in the bytes that the plan says.

    A tensor `MATRIX/PART` is a part of a packed matrix; any other is one that no plan reaches, or
    that is kept.

    Attributes:
        dtype: of what is not packed. "auto": for each tensor the 16 bits that hold it exactly
            (those of a 16-bit checkpoint), else float16, rounded (bfloat16 where a number is too
            large). "float32": the numbers of any
            model, at twice the bytes. What the architecture keeps in float32 stays so.
    """

    dtype: str = "auto"

    def __post_init__(self) -> None:
        pick(DTYPES, "dtype", self.dtype)

    @property
    def says(self) -> str:
        return "packed as the quantizer packs, all of its options; opened by lwq.load"

    def require(self, plan: Plan, quantizer: Quantizer) -> None:
        """Holds every plan."""

    def nbytes(self, plan: Plan, quantizer: Quantizer) -> int:
        wide = Exporter.nbytes(self, plan, quantizer)
        if self.dtype != "float32":
            return wide
        # what is packed weighs nothing here: two bytes a weight of all else, once more
        return wide + plan.size(InFormat(quantizer, lambda *_: 0)).total_bytes

    def beyond(self, layout: Layout, model: Any = None) -> int:
        """What the architecture keeps in float32, and buffers, which no layout counts."""
        if model is None:
            return 0
        wide, found = _wide(model), 0
        buffers = dict(model.named_buffers())
        for key, tensor in model.state_dict().items():
            width = 4 if key in wide or self.dtype == "float32" else 2
            if key in buffers:
                width = width if tensor.is_floating_point() else tensor.itemsize
                found += width * tensor.numel()
            elif key in wide:
                found += 2 * tensor.numel()
        return found

    def __call__(
        self, model: Any, packed: Iterator[tuple[str, Storage]], plan: Plan, folder: Path
    ) -> Path:
        matrices, wide = all_matrices(model), _wide(model)
        table: dict[str, Any] = {}
        taken = {
            parameter(model, matrices[name])
            for name, option in matrix_bits(plan).items()
            if option != KEPT
        }
        if dtype := DTYPES[self.dtype]:
            kept = ((k, t) for k, t in models.stored(model) if k not in taken and k not in wide)
            require_held(kept, dtype)
        slices = by_parameter(model, matrices.values())
        with Shards(folder) as out:
            for name, made in packed:
                tensors = made.tensors()
                for part, tensor in tensors.items():
                    out.add(f"{name}/{part}", tensor)
                kind = {"storage": storage.name_of(made), "parts": sorted(tensors)}
                table[name] = kind | made.header()
            gone = [block for block in models.blocks(model) if dropped(block, plan.bits)]
            for key, tensor in models.stored(model):
                if any(inside(key, block) for block in gone):
                    continue
                if key not in taken:
                    out.add(key, tensor if key in wide else self._narrow(key, tensor))
                    continue
                for matrix in slices[key]:  # experts of one tensor, of which some stay
                    if matrix.name not in table:
                        out.add(matrix.name, self._narrow(matrix.name, matrix.view()))
        write_settings(model, folder, model.dtype, {"quantization_config": {"quant_method": "lwq"}})
        tuples = models.traced(model).returns_tuple if gone else {}
        skips = {block: tuples[block] for block in gone}  # block -> whether it returns a tuple
        said = {"lwq": "packed", "dropped": skips, "matrices": table}
        with paths.writing(folder):
            (folder / MARK).write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")
        return folder

    def _narrow(self, key: str, tensor: torch.Tensor) -> torch.Tensor:
        if not tensor.is_floating_point():
            return tensor
        return cast(key, tensor, DTYPES[self.dtype] or narrow(tensor))


def _wide(model: Any) -> set[str]:
    """What stays in float32 whatever 16 bits a model is loaded in."""
    narrow = torch.float16 if model.dtype == torch.float32 else model.dtype
    dtypes = models.own_dtypes(model, narrow)
    return {key for key, dtype in dtypes.items() if dtype == torch.float32}
