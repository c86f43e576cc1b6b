"""Apply a plan to a model: quantize what it names, drop what has 0 bits, keep what has 16."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from lwq import models
from lwq.collect import BlockStats, MatrixStats, require_windows, stream
from lwq.contracts import DROPPED, KEPT, Plan, Shape, Width, dropped, inside
from lwq.errors import InputError
from lwq.progress import track
from lwq.quantizers import QUANTIZERS, Packed, Sparse
from lwq.strategies import build


def require_fit(quantizer: Any, shapes: Mapping[str, Shape], widths: set[Width]) -> None:
    """Raise InputError, naming the matrix, if a width is not the quantizer's or a shape does not suit it."""
    if bad := sorted(widths - {DROPPED, KEPT, *quantizer.levels}):
        raise InputError(f"{type(quantizer).__name__} has no width {bad}; it offers {sorted(quantizer.levels)}, 0 and 16")
    for name, shape in shapes.items():
        try:
            quantizer.nbytes(shape, quantizer.levels[0])
        except InputError as error:
            raise InputError(f"{name}: {error}") from None


def quantize_(model: nn.Module, plan: Plan, windows: Tensor | None = None) -> dict[str, float]:
    """Apply `plan` in place.

    Args:
        model: the one that the plan was made for, untouched.
        plan: bits for each unit; its quantizer is built from the text it holds.
        windows: LongTensor (n, length) of calibration tokens; needed where the quantizer uses statistics.

    Returns:
        unit -> relative error ‖W − Ŵ‖ / ‖W‖ over its matrices; 0 where nothing changed, 1 where the block was dropped.

    Raises:
        InputError: before anything changes, for a plan of another model, a width or shape that the quantizer cannot do,
            or missing windows.
    """
    plan.layout.require(models.layout(model, plan.layout.granularity), "plan")
    quantizer = build(QUANTIZERS, "quantizer", plan.quantizer)
    bits = matrix_bits(plan)
    require_fit(quantizer, shapes(plan), set(bits.values()))
    require_whole_drops(models.blocks(model), plan.bits)
    matrices = models.matrices(model)
    wanted = {name: {width} - {DROPPED, KEPT} for name, width in bits.items()}
    squares: dict[str, tuple[float, float]] = {}
    for name, _, packed in quantized(model, quantizer, wanted, windows, save=True):
        squares[name] = replace_(matrices[name], packed)
    drop_blocks_(model, plan.bits)
    return {unit: _relative_error(unit, names, plan, squares) for unit, names in plan.layout.units.items()}


def shapes(plan: Plan) -> dict[str, Shape]:
    """Shape of each matrix."""
    return {name: shape for matrices in plan.layout.units.values() for name, shape in matrices.items()}


def matrix_bits(plan: Plan) -> dict[str, Width]:
    """Width of each matrix."""
    return {name: plan.bits[unit] for unit, names in plan.layout.units.items() for name in names}


def replace_(matrix: models.Matrix, packed: Packed | Sparse) -> tuple[float, float]:
    """Write the dequantized weights into the model; returns (Σ (w − ŵ)², Σ w²)."""
    weight = matrix.view()
    before = weight.float().clone()
    weight.copy_(packed.dequantize().to(weight.device))
    return float((before - weight.float()).square().sum()), float(before.square().sum())


def drop_blocks_(model: nn.Module, bits: Mapping[str, Width]) -> None:
    """Make exactly the blocks whose units all have 0 bits pass their input through."""
    for block in models.blocks(model):
        models.drop_(model, block, dropped(block, bits))


def require_whole_drops(blocks: Iterable[str], bits: Mapping[str, Width]) -> None:
    """Raise InputError where only some units of a block have 0 bits: half a block cannot be skipped."""
    for block in blocks:
        partly = any(width == DROPPED and inside(unit, block) for unit, width in bits.items())
        if partly and not dropped(block, bits):
            raise InputError(f"{block}: 0 bits for a part of a block; give 0 to all of its units or to none")


def _relative_error(unit: str, names: Mapping[str, Shape], plan: Plan, squares: Mapping[str, tuple[float, float]]) -> float:
    if plan.bits[unit] in (DROPPED, KEPT):
        return float(plan.bits[unit] == DROPPED)
    error, norm = (sum(part) for part in zip(*(squares[name] for name in names), strict=True))
    return (error / norm) ** 0.5 if norm else 0.0


def quantized(
    model: nn.Module, quantizer: Any, wanted: Mapping[str, set[Width]], windows: Tensor | None, save: bool = False
) -> Iterator[tuple[str, Width, Packed | Sparse]]:
    """(matrix, bits, Packed) for each wanted width of each matrix, from one streamed pass.

    The consumer may write a result into the model at once: with `inputs="full"` the block has run by then, and with
    `inputs="quantized"` it runs again, so that the next block sees what was written.
    """
    matrices = models.matrices(model)
    wanted = {name: widths for name, widths in wanted.items() if widths}
    if not wanted:
        return
    names_of = models.units(model, "block")
    for stats in _pass(model, quantizer, wanted, windows, save):
        for name in names_of[stats.name]:
            for width in sorted(wanted.get(name, ())):
                yield name, width, quantizer(matrices[name].view().float(), width, stats.matrices.get(name, MatrixStats()))
        stats.matrices.clear()  # before the next block's are summed


def _pass(model: nn.Module, quantizer: Any, wanted: Collection[str], windows: Tensor | None, save: bool) -> Iterator[BlockStats]:
    needs = frozenset(quantizer.needs)
    label = f"quantize ({type(quantizer).__name__.lower()})"
    if needs:
        source = getattr(quantizer, "inputs", "full")
        yield from stream(model, require_windows(windows, needs), needs, source, label, wanted, save=save)
        return
    for block in track(list(models.blocks(model)), label):
        with models.resident(model, block, save):
            yield BlockStats(block)
