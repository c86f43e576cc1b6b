"""A tokenizer in llama.cpp's words: tokens, their types, merges or scores, and special ones."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gguf import GGUFWriter, TokenType

from lwq.common.errors import InputError

_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# what a byte-level tokenizer cuts at, as tokenizer.json says it -> llama.cpp's name for it
PRE = {
    (_SPLIT % r"\p{N}", "bytes"): "qwen2",
    (_SPLIT % r"\p{N}{1,3}", "bytes"): "llama-bpe",
    ("digits", "words"): "smollm",
    ("words",): "gpt-2",
}


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer of transformers, read from its folder.

    Attributes:
        tokenizer: as transformers has it.
        data: tokenizer.json.
        size: rows of the embedding; tokens above those of the tokenizer are unused.
        pre: llama.cpp's name of what cuts a text into words; empty: found in PRE.
    """

    tokenizer: Any
    data: Mapping[str, Any]
    size: int
    pre: str = ""

    @classmethod
    def read(cls, folder: Path, size: int, pre: str = "") -> "Vocabulary":
        """Raises InputError where `folder` has no tokenizer.json, or one of another kind."""
        from transformers import AutoTokenizer

        file = folder / "tokenizer.json"
        if not file.is_file():
            raise InputError(f"gguf: {folder} has no tokenizer.json, which llama.cpp's is made of")
        data = json.loads(file.read_text(encoding="utf-8"))
        if (kind := data["model"]["type"]) != "BPE":
            raise InputError(f"gguf: the tokenizer is a {kind}; this exporter writes BPE ones")
        numbers = [*data["model"]["vocab"].values(), *(each["id"] for each in data["added_tokens"])]
        if max(numbers) >= size:
            raise InputError(
                f"gguf: the tokenizer has a token {max(numbers)}, and the model's embedding "
                f"{size} rows; export the model with its own tokenizer"
            )
        found = cls(AutoTokenizer.from_pretrained(folder), data, size, pre)
        if not found.sentencepiece:
            found.cuts()
        return found

    @property
    def sentencepiece(self) -> bool:
        """Whether its tokens are pieces of text with bytes to fall back on, not bytes."""
        return bool(self.data["model"].get("byte_fallback"))

    def write(self, writer: GGUFWriter) -> None:
        """Put the vocabulary among the key-value pairs of a file."""
        tokens, types = self._tokens()
        writer.add_tokenizer_model("llama" if self.sentencepiece else "gpt2")
        writer.add_token_list(tokens)
        writer.add_token_types(types)
        if self.sentencepiece:
            writer.add_token_scores(self._scores(tokens))
            writer.add_add_space_prefix('"Prepend"' in json.dumps(self.data["normalizer"]))
        else:
            writer.add_tokenizer_pre(self.cuts())
            writer.add_token_merges([" ".join(pair) for pair in self._merges()])
        self._write_special(writer)

    def cuts(self) -> str:
        """llama.cpp's name of what cuts a text into words. Raises InputError where it has none."""
        steps = tuple(_steps(self.data["pre_tokenizer"]))
        if not self.pre and steps not in PRE:
            raise InputError(
                f"gguf: the tokenizer cuts words in a way {steps} that this exporter has no name "
                "for; give llama.cpp's own (LLAMA_VOCAB_PRE_TYPE): format=\"gguf(pre='qwen2')\""
            )
        return self.pre or PRE[steps]

    def _tokens(self) -> tuple[list[str], list[TokenType]]:
        """Text and type of each number, up to the rows of the embedding."""
        tokens = [f"[PAD{i}]" for i in range(self.size)]
        types = [TokenType.UNUSED] * self.size
        unknown = self.data["model"].get("unk_token")
        for text, i in self.data["model"]["vocab"].items():
            byte = self.sentencepiece and re.fullmatch(r"<0x[0-9A-F]{2}>", text)
            tokens[i], types[i] = text, TokenType.BYTE if byte else TokenType.NORMAL
        for added in self.data["added_tokens"]:
            i, text = added["id"], added["content"]
            tokens[i] = text if added["special"] else text.replace("▁", " ")
            types[i] = TokenType.CONTROL if added["special"] else TokenType.USER_DEFINED
            if text == unknown:
                types[i] = TokenType.UNKNOWN
        return tokens, types

    def _merges(self) -> list[list[str]]:
        found = self.data["model"]["merges"]
        return [pair.split(" ") if isinstance(pair, str) else pair for pair in found]

    def _scores(self, tokens: list[str]) -> list[float]:
        """The pieces that are merged first have the highest score."""
        first: dict[str, int] = {}
        merges = self._merges()
        for rank, pair in enumerate(merges):
            first.setdefault("".join(pair), rank)
        return [-float(first.get(token, len(merges))) for token in tokens]

    def _write_special(self, writer: GGUFWriter) -> None:
        tokenizer = self.tokenizer
        around = tokenizer("").input_ids
        for number, add, say in (
            (tokenizer.bos_token_id, writer.add_bos_token_id, writer.add_add_bos_token),
            (tokenizer.eos_token_id, writer.add_eos_token_id, writer.add_add_eos_token),
        ):
            if number is not None:
                add(number)
                say(number in around)
        if tokenizer.unk_token_id is not None:
            writer.add_unk_token_id(tokenizer.unk_token_id)
        if tokenizer.pad_token_id is not None:
            writer.add_pad_token_id(tokenizer.pad_token_id)
        if tokenizer.chat_template:
            writer.add_chat_template(tokenizer.chat_template)


def _steps(part: Mapping[str, Any] | None) -> Iterator[str]:
    """What a pre-tokenizer of tokenizer.json does, one word or pattern a step."""
    match part:
        case {"type": "Sequence", "pretokenizers": inner}:
            for each in inner:
                yield from _steps(each)
        case {"type": "Split", "pattern": {"Regex": pattern}}:
            yield pattern
        case {"type": "Digits", "individual_digits": True}:
            yield "digits"
        case {"type": "ByteLevel", **settings}:
            yield "words" if settings.get("use_regex", True) else "bytes"
        case _:
            yield str(part)
