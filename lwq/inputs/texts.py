"""Token windows by text name, split by document so that calibration, tuning and judging never share
one.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.cluster.hierarchy import DisjointSet
from torch import Tensor

from lwq.common.errors import InputError
from lwq.common.names import pick
from lwq.inputs import assets, toy
from lwq.inputs.catalogue import TEXTS, ambiguous

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


# shares of documents, percent
SPLITS = {"calibrate": range(0, 50), "tune": range(50, 70), "judge": range(70, 100)}
HUB = {
    "wikitext2": ("Salesforce/wikitext", "wikitext-2-raw-v1", "test"),
    "pg19": ("emozilla/pg19", None, "validation"),
    "c4-hub": ("allenai/c4", "en", "validation"),
}
KNOWN = ("toy", *TEXTS, *HUB)
HEADING = re.compile(r"^ ?= [^=\n]+ = ?$", re.MULTILINE)  # of an article in WikiText
BLANK = re.compile(r"^[^\S\n]+$", re.MULTILINE)
PIECE = 2000  # characters of a document where a text marks none


@dataclass(frozen=True)
class Drawn:
    """Token windows, and where they come from.

    Attributes:
        windows: LongTensor (n, length).
        documents: one number a window (n,), int64: of a document in its split, in the order of the
            text. Windows with one number share text of one document, or of documents that a window
            joins; windows with different numbers share none.
    """

    windows: Tensor
    documents: np.ndarray

    def apart(self) -> Tensor:
        """The first window of each document: windows that share no text."""
        firsts = np.unique(self.documents, return_index=True)[1]
        return self.windows[torch.from_numpy(np.sort(firsts))]


@dataclass(frozen=True)
class WindowSpec:
    """How windows were drawn: enough to draw them again. `str` of it stands in the results row."""

    text: str
    split: str
    n: int
    length: int
    seed: int

    def __str__(self) -> str:
        return f"{self.text}/{self.split} {self.n}x{self.length} by document seed {self.seed}"

    def on(self, **changes: Any) -> "WindowSpec":
        """The same with another text, or another number of windows."""
        return replace(self, **changes)

    def draw(self, tokenizer: "PreTrainedTokenizerBase") -> Drawn:
        return draw(self.text, tokenizer, self.n, self.length, self.split, self.seed)


def windows(
    text: str,
    tokenizer: "PreTrainedTokenizerBase",
    n: int = 64,
    length: int = 512,
    split: str = "calibrate",
    seed: int = 0,
) -> Tensor:
    """Token windows from the documents of one split, in a seeded random order.

    Args:
        text: `toy`, a text of `lwq.inputs.assets`, a hub name (`wikitext2`, `pg19`, `c4-hub`; needs
            `datasets` and a hub), or the path of a UTF-8 file (documents are separated by blank
            lines, or by the headings of WikiText).
        tokenizer: of the model that will read them.
        n: number of windows.
        length: tokens a window, with the BOS token (or what else its tokenizer puts before a text)
            where the model was trained with one.
        split: "calibrate", "tune" or "judge"; a document belongs to exactly one of them, by the
            hash of its text.
        seed: of the generator that orders the documents.

    Returns:
        LongTensor (n, length): from as many documents as there are, see `draw`.

    Raises:
        InputError: for an unknown name or split, an empty or non-UTF-8 file, windows longer than
            the model's context, or a split with fewer tokens than asked for.
    """
    return draw(text, tokenizer, n, length, split, seed).windows


def draw(
    text: str,
    tokenizer: "PreTrainedTokenizerBase",
    n: int,
    length: int,
    split: str,
    seed: int,
) -> Drawn:
    """`windows`, with the document of each.

    The documents stand in a seeded order, and each gives one window, its beginning; one that is
    shorter than a window is joined with the next. Only where the documents do not last are there
    further rounds, in which each gives the window that follows its last one. So the first windows
    share no text, and all tokens of a split can be had.

    The arguments and errors are those of `windows`.
    """
    pick(SPLITS, "split", split)
    limit = int(getattr(tokenizer, "model_max_length", 0) or 0)
    if length < 2 or n < 1:
        raise InputError(f"n={n}, length={length}: at least one window of two tokens is needed")
    if 0 < limit < length:
        raise InputError(
            f"length={length} is longer than the model's context of {limit} tokens; "
            f"ask for {limit} or fewer"
        )
    first = prefix(tokenizer)
    body = length - len(first)
    cut = _cut(_tokenized(text, tokenizer, split, seed), body, n)
    if len(cut) < n:
        raise InputError(
            f"asked {n} windows of {length} tokens, the {split} split of {text!r} gives "
            f"{len(cut)}; {_way_out(text)}"
        )
    bodies = torch.tensor([tokens for _, tokens in cut])
    found = torch.cat([torch.tensor(first, dtype=torch.long).expand(n, -1), bodies], dim=1)
    return Drawn(found, _kin([documents for documents, _ in cut]))


def consecutive(
    text: str, tokenizer: "PreTrainedTokenizerBase", n: int, length: int, split: str, seed: int
) -> Drawn:
    """How windows were drawn before documents were kept apart, for rows that were measured so:
    consecutive cuts of the documents in the order of the seed, named `TEXT/SPLIT NxLENGTH seed S`.

    A window may end in one document and begin in another; its document is the one that most of its
    tokens come from.
    """
    first = prefix(tokenizer)
    body = length - len(first)
    tokens: list[int] = []
    owners: list[int] = []
    for documents, more in _tokenized(text, tokenizer, split, seed):
        tokens, owners = tokens + more, owners + documents * len(more)
        if len(tokens) >= n * body:
            break
    n = min(n, len(tokens) // body)
    cut, places = (
        torch.tensor(numbers[: n * body]).reshape(n, body) for numbers in (tokens, owners)
    )
    starts = torch.tensor(first, dtype=torch.long).expand(n, -1)
    most = [int(torch.bincount(row).argmax()) for row in places]
    return Drawn(torch.cat([starts, cut], dim=1), np.array(most, dtype=np.int64))


# the documents that tokens come from, and the tokens
Piece = tuple[list[int], list[int]]


def _tokenized(
    text: str, tokenizer: "PreTrainedTokenizerBase", split: str, seed: int
) -> Iterator[Piece]:
    """Each document of a split and its tokens, in the order of the seed."""
    chosen = split_documents(text, split)
    order = torch.randperm(len(chosen), generator=torch.Generator().manual_seed(seed)).tolist()
    for index in order:
        ids = tokenizer(chosen[index] + "\n\n", add_special_tokens=False, verbose=False).input_ids
        yield [index], ids


def _cut(pieces: Iterable[Piece], body: int, n: int) -> list[Piece]:
    """The first `n` windows of `body` tokens, or all there are."""
    cut: list[Piece] = []
    while len(cut) < n:
        before, left = len(cut), []
        owners: list[int] = []
        tokens: list[int] = []
        for documents, more in pieces:
            owners, tokens = owners + documents, tokens + more
            if len(tokens) < body:
                continue
            cut.append((owners, tokens[:body]))
            if len(cut) == n:
                return cut
            left.append((documents, tokens[body:]))
            owners, tokens = [], []
        if len(cut) == before:
            return cut
        pieces = [*left, (owners, tokens)]
    return cut


def _kin(owners: list[list[int]]) -> np.ndarray:
    """One number a window, the same where windows share a document, also by way of others; the
    first of these documents.
    """
    groups = DisjointSet(document for own in owners for document in own)
    for own in owners:
        for document in own[1:]:
            groups.merge(own[0], document)
    return np.array([min(groups.subset(own[0])) for own in owners], dtype=np.int64)


def _way_out(text: str) -> str:
    """What to do about a split that is too short."""
    whole = documents(text)
    if len(whole) > 1:
        return "ask for fewer or shorter windows, or take a longer text"
    if "\n\n" not in whole[0].strip():
        return (
            "no document boundary was found in it, and one document belongs to one split: put a "
            "blank line (or WikiText's ` = Title = `) between documents"
        )
    return (
        f"its paragraphs make one document of about {PIECE:,} characters, which belongs to one "
        "split: take a longer text"
    )


def prefix(tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """What the tokenizer puts before every text, which is how its model was trained: [bos],
    nothing, or tokens of its own.
    """
    bare = tokenizer("a", add_special_tokens=False).input_ids
    whole = tokenizer("a").input_ids
    starts = [at for at in range(len(whole)) if whole[at : at + len(bare)] == bare]
    return whole[: starts[0]] if starts else []


def token_digest(windows: Tensor) -> str:
    """8 hex digits of the tokens themselves, so that a text that changed under its name is another
    text.
    """
    return hashlib.sha256(windows.numpy().tobytes()).hexdigest()[:8]


def is_own(text: str) -> bool:
    """Whether a text needs no file."""
    return text in KNOWN


def _bucket(document: str) -> int:
    return int.from_bytes(hashlib.sha256(document.encode()).digest()[:4], "big") % 100


def split_documents(text: str, split: str) -> list[str]:
    """The documents of one split, in the order of the text."""
    share = pick(SPLITS, "split", split)
    return [document for document in documents(text) if _bucket(document) in share]


def documents(text: str) -> list[str]:
    """The documents of a text, repeated ones once."""
    if is_own(text) and Path(text).is_file():
        raise ambiguous(text, "text", Path(text))
    if text == "toy":
        found: Iterable[str] = toy.documents()
    elif text in TEXTS:
        found = READERS[text](read(assets.fetch(text)))
    elif text in HUB:
        found = _from_hub(text)
    elif Path(text).expanduser().is_file():
        found = own_documents(read(Path(text).expanduser()))
    else:
        raise InputError(f"unknown text {text!r}: not a file, and none of {list(KNOWN)}")
    unique = list(dict.fromkeys(document for document in found if document.strip()))
    if not unique:
        raise InputError(
            f"the text {text!r} is empty; give a UTF-8 file with documents separated by blank lines"
        )
    return unique


def read(path: Path) -> str:
    """A UTF-8 text with LF line ends. Raises InputError naming the byte that is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is not UTF-8 at byte {error.start}; convert it (iconv -t utf-8)"
        ) from None


def lines(text: str) -> list[str]:
    """One document a line."""
    return text.split("\n")


def articles(text: str) -> list[str]:
    """The bodies of `<doc …> title … </doc>`; titles without a body are left out."""
    parts = (part.partition(">\n")[2].partition("\n</doc>")[0] for part in text.split("<doc ")[1:])
    return [part.strip() for part in parts if "\n" in part.strip()]


def paragraphs(text: str) -> list[str]:
    """Runs of lines between blank lines, joined to pieces of about 2,000 characters that follow
    each other.
    """
    pieces: list[str] = []
    size = PIECE
    for paragraph in text.split("\n\n"):
        if size >= PIECE:
            pieces.append(paragraph)
            size = len(paragraph)
        else:
            pieces[-1] += "\n\n" + paragraph
            size += len(paragraph)
    return pieces


def own_documents(text: str) -> list[str]:
    """The documents of a user's file: articles that begin with ` = Title = `, as WikiText has them,
    and what stands before the first; or else `paragraphs`, where a line with nothing but spaces is
    blank.
    """
    starts = [found.start() for found in HEADING.finditer(text)]
    if len(starts) > 1:
        cuts = pairwise([0, *starts, len(text)])
        return [part for start, end in cuts if (part := text[start:end].strip())]
    return paragraphs(BLANK.sub("", text))


READERS: dict[str, Callable[[str], list[str]]] = {
    "c4": lines,
    "wiki": articles,
    "tiny": paragraphs,
    "code": paragraphs,
    "technical": paragraphs,
    "multilingual": paragraphs,
}


def _from_hub(text: str) -> list[str]:
    path, config, split = HUB[text]
    try:
        from datasets import load_dataset
    except ImportError:
        raise InputError(
            f"the text {text!r} comes from a hub and needs datasets; in a clone of lwq: pip "
            f"install -e '.[hub]'; or use one of "
            f"{list(TEXTS)}"
        ) from None
    try:
        rows = list(load_dataset(path, config, split=split)["text"])
        # its rows are lines, not documents
        return own_documents("".join(rows)) if text == "wikitext2" else rows
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"cannot reach {path} for the text {text!r} ({reason}); use {list(TEXTS)}"
        ) from None
