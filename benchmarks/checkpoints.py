"""Random llamas: checkpoints of any depth, written block by block, and small ones in memory."""

import json
from pathlib import Path

import torch
from accelerate import init_empty_weights
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, LlamaConfig

from lwq.common import paths
from lwq.inputs import toy

LARGE = {
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
}
QWEN = {  # of Qwen2.5-1.5B
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
}
SMALL = {
    "hidden_size": 512,
    "intermediate_size": 1408,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
}


def config(depth: int, vocab_size: int, **shape: int) -> LlamaConfig:
    """A llama with an untied head."""
    return LlamaConfig(
        vocab_size=vocab_size,
        num_hidden_layers=depth,
        max_position_embeddings=2048,
        bos_token_id=None,
        dtype="float16",
        **shape,
    )


def in_memory(depth: int) -> torch.nn.Module:
    """A random float32 llama of width 512."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config(depth, 8192, **SMALL), dtype=torch.float32)
    model.config.use_cache = False
    return model.eval().requires_grad_(False)


def on_disk(depth: int) -> Path:
    """A random float16 checkpoint of width 2048, one shard a block, in the cache; made once."""
    return _written(f"llama-random-{depth}", config(depth, 32_000, **LARGE))


def of_a_study() -> Path:
    """A random bfloat16 checkpoint of 1.5 billion weights, tied, in the cache; made once."""
    shape = config(28, 151_936, **QWEN)
    shape.dtype, shape.tie_word_embeddings = "bfloat16", True
    return _written("llama-random-1b5", shape)


def _written(name: str, shape: LlamaConfig) -> Path:
    folder = paths.cache() / "benchmarks" / name
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    with init_empty_weights():
        model = AutoModelForCausalLM.from_config(shape)
    model.tie_weights()
    shards: dict[str, dict[str, tuple[int, ...]]] = {}
    for key, tensor in model.named_parameters():
        block = key.split(".")[2] if ".layers." in key else "rest"
        shards.setdefault(f"model-{block}.safetensors", {})[key] = tuple(tensor.shape)
    generator = torch.Generator().manual_seed(0)
    for name, tensors in shards.items():
        values = {key: _values(size, generator) for key, size in tensors.items()}
        save_file({key: value.to(shape.dtype) for key, value in values.items()}, folder / name)
    shape.architectures = ["LlamaForCausalLM"]
    shape.save_pretrained(folder)
    toy.tokenizer().save_pretrained(folder)
    index.write_text(
        json.dumps(
            {"metadata": {}, "weight_map": {k: name for name, keys in shards.items() for k in keys}}
        )
    )
    return folder


def _values(size: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    return (
        torch.ones(size).half()
        if len(size) == 1
        else (torch.randn(size, generator=generator) * 0.02).half()
    )
