"""ggml's own packing, through the library that the package libggml-python carries."""

import ctypes
import importlib.util
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import torch
from gguf import GGMLQuantizationType
from torch import Tensor

from lwq.common.errors import InputError
from lwq.quantizers.storage.ggml import Blocks, row_bytes

INSTALL = "pip install 'lwq[gguf]' (libggml-python)"


def available() -> bool:
    """Whether the library is installed."""
    return importlib.util.find_spec("libggml") is not None


def pack(weight: Tensor, kind: GGMLQuantizationType, importance: Tensor | None) -> Blocks:
    """Round `weight` (out, in), float32, to blocks of `kind` by `ggml_quantize_chunk`.

    Args:
        importance: (in,), float32, what a square error of each column counts: llama.cpp's
            importance matrix. Types below 3 bits that cannot do without take all columns alike.

    Raises InputError where the library is missing, or a block's scale overflows float16.
    """
    library = _library()
    rows, columns = weight.shape
    source = weight.detach().to("cpu", torch.float32).contiguous()
    if importance is None and library.ggml_quantize_requires_imatrix(int(kind)):
        importance = torch.ones(columns, device="cpu")
    counts = None if importance is None else importance.detach().to("cpu", torch.float32)
    data = torch.empty(rows, row_bytes(columns, kind), dtype=torch.uint8, device="cpu")
    library.ggml_quantize_init(int(kind))

    def some(part: range) -> None:
        library.ggml_quantize_chunk(
            int(kind),
            source.data_ptr(),
            data.data_ptr(),
            part.start * columns,
            len(part),
            columns,
            None if counts is None else counts.data_ptr(),
        )

    step = -(-rows // torch.get_num_threads())  # ctypes lets go of Python's lock
    with ThreadPoolExecutor() as pool:
        list(pool.map(some, (range(rows)[i : i + step] for i in range(0, rows, step))))
    _require_held(weight, data, kind)
    return Blocks(data.to(weight.device), kind)


def _require_held(weight: Tensor, data: Tensor, kind: GGMLQuantizationType) -> None:
    """Raise InputError where a scale became infinite."""
    if not _library().ggml_validate_row_data(int(kind), data.data_ptr(), data.nbytes):
        raise InputError(
            f"weights up to {weight.abs().max().item():.6g} need scales that float16, in which "
            f"{kind.name} stores them, cannot hold; keep the matrix at 16 bits"
        )


@cache
def _library() -> ctypes.CDLL:
    """libggml-base with the declarations of ggml.h that are used here."""
    found = ctypes.CDLL(str(_place()))
    number, whole, pointer = ctypes.c_int, ctypes.c_int64, ctypes.c_void_p
    found.ggml_quantize_init.argtypes = [number]
    found.ggml_quantize_init.restype = None
    found.ggml_quantize_requires_imatrix.argtypes = [number]
    found.ggml_quantize_requires_imatrix.restype = ctypes.c_bool
    found.ggml_quantize_chunk.argtypes = [number, pointer, pointer, whole, whole, whole, pointer]
    found.ggml_quantize_chunk.restype = ctypes.c_size_t
    found.ggml_validate_row_data.argtypes = [number, pointer, ctypes.c_size_t]
    found.ggml_validate_row_data.restype = ctypes.c_bool
    return found


def _place() -> Path:
    spec = importlib.util.find_spec("libggml")
    if spec is None or not spec.submodule_search_locations:
        raise InputError(f"ggml: its blocks are packed by ggml's own code; {INSTALL}")
    home = Path(spec.submodule_search_locations[0])
    names = ("libggml-base.so", "libggml-base.dylib", "ggml-base.dll")
    if not (found := [file for name in names for file in home.rglob(name)]):
        raise InputError(f"ggml: {home} has none of {list(names)}; {INSTALL}")
    return found[0]
