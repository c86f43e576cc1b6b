"""GGUF: each tensor in a ggml type of its own, for llama.cpp and what is built on it."""

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from gguf import (
    GGML_QUANT_VERSION,
    GGUF_DEFAULT_ALIGNMENT,
    GGMLQuantizationType,
    GGUFReader,
    GGUFWriter,
)
from torch import Tensor, nn

from lwq import models
from lwq.common import paths
from lwq.common.errors import InputError, RunError
from lwq.common.names import pick, rebuild
from lwq.contracts import DROPPED, KEPT, Layout, Option, Plan, Shape
from lwq.contracts.methods import Exporter, Quantizer, Storage
from lwq.engine.apply import matrix_bits, shapes
from lwq.exporters.llama_cpp.settings import Settings
from lwq.exporters.llama_cpp.vocabulary import Vocabulary
from lwq.exporters.shared.shards import cast, require_held
from lwq.exporters.shared.sizers import InFormat
from lwq.quantizers import QUANTIZERS
from lwq.quantizers.ggml import GGML
from lwq.quantizers.storage.ggml import Blocks, row_bytes
from lwq.quantizers.storage.packed import FLOATS

Kind = GGMLQuantizationType
MATRIX = re.compile(
    r"model\.(layers\.\d+\.(self_attn\.[qkvo]|mlp\.(gate|up|down))_proj|embed_tokens)|lm_head"
)
FILE, TYPES = "model.gguf", "tensor-types.txt"
FACTORS = "rope_freqs.weight"
WIDE = "kept='bfloat16'"  # the way out where float16 is too narrow
PLAIN = {"float16": Kind.F16, "bfloat16": Kind.BF16, "float32": Kind.F32}
DTYPES = {kind: FLOATS[name] for name, kind in PLAIN.items()}


@dataclass(frozen=True)
class Part:
    """A tensor of the file.

    Attributes:
        name: of llama.cpp.
        key: in the model's state dict; empty where the settings make it.
        shape: rows first.
        kind: its type.
    """

    name: str
    key: str
    shape: tuple[int, ...]
    kind: Kind

    @property
    def nbytes(self) -> int:
        *rows, columns = self.shape
        return int(np.prod(rows, dtype=np.int64)) * row_bytes(columns, self.kind)

    @property
    def padded(self) -> int:
        """Bytes in the file, where the next tensor begins at a multiple of 32."""
        return _padded(self.nbytes)


@dataclass(frozen=True)
class FileSize:
    """Bytes of a GGUF file.

    Attributes:
        header: settings, vocabulary, names and places of tensors.
        tensors: the rest: every weight, with what pads them to 32 bytes.
    """

    header: int
    tensors: int

    @property
    def total(self) -> int:
        return self.header + self.tensors


@dataclass(frozen=True)
class GGUF(Exporter):
    """`model.gguf`, which llama.cpp runs, and `tensor-types.txt`, for its own quantizer.

    Matrices have the types of the plan; norms and biases are F32. Names, the order of rows that
    RoPE turns and the norms' one are llama.cpp's.

    Attributes:
        kept: dtype of matrices at 16 bits, or that the plan does not reach: "float16", "bfloat16";
            or "float32", which a plan counts half: for a file that llama.cpp quantizes further.
        pre: llama.cpp's name of the tokenizer's way to cut words; empty: found from the tokenizer.

    Source: the GGUF specification in docs/gguf.md of ggml; `convert_hf_to_gguf.py` of llama.cpp.
    """

    kept: str = "float16"
    pre: str = ""

    def __post_init__(self) -> None:
        pick(FLOATS, "kept", self.kept)

    @property
    def says(self) -> str:
        return "one GGUF file, each tensor in its own ggml type, for llama.cpp (quantizer ggml)"

    def options(self, layout: Layout, unit: str, quantizer: Quantizer) -> tuple[Option, ...]:
        """Nothing but 16 bits of any quantizer but `ggml`."""
        packer = quantizer.outside if unit in layout.outside else quantizer
        return (*packer.levels, KEPT) if isinstance(packer, GGML) else (KEPT,)

    def sizer(self, quantizer: Quantizer) -> InFormat:
        """Each matrix with what pads it to 32 bytes."""
        return InFormat(quantizer, lambda own, shape, option: _padded(own.nbytes(shape, option)))

    def beyond(self, layout: Layout, model: Any = None) -> int:
        """Norms and biases are F32: two bytes more each, where nothing else is left to no plan."""
        if model is None:
            return 2 * sum(layout.rest.values()) if layout.outside else 0
        even = Plan(dict.fromkeys(layout.units, KEPT), layout, "ggml")
        reached = {f"{name}.weight" for name in shapes(even)}
        left = sum(part.padded for part in self.parts(model, even) if part.key not in reached)
        return left - 2 * sum(layout.rest.values())

    def require_model(self, model: Any, tokenizer: Any) -> None:
        """Raise InputError for an architecture or a tokenizer that llama.cpp does not know."""
        settings = Settings.of(model)
        for key, _ in model.named_parameters():
            settings.tensor_name(key)
        with TemporaryDirectory() as folder:
            tokenizer.save_pretrained(folder)
            Vocabulary.read(Path(folder), models.vocabulary(model), self.pre)

    def require(self, plan: Plan, quantizer: Quantizer) -> None:
        """Raise InputError for a plan that drops, another quantizer, or another architecture."""
        if not isinstance(quantizer, GGML):
            widths = sorted({o for o in plan.bits.values() if o in GGML.levels}, key=str)
            raise InputError(
                f"the format 'gguf' holds ggml's types, and the plan is one of {plan.quantizer}; "
                f"the nearest is a plan with quantizer='ggml' and bits={widths or [2, 3, 4]}, "
                "whose widths are q2_k, q3_k, q4_k and so on at their true bytes"
            )
        if gone := [unit for unit, option in plan.bits.items() if option == DROPPED]:
            raise InputError(
                f"the plan drops {gone[:4]} (0 bits), and llama.cpp has no model without a block; "
                "the nearest is the plan with these at 2 (q2_k): leave 0 out of bits"
            )
        if odd := [name for name in shapes(plan) if not MATRIX.fullmatch(name)]:
            raise InputError(
                f"the format 'gguf' has no name for {odd[:3]} of {plan.layout.model!r}; it knows "
                "llama, qwen2, qwen3 and gemma3; format='dequantized' writes any model"
            )

    def __call__(
        self, model: nn.Module, packed: Iterator[tuple[str, Storage]], plan: Plan, folder: Path
    ) -> Path:
        file = folder / FILE
        parts, settings = self.parts(model, plan), Settings.of(model)
        wide = {part.key for part in parts if len(part.shape) > 1 and part.kind in DTYPES}
        kept = ((key, tensor) for key, tensor in models.stored(model) if key in wide)
        require_held(kept, FLOATS[self.kept], WIDE)
        with paths.replacing(file) as work:
            header = self._write_header(model, parts, folder, work)
            _write_tensors(model, packed, parts, settings, work, header)
            _require_read(work, parts, header)
        (folder / TYPES).write_text(tensor_types(plan, settings), encoding="utf-8")
        return folder

    def size(self, model: nn.Module, plan: Plan, folder: Path) -> FileSize:
        """What the file will weigh, to the byte; `folder` holds the tokenizer."""
        parts = self.parts(model, plan)
        with TemporaryDirectory() as work:
            header = self._write_header(model, parts, folder, Path(work) / FILE)
        return FileSize(header, sum(part.padded for part in parts))

    def parts(self, model: nn.Module, plan: Plan) -> list[Part]:
        """The tensors of the file, in the order in which they stand there."""
        settings, kinds = Settings.of(model), kinds_of(plan)
        found = []
        for key, tensor in model.named_parameters():
            shape = tuple(tensor.shape)
            plain = PLAIN[self.kept] if len(shape) > 1 else Kind.F32
            kind = kinds.get(key.removesuffix(".weight"), plain)
            found.append(Part(settings.tensor_name(key), key, shape, kind))
        if (factors := settings.rope_factors(model)) is not None:
            found.append(Part(FACTORS, "", tuple(factors.shape), Kind.F32))
        return found

    def _write_header(
        self, model: nn.Module, parts: Iterable[Part], folder: Path, file: Path
    ) -> int:
        """Write everything that stands before the tensors; returns where those begin."""
        settings = Settings.of(model)
        writer = GGUFWriter(file, settings.name)
        writer.add_name(models.name(model))
        writer.add_quantization_version(GGML_QUANT_VERSION)
        settings.write(writer)
        Vocabulary.read(folder, models.vocabulary(model), self.pre).write(writer)
        for part in parts:
            writer.add_tensor_info(
                part.name, part.shape, np.dtype(np.float32), part.nbytes, part.kind
            )
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        writer.close()
        return _padded(file.stat().st_size)


def _padded(size: int) -> int:
    """The next multiple of 32."""
    return -(-size // GGUF_DEFAULT_ALIGNMENT) * GGUF_DEFAULT_ALIGNMENT


def kinds_of(plan: Plan) -> dict[str, Kind]:
    """Matrix -> its type, of those that the plan quantizes."""
    quantizer = rebuild(QUANTIZERS, "quantizer", plan.quantizer)
    sizes: dict[str, Shape] = shapes(plan)
    return {
        name: quantizer.kind(sizes[name][1], option)
        for name, option in matrix_bits(plan).items()
        if option not in (DROPPED, KEPT)
    }


def tensor_types(plan: Plan, settings: Settings) -> str:
    """The plan for `llama-quantize --tensor-type-file`: one line a tensor, pattern=type."""
    lines = [
        f"^{re.escape(settings.tensor_name(f'{name}.weight'))}$={kind.name.lower()}"
        for name, kind in kinds_of(plan).items()
    ]
    return "\n".join(lines) + "\n"


def _write_tensors(
    model: nn.Module,
    packed: Iterable[tuple[str, Storage]],
    parts: list[Part],
    settings: Settings,
    file: Path,
    start: int,
) -> None:
    """Write each tensor at its place, in whatever order they come."""
    ends = np.cumsum([part.padded for part in parts])
    places = {
        part.key: (part, start + int(end) - part.padded)
        for part, end in zip(parts, ends, strict=True)
    }
    with file.open("r+b") as sink:
        sink.truncate(start + int(ends[-1]))

        def put(key: str, data: Tensor) -> None:
            part, place = places.pop(key)
            order = settings.rows(key)
            raw = (data if order is None else data[order.to(data.device)]).contiguous().cpu()
            if (found := raw.nbytes) != part.nbytes:
                raise RunError(f"{key} has {found:,} bytes, {part.nbytes:,} were promised")
            sink.seek(place)
            sink.write(raw.reshape(-1).view(torch.uint8).numpy().data)

        for name, made in packed:
            assert isinstance(made, Blocks)
            put(f"{name}.weight", made.data)
        for key, tensor in models.tensors(model):
            if key in places:
                put(key, _plain(key, tensor, places[key][0].kind, settings))
        if (factors := settings.rope_factors(model)) is not None:
            put("", factors)
        os.fsync(sink.fileno())
    assert not places


def _plain(key: str, tensor: Tensor, kind: Kind, settings: Settings) -> Tensor:
    """A tensor that is not quantized, in the dtype of the file."""
    if key.endswith("norm.weight"):
        return tensor.float() + settings.architecture.shift
    return cast(key, tensor, DTYPES[kind], WIDE)


def _require_read(file: Path, parts: list[Part], header: int) -> None:
    """Raise RunError unless gguf-py reads the tensors that were written, where they are."""
    reader = GGUFReader(file)
    found = [
        (t.name, tuple(int(n) for n in reversed(t.shape)), Kind(t.tensor_type), int(t.n_bytes))
        for t in reader.tensors
    ]
    wanted = [(part.name, part.shape, part.kind, part.nbytes) for part in parts]
    if found != wanted or reader.data_offset != header:
        raise RunError(f"{file.name} does not read back as it was written; nothing was kept")
