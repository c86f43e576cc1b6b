"""Figures on disk, with the rows behind each beside it, and what a template says about them."""

import io
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from lwq.common import markup, paths
from lwq.common.hashing import digest
from lwq.contracts.section import Picture
from lwq.report.figures import style
from lwq.report.play import frame_of

DPI = 130
COLORS = 64  # of a picture's palette: a quarter of the bytes, and no eye sees it
LONGEST = 200  # letters of a picture's file name
WIDE = 8.5  # inches from which a phone shows a picture in a box that scrolls
# the same in all rows of a figure, or of no use without lwq
UNSEEN = {
    *("fingerprint", "scorer", "allocator", "budget", "way", "family", "environment", "version"),
    *("calibration", "judge", "dtype", "study", "plan"),
}


@dataclass
class Drawing:
    """Draws pictures into a folder; each is named after what it shows and what draws it.

    Attributes:
        floors: (model, text) -> noise floor, nats a token.
    """

    folder: Path
    floors: Mapping[tuple[str, str], float] = field(default_factory=dict)
    drawn: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        paths.writable(self.folder)

    def __call__(self, picture: Picture) -> dict[str, Any]:
        """Draw it, and write its rows; what the template says of it."""
        name = picture.draw.__name__
        stem = self._stem(f"{picture.what}-{name}")
        figure = picture.draw(*picture.arguments)
        if picture.floor in self.floors:
            style.noise_floor(figure, self.floors[picture.floor])
        self._write(f"{stem}.png", _png(figure))
        rows = frame_of(picture.arguments)
        if rows is not None:
            self._write(f"{stem}.csv", _csv(rows))
        return {
            "function": f"{picture.draw.__module__}.{name}",
            "file": f"{self.folder.name}/{stem}.png",
            "data": "" if rows is None else f"{self.folder.name}/{stem}.csv",
            "wide": figure.get_figwidth() > WIDE,
            "alt": picture.alt,
            "rows": re.sub(r"[\"']", "", picture.rows),  # a quote would end the picture's title
        }

    def _stem(self, what: str) -> str:
        """Letters, digits and dashes that no other picture has, short enough for a disk."""
        short = re.sub(r"[^a-z0-9]+", "-", what.lower())[:LONGEST]
        return short if f"{short}.png" not in self.drawn else f"{short}-{digest(what)}"

    def clean(self) -> None:
        """Delete pictures, and their rows, of earlier reports."""
        for path in [*self.folder.glob("[!.]*.png"), *self.folder.glob("[!.]*.csv")]:
            if path.name not in self.drawn:
                path.unlink()

    def _write(self, file: str, content: bytes) -> None:
        self.drawn.add(file)
        with paths.replacing(self.folder / file) as temporary:
            temporary.write_bytes(content)


def _png(figure: Figure) -> bytes:
    whole, small = io.BytesIO(), io.BytesIO()
    figure.savefig(whole, dpi=DPI, metadata={"Software": None}, format="png")
    image = Image.open(whole).convert("RGB").quantize(COLORS, dither=Image.Dither.NONE)
    image.save(small, "PNG", optimize=True)
    return small.getvalue()


def _csv(rows: pd.DataFrame) -> bytes:
    kept = rows[[column for column in rows.columns if column not in UNSEEN]]
    texts = kept.map(lambda value: markup.cell(value) if isinstance(value, str) else value)
    return texts.to_csv(index=False, lineterminator="\n", float_format="%.6g").encode()
