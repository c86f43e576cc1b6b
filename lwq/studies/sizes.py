"""How large a model is, before it is loaded: written down, or from its configuration."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from lwq.common import paths, user_code


@dataclass(frozen=True)
class Sizes:
    """What an estimate must know of a model.

    Attributes:
        blocks, parameters: how many; tied tensors count once.
        vocabulary, width: of the embedding.
        in_blocks: of the parameters, those inside of blocks.
        known: False where nobody wrote the model down and its configuration is not on this disk.
    """

    blocks: int
    parameters: float
    vocabulary: int
    width: int
    in_blocks: float
    known: bool = True

    @property
    def largest(self) -> float:
        """Parameters of a block or of the embedding, whichever has more."""
        return max(self.in_blocks / self.blocks, self.vocabulary * self.width)


# as Mistral 7B is
UNKNOWN = Sizes(32, 7e9, 32_000, 4096, 7e9 - 2 * 32_000 * 4096, known=False)


def of(model: str) -> Sizes:
    """The sizes of a model by its name; those of a model of seven billion parameters where nothing
    tells.
    """
    return _of(model, str(user_code.folder()))


@cache
def _of(model: str, base: str) -> Sizes:
    written = _written().get(model)
    if written is not None:
        tied = written["parameters"] - written["vocabulary"] * written["width"]
        return Sizes(**{"in_blocks": tied, **written})
    from lwq import models

    found = models.outline(model, Path(base))
    if found is None:
        return UNKNOWN
    return Sizes(found.blocks, found.parameters, found.vocabulary, found.width, found.in_blocks)


@cache
def _written() -> dict[str, dict[str, Any]]:
    text = (paths.STUDIES / "common.yaml").read_text(encoding="utf-8")
    return yaml.safe_load(text)["models"]
