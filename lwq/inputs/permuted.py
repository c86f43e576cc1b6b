"""The same function with its hidden units in another order, so that no grid is the file's own.

The carried models are dequantized files: a group of columns that the file was quantized in is
reproduced exactly by some grids, and a figure would tell of the file, not of the method. Hidden
units have no natural order. Three kinds are permuted, and every tensor that touches them with them:

    residual stream   one order for the whole model
    MLP neurons       one a block
    value dimensions  one a block and key-value head; the query heads that share it share the order

What RoPE turns (queries, keys) stays in its order, and so do tokens, heads and blocks.
"""

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lwq.common import paths
from lwq.common.errors import InputError
from lwq.common.hashing import digest
from lwq.inputs import assets, catalogue, wheels

SEED = 20240617
WEIGHTS = "model.safetensors"
AXES = {  # the end of a tensor's name -> what its rows and columns are; None stays as it is
    r"embed_tokens\.weight": (None, "residual"),
    r"lm_head\.weight": (None, "residual"),
    r"(layernorm|model\.norm)\.weight": ("residual",),
    r"self_attn\.[qk]_norm\.weight": (None,),
    r"self_attn\.[qk]_proj\.weight": (None, "residual"),
    r"self_attn\.[qk]_proj\.bias": (None,),
    r"self_attn\.v_proj\.weight": ("values", "residual"),
    r"self_attn\.v_proj\.bias": ("values",),
    r"self_attn\.o_proj\.weight": ("residual", "values of queries"),
    r"mlp\.(gate|up)_proj\.weight": ("neurons", "residual"),
    r"mlp\.down_proj\.weight": ("residual", "neurons"),
}


@dataclass(frozen=True)
class Orders:
    """The order of each kind of hidden units; the same seed gives the same orders.

    Attributes:
        width, neurons, heads, kv_heads, head_dim: sizes of the model.
        seed: of all orders.
    """

    width: int
    neurons: int
    heads: int
    kv_heads: int
    head_dim: int
    seed: int = SEED

    @classmethod
    def of(cls, config: Mapping[str, Any], seed: int = SEED) -> "Orders":
        """Of a model with this config.json."""
        heads = config["num_attention_heads"]
        return cls(
            config["hidden_size"],
            config["intermediate_size"],
            heads,
            config.get("num_key_value_heads") or heads,
            config.get("head_dim") or config["hidden_size"] // heads,
            seed,
        )

    def __call__(self, kind: str, block: int) -> Tensor:
        """int64: place -> which of the old units comes there."""
        if kind == "residual":
            return self._drawn(self.width, "residual")
        if kind == "neurons":
            return self._drawn(self.neurons, f"neurons {block}")
        shared = self.heads // self.kv_heads if kind == "values of queries" else 1
        return torch.cat(
            [
                head * self.head_dim
                + self._drawn(self.head_dim, f"values {block} {head // shared}")
                for head in range(self.kv_heads * shared)
            ]
        )

    def _drawn(self, count: int, name: str) -> Tensor:
        seed = int(digest([self.seed, name]), 16)
        return torch.randperm(count, generator=torch.Generator().manual_seed(seed))


def permuted(key: str, tensor: Tensor, orders: Orders) -> Tensor:
    """The tensor called `key` of a llama, qwen2 or gemma3, its hidden units in their new order.

    Raises InputError for a name that is none of theirs: half a permutation is another function.
    """
    axes = next((axes for end, axes in AXES.items() if re.search(rf"{end}$", key)), None)
    if axes is None or len(axes) != tensor.ndim:
        raise InputError(
            f"{key} {tuple(tensor.shape)} is no tensor of a llama, qwen2 or gemma3; "
            "load the model as its file has it (NAME@file)"
        )
    number = re.search(r"layers\.(\d+)\.", key)
    for axis, kind in enumerate(axes):
        if kind is not None:
            tensor = tensor.index_select(axis, orders(kind, int(number[1]) if number else -1))
    return tensor


def place(name: str) -> Path:
    """Where the permuted model `name` is in the cache."""
    return paths.cache() / "models" / f"{name}-permuted-{SEED}"


def fetch(name: str) -> Path:
    """The folder of a carried model with its hidden units permuted; made from its file, and anew
    where that is another, or where the folder was damaged.
    """
    return assets.keep(
        place(name),
        lambda: assets.outdated(place(name), _origin(name)),
        lambda made, _: _make(name, made),
    )


def _origin(name: str) -> dict[str, Any]:
    """What the folder is made of, as far as this disk says: the file that lwq names, and the
    weights that it became, where they are still there.
    """
    own = assets.recorded(paths.cache() / "models" / name, WEIGHTS)
    return {"seed": SEED, "gguf": catalogue.MODELS[name].sha256} | ({"file": own} if own else {})


def _make(name: str, made: Path) -> None:
    source = assets.fetch(name)
    beside = shutil.ignore_patterns("*.safetensors", assets.RECORD)
    shutil.copytree(source, made, ignore=beside, dirs_exist_ok=True)
    origin = {**_origin(name), "file": _write(source, made)}
    assets.seal(made, {"name": name, **origin})


def _write(source: Path, made: Path) -> str:
    """Permute the weights of `source` into `made`; returns the sha256 of what they were made of."""
    file = source / WEIGHTS
    orders = Orders.of(json.loads((source / "config.json").read_text(encoding="utf-8")))
    state = {key: permuted(key, tensor, orders) for key, tensor in load_file(file).items()}
    save_file(state, made / file.name, metadata={"format": "pt"})
    return wheels.hash_file(file)
