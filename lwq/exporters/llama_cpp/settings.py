"""A model's configuration in llama.cpp's words, and what llama.cpp does otherwise with it."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from gguf import MODEL_ARCH, MODEL_ARCH_NAMES, GGUFWriter, RopeScalingType, get_tensor_name_map
from torch import Tensor

from lwq import models
from lwq.common.errors import InputError
from lwq.exporters.shared.activation import unusual
from lwq.models.settings import text_settings


@dataclass(frozen=True)
class Architecture:
    """What differs between llama.cpp and transformers for the models of one type.

    Attributes:
        kind: what gguf calls it.
        interleaved: RoPE turns neighbours, (0, 1), where transformers turns halves, (0, d/2): the
            rows of queries and keys change their order.
        shift: added to the weights of norms, which transformers keeps without their one.
    """

    kind: MODEL_ARCH
    interleaved: bool = False
    shift: float = 0.0


ARCHITECTURES = {  # model_type of config.json
    "llama": Architecture(MODEL_ARCH.LLAMA, interleaved=True),
    "qwen2": Architecture(MODEL_ARCH.QWEN2),
    "qwen3": Architecture(MODEL_ARCH.QWEN3),
    "gemma3_text": Architecture(MODEL_ARCH.GEMMA3, shift=1.0),
}
PATTERN = 6  # one of so many layers of gemma3 sees everything
LOCAL_BASE = 10_000.0  # of RoPE in its other layers; both are built into llama.cpp


_names = cache(get_tensor_name_map)  # of an architecture and a number of blocks


@dataclass(frozen=True)
class Settings:
    """The configuration of a model that llama.cpp runs.

    Attributes:
        config: setting -> value, as transformers has them.
        architecture: of ARCHITECTURES.
    """

    config: Mapping[str, Any]
    architecture: Architecture

    @classmethod
    def of(cls, model: Any) -> "Settings":
        """Raises InputError for a model whose numbers llama.cpp would not compute."""
        config = text_settings(model.config)
        if (kind := config.get("model_type")) not in ARCHITECTURES:
            raise InputError(
                f"gguf: {models.name(model)!r} is a {kind!r}; this exporter writes "
                f"{list(ARCHITECTURES)}; the target lwq takes any model, the format dequantized "
                "too, for transformers"
            )
        found = cls(config, ARCHITECTURES[kind])
        if reason := found._unlike() or unusual(model.config):
            raise InputError(
                f"gguf: {models.name(model)!r} has {reason}, which llama.cpp does not compute for "
                f"a {kind!r}; the target lwq takes it, the format dequantized too, for transformers"
            )
        return found

    @property
    def name(self) -> str:
        """What the file calls the architecture."""
        return MODEL_ARCH_NAMES[self.architecture.kind]

    @property
    def head_dim(self) -> int:
        config = self.config
        return config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]

    @property
    def kv_heads(self) -> int:
        return self.config.get("num_key_value_heads") or self.config["num_attention_heads"]

    @property
    def rope(self) -> Mapping[str, Any]:
        """RoPE of the layers that see everything."""
        found = self.config["rope_parameters"]
        return found.get("full_attention", found)

    def tensor_name(self, key: str) -> str:
        """What the file calls the tensor `key` of the state dict."""
        names = _names(self.architecture.kind, self.config["num_hidden_layers"])
        found = names.get_name(key, try_suffixes=(".weight", ".bias"))
        if found is None:
            raise InputError(f"gguf: llama.cpp has no tensor for {key!r} of a {self.name}")
        return found

    def rows(self, key: str) -> Tensor | None:
        """Place -> which row of the tensor `key` comes there, (out,); None where they stay."""
        heads = {"q_proj": self.config["num_attention_heads"], "k_proj": self.kv_heads}
        own = next((n for part, n in heads.items() if f"self_attn.{part}." in key), 0)
        if not (self.architecture.interleaved and own):
            return None
        # (heads, halves, pairs) -> (heads, pairs, halves)
        order = torch.arange(own * self.head_dim).reshape(own, 2, -1)
        return order.transpose(1, 2).reshape(-1)

    def rope_factors(self, model: Any) -> Tensor | None:
        """By what llama.cpp divides the frequencies of RoPE, (head_dim / 2,); None for 1."""
        if self.rope["rope_type"] != "llama3":
            return None
        places = torch.arange(0, self.head_dim, 2, dtype=torch.float32) / self.head_dim
        return self.rope["rope_theta"] ** -places / model.model.rotary_emb.inv_freq.float().cpu()

    def write(self, writer: GGUFWriter) -> None:
        """Put the settings among the key-value pairs of a file."""
        config = self.config
        writer.add_block_count(config["num_hidden_layers"])
        writer.add_context_length(config["max_position_embeddings"])
        writer.add_embedding_length(config["hidden_size"])
        writer.add_feed_forward_length(config["intermediate_size"])
        writer.add_head_count(config["num_attention_heads"])
        writer.add_head_count_kv(self.kv_heads)
        writer.add_key_length(self.head_dim)
        writer.add_value_length(self.head_dim)
        writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
        writer.add_vocab_size(config["vocab_size"])
        writer.add_rope_dimension_count(self.head_dim)
        writer.add_rope_freq_base(self.rope["rope_theta"])
        if self.rope["rope_type"] == "linear":
            writer.add_rope_scaling_type(RopeScalingType.LINEAR)
            writer.add_rope_scaling_factor(self.rope["factor"])
        if self.architecture.kind == MODEL_ARCH.GEMMA3:
            writer.add_sliding_window(config["sliding_window"])

    def _unlike(self) -> str:
        """What llama.cpp would compute otherwise; empty for nothing."""
        config = self.config
        if (kind := self.rope["rope_type"]) not in ("default", "linear", "llama3"):
            return f"RoPE of type {kind!r}"
        if kind == "llama3" and self.architecture.kind != MODEL_ARCH.LLAMA:
            return f"RoPE of type {kind!r}"
        if config.get("use_sliding_window"):
            return "sliding windows"
        return self._unlike_gemma() if self.architecture.kind == MODEL_ARCH.GEMMA3 else ""

    def _unlike_gemma(self) -> str:
        config = self.config
        for number, layer in enumerate(config["layer_types"], start=1):
            if (layer == "full_attention") != (number % PATTERN == 0):
                return f"{layer} in layer {number}"
        if (base := config["rope_parameters"]["sliding_attention"]["rope_theta"]) != LOCAL_BASE:
            return f"rope_theta={base} in its local layers"
        if config.get("final_logit_softcapping") or config.get("attn_logit_softcapping"):
            return "soft-capped logits"
        if config["query_pre_attn_scalar"] != self.head_dim:
            return f"query_pre_attn_scalar={config['query_pre_attn_scalar']}"
        return ""
