"""A tiny random model of every architecture that lwq promises to know."""

import torch
from transformers import AutoModelForCausalLM, PretrainedConfig
from transformers.models.bloom import BloomConfig
from transformers.models.falcon import FalconConfig
from transformers.models.gemma3 import Gemma3TextConfig
from transformers.models.gpt2 import GPT2Config
from transformers.models.gpt_neox import GPTNeoXConfig
from transformers.models.gpt_oss import GptOssConfig
from transformers.models.llama import LlamaConfig
from transformers.models.mistral import MistralConfig
from transformers.models.mixtral import MixtralConfig
from transformers.models.opt import OPTConfig
from transformers.models.phi import PhiConfig
from transformers.models.qwen2 import Qwen2Config
from transformers.models.qwen3 import Qwen3Config
from transformers.models.qwen3_moe import Qwen3MoeConfig

VOCABULARY, WIDTH = 96, 64
COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.1,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
SHORT = {
    "vocab_size": VOCABULARY,
    "n_layer": 3,
    "n_head": 4,
    "initializer_range": 0.1,
    "bos_token_id": 1,
    "eos_token_id": 2,
}

CONFIGS = {
    "llama": LlamaConfig(**COMMON),
    "qwen2": Qwen2Config(**COMMON),
    "qwen3": Qwen3Config(**COMMON, head_dim=16),
    "gemma3": Gemma3TextConfig(
        **COMMON,
        head_dim=16,
        sliding_window=8,
        layer_types=["sliding_attention", "sliding_attention", "full_attention"],
    ),
    "gpt2": GPT2Config(**SHORT, n_embd=WIDTH, n_positions=128),
    "opt": OPTConfig(**{**COMMON, "ffn_dim": 128, "word_embed_proj_dim": WIDTH, "init_std": 0.1}),
    "gpt_neox": GPTNeoXConfig(**COMMON),
    "phi": PhiConfig(**{**COMMON, "num_key_value_heads": 4}),
    "mistral": MistralConfig(**COMMON, sliding_window=8),
    "falcon": FalconConfig(**COMMON),
    "bloom": BloomConfig(**SHORT, hidden_size=WIDTH, pad_token_id=0),
    "mixtral": MixtralConfig(**COMMON, num_local_experts=4),
    "qwen3_moe": Qwen3MoeConfig(
        **COMMON, head_dim=16, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=64
    ),
    "gpt_oss": GptOssConfig(
        **COMMON,
        head_dim=16,
        num_local_experts=4,
        num_experts_per_tok=2,
        sliding_window=8,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    ),
}


def make(name: str) -> torch.nn.Module:
    return of(CONFIGS[name])


def of(config: PretrainedConfig) -> torch.nn.Module:
    torch.manual_seed(0)
    config.use_cache = False
    return AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)


def tokens(n: int = 5, length: int = 24) -> torch.Tensor:
    return torch.randint(3, VOCABULARY, (n, length), generator=torch.Generator().manual_seed(1))


def narrow(**sizes: int) -> torch.nn.Module:
    """A llama with matrices of 96 columns, which groups of 64 do not divide."""
    return of(LlamaConfig(**{**COMMON, "intermediate_size": 96, **sizes}))


def projected() -> torch.nn.Module:
    """An opt whose head reads fewer numbers than its blocks write, as opt-350m's."""
    sizes = {**COMMON, "ffn_dim": 128, "word_embed_proj_dim": 32, "init_std": 0.1}
    return of(OPTConfig(**sizes, do_layer_norm_before=False))
