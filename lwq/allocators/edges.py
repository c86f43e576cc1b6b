"""By position alone: both ends of the model keep more bits."""

from dataclasses import dataclass

from lwq.allocators.ranked import descend
from lwq.contracts import Budget, Costs, Layout, Option, Scores
from lwq.contracts.methods import Allocator, Objective


@dataclass(frozen=True)
class Edges(Allocator):
    """The first and the last units keep more bits, whatever the scores say; the middle goes down
    first.

        importance(u) = −min(i, L − 1 − i) for a unit in block i of L

    Embeddings and head are at the ends too. Units of one block go down in the order of the forward
    pass.

    Attributes:
        spread: as in `levels`; with two widths it changes nothing.

    Source: a baseline. llama.cpp's mixes keep the first and the last eighth at more bits
    (use_more_bits); Dumitru et al. 2024, arXiv:2406.17415, find both ends the most important.
    """

    spread: float = 2.0

    def __call__(
        self, scores: Scores | Costs, budget: Budget, objective: Objective | None = None
    ) -> dict[str, Option]:
        return descend(middle_first(budget.layout), budget, self.spread, "edges")


def middle_first(layout: Layout) -> list[str]:
    """Units from the middle of the model to both ends."""
    homes = {unit: layout.block_of(unit) for unit in layout.units}
    blocks = list(dict.fromkeys(homes[unit] for unit in homes if unit not in layout.outside))
    depth = {block: min(i, len(blocks) - 1 - i) for i, block in enumerate(blocks)}
    return sorted(homes, key=lambda unit: -depth.get(homes[unit], 0))
