"""llama.cpp itself, without a compiler: quantizes by its own mixes, runs GGUF files, compares them.

    with_llama_cpp.py quantize SOURCE.gguf OUT.gguf TYPE [IMATRIX.npz]
    with_llama_cpp.py judge REFERENCE.gguf TOKENS.npy OUT.json FILE.gguf …
    with_llama_cpp.py tokenize FILE.gguf TEXT

libllama is the ready-made one of the npm package @node-llama-cpp/linux-x64; LIBLLAMA names the
folder of its .so files. The C declarations are those that the PyPI package llama-cpp-py-sync
carries. TOKENS are int (windows, length); IMATRIX has one float32 array (columns,) a tensor, under
llama.cpp's names.
"""

import ctypes
import json
import os
import re
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from cffi import FFI
from gguf import LlamaFileType

THREADS = int(os.environ.get("LIBLLAMA_THREADS", "2"))
QUIET = 2  # llama.cpp's numbers of log levels below errors, but for the dots of progress


def opened() -> tuple[FFI, object]:
    """cffi with llama.h's declarations, and libllama."""
    folder = Path(os.environ["LIBLLAMA"])
    found = find_spec("llama_cpp_py_sync")
    assert found is not None and found.origin is not None
    text = Path(found.origin).with_name("_cffi_bindings.py").read_text(encoding="utf-8")
    declared = re.search(r'_LLAMA_H_CDEF\s*=\s*(?:r)?"""(.*?)"""', text, re.S)
    assert declared is not None
    ffi = FFI()
    ffi.cdef(declared[1])
    ctypes.CDLL(str(folder / "libggml-base.so"), mode=ctypes.RTLD_GLOBAL)
    ggml = ctypes.CDLL(str(next(folder.glob("libggml.v*.so"))), mode=ctypes.RTLD_GLOBAL)
    ggml.ggml_backend_load_all_from_path.argtypes = [ctypes.c_char_p]
    ggml.ggml_backend_load_all_from_path(f"{folder}/".encode())
    library = ffi.dlopen(str(next(folder.glob("libllama.v*.so"))))
    silent = ffi.callback("void(int, char *, void *)", lambda level, text, data: None)
    HELD.append(silent)
    library.llama_log_set(ffi.cast("ggml_log_callback", silent), ffi.NULL)
    return ffi, library


HELD: list[object] = []  # what C reads and Python would throw away
ffi, llama = opened()


def quantize(source: str, target: str, kind: str, imatrix: str = "") -> None:
    """Write `source` in llama.cpp's mix `kind` (Q4_K_M), weighed by an importance matrix."""
    settings = ffi.new("llama_model_quantize_params *", llama.llama_model_quantize_default_params())
    settings.ftype = int(LlamaFileType[f"MOSTLY_{kind}"])
    settings.nthread = THREADS
    if imatrix:
        settings.imatrix = importance(dict(np.load(imatrix)))
    if llama.llama_model_quantize(source.encode(), target.encode(), settings):
        sys.exit(f"llama.cpp could not quantize {source} to {kind}")


def importance(found: dict[str, np.ndarray]) -> object:
    """An importance matrix as llama.cpp reads it."""
    rows = ffi.new("struct llama_model_imatrix_data[]", len(found) + 1)
    for row, (name, values) in zip(rows, found.items(), strict=False):
        text, values = ffi.new("char[]", name.encode()), np.ascontiguousarray(values, np.float32)
        HELD.extend((text, values))
        row.name, row.size = text, values.size
        row.data = ffi.cast("float *", values.ctypes.data)
    HELD.append(rows)
    return rows


class Model:
    """A GGUF file, and a context that reads one window at a time."""

    def __init__(self, path: str, length: int):
        self.path, self.seconds, self.tokens = path, 0.0, 0
        settings = llama.llama_model_default_params()
        settings.n_gpu_layers = 0
        self.model = llama.llama_model_load_from_file(path.encode(), settings)
        if self.model == ffi.NULL:
            sys.exit(f"llama.cpp does not load {path}")
        self.vocabulary = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(self.model))
        shape = llama.llama_context_default_params()
        shape.n_ctx = shape.n_batch = shape.n_ubatch = length
        shape.n_threads = shape.n_threads_batch = THREADS
        self.context = llama.llama_init_from_model(self.model, shape)

    def log_probabilities(self, window: np.ndarray) -> np.ndarray:
        """Of the next token, float32 (length, vocabulary)."""
        batch = llama.llama_batch_init(len(window), 0, 1)
        batch.n_tokens = len(window)
        for i, token in enumerate(window.tolist()):
            batch.token[i], batch.pos[i], batch.logits[i] = token, i, 1
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
        llama.llama_memory_clear(llama.llama_get_memory(self.context), True)
        start = time.perf_counter()
        if llama.llama_decode(self.context, batch):
            sys.exit(f"llama.cpp does not run {self.path}")
        size = len(window) * self.vocabulary * 4
        logits = np.frombuffer(
            ffi.buffer(llama.llama_get_logits(self.context), size), np.float32
        ).reshape(len(window), -1)
        self.seconds += time.perf_counter() - start
        self.tokens += len(window)
        llama.llama_batch_free(batch)
        centred = logits - logits.max(1, keepdims=True)
        return centred - np.log(np.exp(centred).sum(1, keepdims=True))


def judge(reference: str, tokens: str, out: str, *files: str) -> None:
    """KL to the reference, NLL and top-1 agreement of each window, and tokens a second."""
    windows = np.load(tokens)
    first = Model(reference, windows.shape[1])
    models = {path: Model(path, windows.shape[1]) for path in files}
    rows: dict[str, list[tuple[float, float, float]]] = {path: [] for path in (reference, *files)}
    for window in windows:
        truth = first.log_probabilities(window)
        rows[reference].append(losses(truth, truth, window))
        for path, model in models.items():
            rows[path].append(losses(truth, model.log_probabilities(window), window))
    found = {
        path: {
            "bytes": os.path.getsize(path),
            "tokens_a_second": model.tokens / model.seconds,
            **dict(
                zip(("kl", "nll", "same"), map(list, zip(*rows[path], strict=True)), strict=True)
            ),
        }
        for path, model in {reference: first, **models}.items()
    }
    Path(out).write_text(json.dumps(found), encoding="utf-8")


def losses(truth: np.ndarray, other: np.ndarray, window: np.ndarray) -> tuple[float, float, float]:
    """Means over the tokens of a window that have a next one: KL, NLL, top-1 agreement."""
    p, q = truth[:-1], other[:-1]
    kl = (np.exp(p) * (p - q)).sum(1, dtype=np.float64).mean()
    nll = -q[np.arange(len(q)), window[1:]].mean(dtype=np.float64)
    return float(kl), float(nll), float((p.argmax(1) == q.argmax(1)).mean())


def tokenize(path: str, text: str) -> None:
    """Print the tokens of `text` as JSON, special ones read as text."""
    settings = llama.llama_model_default_params()
    settings.vocab_only = True
    model = llama.llama_model_load_from_file(path.encode(), settings)
    raw = text.encode()
    room = ffi.new("llama_token[]", len(raw) + 8)
    count = llama.llama_tokenize(
        llama.llama_model_get_vocab(model), raw, len(raw), room, len(room), False, False
    )
    print(json.dumps(list(room[0:count])))


if __name__ == "__main__":
    {"quantize": quantize, "judge": judge, "tokenize": tokenize}[sys.argv[1]](*sys.argv[2:])
