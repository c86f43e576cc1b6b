"""What page.js draws from: measured plans, and where each row comes from, as JSON in the page."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from lwq.common.names import nickname
from lwq.report.beside import Arena
from lwq.report.figures import style
from lwq.report.floor import text_of
from lwq.results.plans import StoredPlan
from lwq.studies import grid

CODES = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"  # one letter an option
KEPT = 6  # figures of a number


def data(
    arenas: Iterable[Arena],
    plans: Mapping[str, StoredPlan],
    table: pd.DataFrame,
    mixes: pd.DataFrame,
    floors: Mapping[tuple[str, str], float],
) -> dict[str, Any]:
    """Arenas with their plans and noise floors, files of others, and of each row the study that
    measured it.
    """
    studies = table.drop_duplicates("id").groupby("study", sort=False)["id"]
    others = mixes.assign(mb=mixes["bytes"] / 1e6).to_dict("records")
    return {
        "arenas": [
            arena_data(arena, plans) | {"floor": floors.get(_place(arena))} for arena in arenas
        ],
        "claimed": [style.label(name) for name in grid.claimed()],
        "mixes": [{str(key): _plain(cell) for key, cell in line.items()} for line in others],
        "studies": {str(name): sorted(ids) for name, ids in studies},
    }


def _place(arena: Arena) -> tuple[str, str]:
    return str(arena.first["model"]), text_of(arena.first["judge"])


def embedded(value: Any) -> str:
    """JSON for the inside of a <script> element: nothing in it can end the element."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"), ensure_ascii=False)
    for letter in "<>&\u2028\u2029":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return text


def arena_data(arena: Arena, plans: Mapping[str, StoredPlan]) -> dict[str, Any]:
    """One model and quantizer: uniform lines, and a record for each plan.

    A plan's `strip` has a letter a unit, an index into `options` by `CODES`; `units` names the
    list in `layouts` that it goes along.
    """
    layouts: dict[tuple[str, ...], int] = {}
    options: dict[str, int] = {}
    rows = pd.concat([arena.uniform.assign(method="uniform"), arena.plans], ignore_index=True)
    records = [
        _record(row) | _strip(plans.get(row["plan"]), layouts, options)
        for row in rows.sort_values(["total_bytes", "kl"], kind="stable").to_dict("records")
    ]
    corners = arena.uniform.set_index("id")["kl"]
    return {
        "model": arena.first["model"],
        "quantizer": nickname(arena.first["quantizer"]),
        "judge": str(arena.first["judge"]),
        "plans": records,
        "layouts": [list(layout) for layout in layouts],
        "options": list(options),
        "lines": [
            [[_short(size / 1e6), _short(corners[key])] for size, key in zip(*line, strict=True)]
            for line in arena.lines.values()
        ],
    }


def _record(row: Mapping[Any, Any]) -> dict[str, Any]:
    keys = ["kl", "low_kl", "high_kl", "top1", "perplexity", "ratio", "low_ratio", "high_ratio"]
    numbers = {key: _short(row.get(key)) for key in (*keys, "true_bits", "avg_bits")}
    texts = {key: _text(row.get(key)) for key in ("id", "method", "scorer", "allocator", "budget")}
    return {"mb": _short(row["total_bytes"] / 1e6), **texts, **numbers}


def _strip(
    plan: StoredPlan | None, layouts: dict[tuple[str, ...], int], options: dict[str, int]
) -> dict[str, Any]:
    """The letters of a plan; {} where it was not kept, or has more options than letters."""
    if plan is None:
        return {}
    bits = plan["bits"]
    codes = [options.setdefault(str(option), len(options)) for option in bits.values()]
    if max(codes) >= len(CODES):
        return {}
    units = layouts.setdefault(tuple(bits), len(layouts))
    return {"units": units, "strip": "".join(CODES[code] for code in codes)}


def _short(value: Any) -> float | None:
    return None if value is None or pd.isna(value) else float(f"{value:.{KEPT}g}")


def _plain(value: Any) -> Any:
    return None if pd.isna(value) else value.item() if hasattr(value, "item") else value


def _text(value: Any) -> str:
    return "" if value is None or pd.isna(value) else str(value)


def frame_of(arguments: Sequence[Any]) -> pd.DataFrame | None:
    """The rows that a picture shows: the first table among what it is drawn from."""
    return next((one for one in arguments if isinstance(one, pd.DataFrame)), None)
