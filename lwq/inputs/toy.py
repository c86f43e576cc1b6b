"""`toy`: a 4-block random llama, a byte tokenizer and grammar text, made in code, so that tests
need no network.
"""

import random
from typing import Any

BLOCKS, WIDTH = 4, 64


def depth(name: str) -> int | None:
    """Blocks of the model called `name`: 4 for "toy", N for "toy-N"; None for another name."""
    kind, _, blocks = name.partition("-")
    return (
        None if kind != "toy" or not (blocks.isdecimal() or name == kind) else int(blocks or BLOCKS)
    )


def model(seed: int = 0, blocks: int = BLOCKS) -> Any:
    """A llama of width 64 with random weights; context of 512 tokens, tied embeddings."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=257,
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=blocks,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.1,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=256,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # transformers draws initial weights from the global generator
        return LlamaForCausalLM(config)


def tokenizer() -> Any:
    """One token a byte (0 to 255) and an end-of-text token (256)."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE(vocab={symbol: i for i, symbol in enumerate(alphabet)}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="<|end|>", model_max_length=512
    )


SUBJECTS = (
    "the layer",
    "a small model",
    "the first block",
    "one matrix",
    "the last block",
    "every head",
)
VERBS = ("keeps", "loses", "moves", "rounds", "scores", "ranks")
OBJECTS = (
    "four bits",
    "its weights",
    "two bits",
    "the residual stream",
    "a scale",
    "its importance",
    "some tokens",
)
ENDINGS = (".", ", and nothing changes.", ", so the loss grows.", ", which is cheap.")


def documents(n: int = 400, seed: int = 0) -> list[str]:
    """`n` short texts from a seeded grammar, each different from the others."""
    draw = random.Random(seed)
    return [
        f"{i}: " + " ".join(_sentence(draw) for _ in range(draw.randint(4, 12))) for i in range(n)
    ]


def _sentence(draw: random.Random) -> str:
    words = " ".join(draw.choice(part) for part in (SUBJECTS, VERBS, OBJECTS))
    return f"{words}{draw.choice(ENDINGS)}".capitalize().capitalize()
