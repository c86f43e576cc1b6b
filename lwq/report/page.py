"""Two tables and a template -> report.md, report.html and figures. No model, no torch."""

import base64
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from lwq.common import paths
from lwq.common.errors import InputError
from lwq.common.hashing import digest
from lwq.common.names import nickname
from lwq.common.version import VERSION
from lwq.contracts.section import Picture, Section, Verdict
from lwq.report import bootstrap, claims, overview
from lwq.report.sections import SECTIONS
from lwq.results import cells, measurements, plans
from lwq.studies import grid

VERDICTS = "verdicts.csv"
FIGURES = "figures"  # beside the report; the only place that its pictures come from
LONGEST = 200  # letters of a picture's file name
VERDICT = list(Verdict.__dataclass_fields__)
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

    Everything comes from table.csv, windows.parquet and plans.jsonl; the same files give the same
    bytes. A number that a template names and the tables lack stops the build. Beside the report
    stands verdicts.csv: every verdict with the ids of its rows.
    """
    table, windows = measurements.load(results_dir)
    kept = plans.read(results_dir)
    table = _as_readers_name_them(table)
    target = paths.writable(reports_dir, "reports_dir")
    made = {
        name: section(table[table["study"] == name], kept, windows)
        for name, section in SECTIONS.items()
    }
    found = _in_order(verdict for section in made.values() for verdict in section.verdicts)
    with paths.replacing(target / VERDICTS) as temporary:
        frame = pd.DataFrame(
            [{**vars(verdict), "ids": " ".join(verdict.ids)} for verdict in found], columns=VERDICT
        )
        cells.write(frame, temporary)
    draw = Drawing(target / FIGURES)
    context = {
        "lead": overview.lead(table),
        "claims": list(_claims(found)),
        "texts": table.loc[table["metric"] == "perplexity", ["calibration", "judge"]]
        .drop_duplicates()
        .to_dict("records"),
        "quantizers": sorted(table["quantizer"].unique()),
        "dtypes": sorted(table["dtype"].unique()),
        "models": list(overview.models(table)),
        "uniform": overview.uniform(table),
        "deviations": list(overview.deviations(table)),
        "environments": list(table["environment"].unique()),
        "few_documents": list(overview.few_documents(table, windows)),
        "resamples": bootstrap.RESAMPLES,
        "seed": bootstrap.SEED,
        "version": VERSION,
        "table_name": measurements.TABLE,
        "windows_name": measurements.WINDOWS,
        "verdicts_name": VERDICTS,
        "table_hash": _hash(paths.resolve(results_dir) / measurements.TABLE),
        "windows_hash": _hash(paths.resolve(results_dir) / measurements.WINDOWS),
    }
    text = _render(context, {name: section for name, section in made.items() if section}, draw)
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
    rows = cells.read(Path(reports_dir) / VERDICTS, VERDICT)[VERDICT].itertuples(index=False)
    found = claims.by_model(
        Verdict(claim, model, setting, word, number, tuple(ids.split()))
        for claim, model, setting, word, number, ids in rows
    )
    models = list(dict.fromkeys(found["model"]))
    shown = {
        (row.claim, row.model): f"**{row.verdict}**: {row.settings}" for row in found.itertuples()
    }
    made = [["claim", *models], ["---"] * (len(models) + 1)]
    for key, claim in grid.claims().items():
        own = [shown.get((key, model), "") for model in models]
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

    def __call__(self, picture: Picture) -> dict[str, str]:
        """Draw it into a file named after what it shows and the function that draws it."""
        name = picture.draw.__name__
        file = self._file(f"{picture.what}-{name}")
        figure = picture.draw(*picture.arguments)
        self.drawn.add(file)
        with paths.replacing(self.folder / file) as temporary:
            figure.savefig(temporary, dpi=130, metadata={"Software": None}, format="png")
        function = f"{picture.draw.__module__}.{name}"
        where = f"{self.folder.name}/{file}"
        return {"function": function, "file": where, "alt": picture.alt, "rows": picture.rows}

    def _file(self, what: str) -> str:
        """A name of letters, digits and dashes that no other picture has, short enough for a
        disk.
        """
        short = re.sub(r"[^a-z0-9]+", "-", what.lower())[:LONGEST]
        file = f"{short}.png"
        return file if file not in self.drawn else f"{short}-{digest(what)}.png"

    def clean(self) -> None:
        """Delete pictures of earlier reports."""
        for path in self.folder.glob("[!.]*.png"):
            if path.name not in self.drawn:
                path.unlink()


def _in_order(found: Iterable[Verdict]) -> list[Verdict]:
    """Verdicts in the order of the claims."""
    places = list(grid.claims())
    return sorted(found, key=lambda verdict: places.index(verdict.claim))


def _claims(found: list[Verdict]) -> Iterator[dict[str, Any]]:
    """Each claim with its verdicts: by model, and in each setting."""
    models = claims.by_model(found)
    for key, claim in grid.claims().items():
        settings = [vars(verdict) for verdict in found if verdict.claim == key]
        yield {
            "key": key,
            **claim,
            "models": models[models["claim"] == key].to_dict("records"),
            "settings": settings,
        }


def _render(context: Mapping[str, Any], made: Mapping[str, Section], draw: Drawing) -> str:
    """The page: the frame, with the sections of those studies that have something to say.

    A section's template is rendered twice: with part="section", and with part="appendix" for what
    stands at the end of the page.
    """
    environment = Environment(
        loader=FileSystemLoader(paths.TEMPLATES),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        autoescape=False,
    )
    sections = []
    for name, section in made.items():
        template = environment.get_template(f"sections/{name}.md.j2")
        own = {
            "claims": [claim for claim in context["claims"] if claim["study"] == name],
            "table_name": context["table_name"],
            "tables": section.tables,
            "counts": section.counts,
            "figures": {
                group: [draw(picture) for picture in pictures]
                for group, pictures in section.figures.items()
            },
        }
        parts = {part: template.render(own, part=part) for part in ("section", "appendix")}
        sections.append({"name": name, **parts})
    return environment.get_template("report.md.j2").render(context, sections=sections)


def built_from(report: str | Path) -> str:
    """The sha256 of table.csv that a report's last line names."""
    found = re.search(
        rf"{re.escape(measurements.TABLE)} sha256 "
        rf"([0-9a-f]{{64}})",
        Path(report).read_text(encoding="utf-8"),
    )
    return found.group(1) if found else ""


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
    body = re.sub(
        r'(<img [^>]*?src=)"([^"]+)"',
        lambda found: f'{found[1]}"{_inline(folder / FIGURES, folder / found[2])}"',
        body,
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" '
        'content="width=device-width">'
        f"<title>lwq report</title><style>{STYLE}</style></head>\n<body>\n{body}\n</body></html>\n"
    )


def _inline(figures: Path, path: Path) -> str:
    """A picture as a data URI. Raises InputError for anything but a PNG that lies in `figures`."""
    own = path.resolve().parent == figures.resolve() and not path.is_symlink()
    if not own or path.suffix != ".png" or not path.is_file():
        raise InputError(
            f"the page would embed {path}, which is no picture of its own: only PNG files of "
            f"{figures} are embedded; look for it in the templates and in the table's names"
        )
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
