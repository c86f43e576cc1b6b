"""Two tables and a template -> report.md, report.html and figures. No model, no torch."""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from lwq.common import markup, paths
from lwq.common.names import nickname
from lwq.common.version import VERSION
from lwq.contracts.results import APART
from lwq.contracts.section import Picture, Section, Verdict
from lwq.report import answers, beside, bootstrap, claims, html, llama, overview, play
from lwq.report.drawing import Drawing
from lwq.report.figures.frontier import frontier
from lwq.report.floor import floors, text_of
from lwq.report.sections import SECTIONS
from lwq.results import cells, measurements, plans
from lwq.studies import grid

VERDICTS = "verdicts.csv"
FIGURES = "figures"  # beside the report; the only place that its pictures come from
VERDICT = list(Verdict.__dataclass_fields__)
MARKS = ("<!-- verdicts: written by lwq report -->", "<!-- end of verdicts -->")


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
    _write_verdicts(found, target / VERDICTS)
    arenas, mixes = beside.arenas(table, windows), llama.read(results_dir)
    draw = Drawing(target / FIGURES, floors(table))
    context = {
        **_overview(table, windows),
        "answers": _answers(arenas, mixes, draw),
        "claims": list(_claims(found)),
        "missing": [name for name in _claiming() if not made[name]],
        "why": _where(arenas, made),
        "size": _size(results_dir),
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
    more = play.data(arenas, kept, table, mixes, draw.floors) | {
        "size": context["size"],
        "table": measurements.TABLE,
        "shown": (context["answers"] or {"drawn": []})["drawn"],
    }
    with paths.replacing(target / "report.html") as temporary:
        temporary.write_text(html.page(text, target, FIGURES, more), encoding="utf-8")
    draw.clean()
    return target / "report.html"


def _overview(table: pd.DataFrame, windows: pd.DataFrame) -> dict[str, Any]:
    """What the frame of the page says of all rows together."""
    texts = table.loc[table["metric"] == "perplexity", ["calibration", "judge"]]
    return {
        **overview.lead(table),
        "few_documents": list(overview.few_documents(table, windows)),
        "texts": texts.drop_duplicates().to_dict("records"),
        "quantizers": sorted(table["quantizer"].unique()),
        "dtypes": sorted(table["dtype"].unique()),
        "models": list(overview.models(table)),
        "uniform": overview.uniform(table),
        "deviations": list(overview.deviations(table)),
        "by_text": bool((table["way"] == APART).any()),
        "environments": list(table["environment"].unique()),
        "resamples": bootstrap.RESAMPLES,
        "seed": bootstrap.SEED,
        "version": VERSION,
    }


def _answers(
    arenas: list[beside.Arena], mixes: pd.DataFrame, draw: Drawing
) -> dict[str, Any] | None:
    """The first screen and its picture."""
    found = answers.answers(arenas)
    if found is None:
        return None
    own = mixes[mixes["model"] == found["model"]]
    shown = tuple(found["drawn"])
    alt = f"KL against the bytes of the whole file; lower left is better: {found['name']}."
    rows = f"model {found['model']}, metric kl"
    place = (str(found["model"]), text_of(found["judge"]))
    picture = Picture(frontier, (arenas[0], own, shown), found["model"], alt, rows, place)
    return {
        **found,
        "figure": draw(picture),
        "floor": draw.floors.get(place),
        "mixes": sorted(own["judged_in"].unique()),
    }


def _where(arenas: list[beside.Arena], made: Mapping[str, Section]) -> str:
    """The study that most plans of the leading arena come from, where its section says why."""
    name = str(arenas[0].plans["study"].mode().iloc[0]) if arenas else ""
    return name if made.get(name) else ""


def _claiming() -> list[str]:
    """Studies with claims."""
    return [name for name, study in grid.catalogue().items() if study.get("claims")]


def _size(results_dir: str | Path) -> str:
    """The size whose results these are; the long one for any other folder."""
    folder = paths.resolve(results_dir)
    return next((size for size in grid.sizes() if grid.folders(size)[0] == folder), "laptop")


def _write_verdicts(found: list[Verdict], path: Path) -> None:
    """Every verdict with the ids of its rows, as cells that a spreadsheet takes for text."""
    lines = [{**vars(verdict), "ids": " ".join(verdict.ids)} for verdict in found]
    with paths.replacing(path) as temporary:
        cells.write(pd.DataFrame(lines, columns=VERDICT), temporary)


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
    made = [["claim", *map(markup.markdown, models)], ["---"] * (len(models) + 1)]
    for key, claim in grid.claims().items():
        own = [shown.get((key, model), "") for model in models]
        made.append(
            [f"({key}) {claim['short']}", *(own if any(own) else ["not measured yet"] * len(own))]
        )
    return "".join(f"| {' | '.join(line)} |\n" for line in made)


def _in_order(found: Iterable[Verdict]) -> list[Verdict]:
    """Verdicts in the order of the claims."""
    places = list(grid.claims())
    return sorted(found, key=lambda verdict: places.index(verdict.claim))


def _claims(found: list[Verdict]) -> Iterator[dict[str, Any]]:
    """Each claim with its verdicts: by model, and in each setting."""
    models = claims.by_model(found)
    for key, claim in grid.claims().items():
        settings = [vars(verdict) for verdict in found if verdict.claim == key]
        lines = models[models["claim"] == key].to_dict("records")
        words = {
            word: [line["model"] for line in lines if line["verdict"] == word]
            for word in dict.fromkeys(line["verdict"] for line in lines)
        }
        yield {"key": key, **claim, "models": lines, "settings": settings, "words_of": words}


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
        autoescape=True,
        finalize=_as_text,
    )
    environment.filters["code"] = lambda text: Markup(markup.code(text))
    environment.filters["title"] = lambda text: Markup(markup.title(text))
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
        parts = {part: Markup(template.render(own, part=part)) for part in ("section", "appendix")}
        sections.append({"name": name, **parts})
    return environment.get_template("report.md.j2").render(context, sections=sections)


# what our own numbers look like: bold, or the ends of an interval
_NUMBERS = re.compile(r"\\\*\\\*([\d.,%+−-]+)\\\*\\\*|\\\[((?:[\d.,%+− -]|&#60;)+)\\\](?!\()")


def _as_text(value: Any) -> Any:
    """Whatever a template prints is text, but for what is markup already; bold numbers and the
    brackets of intervals stay.
    """
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    inner = value.strip(" ,.;:")
    before, _, after = value.partition(inner) if inner else (value, "", "")
    escaped = markup.markdown(inner) if inner else ""
    shown = _NUMBERS.sub(lambda m: f"**{m[1]}**" if m[1] else f"[{m[2]}]", escaped)
    return Markup(f"{before}{shown}{after}")


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


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
