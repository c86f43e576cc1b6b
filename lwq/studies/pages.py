"""The notebooks of the studies as pages: run at laptop size from the tracked tables.

A study has a page where its file names a point of the laptop size (`page`, counted from 1).
"""

import io
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nbformat

from lwq.common import paths, strips
from lwq.common.errors import InputError
from lwq.common.names import pick
from lwq.inputs import toy
from lwq.results.measurements import Results
from lwq.studies import grid
from lwq.studies.grid import Point

SIZE = "laptop"
DPI = 72  # of pictures: small files
COLOURS = 255
TOP = (
    "*Run at laptop size (point {number} of {count}) by `make notebooks`: rows from "
    "`results/table.csv`, plans from `results/plans.jsonl`; nothing was measured for this page. "
    "Orders are known to the steps that were measured. The source is `notebooks/{name}`.*"
)
FIRST = "from lwq.studies import replay\n\nreplay.look_up()"
BESIDE = "border-left:4px solid #b6a96f;padding-left:1em"
SHAPES = "A random model: shapes only. Its numbers say nothing about language models."


@dataclass(frozen=True)
class Banner:
    """A sentence that stands out in a notebook."""

    text: str

    def __repr__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        return f'<div style="{BESIDE}">{strips.line(self.text)}</div>'


def banner(*models: str) -> Banner | None:
    """What must be said of a run on these models; None where nothing must."""
    return None if any(toy.depth(name) is None for name in models) else Banner(SHAPES)


def make(studies: list[str] | None = None) -> Iterator[Path]:
    """Run the pages of these studies, yields them as they come; by default of all that have one and
    rows in the tracked table.
    """
    catalogue = grid.catalogue()
    known = {name: entry for name, entry in catalogue.items() if "page" in entry}
    measured = {record["row"]["study"] for record in Results(grid.folders(SIZE)[0]).found.values()}
    for name in studies or [name for name in known if name in measured]:
        entry = pick(known, "study with a page", name)
        points = entry["sizes"].get(SIZE, [])
        number = entry["page"]
        if not 1 <= number <= len(points):
            raise InputError(
                f"studies/{name}.yaml: page: {number} is no point of the size {SIZE}; it has "
                f"{len(points)}, counted from 1"
            )
        yield _run(name, entry["notebook"], points[number - 1], number, len(points))


def _run(study: str, notebook: str, chosen: dict[str, object], number: int, count: int) -> Path:
    results, reports = grid.folders(SIZE)
    parameters = {**chosen, "results_dir": str(results.relative_to(paths.WORK))}
    source = nbformat.read(paths.NOTEBOOKS / notebook, as_version=4)
    top = TOP.format(number=number, count=count, name=notebook)
    source.cells.insert(1, nbformat.v4.new_markdown_cell(top))
    place = 1 + next(
        at for at, cell in enumerate(source.cells) if "parameters" in cell.metadata.get("tags", [])
    )
    source.cells.insert(place, nbformat.v4.new_code_cell(FIRST))
    with tempfile.TemporaryDirectory(prefix="lwq-page-") as folder:
        copy = Path(folder) / notebook
        nbformat.write(source, copy)
        grid.check(copy, parameters)
        point = Point(study, copy, parameters, reports / "notebooks" / notebook)
        made = grid.run(point, quiet=True)
    _shrink(made)
    return made


def _shrink(page: Path) -> None:
    """Pictures of few colours, for small files."""
    notebook = nbformat.read(page, as_version=4)
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                output["data"]["image/png"] = _small(output["data"]["image/png"])
    with paths.replacing(page) as temporary:
        nbformat.write(notebook, temporary)


def _small(picture: str) -> str:
    import base64

    from PIL import Image

    image = Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGB")
    width, height = image.size
    scale = DPI / 100
    small = image.resize((round(width * scale), round(height * scale)), Image.Resampling.LANCZOS)
    kept = io.BytesIO()
    small.quantize(COLOURS, dither=Image.Dither.NONE).save(kept, "png", optimize=True)
    return base64.b64encode(kept.getvalue()).decode()
