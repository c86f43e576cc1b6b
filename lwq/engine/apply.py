"""Apply a plan to a model: quantize what it names, drop what has 0 bits, keep what has 16."""

from collections import deque
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext

from torch import Tensor, nn

from lwq import models
from lwq.common import paths
from lwq.common.errors import InputError
from lwq.common.names import rebuild
from lwq.common.progress import track
from lwq.contracts import DROPPED, KEPT, Option, Plan, Shape, dropped, require_whole_drops
from lwq.contracts.methods import Quantizer, Storage
from lwq.engine.store import Store
from lwq.quantizers import QUANTIZERS
from lwq.quantizers.shared.contract import require_complete, require_true
from lwq.statistics.forward import BlockStats, stream
from lwq.statistics.sums import MatrixStats
from lwq.statistics.windows import require_windows

Wanted = Mapping[str, set[Option]]  # matrix -> the options that it is quantized to


def require_fit(
    quantizer: Quantizer,
    shapes: Mapping[str, Shape],
    options: Mapping[str, Option],
    outside: Collection[str] = (),
) -> None:
    """Raise InputError, naming the matrix, if its option is not the quantizer's or its shape does
    not suit it. Matrices `outside` of blocks go through `quantizer.outside`.
    """
    require_complete(quantizer)
    for name, option in options.items():
        packer = quantizer.outside if name in outside else quantizer
        if option not in (DROPPED, KEPT, *packer.levels):
            raise InputError(
                f"{type(packer).__name__} has no width [{option!r}], which is asked for {name}; it "
                f"offers {list(packer.levels)}, 0 and 16"
            )
        if option == DROPPED and name in outside:
            raise InputError(f"{name}: 0 bits; embeddings and head cannot be dropped")
        try:
            if option not in (DROPPED, KEPT):
                packer.nbytes(shapes[name], option)
        except InputError as error:
            raise InputError(f"{name}: {error}") from None


def quantize_(model: nn.Module, plan: Plan, windows: Tensor | None = None) -> dict[str, float]:
    """Apply `plan` in place.

    Args:
        model: the one that the plan was made for, untouched; a `Bank` of it puts the original
            weights back first, and cannot be used afterwards.
        plan: bits for each unit; its quantizer is built from the text it holds. Where that names
            code outside lwq (`my_quantizers.py:Mine`), the process must have named it before: a
            plan file runs no code.
        windows: LongTensor (n, length) of calibration tokens; needed where the quantizer uses
            statistics.

    Returns:
        unit -> relative error ‖W − Ŵ‖ / ‖W‖ over its matrices; 0 where nothing changed, 1 where the
        block was dropped.

    Raises:
        InputError: before anything changes, for a plan of another model, a width or shape that the
            quantizer cannot do, or missing windows.
    """
    applied = Applied(model, plan, windows)
    deque(applied, maxlen=0)
    return applied.errors()


def packed(
    model: nn.Module, plan: Plan, windows: Tensor | None = None
) -> Iterator[tuple[str, Storage]]:
    """Apply `plan` in place and hand over (matrix, what is stored of it), in the forward order.

    The arguments and errors are those of `quantize_`, which is this without the storages. Matrices
    with 0 or 16 bits are not among them. Only one storage need be held at a time.
    """
    return iter(Applied(model, plan, windows))


class Applied:
    """Applies a plan to a model in place while it is iterated: (matrix, what is stored of it).

    Attributes:
        squares: matrix -> (Σ (w − ŵ)², Σ w²), for those that went by.
    """

    def __init__(self, model: nn.Module, plan: Plan, windows: Tensor | None):
        self.model, self.plan, self.windows = model, plan, windows
        release_(model)
        self.quantizer = require_applicable(model, plan)
        self.squares: dict[str, tuple[float, float]] = {}

    def __iter__(self) -> Iterator[tuple[str, Storage]]:
        release_(self.model)
        bits, matrices = self.plan.bits, all_matrices(self.model)
        options = matrix_bits(self.plan)
        wanted = {name: {option} - {DROPPED, KEPT} for name, option in options.items()}
        behind = self.quantizer.inputs == "quantized"
        with _dropped_first(self.model, bits) if behind else nullcontext():
            for name, made in _to_write(self.model, self.quantizer, wanted, self.windows):
                models.rewritten_(self.model)
                self.squares[name] = replace_(matrices[name], made)
                yield name, made
        models.rewritten_(self.model)
        drop_blocks_(self.model, bits)

    def errors(self) -> dict[str, float]:
        """unit -> relative error, once all matrices have gone by."""
        units = self.plan.layout.units
        return {
            unit: _relative_error(unit, names, self.plan, self.squares)
            for unit, names in units.items()
        }


def require_applicable(model: nn.Module, plan: Plan) -> Quantizer:
    """The plan's quantizer; raises the InputErrors of `quantize_`."""
    own = models.layout(model, plan.layout.granularity, bool(plan.layout.outside))
    plan.layout.require(own, "plan")
    quantizer = rebuild(QUANTIZERS, "quantizer", plan.quantizer)
    require_fit(quantizer, shapes(plan), matrix_bits(plan), plan.layout.outside)
    require_whole_drops(models.blocks(model), plan.bits)
    return quantizer


def all_matrices(model: nn.Module) -> dict[str, models.Matrix]:
    """Those of the blocks, and embeddings and head."""
    return {**models.matrices(model), **models.outside(model)}


def shapes(plan: Plan) -> dict[str, Shape]:
    """Shape of each matrix."""
    return {
        name: shape for matrices in plan.layout.units.values() for name, shape in matrices.items()
    }


def matrix_bits(plan: Plan) -> dict[str, Option]:
    """Option of each matrix."""
    return {name: plan.bits[unit] for unit, names in plan.layout.units.items() for name in names}


def release_(model: nn.Module) -> None:
    """Let the bank of `model` put back what it changed, and go."""
    bank = getattr(model, "_bank", None)
    if bank is not None:
        bank.release()


def replace_(matrix: models.Matrix, made: Storage) -> tuple[float, float]:
    """Write the dequantized weights into the model; returns (Σ (w − ŵ)², Σ w²)."""
    weight = matrix.view()
    before = weight.float().clone()
    weight.copy_(made.dequantize().to(weight.device))
    return float((before - weight.float()).square().sum()), float(before.square().sum())


def drop_blocks_(model: nn.Module, bits: Mapping[str, Option]) -> None:
    """Make exactly the blocks whose units all have 0 bits pass their input through."""
    blocks = models.traced(model).returns_tuple if DROPPED in bits.values() else ()
    models.drop_(model, [block for block in blocks if dropped(block, bits)])


@contextmanager
def _dropped_first(model: nn.Module, bits: Mapping[str, Option]) -> Iterator[None]:
    """Inside, blocks are fitted to what reaches them without those that `bits` drops; a failure
    undoes it.
    """
    try:
        drop_blocks_(model, bits)
        yield
    except BaseException:
        drop_blocks_(model, {})
        raise


def _relative_error(
    unit: str, names: Mapping[str, Shape], plan: Plan, squares: Mapping[str, tuple[float, float]]
) -> float:
    if plan.bits[unit] in (DROPPED, KEPT) or not names:
        return float(plan.bits[unit] == DROPPED)
    error, norm = (sum(part) for part in zip(*(squares[name] for name in names), strict=True))
    return (error / norm) ** 0.5 if norm else 0.0


def _to_write(
    model: nn.Module,
    quantizer: Quantizer,
    wanted: Wanted,
    windows: Tensor | None,
) -> Iterator[tuple[str, Storage]]:
    """(matrix, Packed), at a moment when the consumer may write it into the model and it stays
    there.
    """
    inner, beyond = _split(model, wanted)
    last = quantizer.inputs != "quantized"  # else the blocks see the embeddings as they will be
    for do in (False, True):
        if do == last:
            yield from ((n, made) for n, _, made in _outside(model, quantizer, beyond, save=True))
        else:
            yield from _blocks_to_write(model, quantizer, inner, windows)


def _split(model: nn.Module, wanted: Wanted) -> tuple[Wanted, Wanted]:
    """Those inside blocks, and those outside."""
    beyond = models.outside(model)
    inner = {name: options for name, options in wanted.items() if name not in beyond}
    return inner, {name: wanted[name] for name in beyond if wanted.get(name)}


def _outside(
    model: nn.Module, quantizer: Quantizer, wanted: Wanted, save: bool
) -> Iterator[tuple[str, Option, Storage]]:
    """(matrix, option, storage) of embeddings and head, one at a time in memory."""
    matrices = models.outside(model)
    for name, options in track(list(wanted.items()), "quantize (embeddings and head)"):
        with models.resident(model, name, save):
            for option, made in _each(quantizer.outside, matrices[name], options, BlockStats(name)):
                yield name, option, made


def _blocks_to_write(
    model: nn.Module, quantizer: Quantizer, wanted: Wanted, windows: Tensor | None
) -> Iterator[tuple[str, Storage]]:
    """`_to_write` for matrices of blocks."""
    source = quantizer.inputs
    if source == "uniform" and len({frozenset(widths) for widths in wanted.values()}) == 1:
        # in a plan of one width the blocks before have that width: the same, in one pass
        source = "quantized"
    if source != "uniform":
        yield from (
            (name, packed)
            for name, _, packed in _one_pass(model, quantizer, wanted, windows, source, save=True)
        )
        return
    with paths.aside("plan-") as folder:
        aside = Store(folder)
        # each width's pass needs the model as it was
        for name, _, made in _blocks_quantized(model, quantizer, wanted, windows):
            aside.put(name, made)
        for block, names in models.units(model, "block").items():
            with models.resident(model, block, save=True):
                yield from (
                    (name, packed) for name in names if (packed := aside.get(name)) is not None
                )


def quantized(
    model: nn.Module,
    quantizer: Quantizer,
    wanted: Wanted,
    windows: Tensor | None,
) -> Iterator[tuple[str, Option, Storage]]:
    """(matrix, option, storage) for each wanted option of each matrix, while the model stays as it
    is.

    It takes one streamed pass with `inputs="full"`, and one a width with "uniform".
    """
    inner, beyond = _split(model, wanted)
    yield from _blocks_quantized(model, quantizer, inner, windows)
    yield from _outside(model, quantizer, beyond, save=False)


def _blocks_quantized(
    model: nn.Module, quantizer: Quantizer, wanted: Wanted, windows: Tensor | None
) -> Iterator[tuple[str, Option, Storage]]:
    """`quantized` for matrices of blocks."""
    if quantizer.inputs == "uniform":
        for width in sorted(set().union(*wanted.values()), key=str):
            yield from _behind_its_like(
                model,
                quantizer,
                width,
                [n for n, widths in wanted.items() if width in widths],
                windows,
            )
    else:
        yield from _one_pass(model, quantizer, wanted, windows, "full", save=False)


def _one_pass(
    model: nn.Module,
    quantizer: Quantizer,
    wanted: Wanted,
    windows: Tensor | None,
    source: str,
    save: bool,
) -> Iterator[tuple[str, Option, Storage]]:
    """(matrix, bits, Packed); the consumer may write a result into the model at once.

    With source "full" the block has run by then; with "quantized" it runs again, so that the next
    one sees what was written.
    """
    matrices, names_of = models.matrices(model), models.units(model, "block")
    wanted = {name: widths for name, widths in wanted.items() if widths}
    for stats in _pass(model, quantizer, wanted, windows, source, save) if wanted else ():
        for name in names_of[stats.name]:
            for width, made in _each(quantizer, matrices[name], wanted.get(name, ()), stats):
                yield name, width, made
        stats.matrices.clear()  # before the next block's are summed


def _each(
    quantizer: Quantizer, matrix: models.Matrix, options: Collection[Option], stats: BlockStats
) -> Iterator[tuple[Option, Storage]]:
    """(option, storage) of a matrix; options that make the same of it are made once."""
    found: dict[Option, Storage] = {}
    for option in sorted(options, key=str):
        alike = quantizer.same(matrix.shape, option)
        if alike not in found:
            found[alike] = _made(quantizer, matrix, option, stats)
        yield option, found[alike]


def _made(quantizer: Quantizer, matrix: models.Matrix, width: Option, stats: BlockStats) -> Storage:
    """The matrix in `width` bits; an InputError of the quantizer names the matrix."""
    try:
        weight = matrix.view().float()
        made = quantizer(weight, width, stats.matrices.get(matrix.name, MatrixStats()))
        require_true(quantizer, width, weight, made)
        return made
    except InputError as error:
        raise InputError(f"{matrix.name}: {error}") from None


def _behind_its_like(
    model: nn.Module,
    quantizer: Quantizer,
    width: Option,
    wanted: Collection[str],
    windows: Tensor | None,
) -> Iterator[tuple[str, Option, Storage]]:
    """(matrix, width, Packed) for each of `wanted`, from a pass in which every matrix has `width`;
    one whose shape cannot take it stays untouched, unless it is wanted.

    A block holds its quantized weights until it has run, and then its own again: the model ends as
        it began.
    """
    matrices, names_of = models.matrices(model), models.units(model, "block")
    last = max(i for i, names in enumerate(names_of.values()) if not set(names).isdisjoint(wanted))
    prefix = {
        name
        for names in list(names_of.values())[: last + 1]
        for name in names
        if name in wanted or _fits(quantizer, matrices[name], width)
    }
    own: dict[str, Tensor] = {}

    def put_back() -> None:
        while own:
            name, weight = own.popitem()
            matrices[name].view().copy_(weight)

    try:
        for stats in _pass(model, quantizer, prefix, windows, "quantized", save=False, width=width):
            put_back()
            for name in (name for name in names_of[stats.name] if name in prefix):
                weight, packed = (
                    matrices[name].view(),
                    _made(quantizer, matrices[name], width, stats),
                )
                # else the block leaves memory, and comes back from disk
                if models.streamed(model) is None:
                    own[name] = weight.clone()
                weight.copy_(packed.dequantize())
                if name in wanted:
                    yield name, width, packed
            stats.matrices.clear()
    finally:
        put_back()


def _fits(quantizer: Quantizer, matrix: models.Matrix, width: Option) -> bool:
    try:
        require_fit(quantizer, {matrix.name: matrix.shape}, {matrix.name: width})
    except InputError:
        return False
    return True


def _pass(
    model: nn.Module,
    quantizer: Quantizer,
    wanted: Collection[str],
    windows: Tensor | None,
    source: str,
    save: bool,
    width: Option | None = None,
) -> Iterator[BlockStats]:
    """Statistics block by block; `width`, where the pass is for one, stands beside its progress
    bar.
    """
    needs = frozenset(quantizer.needs)
    label = (
        f"quantize ({type(quantizer).__name__.lower()}{'' if width is None else f', {width} bits'})"
    )
    if needs:
        yield from stream(
            model, require_windows(windows, needs), needs, source, label, wanted, save=save
        )
        return
    for block in track(list(models.blocks(model)), label):
        with models.resident(model, block, save):
            yield BlockStats(block)
