"""What a scorer says of itself, and what scorers may return."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from lwq.common.errors import InputError
from lwq.contracts import Option

# unit -> importance, or unit -> option -> harm; an Estimate where it is sampled
Found: TypeAlias = Mapping[str, float] | Mapping[str, Mapping[Option, float]]
Harms: TypeAlias = dict[str, dict[Option, float]]


class Joint(dict[str, dict[Option, float]]):
    """Harms that remember what two units do together.

    Attributes:
        pairs: unit -> unit -> harm beyond the sum of the two, both at their lowest options.
    """

    pairs: Mapping[str, Mapping[str, float]]

    @classmethod
    def of(cls, harms: Harms, pairs: Mapping[str, Mapping[str, float]]) -> "Joint":
        found = cls(harms)
        found.pairs = pairs
        return found


@dataclass(frozen=True)
class Declared:
    """What callers read of a scorer. Each of ours declares the first two; a user's own may leave
    them out, and this is the one place that fills them in.

    Attributes:
        needs: statistics that it wants collected, none by default.
        granularity: of the units that it scores, blocks by default.
        outside: whether embeddings and head are among them, which most scorers leave alone.
    """

    needs: frozenset[str]
    granularity: str
    outside: bool = False

    @classmethod
    def of(cls, scorer: Callable[..., Found]) -> "Declared":
        needs: Any = getattr(scorer, "needs", ())
        if isinstance(needs, str):
            raise InputError(
                f"{type(scorer).__name__}: needs={needs!r} is text; write frozenset({{{needs!r}}})"
            )
        granularity = getattr(scorer, "granularity", "block")
        return cls(frozenset(needs), granularity, getattr(scorer, "outside", False))


def importance(found: Found) -> dict[str, float]:
    """The values of units; none where each is a mapping of options."""
    return {unit: value for unit, value in found.items() if not isinstance(value, Mapping)}
