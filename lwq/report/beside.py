"""Measured plans beside uniform bits of the same bytes, in KL: what the first screen and its
picture are made from.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from lwq.common.names import nickname
from lwq.contracts.results import APART, FLOOR, WHOLE
from lwq.report import bootstrap, intervals, overview
from lwq.report.bootstrap import Interval, Sample
from lwq.report.figures import style
from lwq.report.intervals import RANDOM, SAME
from lwq.report.line import Line, ratio

UNIFORM = "uniform"
BLOCKS = "topk"  # the allocator of rankings; any other is named beside its score


class Method(NamedTuple):
    """What one way to choose bits is worth, over the sizes that it was measured at.

    Attributes:
        worth: geometric mean of its KL over that of uniform bits of the same bytes; below 1 it is
            better.
        better, worse: plans whose own interval lies on that side, of `plans` in all.
        whole: whether embeddings and head are among the units.
    """

    label: str
    worth: Interval
    better: int
    worse: int
    plans: int
    whole: bool


class Arena(NamedTuple):
    """Plans that may be compared: one model, quantizer, judging text and arithmetic.

    Attributes:
        plans: a line a mixed plan: the columns of its row, `kl`, `low_kl`, `high_kl`, `perplexity`,
            `top1`, `method`, `whole` (embeddings and head among the units), and `ratio`,
            `low_ratio`, `high_ratio` to uniform bits of the same bytes (NaN beyond their sizes).
        uniform: the same of uniform plans, by bytes.
        lines: whether embeddings are among the units -> uniform bits as a line.
        methods: the best first.
        remark: what must be said of intervals over so few documents; "" where there are enough.
    """

    plans: pd.DataFrame
    uniform: pd.DataFrame
    lines: Mapping[bool, Line]
    methods: tuple[Method, ...]
    remark: str

    @property
    def first(self) -> pd.Series:
        """Any row: the model, quantizer, texts and windows are the same in all."""
        return self.uniform.iloc[0]

    @property
    def name(self) -> str:
        """Model and quantizer, as readers call them."""
        return f"{self.first['model']}, {nickname(self.first['quantizer'])}"

    def best(self, size: float) -> Mapping[str, Any]:
        """Of all plans no larger than `size` bytes, uniform ones too, that of the least KL."""
        both = pd.concat([self.plans, self.uniform], ignore_index=True)
        fits = both[both["total_bytes"] <= size].sort_values("kl", kind="stable")
        return {str(key): value for key, value in fits.iloc[0].items()}


def arenas(table: pd.DataFrame, windows: pd.DataFrame) -> list[Arena]:
    """Every model and quantizer with a mixed plan and two uniform sizes.

    Models that people use come before rungs of the ladder, today's quantizers before superseded
    ones, then those that most allocators, and most plans, were measured with; of one model, the one
    whose best plan comes nearest to the original. Plans with dropped blocks, masks, or blocks left
    at 16 bits answer other questions and are left out.
    """
    kl = intervals.by_id(windows, "kl")
    old = overview.superseded(table["quantizer"])
    found = [_arena(part, kl) for _, part in _measured(table, kl).groupby(SAME, sort=False)]

    def rank(arena: Arena) -> tuple[bool, bool, int, int]:
        allocators = set(arena.plans["allocator"].dropna()) - {""}
        return *behind(arena), -len(allocators), -len(arena.plans)

    def behind(arena: Arena) -> tuple[bool, bool]:
        return overview.is_rung(arena.first["model"]), arena.first["quantizer"] in old

    ranked = sorted((one for one in found if one is not None), key=rank)
    places: dict[Any, int] = {}
    for place, arena in enumerate(ranked):
        places.setdefault((arena.first["model"], *behind(arena)), place)

    def near(arena: Arena) -> tuple[int, float]:
        return places[(arena.first["model"], *behind(arena))], arena.plans["kl"].min()

    return sorted(ranked, key=near)


def _measured(table: pd.DataFrame, kl: Mapping[str, Sample]) -> pd.DataFrame:
    """One line a plan of whole widths, its metrics beside each other."""
    rows = table[table["metric"].isin(intervals.METRICS) & (table["family"] == "grid")]
    rows = rows[~rows["way"].isin((APART, FLOOR))]
    rows = rows[(rows["low"] > 0) | (rows["ordering"] == UNIFORM)]
    values = rows.pivot_table(index="id", columns="metric", values="value")
    rows = rows.drop_duplicates("id").drop(columns=["metric", "value"]).join(values, on="id")
    rows = rows[rows["id"].isin(kl.keys()) & (rows["ordering"] != "original")]
    return rows[(rows["high"] < 16) | (rows["ordering"] == UNIFORM)]


def _arena(rows: pd.DataFrame, kl: Mapping[str, Sample]) -> Arena | None:
    rest = rows["total_bytes"] - rows["plan_bytes"]
    rows = rows.assign(whole=rest < rest.max())
    even = (rows["ordering"] == UNIFORM) & rows["avg_bits"].between(1, 15) & (rows["kl"] > 0)
    uniform = rows[even].drop_duplicates("plan").sort_values("total_bytes", ignore_index=True)
    mixed = rows[(rows["ordering"] != UNIFORM) & ~rows["plan"].isin(rows[even]["plan"])]
    mixed = mixed.drop_duplicates(["plan", "ordering", "allocator"]).reset_index(drop=True)
    if mixed.empty or len(uniform) < 2:
        return None
    lines = {bool(whole): Line.through(part) for whole, part in uniform.groupby("whole")}
    mixed = mixed.assign(method=_methods(mixed))
    found = {row["id"]: _shares(row, lines) for row in mixed.to_dict("records")}
    places = {key: shares for key, shares in found.items() if shares is not None}
    if not places:
        return None
    beside = {key: ratio({key: shares}, kl) for key, shares in places.items()}
    own = {key: bootstrap.mean(kl[key]) for key in {*mixed["id"], *uniform["id"]}}
    mixed = _with_ends(_with_ends(mixed, own, "kl"), beside, "ratio")
    methods = tuple(_worth(mixed, places, kl))
    remark = bootstrap.remark(kl[mixed["id"].iloc[0]].documents)
    return Arena(mixed, _with_ends(uniform, own, "kl"), lines, methods, remark)


def ratios(arenas: Iterable[Arena]) -> dict[str, Interval]:
    """Plan -> its KL over that of uniform bits of the same bytes, where there are such."""
    columns = ["plan", "ratio", "low_ratio", "high_ratio"]
    frames = [arena.plans.dropna(subset="ratio")[columns] for arena in arenas]
    return {plan: Interval(*ends) for frame in frames for plan, *ends in frame.to_numpy().tolist()}


def _with_ends(rows: pd.DataFrame, found: Mapping[str, Interval], name: str) -> pd.DataFrame:
    """`rows` with a value and its interval; NaN where there is none."""
    none = Interval(np.nan, np.nan, np.nan)
    ends = [found.get(key, none) for key in rows["id"]]
    columns = (name, f"low_{name}", f"high_{name}")
    cells = {column: [end[place] for end in ends] for place, column in enumerate(columns)}
    return rows.assign(**cells)


def _shares(row: Mapping[Any, Any], lines: Mapping[bool, Line]) -> dict[str, float] | None:
    """Of the corners of uniform bits at the bytes of a plan; None beyond their sizes."""
    return lines[row["whole"]].at(row["total_bytes"]) if row["whole"] in lines else None


def _methods(mixed: pd.DataFrame) -> list[str]:
    """What readers call the choice behind each plan: "LIM", "fisher kl + knapsack", "random"."""
    both = mixed["whole"].nunique() > 1
    return [_method(row, both and row["whole"]) for row in mixed.to_dict("records")]


def _method(row: Mapping[Any, Any], whole: bool) -> str:
    score = str(row["ordering"]).partition(" + ")[0]  # "lim + topk" is LIM, whoever wrote the row
    name = style.label(score) if pd.isna(row["seed"]) else RANDOM
    allocator = "" if pd.isna(row["allocator"]) else str(row["allocator"]).partition("(")[0]
    name += f" + {allocator}" if allocator not in ("", BLOCKS) else ""
    return f"{name} ({WHOLE})" if whole else name


def _worth(
    mixed: pd.DataFrame, places: Mapping[str, Mapping[str, float]], kl: Mapping[str, Sample]
) -> list[Method]:
    found = []
    for label, own in mixed[mixed["id"].isin(places)].groupby("method", sort=False):
        worth = ratio({key: places[key] for key in own["id"]}, kl)
        better, worse = (own["high_ratio"] < 1).sum(), (own["low_ratio"] > 1).sum()
        whole = bool(own["whole"].all())
        found.append(Method(str(label), worth, int(better), int(worse), len(own), whole))
    return sorted(found, key=lambda method: method.worth.value)
