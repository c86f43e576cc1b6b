"""plans.jsonl: every plan behind a row, one line each, so that a report can draw it and say why."""

import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TypedDict

from lwq.common import paths
from lwq.common.errors import InputError
from lwq.contracts import Option, Plan

PLANS = "plans.jsonl"


class StoredPlan(TypedDict):
    """A line of plans.jsonl: a plan without the shapes of its model.

    Keys:
        id: `Plan.id`, the column `plan` of the rows.
        model, fingerprint, granularity: of the layout that it was made for.
        quantizer: with its settings.
        bits: unit -> width, in the order of the forward pass.
        provenance: scorer, allocator, budget ...; {} where nobody wrote it down.
    """

    id: str
    model: str
    fingerprint: str
    granularity: str
    quantizer: str
    bits: dict[str, Option]
    provenance: dict[str, object]


def stored(plan: Plan) -> StoredPlan:
    """The line of a plan."""
    layout = plan.layout
    return StoredPlan(
        id=plan.id,
        model=layout.model,
        fingerprint=layout.fingerprint,
        granularity=layout.granularity,
        quantizer=plan.quantizer,
        bits={unit: plan.bits[unit] for unit in layout.units},
        provenance=dict(plan.provenance),
    )


def read(folder: str | Path) -> dict[str, StoredPlan]:
    """Id -> plan, of a results folder; {} where there is no plans.jsonl.

    A last line that was cut off is left out; InputError names any other line that is damaged.
    """
    path = paths.resolve(folder) / PLANS
    if not path.is_file():
        return {}
    return {plan["id"]: plan for plan in _lines(path)}


def _lines(path: Path) -> Iterator[StoredPlan]:
    *whole, torn = path.read_bytes().split(b"\n")  # a whole file ends with a line break
    for number, line in enumerate(whole, start=1):
        try:
            plan = json.loads(line)
            if lacking := StoredPlan.__required_keys__ - plan.keys():
                raise ValueError(f"it lacks {sorted(lacking)}")
        except (ValueError, AttributeError) as error:
            raise InputError(
                f"line {number} of {path} is damaged ({error}); delete the line and run the study "
                "again: nothing is measured anew"
            ) from None
        yield plan


def write(
    folder: Path, found: Mapping[str, StoredPlan], named: Collection[str]
) -> dict[str, StoredPlan]:
    """Write those of `found`, and of the file as it stands, that are `named`, sorted by id; returns
    them.

    The file is replaced whole: a reader, or a process that is killed, sees the old one or the new.
    """
    both = {**found, **read(folder)}
    kept = {key: both[key] for key in sorted(both) if key in named}
    with paths.replacing(folder / PLANS) as temporary:
        temporary.write_text(
            "".join(json.dumps(plan, allow_nan=False) + "\n" for plan in kept.values()),
            encoding="utf-8",
        )
    return kept
