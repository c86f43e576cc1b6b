"""Load a decoder by name: carried, trained (ladder), toy, a folder or a hub id; whole or streamed
from disk.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lwq.common.errors import InputError
from lwq.common.names import pick
from lwq.common.progress import quiet_transformers
from lwq.inputs import resolve, toy
from lwq.models import streaming
from lwq.models.settings import context_length
from lwq.models.structure import blocks, matrices
from lwq.models.weights import require_finite

NEEDED = {  # in the folder of a checkpoint -> how its files may be called
    "config.json": ("config.json",),
    "weights (*.safetensors)": ("*.safetensors",),
    "a tokenizer (tokenizer.json or the like)": (
        "tokenizer*",
        "*vocab*",
        "*.model",
        "*.tiktoken",
        "tekken.json",
    ),
}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load(
    name: str,
    dtype: str = "float32",
    device_map: str | None = None,
    trust_remote_code: bool = False,
    stream: bool = False,
) -> tuple[Any, Any]:
    """A decoder in evaluation mode and its tokenizer.

    Args:
        name: `toy` (`toy-8` has 8 blocks), a name in `lwq.inputs.assets`, `ladder-N` (trained when
            first asked for, see `lwq.inputs.ladder`), a hub id or a folder (safetensors only).
        dtype: "float32", "bfloat16" or "float16": of the weights and of all arithmetic.
        device_map: handed to transformers ("auto" spreads a large model; needs accelerate).
        trust_remote_code: run code that a hub repository ships; off unless asked for.
        stream: keep the weights on disk: each block is read when it is called and let go after, so
            that memory holds one block (and what was computed). The same interface, slower; weights
            are read inside `lwq.models.resident`. With it, `device_map` is the one device that
            blocks go to.

    Raises:
        InputError: for an unknown name, weights that are missing, damaged, NaN or Inf, or a model
            without blocks.
    """
    torch_dtype = pick(DTYPES, "dtype", dtype)
    if (depth := toy.depth(name)) is not None:
        if stream:
            raise InputError(
                f"the model {name!r} is made in memory; stream=True needs a "
                f"checkpoint (a folder or a hub id)"
            )
        model, tokenizer = _cast_(toy.model(blocks=depth), torch_dtype), toy.tokenizer()
    elif stream:
        model, tokenizer = _streamed(name, torch_dtype, device_map or "cpu", trust_remote_code)
    else:
        model, tokenizer = _pretrained(
            name, dtype=torch_dtype, device_map=device_map, trust_remote_code=trust_remote_code
        )
    if context := context_length(model.config):
        tokenizer.model_max_length = min(tokenizer.model_max_length, context)
    model.config.name_or_path = name
    model._use_cache = getattr(model.config, "use_cache", True)
    model.config.use_cache = False  # a cache that one run fills would silently change the next
    require_finite(model)
    matrices(model)  # refuses a model without blocks, or one that a plan would hardly reach
    return model.eval().requires_grad_(False), tokenizer


def cast(model: nn.Module, dtype: str) -> nn.Module:
    """A copy of `model`, which is in memory, with all weights and arithmetic in `dtype`: what
    `load` gives in that dtype.
    """
    return _cast_(copy.deepcopy(model), pick(DTYPES, "dtype", dtype))


def _cast_(model: Any, dtype: torch.dtype) -> Any:
    """All that a checkpoint holds in `dtype`; what a model computes when it is made, such as RoPE's
    frequencies, as it is.
    """
    for tensor in model.state_dict(keep_vars=True).values():
        if tensor.is_floating_point():
            tensor.data = tensor.data.to(dtype)
    return model


def _pretrained(name: str, **options: Any) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = _source(name)
    with _loading(name):
        tokenizer = AutoTokenizer.from_pretrained(
            source, trust_remote_code=options["trust_remote_code"]
        )
        return AutoModelForCausalLM.from_pretrained(
            source, use_safetensors=True, **options
        ), tokenizer


def _streamed(
    name: str, dtype: torch.dtype, device: str, trust_remote_code: bool
) -> tuple[Any, Any]:
    from transformers import AutoTokenizer

    with _loading(name):
        source = streaming.local(_source(name))
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=trust_remote_code)
        model = streaming.skeleton(source, dtype, trust_remote_code)
        model._offload = streaming.Offload(model, source, blocks(model), device)
    return model, tokenizer


def _source(name: str) -> str | Path:
    """The folder of a carried or trained model or of the user's own; another name, if a hub may
    have it, as it is.
    """
    kind = resolve.model_kind(name)
    if kind in ("carried", "ladder"):
        return resolve.fetch(name)
    if kind == "hub":
        return name
    folder = Path(name).expanduser()
    if not folder.is_dir():
        raise InputError(f"{name!r} is a file; name the folder of the checkpoint")
    _require_checkpoint(name, folder)
    return str(folder)


def _require_checkpoint(name: str, folder: Path) -> None:
    """Raise InputError naming what the folder lacks; transformers would give another reason."""
    if missing := [
        what
        for what, names in NEEDED.items()
        if not any(any(folder.glob(pattern)) for pattern in names)
    ]:
        raise InputError(
            f"cannot load the model {name!r}: the folder lacks {' and '.join(missing)}; "
            f"save_pretrained of the model and of "
            "its tokenizer write all three (pickled weights are not read)"
        )


@contextmanager
def _loading(name: str) -> Iterator[None]:
    """What transformers raises, in our words."""
    try:
        with quiet_transformers():
            yield
    except (OSError, ValueError, KeyError) as error:
        if isinstance(error, InputError):
            raise
        reason = " ".join(str(error).split())[:300]
        raise InputError(
            f"cannot load the model {name!r}: {reason}. Names that need no hub: "
            f"{list(resolve.KNOWN)}; otherwise give "
            "a folder or a hub id with safetensors weights"
        ) from None
