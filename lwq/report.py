"""Two tables and a template -> report.md, report.html and figures. No model, no torch."""

import base64
import hashlib
import mimetypes
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, StrictUndefined
from matplotlib.figure import Figure

import lwq
from lwq import compare, figures, paths, results
from lwq.errors import InputError

SWEEP = ["study", "model", "quantizer", "high", "low", "calibration", "judge", "dtype"]
ENDS = {"original", "uniform"}
STYLE = """
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem; font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; }
img { max-width: 100%; height: auto; } h1, h2 { line-height: 1.2; } em { color: #555; }
.table { overflow-x: auto; } table { border-collapse: collapse; font-size: 0.85em; }
th, td { border-bottom: 1px solid #ddd; padding: 0.25em 0.7em; text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } code { font-size: 0.85em; overflow-wrap: anywhere; }
@media print { body { max-width: none; font-size: 10pt; } h2, img, table { break-inside: avoid; } }
"""


def build(results_dir: str | Path, reports_dir: str | Path) -> Path:
    """Render the report of a results folder; returns the path of report.html.

    Everything comes from table.csv and windows.parquet, and the same tables give the same bytes. A number that the template
    names and the tables lack stops the build.
    """
    table, windows = results.load(results_dir)
    target = paths.writable(reports_dir, "reports_dir")
    paths.writable(target / "figures")
    context = {
        "sweeps": [_sweep(part, windows, target) for part in sweeps(table)],
        "lead": _lead(table),
        "texts": table[["calibration", "judge"]].drop_duplicates().to_dict("records"),
        "quantizers": sorted(table["quantizer"].unique()),
        "dtypes": sorted({part["dtype"].iloc[0] for part in sweeps(table)}),
        "deviations": list(deviations(table)),
        "resamples": compare.RESAMPLES,
        "seed": compare.SEED,
        "version": lwq.__version__,
        "table_name": results.TABLE,
        "windows_name": results.WINDOWS,
        "table_hash": _hash(paths.resolve(results_dir) / results.TABLE),
        "windows_hash": _hash(paths.resolve(results_dir) / results.WINDOWS),
    }
    template = Environment(undefined=StrictUndefined, keep_trailing_newline=True, trim_blocks=True, autoescape=False)
    text = template.from_string(paths.TEMPLATE.read_text(encoding="utf-8")).render(context)
    text = re.sub(r"\n{3,}", "\n\n", text)
    with paths.replacing(target / "report.md") as temporary:
        temporary.write_text(text, encoding="utf-8")
    with paths.replacing(target / "report.html") as temporary:
        temporary.write_text(_page(text, target), encoding="utf-8")
    return target / "report.html"


def sweeps(table: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """The rows of each sweep: one study, model, quantizer, pair of widths, texts and arithmetic."""
    for _, part in table.groupby(SWEEP, sort=False):
        if set(part["ordering"]) - ENDS:  # else it only says how far another dtype is off
            yield part.reset_index(drop=True)


def deviations(table: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """How far the perplexity of each end of a sweep is off that in float32, for sweeps in any other dtype.

    Raises InputError where float32 was not measured.
    """
    key = [column for column in SWEEP if column not in ("dtype", "calibration")] + ["ordering", "avg_bits"]
    ends = table[(table["metric"] == "perplexity") & table["ordering"].isin(ENDS)]
    exact = ends[ends["dtype"] == "float32"].set_index(key)["value"]
    for row in ends[ends["dtype"] != "float32"].to_dict("records"):
        place = tuple(row[column] for column in key)
        if place not in exact.index:
            raise InputError(f"{row['model']}, {row['dtype']}: its deviation from float32 was not measured; run the study again")
        what = "untouched" if row["ordering"] == "original" else f"{row['avg_bits']:.0f} bits"
        yield {
            **{str(k): v for k, v in row.items()},
            "what": what,
            "deviation": row["value"] / float(exact.loc[[place]].iloc[0]) - 1,
        }


def built_from(report: str | Path) -> str:
    """The sha256 of table.csv that a report's last line names."""
    found = re.search(rf"{re.escape(results.TABLE)} sha256 ([0-9a-f]{{64}})", Path(report).read_text(encoding="utf-8"))
    return found.group(1) if found else ""


def _sweep(table: pd.DataFrame, windows: pd.DataFrame, target: Path) -> dict[str, Any]:
    """What the template says about one sweep, and its figures on disk."""
    first = table.iloc[0]
    limits = compare.limits(table, windows)
    perplexity = table[table["metric"] == "perplexity"]
    slug = re.sub(
        r"[^a-z0-9]+", "-", f"{first['model']}-{first['quantizer'].partition('(')[0]}-{first['high']}-{first['low']}".lower()
    )
    drawn = [
        ("retained_curve", figures.retained_curve(table, windows), "Retained quality against blocks moved, with 95 % intervals."),
        ("curves", figures.curves(table), "Perplexity, KL and agreement against blocks moved and against true bits."),
        ("thresholds", figures.thresholds(limits), "Largest share of blocks moved at 95 % and 90 % retained quality."),
    ]
    moved = sorted(perplexity["moved"].unique())
    return {
        "model": first["model"],
        "quantizer_name": first["quantizer"].partition("(")[0],
        "high": first["high"],
        "low": first["low"],
        "windows": first["n"],
        "few_windows": first["n"] < 32,
        "seeds": perplexity.loc[figures.is_random(perplexity["ordering"]), "ordering"].nunique(),
        "step": min(b - a for a, b in zip(moved, moved[1:], strict=False)) / first["units"],
        "original": perplexity.loc[perplexity["ordering"] == "original", "value"].iloc[0],
        "all_high": figures.all_high(perplexity)["value"],
        "all_low": perplexity.loc[(perplexity["ordering"] == "uniform") & (perplexity["avg_bits"] == first["low"]), "value"].iloc[
            0
        ],
        "rest_bytes": int(first["total_bytes"] - first["plan_bytes"]),
        "rows": f"model {first['model']}, {first['high']} to {first['low']} bits",
        "limits": _limits(limits),
        "points": list(_points(table, windows)),
        "figures": [
            {"function": name, "file": f"figures/{slug}-{name}.png", "alt": alt}
            for name, figure, alt in drawn
            if _draw(figure, target / "figures" / f"{slug}-{name}.png")
        ],
    }


def _limits(limits: pd.DataFrame) -> list[dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for row in limits.to_dict("records"):
        cell = f"{row['value']:.0%} [{row['low']:.0%}, {row['high']:.0%}]"
        found.setdefault(row["ordering"], {"label": figures.label(row["ordering"])})[f"t{row['threshold'] * 100:.0f}"] = cell
    return list(found.values())


def _points(table: pd.DataFrame, windows: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """One row an ordering at the measured points nearest to a quarter and a half, and the uniform plans."""
    wide = table.pivot_table(index="id", columns="metric", values="value")
    rows = table[table["metric"] == "perplexity"].set_index("id")
    nll = compare.nll_by_id(windows)
    truth = nll[figures.all_high(rows.reset_index())["id"]]
    mixed = rows[~rows["ordering"].isin(["original", "uniform"])]
    for share in (0.25, 0.5):
        nearest = min(mixed["moved"].unique(), key=lambda moved: abs(moved / mixed["units"].iloc[0] - share))
        for key, row in mixed[mixed["moved"] == nearest].sort_values("value").iterrows():
            yield _point(str(key), row, wide, truth, nll)
    for key, row in rows[rows["ordering"] == "uniform"].sort_values("true_bits").iterrows():
        yield {**_point(str(key), row, wide, truth, nll), "label": f"uniform {row['avg_bits']:.0f} bits"}


def _point(key: str, row: pd.Series, wide: pd.DataFrame, truth: Any, nll: Any) -> dict[str, Any]:
    quality = compare.retained(truth, nll[key])
    return {
        **{str(name): value for name, value in [*row.items(), *wide.loc[key].items()]},
        "label": figures.label(row["ordering"]),
        "retained": f"{quality.value:.3f} [{quality.low:.3f}, {quality.high:.3f}]",
    }


def _lead(table: pd.DataFrame) -> str:
    names = ", ".join(sorted(table["model"].unique()))
    return (
        f"`lwq` scores the blocks of a language model, moves the least important to fewer bits, and measures what "
        f"it costs. Models: {names}. "
        f"Measurements: {table['id'].nunique()}. It follows *Layer-Wise Quantization* "
        "(arXiv:2406.17415), whose authors released no code."
    )


def _draw(figure: Figure, path: Path) -> Path:
    with paths.replacing(path) as temporary:
        figure.savefig(temporary, dpi=130, metadata={"Software": None}, format="png")
    return path


def _page(text: str, folder: Path) -> str:
    """A self-contained page: pictures inside, tables that scroll on a phone, nothing fetched."""
    import markdown

    body = markdown.markdown(text, extensions=["tables"])
    body = body.replace("<table>", '<div class="table"><table>').replace("</table>", "</table></div>")
    body = re.sub(r'src="([^"]+)"', lambda found: f'src="{_inline(folder / found.group(1))}"', body)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>lwq report</title><style>{STYLE}</style></head>\n<body>\n{body}\n</body></html>\n"
    )


def _inline(path: Path) -> str:
    kind = mimetypes.guess_type(path.name)[0]
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
