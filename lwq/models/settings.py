"""What a model's configuration says: its name, its context, its windows. Composite models (with a
vision tower, with an encoder) keep what the text decoder does in a part of their configuration.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from lwq.common.errors import InputError
from lwq.common.hashing import digest

IDLE = (  # how the names of settings begin that decide no number
    *(
        "_",
        "transformers_version",
        "architectures",
        "dtype",
        "torch_dtype",
        "name_or_path",
        "use_cache",
        "return_dict",
    ),
    *("output_", "id2label", "label2id", "initializer_range"),
)
# what architectures call the longest text that they read
CONTEXT = ("max_position_embeddings", "n_positions", "max_seq_len", "max_target_positions")
# what they call how far a token of some layers sees back
REACH = (
    "sliding_window",
    "window_size",
    "attention_window",
    "local_window",
    "attention_chunk_size",
)


def name(model: nn.Module) -> str:
    """The name that the model was loaded by."""
    return str(getattr(model.config, "name_or_path", "") or type(model).__name__)


def text_settings(config: Any) -> dict[str, Any]:
    """Setting -> value of the part of `config` that describes the text decoder."""
    from transformers import PreTrainedConfig

    if not isinstance(config, PreTrainedConfig):
        return dict(vars(config))
    part = config.get_text_config(decoder=True)
    own = part.to_dict()
    aliases = {alias: own[real] for alias, real in part.attribute_map.items() if real in own}
    return {**own, **aliases}


def context_length(config: Any) -> int | None:
    """Tokens that the model reads at most; None where nothing limits it."""
    return min(_numbers(text_settings(config), CONTEXT), default=None)


def reach(config: Any) -> int | None:
    """Tokens that every layer sees back; None where none has a window."""
    return min(_numbers(text_settings(config), REACH), default=None)


def _numbers(settings: dict[str, Any], names: tuple[str, ...]) -> Iterator[int]:
    for key in names:
        values = settings.get(key)
        for value in values if isinstance(values, list | tuple) else [values]:
            if isinstance(value, int) and value > 0:
                yield value


def configuration(model: Any) -> str:
    """8 hex digits over the settings that decide what the weights compute: rope, eps, windows,
    heads.
    """
    return digest(_computing(model.config.to_dict()))[:8] if hasattr(model, "config") else ""


def _computing(settings: Any) -> Any:
    """`settings` at any depth without names, labels, versions and types."""
    if isinstance(settings, dict):
        return {
            key: _computing(value)
            for key, value in settings.items()
            if not str(key).startswith(IDLE)
        }
    return _plain(settings)


def _plain(value: Any) -> Any:
    """`value` as JSON can say it; what that has no word for, such as infinity, as text."""
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_plain(part) for part in value]
    plain = isinstance(value, str | int | None)
    plain |= isinstance(value, float) and math.isfinite(value)
    return value if plain else str(value)


def tell_tying_(model: Any) -> None:
    """Let the configuration say whether head and embedding are one tensor, as they are; loaders
    tie or look for two by it.
    """
    if (head := model.get_output_embeddings()) is None:
        return
    tied = head.weight is model.get_input_embeddings().weight
    if getattr(model.config, "tie_word_embeddings", False) == tied:
        return
    model.config.tie_word_embeddings = tied
    text = model.config.get_text_config(decoder=True)
    if hasattr(text, "tie_word_embeddings"):
        text.tie_word_embeddings = tied
    # what transformers itself looks up when it saves
    model.all_tied_weights_keys = model.get_expanded_tied_weights_keys(all_submodels=True)


@contextmanager
def saved_settings(model: Any) -> Iterator[None]:
    """Inside, the configuration is what is to be saved: `use_cache` as it was before `load` turned
    it off, and the head tied or not, as it is.
    """
    config, tied_keys = model.config, getattr(model, "all_tied_weights_keys", {})
    before = [(vars(part), dict(vars(part))) for part in (config, config.get_text_config())]
    config.use_cache = getattr(model, "_use_cache", config.use_cache)
    tell_tying_(model)
    try:
        yield
    finally:
        model.all_tied_weights_keys = tied_keys
        for settings, own in before:
            settings.clear()
            settings.update(own)


def save_settings(model: Any, folder: Path) -> None:
    """Write the configuration as it is now, the generation settings and, of a model with code of
    its own, that code, which config.json names.
    """
    from transformers.dynamic_module_utils import custom_object_save

    if model.is_remote_code():
        custom_object_save(model, folder, config=model.config)
    model.config.save_pretrained(folder)
    if model.can_generate():
        model.generation_config.save_pretrained(folder)


def tokenizer(model: nn.Module) -> Any:
    """The tokenizer that `load` gave beside the model; InputError for a model from elsewhere."""
    if (found := getattr(model, "_tokenizer", None)) is None:
        raise InputError(
            f"{name(model)!r} was not loaded by lwq.load, so that its tokenizer is not known; "
            "hand over windows= and tune=, from lwq.windows(text, tokenizer, split=…)"
        )
    return found
