"""Measurements on disk: one file each while a study runs, two tables and the plans behind them
afterwards. Resume is a look-up.
"""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Protocol, get_type_hints

import numpy as np
import pandas as pd
from filelock import FileLock

from lwq.common import paths
from lwq.common.errors import InputError
from lwq.common.hashing import digest
from lwq.contracts import Plan, Row
from lwq.results import cells, plans
from lwq.results.plans import StoredPlan

TABLE, WINDOWS, TIMINGS = "table.csv", "windows.parquet", "timings.csv"
OUTCOME = ("id", "version", "environment", "metric", "value", "n")
# how the plan was found; what it is stands in other columns
DESCRIPTION = ("allocator", "budget", "way", "seed", "family")
LOCK = ".lock"
# inside, folders are taken for empty, and nothing is written
REHEARSAL: ContextVar[bool] = ContextVar("rehearsal", default=False)
REPAIR = "delete both, and run the study again: what runs/ holds is not measured anew"
COLUMNS = set(Row.__dataclass_fields__)
TEXT = [name for name, hint in get_type_hints(Row).items() if hint is str]
ARRAYS = ("nll", "kl", "top1", "correct", "score", "document")


class Measured(Protocol):
    """What a measurement is made of: numbers for the table, and the arrays behind them, one value a
    window, item or unit.
    """

    def summary(self) -> dict[str, float]: ...

    def arrays(self) -> dict[str, np.ndarray]: ...


class Results:
    """The measurements of one folder: `table.csv`, `windows.parquet` and `plans.jsonl`, and the
    files of runs not yet in them.

    A file `runs/ID.json` is written whole or not at all, and holds the row, the arrays behind it,
    the plan and the seconds it took. Two processes may write into one folder: the same measurement
    has the same name and the same content.
    """

    def __init__(self, folder: str | Path):
        self.found: dict[str, dict[str, Any]] = {}
        self.plans: dict[str, StoredPlan] = {}
        self._by_plan: dict[tuple[str, ...], str] = {}
        self.rehearsed = REHEARSAL.get()
        if self.rehearsed:
            self.folder = paths.resolve(folder)
            self.runs = self.folder / "runs"
            return
        self.folder = paths.writable(folder)
        self.runs = paths.writable(self.folder / "runs")
        self.plans = plans.read(self.folder)
        for record in self._tabled():
            self._index(record)
        self._read_runs()

    def known(self, row: Row, wanted: Iterable[str] = ()) -> bool:
        """Whether `row` was measured, with the metrics `wanted`, or another row with the same plan
        on the same texts; that one is then kept under both.
        """
        key = identity(row)
        twin = self._by_plan.get(_content(asdict(row)), "")
        if not self._has(key, wanted) and self._has(twin, wanted):
            kept = {
                name: value
                for name, value in self.found[twin].items()
                if name not in ("row", "seconds")
            }
            kept["plan"] = self.plans.get(row.plan)
            self.add({"row": asdict(replace(row, id=key)), "seconds": 0.0, **kept})
        return self._has(key, wanted)

    def _has(self, key: str, wanted: Iterable[str]) -> bool:
        return key in self.found and self.found[key]["metrics"].keys() >= set(wanted)

    def remember(self, plan: Plan) -> None:
        """Keep a plan beside the rows that name it; `write` puts it into plans.jsonl."""
        self.plans.setdefault(plan.id, plans.stored(plan))

    def keep(self, row: Row, found: Measured, seconds: float) -> None:
        """Write a measurement, with the seconds that it took; from here on it is known.

        The plan goes with it where `remember` was given it before.
        """
        row = replace(row, id=identity(row))
        arrays = {name: values.tolist() for name, values in found.arrays().items()}
        tokens = getattr(found, "tokens", 0)
        self.add(
            {
                "row": asdict(row),
                "seconds": round(seconds, 3),
                "tokens": tokens,
                "metrics": found.summary(),
                "arrays": arrays,
                "plan": self.plans.get(row.plan),
            }
        )

    def add(self, record: dict[str, Any]) -> None:
        """Write a record of `found`, such as another folder's, under its id."""
        with paths.replacing(self.runs / f"{record['row']['id']}.json") as temporary:
            temporary.write_text(json.dumps(record, allow_nan=False), encoding="utf-8")
        self._index(record)

    def table(self, **where: Any) -> pd.DataFrame:
        """Rows of the results table, one a metric, in a fixed order; keep those whose columns equal
        `where`.
        """
        rows = [asdict(row) for record in self.found.values() for row in _rows(record)]
        frame = _typed(pd.DataFrame(rows, columns=list(Row.__dataclass_fields__)))
        for column, value in where.items():
            frame = frame[frame[column] == value]
        return frame.sort_values(
            ["study", "model", "quantizer", "high", "low", "ordering", "moved", "id", "metric"],
            ignore_index=True,
        )

    def windows(self) -> pd.DataFrame:
        """The arrays behind the rows: id, window, tokens, what was measured, and the document."""
        parts = [
            pd.DataFrame(
                {
                    "id": key,
                    "window": range(_length(record)),
                    "tokens": record["tokens"],
                    **record["arrays"],
                }
            )
            for key, record in sorted(self.found.items())
        ]
        columns = ["id", "window", "tokens", *ARRAYS]
        return (
            pd.concat(parts, ignore_index=True).reindex(columns=columns)
            if parts
            else pd.DataFrame(columns=columns)
        )

    def write(self) -> Path:
        """Write the two tables, the plans behind them, and the seconds in a file of their own;
        returns the path of table.csv.

        What other processes measured in this folder meanwhile is in them too.
        """
        table = self.folder / TABLE
        if self.rehearsed:
            return table
        with paths.writing(self.folder), FileLock(self.folder / LOCK):
            self._read_runs()
            self.plans = plans.write(self.folder, self.plans, self._named())
            with paths.replacing(self.folder / WINDOWS) as temporary:
                self.windows().to_parquet(temporary, index=False)
            with paths.replacing(table) as temporary:
                cells.write(self.table(), temporary)
            seconds = [
                (key, record["seconds"])
                for key, record in sorted(self.found.items())
                if record["seconds"] is not None
            ]
            with paths.replacing(self.folder / TIMINGS) as temporary:
                pd.DataFrame(seconds, columns=["id", "seconds"]).to_csv(
                    temporary, index=False, lineterminator="\n"
                )
        return table

    def _index(self, record: dict[str, Any]) -> None:
        self.found[record["row"]["id"]] = record
        if record["row"]["plan"]:
            self._by_plan.setdefault(_content(record["row"]), record["row"]["id"])
        if record["plan"]:
            self.plans.setdefault(record["row"]["plan"], record["plan"])

    def _named(self) -> set[str]:
        """The ids of the plans that rows name."""
        return {record["row"]["plan"] for record in self.found.values()}

    def _read_runs(self) -> None:
        for path in sorted(self.runs.glob("[!.]*.json")):
            # those of the table carry no times
            if self.found.get(path.stem, {}).get("seconds") is None:
                self._index(_read(path))

    def _tabled(self) -> list[dict[str, Any]]:
        if not (self.folder / TABLE).is_file():
            return []
        with paths.writing(self.folder), FileLock(self.folder / LOCK):
            table, windows = read_tables(self.folder)
        _require_documents(self.folder, windows)
        # a process was killed between the two files: runs/ has what is missing
        torn = set(table["id"]) ^ set(windows["id"])
        if torn - {path.stem for path in self.runs.glob("[!.]*.json")}:
            raise InputError(_apart(self.folder, torn))
        table, windows = table[~table["id"].isin(torn)], windows[~windows["id"].isin(torn)]
        arrays = dict(list(windows.groupby("id")))
        records = []
        for key, rows in table.groupby("id"):
            row, part = rows.iloc[0].to_dict(), arrays[key]
            row["seed"] = None if pd.isna(row["seed"]) else int(row["seed"])
            kept = {
                name: part[name].tolist()
                for name in ARRAYS
                if name in part and part[name].notna().all()
            }
            metrics = dict(zip(rows["metric"], rows["value"], strict=True))
            tokens = int(part["tokens"].iloc[0])
            records.append(
                {
                    "row": {**row, "id": key},
                    "seconds": None,
                    "tokens": tokens,
                    "metrics": metrics,
                    "arrays": kept,
                    "plan": self.plans.get(str(row["plan"])),
                }
            )
        return records


def load(folder: str | Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(table, windows) of a results folder; with `plans.read`, all that figures and reports need.

    Raises InputError where there are none, or where they do not belong together.
    """
    folder = paths.resolve(folder)
    if not (folder / TABLE).is_file() or not (folder / WINDOWS).is_file():
        raise InputError(
            f"no {TABLE} and {WINDOWS} in {folder}; run a study first (`lwq list studies` names "
            f"them)"
        )
    table, windows = read_tables(folder)
    if torn := set(table["id"]) ^ set(windows["id"]):
        raise InputError(_apart(folder, torn))
    _require_documents(folder, windows)
    return table, windows


def rows(folder: str | Path) -> Iterator[dict[str, Any]]:
    """The row of each measurement of a results folder, without the arrays behind it, which take
    long to read. A folder that is missing has none.

    Raises InputError for what is damaged.
    """
    folder = paths.resolve(folder)
    if (folder / TABLE).is_file():
        for line in _read_table(folder).drop_duplicates("id").to_dict("records"):
            yield {str(column): value for column, value in line.items()}
    for path in sorted((folder / "runs").glob("[!.]*.json")):
        yield _read(path)["row"]


def lacking(windows: pd.DataFrame) -> set[str]:
    """The ids of losses on windows of which nobody knows the document."""
    return set(windows.loc[windows["nll"].notna() & windows["document"].isna(), "id"])


def _require_documents(folder: Path, windows: pd.DataFrame) -> None:
    if ids := lacking(windows):
        raise InputError(
            f"{folder / WINDOWS} does not say which documents the windows of {len(ids)} "
            "measurements come from, as another version of lwq wrote it; intervals are over "
            f"documents: find them with `python -m lwq.results.documents {folder}`, or delete the "
            "folder and run the study again"
        )


def read_tables(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Both tables as they are; raises InputError for what is no table, or one of other columns."""
    table = _read_table(folder)
    with _undamaged(folder):
        windows = pd.read_parquet(folder / WINDOWS)
    return table, windows.reindex(columns=[*dict.fromkeys([*windows, *ARRAYS])])


def _read_table(folder: Path) -> pd.DataFrame:
    with _undamaged(folder):
        table = cells.read(folder / TABLE, TEXT)
        if not all(map(pd.api.types.is_numeric_dtype, (table["value"], table["n"]))):
            raise ValueError("a value is not a number")
        table = _typed(table) if "seed" in table else table
    if odd := COLUMNS ^ set(table.columns):
        raise InputError(
            f"{folder / TABLE} has the columns of another version of lwq ({sorted(odd)}); delete "
            f"it and run the study again"
        )
    return table


@contextmanager
def _undamaged(folder: Path) -> Iterator[None]:
    """Inside, what is no table raises InputError."""
    try:
        yield
    except (ValueError, OSError, KeyError) as error:  # pandas' and pyarrow's errors are ValueErrors
        raise InputError(
            f"{TABLE} or {WINDOWS} in {folder} is damaged ({error}); {REPAIR}"
        ) from None


def _typed(table: pd.DataFrame) -> pd.DataFrame:
    """Seeds as whole numbers, missing where nothing was drawn."""
    seeds = pd.to_numeric(table["seed"].replace("", None))
    return table.assign(seed=seeds.astype("Int64"))


def _apart(folder: Path, torn: set[str]) -> str:
    return (
        f"{TABLE} and {WINDOWS} in {folder} do not belong together: "
        f"{sorted(torn)[:4]} stand in one only; {REPAIR}"
    )


def identity(row: Row) -> str:
    """The id of a row: a hash of everything but the outcome, the package version, the environment
    and how the plan was found.
    """
    left_out = {*OUTCOME, *DESCRIPTION}
    return digest({key: value for key, value in asdict(row).items() if key not in left_out})


def _content(row: dict[str, Any]) -> tuple[str, ...]:
    """What decides the losses: the plan, the weights and settings of the model, the texts and the
    arithmetic.
    """
    return tuple(str(row[key]) for key in ("plan", "fingerprint", "calibration", "judge", "dtype"))


def _length(record: dict[str, Any]) -> int:
    return len(next(iter(record["arrays"].values())))


def _rows(record: dict[str, Any]) -> list[Row]:
    row = Row(**record["row"])
    return [
        replace(row, metric=metric, value=value, n=_length(record))
        for metric, value in record["metrics"].items()
    ]


def _read(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["row"]["id"] != path.stem:
            raise ValueError("its id is another")
        if lacking := {"metrics", "arrays", "seconds", "tokens", "plan"} - set(record):
            raise ValueError(f"it lacks {sorted(lacking)}")
        if "nll" in record["arrays"] and "document" not in record["arrays"]:
            raise ValueError("another version of lwq, which kept no documents, wrote it")
        if odd := COLUMNS ^ set(record["row"]):
            raise ValueError(f"columns of another version of lwq: {sorted(odd)}")
        return record
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"the measurement {path} is damaged ({error}); delete it and run the study again"
        ) from None
