"""Formats that hold uniform grids and nothing else: what they refuse, and what they weigh."""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lwq import models
from lwq.common.errors import InputError
from lwq.common.names import rebuild
from lwq.contracts import DROPPED, KEPT, Layout, Option, Plan, Shape
from lwq.contracts.layout import nominal_bits
from lwq.contracts.methods import Exporter, Grid, Quantizer, Storage
from lwq.engine.apply import all_matrices, matrix_bits
from lwq.exporters.shared.older import older
from lwq.exporters.shared.shards import (
    Shards,
    cast,
    narrow,
    require_held,
    too_large,
    write_settings,
)
from lwq.exporters.shared.sizers import InFormat
from lwq.quantizers import QUANTIZERS, Packed

# how programs that join matrices call the joined one -> its members, in their order
FUSED = {
    "qkv_proj": ("q_proj", "k_proj", "v_proj"),
    "gate_up_proj": ("gate_proj", "up_proj"),
}


class GridFormat(Exporter):
    """What the exporters of codes, scales and zeros have in common.

    Attributes:
        name: the key in EXPORTERS.
        holds_outside: whether embeddings and head can be quantized.
        joined: whether members of FUSED must share one grid.
        dtype: of what is not quantized; "auto": the 16 bits that hold it exactly, else float16, or
            bfloat16 where a number is too large.
    """

    name: ClassVar[str]
    holds_outside: ClassVar[bool] = False
    dtype: str

    @property
    def joined(self) -> bool:
        return False

    def reason(self, grid: Grid, shape: Shape) -> str:
        """Why the format cannot hold a matrix on `grid`; "" where it can."""
        raise NotImplementedError  # each format has its own

    def weigh(self, grid: Grid, shape: Shape) -> int:
        """Bytes of the tensors of a matrix."""
        raise NotImplementedError  # each format has its own

    def tensors(self, made: Packed, grid: Grid, plan: Plan) -> dict[str, Tensor]:
        """What is written of a matrix, under its name."""
        raise NotImplementedError  # each format has its own

    def settings(
        self, plan: Plan, grids: Mapping[str, Grid], kept: Iterable[str]
    ) -> dict[str, Any]:
        """What config.json says.

        grids: matrix -> its grid; kept: matrices that stay as they are.
        """
        raise NotImplementedError  # each format has its own

    def also(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Settings of the model under names that the reader knows, beside those in `config`."""
        return older(config)

    def sizer(self, quantizer: Quantizer) -> InFormat:
        return InFormat(quantizer, self._weighed)

    def _weighed(self, quantizer: Quantizer, shape: Shape, option: Option) -> int:
        if (grid := quantizer.grid(option)) is None:
            raise InputError(f"{_called(quantizer)} has no uniform grid at {option!r} bits")
        return self.weigh(grid, shape)

    def require(self, plan: Plan, quantizer: Quantizer) -> None:
        """Raise InputError, with the nearest plan that fits, for one that the format cannot
        hold.
        """
        fault = next(self._faults(plan, quantizer), None)
        if fault is None:
            return
        try:
            fitting = self.nearest(plan, quantizer).bits
        except InputError as error:
            raise InputError(f"{fault}; {error}") from None
        changes = [
            f"{unit}: {option!r} -> {fitting[unit]!r}"
            for unit, option in plan.bits.items()
            if fitting[unit] != option
        ]
        more = f" … ({len(changes)} in all)" if len(changes) > 4 else ""
        raise InputError(
            f"{fault}. The nearest plan that {self.name!r} holds: {', '.join(changes[:4])}{more}; "
            "lwq.exporters.nearest(plan, format) makes it"
        )

    def nearest(self, plan: Plan, quantizer: Quantizer) -> Plan:
        """`plan` with each option that the format cannot hold replaced by the one with the nearest
        nominal bits, the higher of two, and joined matrices raised to the highest among them.

        Raises InputError where no option fits.
        """
        bits = {
            unit: self._nearest(plan.layout, unit, option, quantizer)
            for unit, option in plan.bits.items()
        }
        together: dict[str, list[str]] = {}
        for unit, group in self.groups(plan.layout).items():
            together.setdefault(group, []).append(unit)
        for units in together.values():
            best = max((bits[unit] for unit in units), key=lambda o: nominal_bits(o, quantizer))
            bits |= dict.fromkeys(units, best)
        return replace(plan, bits=bits)

    def options(self, layout: Layout, unit: str, quantizer: Quantizer) -> tuple[Option, ...]:
        packer = _packer(layout, unit, quantizer)
        return tuple(
            option
            for option in (*packer.levels, KEPT)
            if not self.fault(layout, unit, option, quantizer)
        )

    def groups(self, layout: Layout) -> dict[str, str]:
        owner = {name: unit for unit, names in layout.units.items() for name in names}
        found: dict[str, str] = {}
        for alias, members in fused(owner) if self.joined else ():
            units = {owner[name] for name in members}
            if len(units) > 1:
                # units of several joined matrices bring their groups together
                known = next((found[unit] for unit in units if unit in found), alias)
                found |= dict.fromkeys(units, known)
        return found

    def _nearest(self, layout: Layout, unit: str, option: Option, quantizer: Quantizer) -> Option:
        if not self.fault(layout, unit, option, quantizer):
            return option
        if option == DROPPED:
            raise InputError("no option of the format comes near 0 bits; plan without them")
        packer = _packer(layout, unit, quantizer)
        wanted = nominal_bits(option, packer)

        def distance(other: Option) -> tuple[float, float]:
            found = nominal_bits(other, packer)
            return abs(found - wanted), -found

        return min(self.options(layout, unit, quantizer), key=distance)

    def _faults(self, plan: Plan, quantizer: Quantizer) -> Iterator[str]:
        for unit, option in plan.bits.items():
            if fault := self.fault(plan.layout, unit, option, quantizer):
                yield fault
        groups = self.groups(plan.layout)
        first = {group: unit for unit, group in reversed(groups.items())}
        for unit, group in groups.items():
            if plan.bits[unit] != plan.bits[first[group]]:
                yield (
                    f"{first[group]} has {plan.bits[first[group]]!r} and {unit} "
                    f"{plan.bits[unit]!r}: they are one matrix there, {group}"
                )

    def fault(self, layout: Layout, unit: str, option: Option, quantizer: Quantizer) -> str:
        """The first matrix of `unit` that cannot have `option`, and why; "" where all can."""
        if option == KEPT:
            return ""
        if option == DROPPED:
            return f"{unit}: 0 bits, and the format {self.name!r} cannot drop a block"
        if unit in layout.outside and not self.holds_outside:
            return f"{unit}: the format {self.name!r} keeps embeddings and head at 16 bits"
        packer = _packer(layout, unit, quantizer)
        grid = packer.grid(option) if option in packer.levels else None
        for name, shape in layout.units[unit].items():
            if grid is None:
                return (
                    f"{name}: {option!r} of {_called(packer)} is no uniform grid alone, and the "
                    f"format {self.name!r} holds nothing else"
                )
            if name.rpartition(".")[2].isdecimal():
                return f"{name}: one of a stack of experts, which {self.name!r} is not written for"
            if why := self.reason(grid, (shape[0], shape[1])):
                return f"{name}: {option!r}: {why}"
        return ""

    def require_model(self, model: Any, tokenizer: Any) -> None:
        """Raise InputError for a model whose matrices other programs would not find."""
        inner = models.matrices(model)
        if stack := [name for name, matrix in inner.items() if matrix.expert is not None]:
            raise InputError(
                f"{stack[0]} is one of a stack of experts, which transformers 5 names as other "
                f"programs do not; {self.name!r} is not written for them: choose 'lwq' or "
                "'dequantized'"
            )
        _require_plain(model, inner, self.name)

    def __call__(
        self, model: Any, packed: Iterator[tuple[str, Storage]], plan: Plan, folder: Path
    ) -> Path:
        options = matrix_bits(plan)
        grids = grids_of(plan)
        _require_plain(model, grids, self.name)
        taken = {f"{name}.weight" for name in grids}
        dtype = self._dtype(model, taken)
        with Shards(folder) as out:
            for name, made in packed:
                assert isinstance(made, Packed)  # `require` has seen to it
                for part, tensor in self.tensors(made, grids[name], plan).items():
                    out.add(f"{name}.{part}", tensor)
            for key, tensor in models.stored(model):
                if key not in taken:
                    out.add(key, cast(key, tensor, dtype))
        kept = [name for name, option in options.items() if option == KEPT]
        stored = self.settings(plan, grids, kept) if grids else {}  # else plain weights of 16 bits
        said = stored | self.also(model.config.to_dict())
        write_settings(model, folder, dtype, said)
        return folder

    def _dtype(self, model: Any, taken: Collection[str]) -> torch.dtype:
        """Of what is not quantized; InputError where it does not hold that."""
        kept = ((key, tensor) for key, tensor in models.stored(model) if key not in taken)
        if (dtype := models.DTYPES.get(self.dtype)) is None:
            return common(tensor for _, tensor in kept)
        require_held(kept, dtype)
        return dtype


def grids_of(plan: Plan) -> dict[str, Grid]:
    """Matrix -> its grid, of those that the plan quantizes."""
    quantizer = rebuild(QUANTIZERS, "quantizer", plan.quantizer)
    found: dict[str, Grid] = {}
    for unit, names in plan.layout.units.items():
        packer, option = _packer(plan.layout, unit, quantizer), plan.bits[unit]
        if option not in (DROPPED, KEPT) and (grid := packer.grid(option)):
            found |= dict.fromkeys(names, grid)
    return found


def common(tensors: Iterable[Tensor]) -> torch.dtype:
    """The 16 bits that hold all of `tensors`: exactly where one kind does, else float16, or
    bfloat16 where a number of any is too large.
    """
    found = set()
    for tensor in tensors:
        if not tensor.is_floating_point():
            continue
        if too_large(tensor):
            return torch.bfloat16
        kind = narrow(tensor)
        found.add((kind, bool((tensor.to(kind).to(tensor.dtype) == tensor).all())))
    rounded = {dtype for dtype, exact in found if not exact}
    kinds = rounded or {dtype for dtype, _ in found}
    return torch.bfloat16 if kinds == {torch.bfloat16} else torch.float16


def fused(names: Iterable[str]) -> Iterator[tuple[str, list[str]]]:
    """(joined matrix, its members) of those that some programs join, where all members are among
    `names`.
    """
    there = dict.fromkeys(names)
    for name in there:
        parent, _, leaf = name.rpartition(".")
        for alias, members in FUSED.items():
            full = [f"{parent}.{member}" for member in members]
            if leaf == members[0] and all(member in there for member in full):
                yield f"{parent}.{alias}", full


def rules(names: Iterable[str]) -> list[str]:
    """Anchored, escaped regular expressions that match `names` and no other module's: one for each
    set of numbers (blocks) that names share.
    """
    numbers: dict[tuple[str, str], list[str]] = {}  # what stands before and after the first number
    for name in names:
        before, number, after = re.fullmatch(r"(.*?)(?:\.(\d+)(?=\.)(.*))?", name).groups()  # type: ignore[union-attr]  # it matches any text
        numbers.setdefault((before, after or ""), []).extend([number] if number else [])
    alike: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for (before, after), own in numbers.items():
        alike.setdefault((before, tuple(own)), []).append(after)
    return [_rule(before, own, afters) for (before, own), afters in alike.items()]


def _rule(before: str, numbers: tuple[str, ...], afters: list[str]) -> str:
    middle = rf"\.({'|'.join(numbers)})" if numbers else ""
    ends = "|".join(re.escape(after) for after in afters)
    return f"^{re.escape(before)}{middle}{f'({ends})' if len(afters) > 1 else ends}$"


def _require_plain(model: nn.Module, names: Iterable[str], format: str) -> None:
    """Raise InputError for a matrix whose module other programs do not find as they expect it."""
    table = all_matrices(model)
    for name in names:
        if table[name].transposed or table[name].expert is not None:
            kind = type(table[name].module).__name__
            raise InputError(
                f"{name} is a {kind}, and the format {format!r} is written for Linear alone; "
                "choose 'lwq' or 'dequantized'"
            )


def _packer(layout: Layout, unit: str, quantizer: Quantizer) -> Quantizer:
    return quantizer.outside if unit in layout.outside else quantizer


def _called(quantizer: Quantizer) -> str:
    return type(quantizer).__name__.lower()
