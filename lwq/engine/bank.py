"""Every matrix at every width that plans ask for: quantized once, kept packed in memory and on
disk, swapped by a copy.
"""

import contextlib
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import version
from typing import Any

import torch
from cachetools import LRUCache
from torch import Tensor, nn

from lwq import models
from lwq.common.errors import InputError
from lwq.common.hashing import codes
from lwq.common.names import rebuild, spec
from lwq.common.sizes import readable
from lwq.contracts import DROPPED, KEPT, Layout, Option, Plan, require_whole_drops
from lwq.contracts.methods import Quantizer, Storage
from lwq.engine import apply, room
from lwq.engine.apply import (
    drop_blocks_,
    matrix_bits,
    quantized,
    require_fit,
    shapes,
)
from lwq.engine.originals import Originals
from lwq.engine.store import Store
from lwq.quantizers import QUANTIZERS


class _Lost(InputError):
    """What was in the bank is not there any more."""


class Bank:
    """Puts a model into the state that a plan describes, again and again.

    Memory: a copy of the blocks' weights, up to the limit of `Originals` (none for a model from
    `load(..., stream=True)`), and a byte a weight for each width, up to `memory` bytes; what was
    used longest ago leaves first and is read from the store when it is needed again.

    Attributes:
        model: from `lwq.load`; between calls it holds the plan applied last.
        quantizer: an object; its `inputs`, if it has them, must be "full" or "uniform".
        windows: calibration windows, LongTensor (n, length), where the quantizer needs statistics.
        store: where results outlive the process; None keeps them in memory only.
        memory: bytes of results kept in memory; None: as `room` says of the model.
        exact: the same model in a wider dtype, which is what gets quantized and what plans are made
            for; the results are written into `model`, rounded to its dtype. Without it, `model`
            itself.
    """

    def __init__(
        self,
        model: nn.Module,
        quantizer: Quantizer,
        windows: Tensor | None = None,
        store: Store | None = None,
        memory: int | None = None,
        exact: nn.Module | None = None,
    ):
        if quantizer.inputs == "quantized":
            raise InputError(
                f"{quantizer}: with inputs='quantized' a block's result depends on the widths of "
                f"those before it and "
                "cannot be reused; sweeps need inputs='uniform' or 'full' (quantize_ takes all "
                "three)"
            )
        self.model, self.quantizer, self.windows = model, quantizer, windows
        self.exact = model if exact is None else exact
        self.now: dict[str, Option] = {}
        self._rewrites = models.rewrites(self.model), models.rewrites(self.exact)
        restore_(self.exact)
        self._take()
        self.layout = models.layout(self.exact)
        self._layouts: dict[tuple[str, bool], Layout] = {}
        inner, self.beyond = models.matrices(model), models.outside(model)
        self.matrices = {**inner, **self.beyond}
        self.now |= dict.fromkeys(self.matrices, KEPT)
        self.packed: LRUCache[tuple[str, Option], Storage] = LRUCache(
            room.of_bank(model) if memory is None else memory,
            getsizeof=lambda packed: packed.resident_bytes,
        )
        self.source = source(
            quantizer, f"{self.layout.fingerprint}-{models.configuration(self.exact)}", windows
        )
        # results of code that cannot be read stay in memory
        self.store = store if self.source else None
        self.original = Originals()
        if models.streamed(model) is not None:  # nothing of it is in memory
            return
        for name in inner:
            self.original.keep(name, self.matrices[name].view())

    def prepare(self, plans: Iterable[Plan]) -> None:
        """Quantize what `plans` need and the bank lacks, in as few passes as can be; the model is
        then in its original state.

        Nothing happens where the bank has everything. Killed, it goes on from the matrix that it
        had reached.

        Raises InputError, before the work starts, for a plan of another model or quantizer, a part
        of a block with 0 bits, a width or shape that the quantizer cannot do, or a model that
        `quantize_` has changed since the bank was made.
        """
        self._require_unchanged(self.exact, self._rewrites[1])
        plans = list(plans)
        wanted: dict[str, set[Option]] = {name: set() for name in self.matrices}
        for plan in plans:
            plan.layout.require(self._like(plan.layout), "plan")
            require_whole_drops(models.traced(self.model).returns_tuple, plan.bits)
            for name, width in matrix_bits(plan).items():
                wanted[name].add(width)
        for text in {plan.quantizer for plan in plans if set(plan.bits.values()) - {DROPPED, KEPT}}:
            require_quantizer(text, self.quantizer)
        for plan in plans:
            require_fit(self.quantizer, shapes(plan), matrix_bits(plan), plan.layout.outside)
        self._take()
        if not self._missing(wanted):
            return
        if self.store is None:
            self._quantize(self._missing(wanted))
            return
        with self.store.lock(self.source):
            self._quantize(self._missing(wanted))
        self.store.prune()

    def _like(self, layout: Layout) -> Layout:
        """The layout of the bank's model in the granularity of `layout`."""
        kind = layout.granularity, bool(layout.outside)
        if kind not in self._layouts:
            known = self.layout.fingerprint
            self._layouts[kind] = models.layout(self.exact, *kind, known=known)
        return self._layouts[kind]

    def apply_(self, plan: Plan) -> None:
        """Put the model into the state that `plan` describes, from whatever state it is in; only
        what differs is written.
        """
        self.prepare([plan])
        try:
            self._swap(plan)
        except _Lost:  # damaged files, or some that another process deleted meanwhile
            for name, width in self._state(plan).items():
                # the store deletes what it cannot read, so that it is missing
                self._find(name, width)
            self.prepare([plan])
            self._swap(plan)
        drop_blocks_(self.model, plan.bits)

    def restore_(self) -> None:
        """Put the original weights back."""
        self._take()
        self._restore()

    def release(self) -> None:
        """Put the original weights back and let go of the model, until this bank is used again."""
        self.restore_()
        self._let_go()
        self.model._bank = None  # type: ignore[assignment]  # torch types attributes of a module as tensors or modules

    def made(self, name: str, width: Option) -> Storage:
        """A matrix at a width that was prepared. Raises InputError where the bank's limits did not
        hold it.
        """
        return self._get(name, width)

    def packed_of(self, plan: Plan) -> Iterator[tuple[str, Storage]]:
        """(matrix, what is stored of it) of a plan, as `lwq.engine.apply.packed` hands them over;
        the model stays in its original state.
        """
        self.prepare([plan])
        self.restore_()
        for name, width in matrix_bits(plan).items():
            if width not in (DROPPED, KEPT):
                yield name, self._get(name, width)

    def untouched(self, name: str) -> Tensor:
        """The original weights of a matrix (out, in); a model from `load(..., stream=True)` keeps
        none in memory.
        """
        return self.original[name]

    def _restore(self) -> None:
        for name, width in self.now.items():
            if width != KEPT:
                self._set(name, KEPT)
        drop_blocks_(self.model, {})

    def _take(self) -> None:
        """Let another bank of the same model put back what it changed, and go: each believes that
        it alone writes.
        """
        self._require_unchanged(self.model, self._rewrites[0])
        other = getattr(self.model, "_bank", None)
        if other is self:
            return
        if other is not None:
            other._restore()
            other._let_go()
        if kept := models.streamed(self.model):
            kept.after_load.append(self._write_part)
        self.model._bank = self  # type: ignore[assignment]  # torch types attributes of a module as tensors or modules

    def _require_unchanged(self, model: nn.Module, rewrites: int) -> None:
        """Raise InputError where weights of `model` were replaced for good since this bank was
        made: what it holds was made of those before.
        """
        if models.rewrites(model) != rewrites:
            raise InputError(
                f"{models.name(model)!r} was quantized in place (quantize_, export) after this "
                f"Bank was made of it; make a new Bank, and a new Sweep"
            )

    def _let_go(self) -> None:
        """What reads weights from disk does not hold this bank any more."""
        if kept := models.streamed(self.model):
            kept.after_load.remove(self._write_part)

    def _state(self, plan: Plan) -> dict[str, Option]:
        """Option of each matrix; what is outside blocks and not in the plan stays as it is."""
        return {**dict.fromkeys(self.beyond, KEPT), **matrix_bits(plan)}

    def _swap(self, plan: Plan) -> None:
        for name, width in self._state(plan).items():
            if width not in (self.now[name], DROPPED):
                self._set(name, width)

    def _set(self, name: str, width: Option) -> None:
        if models.streamed(self.model) is None:
            self._write(name, width)
        elif width != KEPT:
            # blocks are written when they are loaded: too late to make again what is lost
            self._get(name, width)
        self.now[name] = width

    def _write_part(self, part: str) -> None:
        kept = models.streamed(self.model)
        for name, width in self.now.items():
            if width != KEPT and kept is not None and kept.part_of(name) == part:
                self._write(name, width)

    def _write(self, name: str, width: Option) -> None:
        live = self.matrices[name].view()
        if name in self.beyond and models.streamed(self.model) is None:
            self.original.keep(name, live)  # large, and few plans change it
        live.copy_(self.original[name] if width == KEPT else self._get(name, width).dequantize())

    def _get(self, name: str, width: Option) -> Storage:
        found = self._find(name, width)
        if found is None:
            memory, disk = int(self.packed.maxsize), self.store.limit if self.store else 0
            raise _Lost(
                f"{name} at {width} bits did not stay in the bank: its limits ({readable(memory)} "
                f"of memory, {readable(disk)} on disk) hold less than one plan needs; raise them"
            )
        return found

    def _find(self, name: str, width: Option) -> Storage | None:
        if (name, width) in self.packed:
            return self.packed[name, width]
        found = self.store.get(self._key(name, width)) if self.store else None
        if found is not None:
            self._keep(name, width, found)
        return found

    def _keep(self, name: str, width: Option, packed: Storage) -> None:
        if packed.resident_bytes <= self.packed.maxsize:
            self.packed[name, width] = packed

    def _missing(self, wanted: Mapping[str, set[Option]]) -> dict[str, set[Option]]:
        def has(name: str, width: Option) -> bool:
            return (name, width) in self.packed or (
                self.store is not None and self._key(name, width) in self.store
            )

        left = {
            name: {w for w in widths - {DROPPED, KEPT} if not has(name, w)}
            for name, widths in wanted.items()
        }
        return {name: widths for name, widths in left.items() if widths}

    @torch.no_grad()
    def _quantize(self, missing: Mapping[str, set[Option]]) -> None:
        if not missing:
            return
        self.restore_()
        restore_(self.exact)
        for name, width, packed in quantized(self.exact, self.quantizer, missing, self.windows):
            self._keep(name, width, packed)
            if self.store is not None:
                self.store.put(self._key(name, width), packed)

    def _key(self, name: str, width: Option) -> str:
        return _digest([self.source, name, width])


def restore_(model: nn.Module) -> None:
    """Put the original weights back, whichever bank changed them."""
    holder = getattr(model, "_bank", None)
    if holder is not None:
        holder.restore_()


def require_quantizer(text: str, quantizer: Quantizer) -> None:
    """Raise InputError unless `text`, which a plan names its quantizer with, stands for `quantizer`
    with all its settings.
    """
    own, named = spec(QUANTIZERS, quantizer), text
    if text != own:
        # code that was not named before, in the words of the plan
        with contextlib.suppress(InputError):
            named = spec(QUANTIZERS, rebuild(QUANTIZERS, "quantizer", text))
    if named != own:
        raise InputError(
            f"the plan's quantizer is {named} and the bank's is {own}; make the plan with the "
            f"bank's, or a Bank of the plan's"
        )


def source(quantizer: Quantizer, fingerprint: str, windows: Tensor | None) -> str:
    """32 hex digits over all that decides what `quantizer` makes of a model, "" where its code
    cannot be read.

    That is the weights and the model's settings (`fingerprint`), the statistics (they follow from
    the weights, the tokens of `windows` and the code that sums them), the settings, the code, and
    the versions of torch and transformers.
    """
    try:
        code = codes(quantizer, apply)
    except (OSError, TypeError):
        return ""
    tokens = windows.numpy().tobytes() if windows is not None and quantizer.needs else b""
    shape = list(windows.shape) if tokens and windows is not None else []
    sums = [*code, hashlib.sha256(tokens).hexdigest()]
    return _digest(
        [
            fingerprint,
            spec(QUANTIZERS, quantizer),
            shape,
            *sums,
            torch.__version__,
            version("transformers"),
        ]
    )


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:32]
