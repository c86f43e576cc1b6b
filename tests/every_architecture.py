"""A tiny random model of every causal language model that the installed transformers can build.

The settings of a configuration that decide its size are known by their names; what one architecture
needs beyond stands in OWN. Weights are drawn from a fixed seed.
"""

import dataclasses
from typing import Any

import torch
from torch import nn

BLOCKS, WIDTH, VOCABULARY = 4, 64, 257  # the vocabulary is that of the toy's tokenizer

SMALL: dict[str, Any] = {
    **dict.fromkeys(
        ("vocab_size", "vocab_size_per_layer_input", "unpadded_vocab_size"), VOCABULARY
    ),
    **dict.fromkeys(("pad_token_id", "sep_token_id", "mask_token_id"), 0),
    **dict.fromkeys(("bos_token_id", "eos_token_id", "decoder_start_token_id"), 1),
    **dict.fromkeys(
        ("hidden_size", "d_model", "n_embd", "emb_dim", "embedding_size", "attention_hidden_size"),
        WIDTH,
    ),
    **dict.fromkeys(("lru_width", "embedding_dim", "word_embed_proj_dim"), WIDTH),
    **dict.fromkeys(("input_embedding_size", "output_embedding_size"), WIDTH),
    **dict.fromkeys(
        ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers"), BLOCKS
    ),
    **dict.fromkeys(("num_decoder_layers", "num_blocks"), BLOCKS),
    **dict.fromkeys(("encoder_layers", "num_encoder_layers", "num_layers_per_stack"), 1),
    **dict.fromkeys(
        ("num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads"), 4
    ),
    **dict.fromkeys(
        ("encoder_attention_heads", "num_encoder_attention_heads", "attention_heads"), 4
    ),
    **dict.fromkeys(("num_decoder_attention_heads", "swa_num_attention_heads"), 4),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads", "swa_num_key_value_heads"), 2),
    **dict.fromkeys(("head_dim", "swa_head_dim", "global_head_dim", "attention_head_size"), 16),
    **dict.fromkeys(("d_head", "dim_head", "linear_head_dim", "index_head_dim", "kv_channels"), 16),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim"), 16),
    **dict.fromkeys(("linear_num_key_heads", "linear_num_heads", "index_n_heads"), 2),
    **dict.fromkeys(("linear_num_value_heads",), 4),
    **dict.fromkeys(("qk_rope_head_dim", "qk_nope_head_dim", "rotary_dim"), 8),
    **dict.fromkeys(("v_head_dim",), 16),
    **dict.fromkeys(("qk_head_dim", "q_lora_rank", "kv_lora_rank", "o_lora_rank"), 16),
    **dict.fromkeys(
        ("intermediate_size", "ffn_dim", "decoder_ffn_dim", "encoder_ffn_dim", "dim_ff", "dff"), 128
    ),
    **dict.fromkeys(
        ("n_inner", "d_inner", "feed_forward_size", "ffn_hidden_size", "intermediate_size_mlp"), 128
    ),
    **dict.fromkeys(("dense_intermediate_size", "prompt_mid_dim"), 128),
    **dict.fromkeys(
        (
            *("moe_intermediate_size", "shared_expert_intermediate_size"),
            *("shared_intermediate_size", "expert_ffn_hidden_size"),
            *("moe_shared_expert_intermediate_size", "shared_experts_intermediate_size"),
        ),
        WIDTH,
    ),
    **dict.fromkeys(("num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("zero_expert_num",), 2),
    **dict.fromkeys(
        ("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k", "top_k_experts"), 2
    ),
    **dict.fromkeys(("n_shared_experts", "num_shared_experts", "moe_num_shared_experts"), 1),
    **dict.fromkeys(("n_group", "topk_group", "num_expert_group"), 1),
    **dict.fromkeys(("first_k_dense_replace", "num_dense_layers", "num_nextn_predict_layers"), 1),
    **dict.fromkeys(
        ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "context_length"), 512
    ),
    **dict.fromkeys(("max_target_positions", "max_source_positions", "model_max_length"), 512),
    **dict.fromkeys(("original_max_position_embeddings",), 512),
    **dict.fromkeys(
        ("sliding_window", "sliding_window_size", "attention_window_size", "window_size"), 8
    ),
    **dict.fromkeys(("local_attention", "attention_chunk_size", "keep_window_size"), 8),
    **dict.fromkeys(("mamba_d_state", "state_size", "ssm_state_size"), 8),
    **dict.fromkeys(("mamba_n_heads", "mamba_num_heads", "n_mamba_heads"), 8),
    **dict.fromkeys(("mamba_d_head", "mamba_head_dim", "mamba_headdim"), 16),
    **dict.fromkeys(("mamba_chunk_size", "chunk_size"), 8),
    **dict.fromkeys(("time_step_rank", "mamba_dt_rank", "adapter_rank", "laurel_rank"), 8),
    **dict.fromkeys(("n_groups", "mamba_n_groups", "mamba_ngroups"), 1),
    **dict.fromkeys(("initializer_range", "init_std", "initializer_factor"), 0.1),
    "hidden_size_per_layer_input": 16,
    "num_kv_shared_layers": 0,
    "index_topk": 4,
    "mlp_ratio": 2,
}

# what else an architecture needs; of its text decoder where it has several parts
ROPE = {"rope_type": "default", "rope_theta": 10000.0}
TURNS = ["sliding_attention", "full_attention"] * 2
INDEXER = {
    "indexer_n_heads": 2,
    "indexer_kv_heads": 1,
    "indexer_head_dim": 16,
    "indexer_budget": 8,
    "indexer_compress_ratio": 4,
}
NOTE = {  # of layers with a window and without
    "num_key_value_heads": 4,
    "swa_num_attention_heads": 4,
    "swa_num_key_value_heads": 4,
    "swa_q_lora_rank": 16,
    "swa_kv_lora_rank": 16,
    "swa_head_dim": 16,
    "swa_qk_nope_head_dim": 8,
    "swa_v_head_dim": 16,
}
DRAFT = {"hidden_size_per_layer_input": 0, "vocab_size_per_layer_input": 0}
OWN: dict[str, dict[str, Any]] = {
    **dict.fromkeys(
        ("axk2", "deepseek_v32", "glm_moe_dsa"), {"head_dim": 8, "num_key_value_heads": 4}
    ),
    "longcat_flash": {"head_dim": 8},
    "cohere_compass_text": {"layer_types": TURNS, "rope_parameters": dict.fromkeys(TURNS, ROPE)},
    "dbrx": {"attn_config": {"rope_theta": 10000.0, "kv_n_heads": 2, "clip_qkv": 8.0}},
    "blt": {
        "encoder_hash_byte_group_vocab": 64,
        "encoder_config": {"hidden_size_global": 64},
        "decoder_config": {"hidden_size_global": 64},
    },
    "dots3_note_text": NOTE,
    "dots3_note": {"text_config": NOTE},
    "gemma3n_text": {"num_kv_shared_layers": 2, "layer_types": TURNS},
    "gemma4_assistant": {
        "text_config": {"model_type": "gemma4_text", **DRAFT},
        "backbone_hidden_size": 64,
    },
    "gemma4_unified_assistant": {
        "text_config": {"model_type": "gemma4_unified_text"},
        "backbone_hidden_size": 64,
    },
    "zamba": {
        "attention_hidden_size": 128,
        "layers_block_type": ["linear_attention", "hybrid"] * 2,
    },
    "zamba2": {"layers_block_type": ["linear_attention", "hybrid"] * 2},
    "qwen4_exp_text": INDEXER,
    "qwen4_exp": {"text_config": INDEXER},
    "falcon_h1": {"mamba_d_ssm": 128},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention", "conv", "full_attention"]},
    "mamba2": {"num_heads": 8, "head_dim": 16},
    "reformer": {"is_decoder": True, "axial_pos_shape": [16, 32], "axial_pos_embds_dim": [32, 32]},
    "roc_bert": {"shape_embed_dim": 16, "pronunciation_embed_dim": 16, "shape_vocab_size": 300},
    "xmod": {"default_language": "en_XX"},
    "zaya": {"num_experts_per_tok": 1, "router_hidden_size": 8, "moe_intermediate_size": 128},
}


# what transformers does not build, and why
UNBUILT = {
    "dots3_note": "its text part cannot be made smaller than its own layers are numbered",
    "gemma3n": "its vision tower needs timm",
    **dict.fromkeys(
        ("gemma4_assistant", "gemma4_unified_assistant"),
        "it drafts for another model, whose keys and values it reads",
    ),
    **dict.fromkeys(
        ("musicgen", "musicgen_melody"),
        "AutoModelForCausalLM hands its whole configuration to a class that reads the decoder's",
    ),
}


def kinds() -> list[str]:
    """Model types that transformers builds a causal language model of, in alphabetical order."""
    return [kind for kind in every_kind() if kind not in UNBUILT]


def every_kind() -> list[str]:
    """Model types of transformers that stand for a causal language model, in alphabetical order."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def class_name(kind: str) -> str:
    """The class that a model type stands for."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[kind]


def config(kind: str) -> Any:
    """The small configuration of a model type."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    return _small(CONFIG_MAPPING[kind], OWN.get(kind, {}))


def _small(kind: type, own: dict[str, Any]) -> Any:
    """`kind` with every size that it has set to that of SMALL, in the configurations inside of it
    too.
    """
    names = {field.name for field in dataclasses.fields(kind)}
    sizes = {name: value for name, value in SMALL.items() if name in names}
    parts = {
        name: _small(part, own.get(name, {}))
        for name, part in _parts(kind, own).items()
        if name in names and dataclasses.is_dataclass(part)
    }
    return kind(**{**sizes, **own, **parts})


def _parts(kind: Any, own: dict[str, Any]) -> dict[str, type]:
    """Name -> type of the configurations inside of one."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    named = {
        name: CONFIG_MAPPING[own[name]["model_type"]]
        for name in kind.sub_configs
        if "model_type" in own.get(name, {})
    }
    if named or not kind.sub_configs:
        return named
    whole = kind()
    return {name: type(getattr(whole, name)) for name in kind.sub_configs}


def make(kind: str) -> nn.Module:
    """The model in evaluation mode, without gradients."""
    from transformers import AutoModelForCausalLM

    chosen = config(kind)
    chosen.use_cache = False
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(chosen).eval().requires_grad_(False)
