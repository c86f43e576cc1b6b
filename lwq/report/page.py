"""Two tables and a template -> report.md, report.html and figures. No model, no torch."""

import base64
import hashlib
import mimetypes
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, StrictUndefined

from lwq.common import paths
from lwq.common.names import nickname
from lwq.common.version import VERSION
from lwq.report import claims, counts, figures, intervals, rankings
from lwq.results import measurements
from lwq.studies import grid

QUALITY = 0.90  # of the picture of all sweeps
VERDICTS = "verdicts.csv"
VERDICT = list(claims.Verdict.__dataclass_fields__)
MARKS = ("<!-- verdicts: written by lwq report -->", "<!-- end of verdicts -->")
STYLE = """
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
       font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; }
img { max-width: 100%; height: auto; } h1, h2 { line-height: 1.2; } em { color: #555; }
.table { overflow-x: auto; } table { border-collapse: collapse; font-size: 0.85em; }
th, td { border-bottom: 1px solid #ddd; padding: 0.25em 0.7em;
         text-align: right; white-space: nowrap; vertical-align: top; }
th:first-child, td:first-child { text-align: left; }
.words th, .words td { text-align: left; white-space: normal; min-width: 5em; }
code { font-size: 0.85em; overflow-wrap: anywhere; }
@media print { body { max-width: none; font-size: 10pt; } h2, img, table { break-inside: avoid; } }
"""


def build(results_dir: str | Path, reports_dir: str | Path) -> Path:
    """Render the report of a results folder; returns the path of report.html.

    Everything comes from table.csv and windows.parquet, and the same tables give the same bytes. A
    number that the template names and the tables lack stops the build. Beside the report stands
    verdicts.csv: every verdict with the ids of its rows.
    """
    table, windows = measurements.load(results_dir)
    table = _as_readers_name_them(table)
    target = paths.writable(reports_dir, "reports_dir")
    catalogue = grid.catalogue()
    found = claims.verdicts(table, windows, catalogue["claims"])
    with paths.replacing(target / VERDICTS) as temporary:
        frame = pd.DataFrame(
            [{**vars(verdict), "ids": " ".join(verdict.ids)} for verdict in found], columns=VERDICT
        )
        frame.to_csv(temporary, index=False, lineterminator="\n")
    draw = Drawing(target / "figures")
    parts = {name: table[table["study"] == name] for name in catalogue["studies"]}
    orderings = parts["orderings"]
    swept = claims.swept(orderings, windows, QUALITY)
    gaps, gains = (
        claims.gaps(parts["pruning"], windows),
        claims.gains(parts["dynamic_methods"], windows),
    )
    context = {
        "lead": _lead(table),
        "claims": list(_claims(found, catalogue["claims"])),
        "sections": {
            "orderings": list(_orderings(orderings, windows, swept, draw)),
            "model_scale": list(_scale(parts["model_scale"], windows, draw)),
            "pruning": list(_pruning(parts["pruning"], windows, gaps, draw)),
            "dynamic_methods": list(_dynamic(gains, draw)),
        },
        "why": _why(
            parts,
            windows,
            swept,
            gaps,
            {key: claim["numbers"] for key, claim in catalogue["claims"].items()},
        ),
        "sweeps": [_sweep(sweep.rows, windows, draw) for sweep in swept],
        "texts": table.loc[table["metric"] == "perplexity", ["calibration", "judge"]]
        .drop_duplicates()
        .to_dict("records"),
        "quantizers": sorted(table["quantizer"].unique()),
        "dtypes": sorted(table["dtype"].unique()),
        "models": list(rankings.models(table)),
        "uniform": rankings.uniform(table),
        "beyond_chance": list(rankings.beyond_chance(swept)),
        "depths": list(
            rankings.beyond_chance(claims.swept(parts["model_scale"], windows, QUALITY))
        ),
        "worth": list(rankings.worth(orderings, windows)),
        "dependence": intervals.dependence(orderings, windows),
        "deviations": list(rankings.deviations(table)),
        "environments": list(table["environment"].unique()),
        "crossings": list(rankings.crossings(gaps)),
        "tasks": rankings.tasks(orderings, windows),
        "ways": list(rankings.ways((verdict for verdict in found if verdict.claim == "b"), gains)),
        "resamples": intervals.RESAMPLES,
        "seed": intervals.SEED,
        "version": VERSION,
        "table_name": measurements.TABLE,
        "windows_name": measurements.WINDOWS,
        "verdicts_name": VERDICTS,
        "table_hash": _hash(paths.resolve(results_dir) / measurements.TABLE),
        "windows_hash": _hash(paths.resolve(results_dir) / measurements.WINDOWS),
    }
    template = Environment(
        undefined=StrictUndefined, keep_trailing_newline=True, trim_blocks=True, autoescape=False
    )
    text = template.from_string(paths.TEMPLATE.read_text(encoding="utf-8")).render(context)
    text = re.sub(r"\n{3,}", "\n\n", text)
    with paths.replacing(target / "report.md") as temporary:
        temporary.write_text(text, encoding="utf-8")
    with paths.replacing(target / "report.html") as temporary:
        temporary.write_text(_page(text, target), encoding="utf-8")
    draw.clean()
    return target / "report.html"


def put_into_readme(readme: Path, reports_dir: str | Path) -> None:
    """Write the verdicts of a report between the two marks in a README; nothing happens where it
    has none.
    """
    text = readme.read_text(encoding="utf-8") if readme.is_file() else ""
    before, mark, rest = text.partition(MARKS[0])
    _, end, after = rest.partition(MARKS[1])
    if end:
        with paths.replacing(readme) as temporary:
            temporary.write_text(
                f"{before}{mark}\n{verdict_table(reports_dir)}{end}{after}", encoding="utf-8"
            )


def verdict_table(reports_dir: str | Path) -> str:
    """The claims against the models, as Markdown, from a report's verdicts.csv."""
    catalogue = grid.catalogue()["claims"]
    rows = pd.read_csv(Path(reports_dir) / VERDICTS, dtype=str, keep_default_na=False)[
        VERDICT
    ].itertuples(index=False)
    found = claims.by_model(
        claims.Verdict(claim, model, setting, word, number, tuple(ids.split()))
        for claim, model, setting, word, number, ids in rows
    )
    models = list(dict.fromkeys(found["model"]))
    cells = {
        (row.claim, row.model): f"**{row.verdict}**: {row.settings}" for row in found.itertuples()
    }
    made = [["claim", *models], ["---"] * (len(models) + 1)]
    for key, claim in catalogue.items():
        own = [cells.get((key, model), "") for model in models]
        made.append(
            [f"({key}) {claim['short']}", *(own if any(own) else ["not measured yet"] * len(own))]
        )
    return "".join(f"| {' | '.join(line)} |\n" for line in made)


@dataclass
class Drawing:
    """Figures on disk, and what the template says about each."""

    folder: Path
    drawn: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        paths.writable(self.folder)

    def __call__(
        self, name: str, what: str, alt: str, rows: str, *arguments: Any
    ) -> dict[str, str]:
        """Draw `lwq.report.figures.name(*arguments)` into a file named after `what`; `rows` says
        which rows made it.
        """
        file = re.sub(r"[^a-z0-9]+", "-", f"{what}-{name}".lower()) + ".png"
        figure = getattr(figures, name)(*arguments)
        self.drawn.add(file)
        with paths.replacing(self.folder / file) as temporary:
            figure.savefig(temporary, dpi=130, metadata={"Software": None}, format="png")
        return {"function": name, "file": f"{self.folder.name}/{file}", "alt": alt, "rows": rows}

    def clean(self) -> None:
        """Delete pictures of earlier reports."""
        for path in self.folder.glob("[!.]*.png"):
            if path.name not in self.drawn:
                path.unlink()


def _claims(found: list[claims.Verdict], catalogue: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    models = claims.by_model(found)
    for key, claim in catalogue.items():
        settings = [vars(verdict) for verdict in found if verdict.claim == key]
        yield {
            "key": key,
            **claim,
            "models": models[models["claim"] == key].to_dict("records"),
            "settings": settings,
        }


def _why(
    parts: Mapping[str, pd.DataFrame],
    windows: pd.DataFrame,
    swept: list[claims.Swept],
    gaps: pd.DataFrame,
    numbers: Mapping[str, Any],
) -> dict[str, Any]:
    """What the sentences behind the verdicts count."""
    return {
        "far": counts.reach(swept, numbers["a"]),
        "headline": counts.headline(parts["orderings"], numbers["headline"]),
        "pruned": counts.pruned(gaps, "blocks", numbers["c"]["bits"], numbers["c"]["orderings"]),
        "best": counts.best(gaps, numbers["c"]),
        "depth": counts.depth(
            parts["model_scale"], windows, numbers["d"]["groups"]["depth ladder"]
        ),
    }


def _orderings(
    table: pd.DataFrame, windows: pd.DataFrame, swept: list[claims.Swept], draw: Drawing
) -> Iterator[dict[str, str]]:
    if swept:
        names = [
            f"{sweep.rows['model'].iloc[0]}\n{intervals.setting(sweep.rows.iloc[0])}"
            for sweep in swept
        ]
        limits = pd.concat(
            [sweep.limits.assign(sweep=name) for sweep, name in zip(swept, names, strict=True)],
            ignore_index=True,
        )
        areas = pd.concat(
            [sweep.areas.assign(sweep=name) for sweep, name in zip(swept, names, strict=True)],
            ignore_index=True,
        )
        alt = (
            "For every sweep, the largest share of blocks moved that keeps 90 % of the quality, "
            "and the mean quality kept while "
            "all are moved, with 95 % intervals."
        )
        yield draw("far", "all", alt, "study orderings", limits, areas)
    for _, part in table.groupby(intervals.ANSWERED, sort=False):
        answers = intervals.tasks(part, windows)
        if len(answers):
            where = f"{part['model'].iloc[0]}, {intervals.setting(part.iloc[0])}"
            alt = (
                f"Accuracy that is retained on tasks, with 95 % intervals over questions: {where}."
            )
            yield draw("tasks", where, alt, f"{where}, metric accuracy", answers)
    for model in dict.fromkeys(table.loc[table["metric"] == "spearman", "model"]):
        alt = f"How other readings of the scores rank the blocks of {model}."
        yield draw(
            "rankings",
            model,
            alt,
            f"model {model}, metric spearman",
            table[(table["model"] == model) & (table["metric"] == "spearman")],
        )


def _scale(table: pd.DataFrame, windows: pd.DataFrame, draw: Drawing) -> Iterator[dict[str, str]]:
    if not (finished := list(intervals.sweeps(table))):
        return
    table = pd.concat(finished, ignore_index=True)
    ladder = table["model"].str.startswith("ladder-")
    for what, group in (("depth ladder", table[ladder]), ("other models", table[~ladder])):
        for _, part in group.groupby(["quantizer", "high", "low"], sort=False):
            where = f"{what}, {intervals.setting(part.iloc[0])}"
            alt = f"Retained quality while blocks are moved: {where}."
            yield draw("scale_curves", where, alt, f"study model_scale, {where}", part, windows)
            alt = f"Mean retained quality against the number of blocks: {where}."
            yield draw(
                "scale_areas",
                where,
                alt,
                f"study model_scale, {where}",
                claims.areas(part, windows),
            )


def _pruning(
    table: pd.DataFrame, windows: pd.DataFrame, gaps: pd.DataFrame, draw: Drawing
) -> Iterator[dict[str, str]]:
    for model, quantizer in (
        table[table["low"] == 0][["model", "quantizer"]].drop_duplicates().itertuples(index=False)
    ):
        rows = table[
            (table["model"] == model)
            & ((table["quantizer"] == quantizer) | table["quantizer"].str.startswith(claims.MASKS))
        ]
        own = gaps[(gaps["model"] == model) & (gaps["quantizer"] == quantizer)]
        if own.empty:  # nothing of the same size yet
            continue
        name = f"{model}, {nickname(str(quantizer))}"
        alt = (
            "Retained quality against stored bits when blocks are dropped, quantized or thinned "
            f"out: {name}."
        )
        yield draw("pruning", name, alt, f"study pruning, {name}", rows, windows)
        alt = f"What pruning loses beyond quantizing, at the same bytes: {name}."
        yield draw("pruning_gaps", name, alt, f"study pruning, {name}", own)


def _dynamic(gains: pd.DataFrame, draw: Drawing) -> Iterator[dict[str, str]]:
    for model, part in gains.groupby("model", sort=False):
        alt = (
            "What is gained when a layer score decides inside OWQ, SpQR and BAQ, at the same "
            f"bytes: {model}."
        )
        yield draw("gains", str(model), alt, f"study dynamic_methods, model {model}", part)


def built_from(report: str | Path) -> str:
    """The sha256 of table.csv that a report's last line names."""
    found = re.search(
        rf"{re.escape(measurements.TABLE)} sha256 "
        rf"([0-9a-f]{{64}})",
        Path(report).read_text(encoding="utf-8"),
    )
    return found.group(1) if found else ""


def _sweep(table: pd.DataFrame, windows: pd.DataFrame, draw: Drawing) -> dict[str, Any]:
    """What the template says about one sweep, and its figures on disk."""
    first = table.iloc[0]
    perplexity = table[table["metric"] == "perplexity"]
    quantizer = nickname(first["quantizer"])
    name = f"{first['model']}-{quantizer}-{first['high']}-{first['low']}"
    rows = f"study orderings, model {first['model']}, {intervals.setting(first)}"
    moved = sorted(perplexity["moved"].unique())
    lowest = perplexity[
        (perplexity["ordering"] == "uniform") & (perplexity["avg_bits"] == first["low"])
    ]
    return {
        "model": first["model"],
        "quantizer_name": quantizer,
        "high": first["high"],
        "low": first["low"],
        "windows": first["n"],
        "few_windows": first["n"] < 32,
        "seeds": perplexity.loc[figures.is_random(perplexity["ordering"]), "ordering"].nunique(),
        "first": min(count for count in moved if count) / first["units"],
        "step": max(b - a for a, b in zip(moved, moved[1:], strict=False)) / first["units"],
        "original": perplexity.loc[perplexity["ordering"] == "original", "value"].iloc[0],
        "all_high": figures.all_high(perplexity)["value"],
        "all_low": lowest["value"].iloc[0],
        "rest_bytes": int(first["total_bytes"] - first["plan_bytes"]),
        "limits": rankings.limits(intervals.limits(table, windows)),
        "points": list(rankings.measured_plans(table, windows)),
        "figures": [
            draw(
                "retained_curve",
                name,
                "Retained quality against blocks moved, with 95 % intervals.",
                rows,
                table,
                windows,
            ),
            draw(
                "curves",
                name,
                "Perplexity, KL and agreement against blocks moved and true bits.",
                rows,
                table,
            ),
        ],
    }


def _as_readers_name_them(table: pd.DataFrame) -> pd.DataFrame:
    """Quantizers in the order of their names, within a study and model: "gptq" before "gptq (full
    inputs)".
    """
    place = ["study", "model", "quantizer"]
    return table.sort_values(
        place,
        key=lambda column: column.map(nickname) if column.name == "quantizer" else column,
        kind="stable",
        ignore_index=True,
    )


def _lead(table: pd.DataFrame) -> str:
    depths = table.drop_duplicates("model").set_index("model")["units"]
    named = sorted(name for name in depths.index if not name.startswith("ladder-"))
    rungs = depths[depths.index.str.startswith("ladder-")].sort_values()
    ladder = [f"a ladder of llamas with {', '.join(map(str, rungs))} blocks"] if len(rungs) else []
    return (
        f"`lwq` scores the blocks of a language model, moves the least important to fewer bits, "
        f"and measures what "
        f"it costs. Models: {', '.join([*named, *ladder])}. {table['id'].nunique():,} "
        f"measurements. "
        "It follows *Layer-Wise Quantization* (arXiv:2406.17415); the repository that its "
        "abstract names held no code when we "
        "looked, and nothing here comes from it."
    )


def _page(text: str, folder: Path) -> str:
    """A self-contained page: pictures inside, tables that scroll on a phone or, of words, wrap,
    nothing fetched.
    """
    import markdown

    body = markdown.markdown(text, extensions=["tables"])
    body = body.replace("<table>", '<div class="table"><table>').replace(
        "</table>", "</table></div>"
    )
    body = re.sub(
        r'class="table"(?=><table>\s*<thead>\s*<tr>\s*<th>(claim|model)</th>)',
        'class="table words"',
        body,
    )
    body = re.sub(r'src="([^"]+)"', lambda found: f'src="{_inline(folder / found.group(1))}"', body)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" '
        'content="width=device-width">'
        f"<title>lwq report</title><style>{STYLE}</style></head>\n<body>\n{body}\n</body></html>\n"
    )


def _inline(path: Path) -> str:
    kind = mimetypes.guess_type(path.name)[0]
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
