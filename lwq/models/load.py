"""Load a decoder by name: carried, trained (ladder), toy, a folder or a hub id; whole or streamed
from disk.
"""

import copy
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lwq.common.errors import InputError
from lwq.common.names import pick
from lwq.common.progress import quiet_transformers
from lwq.common.tensors import is_finite
from lwq.contracts import Shape
from lwq.inputs import resolve, toy
from lwq.models import checkpoint, streaming
from lwq.models.placing import require_place, spreads
from lwq.models.settings import context_length, tell_tying_
from lwq.models.settings import name as name_of
from lwq.models.structure import blocks, matrices
from lwq.models.trace import traced
from lwq.models.weights import require_finite

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load(
    name: str | PathLike[str],
    dtype: str = "float32",
    device_map: str | None = None,
    trust_remote_code: bool = False,
    stream: bool = False,
) -> tuple[Any, Any]:
    """A decoder in evaluation mode and its tokenizer.

    Args:
        name: `toy` (`toy-8` has 8 blocks), a name in `lwq.inputs.assets`, `ladder-N` (trained when
            first asked for, see `lwq.inputs.ladder`), a hub id or a folder (safetensors only), as
            text or a path.
        dtype: "float32", "bfloat16" or "float16": of the weights and of all arithmetic.
        device_map: where the model goes ("auto" spreads a large one; needs accelerate).
        trust_remote_code: run code that a hub repository ships; off unless asked for.
        stream: keep the weights on disk: each block is read when it is called and let go after, so
            that memory holds one block (and what was computed). The same interface, slower; weights
            are read inside `lwq.models.resident`. With it, `device_map` is the one device that
            blocks go to.

    Raises:
        InputError: for an unknown name, a device that is not there, files that are missing or
            damaged, a checkpoint that lacks a tensor of its model, holds another one or codes
            instead of numbers, weights that are NaN or Inf, or a model without blocks.
    """
    torch_dtype, name = pick(DTYPES, "dtype", dtype), resolve.said(name)
    require_place(device_map, "a streamed model" if stream else "")
    resolve.model_kind(name)
    if (depth := toy.depth(name)) is not None:
        if stream:
            raise InputError(
                f"the model {name!r} is made in memory; stream=True needs a "
                f"checkpoint (a folder or a hub id)"
            )
        model, tokenizer = _cast_(toy.model(blocks=depth), torch_dtype), toy.tokenizer()
        model = model if spreads(device_map) else model.to(device_map or "cpu")
    elif stream:
        model, tokenizer = _streamed(name, torch_dtype, device_map or "cpu", trust_remote_code)
    else:
        model, tokenizer = _pretrained(name, torch_dtype, device_map, trust_remote_code)
    settle_(model, tokenizer, name)
    require_finite(model)
    if stream:
        traced(model)  # refuses a model that reads weights which are not in memory then
    matrices(model)  # refuses a model without blocks, or one that a plan would hardly reach
    return model.eval().requires_grad_(False), tokenizer


def settle_(model: Any, tokenizer: Any, name: str) -> None:
    """What every loaded model is told: its name, its tokenizer, whether its head is tied, and to
    keep no cache between calls.
    """
    if context := context_length(model.config):
        tokenizer.model_max_length = min(tokenizer.model_max_length, context)
    model.config.name_or_path = name
    model._tokenizer = tokenizer
    tell_tying_(model)
    model._use_cache = getattr(model.config, "use_cache", True)
    model.config.use_cache = False  # a cache that one run fills would silently change the next


def cast(model: nn.Module, dtype: str) -> nn.Module:
    """A copy of `model`, which is in memory, with all weights and arithmetic in `dtype`: what
    `load` gives in that dtype. No second copy in the dtype of `model` is made on the way.
    """
    copies: dict[int, Any] = {}  # id of a tensor -> what stands for it in the copy
    for tensor, kept in _dtypes(model, pick(DTYPES, "dtype", dtype)):
        narrow = tensor.data.to(kept, copy=True)
        if kept == torch.float16 and not is_finite(narrow):
            raise InputError(
                f"a tensor {tuple(tensor.shape)} of {name_of(model)!r} holds "
                f"{float(tensor.abs().max()):.3g}, which float16 cannot hold; take bfloat16"
            )
        parameter = isinstance(tensor, nn.Parameter)
        copies[id(tensor)] = nn.Parameter(narrow, tensor.requires_grad) if parameter else narrow
    bank = getattr(model, "_bank", None)
    return copy.deepcopy(model, copies if bank is None else {**copies, id(bank): None})


def _cast_(model: Any, dtype: torch.dtype) -> Any:
    """All that a checkpoint holds in `dtype`; what a model computes when it is made, such as RoPE's
    frequencies, as it is.
    """
    for tensor, kept in _dtypes(model, dtype):
        tensor.data = tensor.data.to(kept)
    return model


def _dtypes(model: Any, dtype: torch.dtype) -> Iterator[tuple[Tensor, torch.dtype]]:
    """(tensor, its dtype) of the numbers that a checkpoint holds, in a model whose dtype is
    `dtype`.
    """
    state = model.state_dict(keep_vars=True)
    for key, kept in own_dtypes(model, dtype).items():
        yield state[key], kept


def own_dtypes(model: Any, dtype: torch.dtype) -> dict[str, torch.dtype]:
    """Name of the numbers that a checkpoint holds -> their dtype in a model whose dtype is `dtype`:
    architectures keep some in float32, such as what routers add to their choice.
    """
    wide = model._get_dtype_plan(dtype)
    return {
        key: next((wide[part] for part in wide if part in key), dtype)
        for key, tensor in model.state_dict().items()
        if tensor.is_floating_point()
    }


def _pretrained(
    name: str, dtype: torch.dtype, device_map: str | None, trust_remote_code: bool
) -> tuple[Any, Any]:
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    source = _source(name)
    with loading(name):
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=trust_remote_code)
        config = AutoConfig.from_pretrained(source, trust_remote_code=trust_remote_code)
        method = checkpoint.require_unquantized(name, config, stream=False)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            source,
            dtype=dtype,
            device_map=device_map,
            trust_remote_code=trust_remote_code,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # refused below, in our words
            **({"quantization_config": _plain(method)} if method else {}),
        )
        model, info = loaded
        checkpoint.require_fit(
            name, info["missing_keys"], info["unexpected_keys"], info["mismatched_keys"]
        )
        if method:
            _forget_codes(model)
        elif Path(source).is_dir():
            checkpoint.require_numbers(model, checkpoint.dtypes(Path(source)))
    return model, tokenizer


def _plain(method: str) -> Any:
    """What makes transformers turn the codes of a checkpoint into numbers, on a GPU too."""
    from transformers.utils.quantization_config import FineGrainedFP8Config, Mxfp4Config

    return {"fp8": FineGrainedFP8Config, "mxfp4": Mxfp4Config}[method](dequantize=True)


def _forget_codes(model: Any) -> None:
    """The weights are plain numbers from here on, and are saved as such."""
    for config in {id(c): c for c in (model.config, model.config.get_text_config())}.values():
        if hasattr(config, "quantization_config"):
            del config.quantization_config
    model.hf_quantizer, model.is_quantized = None, False
    model._weight_conversions = None


def _streamed(
    name: str, dtype: torch.dtype, device: str, trust_remote_code: bool
) -> tuple[Any, Any]:
    from transformers import AutoTokenizer

    with loading(name):
        source = streaming.local(_source(name))
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=trust_remote_code)
        return on_disk(source, dtype, device, trust_remote_code, name), tokenizer


def on_disk(
    folder: Path, dtype: torch.dtype, device: str, trust_remote_code: bool, name: str = ""
) -> Any:
    """The model of a checkpoint, its weights in `folder` until a block is called, and not looked at
    yet. Raises InputError as `load` does.
    """
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    checkpoint.require_unquantized(name or str(folder), config, stream=True)
    model = _framed(folder, config, dtype, trust_remote_code)
    model.config.name_or_path = name or str(folder)
    model._offload = streaming.Offload(model, folder, blocks(model), device)
    return model


def _framed(folder: Path, config: Any, dtype: torch.dtype, trust_remote_code: bool) -> Any:
    """The model of a checkpoint on the meta device, tied as its files are."""
    model = streaming.skeleton(folder, config, dtype, trust_remote_code)
    streaming.untie_(model, checkpoint.apart(model, folder, streaming.tied(model)))
    return model


def stand_in(name: str | PathLike[str], trust_remote_code: bool = False) -> tuple[Any, Any]:
    """The model that `load` would give, without its weights, and its tokenizer.

    Read are the configuration and the headers of the files. Each weight is one number that stands
    at all its places and takes no memory, so that the model runs, and `traced`, `layout` and what
    hangs on them see its structure. Raises InputError as `load` does, but for weights that are no
    finite numbers.
    """
    name = resolve.said(name)
    resolve.model_kind(name)
    if toy.depth(name) is not None:
        return load(name)
    with loading(name):
        # its names and dtypes are looked at, and all of them must be there
        checked, tokenizer = _streamed(name, torch.float32, "cpu", trust_remote_code)
        folder = streaming.local(_source(name))
        model = streaming.skeleton(folder, checked.config, torch.float32, trust_remote_code)
        streaming.stand_in_(model)
    settle_(model, tokenizer, name)
    matrices(model)
    return model.eval().requires_grad_(False), tokenizer


@dataclass(frozen=True)
class Outline:
    """What the configuration of a model says of its size.

    Attributes:
        blocks: how many.
        parameters, in_blocks: of the model, and of its blocks; tied tensors count once.
        vocabulary, width: of the embedding.
        shapes: (out, in) of the matrices.
    """

    blocks: int
    parameters: int
    in_blocks: int
    vocabulary: int
    width: int
    shapes: frozenset[Shape]


def outline(name: str | PathLike[str], base: Path = Path()) -> Outline | None:
    """The outline of a model, from its configuration alone; None where that is not on this disk, or
    needs code of its own.
    """
    from transformers import AutoConfig

    name = resolve.said(name)
    if (depth := toy.depth(name)) is not None:
        return _outlined(toy.model(blocks=depth))
    folder = resolve.at_hand(name, base)
    if folder is None:
        return None
    with loading(name):
        settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if "auto_map" in settings:
            return None
        config = AutoConfig.from_pretrained(folder)
        return _outlined(_framed(folder, config, torch.float32, trust_remote_code=False))


def _outlined(model: Any) -> Outline:
    found = blocks(model)
    vocabulary, width = model.get_input_embeddings().weight.shape
    return Outline(
        len(found),
        sum(p.numel() for p in model.parameters()),
        sum(p.numel() for block in found.values() for p in block.parameters()),
        int(vocabulary),
        int(width),
        frozenset(matrix.shape for matrix in matrices(model).values()),
    )


def _source(name: str) -> str | Path:
    """The folder of a carried or trained model or of the user's own; another name, if a hub may
    have it, as it is.
    """
    kind = resolve.model_kind(name)
    if kind in ("carried", "ladder"):
        return resolve.fetch(name)
    if kind == "hub":
        resolve.require_hub(name)
        return name
    folder = Path(name).expanduser()
    if not folder.is_dir():
        raise InputError(f"{name!r} is a file; name the folder of the checkpoint")
    checkpoint.require_files(name, folder)
    return str(folder)


@contextmanager
def loading(name: str) -> Iterator[None]:
    """What transformers raises, in our words."""
    try:
        with quiet_transformers():
            yield
    except InputError:
        raise
    except Exception as error:  # the libraries below raise types of their own, and bare ones
        reason = " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__
        raise InputError(
            f"cannot load the model {name!r}: {reason}. Names that need no hub: "
            f"{list(resolve.KNOWN)}; otherwise give "
            "a folder or a hub id with safetensors weights"
        ) from None
