"""`lwq.allocate`: scores and a budget to a plan, or, with no scores, a model and a budget."""

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor, nn

from lwq import allocators, models
from lwq.common.errors import InputError
from lwq.common.names import build, rebuild
from lwq.common.sizes import parse_bytes
from lwq.contracts import Budget, Costs, Option, Plan, Scores
from lwq.contracts.methods import Allocator, Objective, Quantizer
from lwq.quantizers import QUANTIZERS, RECOMMENDED
from lwq.quantizers.shared.contract import require_complete
from lwq.recipes.recommend import Recipe, whole_widths


def allocate(
    scores: Scores | Costs | None = None,
    model: nn.Module | None = None,
    bits: tuple[Option, ...] | None = None,
    quantizer: str | Quantizer | None = None,
    allocator: str | Allocator | None = None,
    *,
    moved: int | None = None,
    avg_bits: float | None = None,
    true_bits: float | None = None,
    max_bytes: int | None = None,
    size: str | int | None = None,
    outside: bool | None = None,
    guard: bool = True,
    recipe: Recipe | None = None,
    windows: Tensor | None = None,
    tune: Tensor | None = None,
    options: Mapping[str, tuple[Option, ...]] | None = None,
    pinned: Mapping[str, Option] | None = None,
    least: Option | None = None,
    groups: Mapping[str, str] | None = None,
    objective: Objective | None = None,
) -> Plan:
    """A plan within exactly one budget: from scores, or by the default recipe from a model.

    Args:
        scores: from `lwq.score`, or read from a file; None: the default recipe scores the model.
        model: the model that was scored, to check that the scores are its own; the one to score.
        bits: the options to choose from; 0 drops a block, 16 keeps it. None: of scores the two
            whole widths on either side of the budget, in the recipe all that the quantizer has.
        quantizer: what will pack the weights (a name, a call in text, an object): true bytes depend
            on it. None: for Costs the one that they were found with, for other scores rtn, in the
            recipe gptq(clip=True).
        allocator: a name in ALLOCATORS, a call in text or an object; by default `topk` for two
            options, `levels` for more, `uniform` for one, `knapsack` for Costs and in the recipe.
        moved: this many units leave the highest width.
        avg_bits: nominal bits a weight, at most (the paper's convention).
        true_bits: stored bits a weight, scales and zeros counted, at most.
        max_bytes, size: stored bytes of the whole model, at most; `size` also as "95MB", "1.2GiB".
        outside: of the recipe, whether embeddings and head get bits as well; None: where the limit
            is in bytes.
        guard: of the recipe: the plan is measured against the uniform bits that fit, and given up
            for them unless it is better (`lwq.recipes.guard`).
        recipe: its windows and draws; None: the defaults. Its `guard` counts as well.
        windows, tune: of the recipe: calibration windows, and windows of the tune split for the
            guard, one a document; None: drawn from c4 with the model's tokenizer.
        options, pinned, least, groups: what single units may have; see `Budget`.
        objective: measures plans for the allocators that search.

    Raises:
        InputError: for scores of another model, an option that the quantizer lacks, a shape that
            does not divide, a budget below what the options can reach (with their range), or 0 bits
            for a part of a block.
    """
    _require_several({"bits": bits, **{f"options of {u}": o for u, o in (options or {}).items()}})
    if size is not None:
        if max_bytes is not None:
            raise InputError("size and max_bytes are the same budget; give one")
        max_bytes = parse_bytes(str(size))
    limits = {"moved": moved, "avg_bits": avg_bits, "true_bits": true_bits, "max_bytes": max_bytes}
    if scores is not None:
        if not isinstance(scores, Scores | Costs):
            raise InputError(
                f"the first argument is scores, and this is a {type(scores).__name__}; for the "
                "default recipe write lwq.allocate(model=…)"
            )
        only = {"outside": outside, "recipe": recipe, "windows": windows, "tune": tune}
        _refuse(only, "the recipe's: with scores, choose when you score (lwq.score)")
        return allocators.allocate(
            scores,
            model,
            bits,
            quantizer or _quantizer_of(scores),
            allocator,
            moved=moved,
            avg_bits=avg_bits,
            true_bits=true_bits,
            max_bytes=max_bytes,
            options=options,
            pinned=pinned,
            least=least,
            groups=groups,
            objective=objective,
        )
    if model is None:
        raise InputError("give scores (from lwq.score), or model=, which is scored then")
    own = {"options": options, "pinned": pinned, "least": least, "groups": groups}
    searched = {"allocator": allocator, "objective": objective}
    _refuse({**own, **searched}, "for scores: score the model first (lwq.score)")
    limit, amount = allocators.one_limit(limits)
    packer: Quantizer = build(QUANTIZERS, "quantizer", quantizer or RECOMMENDED)
    require_complete(packer)
    beyond = limit == "max_bytes" if outside is None else outside
    layout = models.layout(model, "matrix", beyond)
    # refused before the work starts
    offered = whole_widths(packer) if bits is None else tuple(bits)
    budget = Budget(layout, offered, packer, limit, amount)
    settled = recipe or Recipe()
    settled = replace(settled, guard=guard and settled.guard)
    return settled(model, budget, packer, windows, tune)


def _quantizer_of(scores: Scores | Costs) -> str | Quantizer:
    """The one that costs were found with, else rtn; what a file names runs no code."""
    named = scores.quantizer if isinstance(scores, Costs) else None
    return "rtn" if named is None else rebuild(QUANTIZERS, "quantizer", named)


def _require_several(given: Mapping[str, object]) -> None:
    """Raise InputError for one option where several are asked for."""
    for name, value in given.items():
        if isinstance(value, int | float | str):
            raise InputError(
                f"{name}: {value!r} is one option and no tuple of them; write ({value!r},), or "
                "several, such as (4, 3)"
            )


def _refuse(given: Mapping[str, object], why: str) -> None:
    """Raise InputError for arguments that would be ignored."""
    if named := [name for name, value in given.items() if value is not None]:
        raise InputError(f"{named} are {why}, or leave them out")
