"""The trials of a search on disk, each written when it is measured: one that was killed goes on."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from lwq.common import paths
from lwq.common.errors import InputError
from lwq.contracts import Losses


@dataclass(frozen=True)
class Entry:
    """What one trial measured.

    Attributes:
        plan: its id.
        windows: how many it was measured on, from the first.
        passes: forward passes of the search until then.
    """

    plan: str
    windows: int
    passes: float
    losses: Losses


@dataclass
class Journal:
    """A file of JSON lines: what decides the numbers, then a line a trial.

    Attributes:
        path: of the file, made when the first trial is noted.
        made_by: digest of all that decides what a plan measures; a file of another is refused.
        entries: in the order in which they were measured.

    Raises InputError for a file that is none, or of another search's.
    """

    path: Path
    made_by: str
    entries: list[Entry] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.path = paths.resolve(self.path)
        self.entries = list(self._read()) if self.path.is_file() else []

    def note(self, entry: Entry) -> None:
        """Append a trial."""
        first = not self.path.is_file()
        if first:
            paths.writable(self.path.parent, "journal")
        with paths.writing(self.path.parent), self.path.open("a", encoding="utf-8") as file:
            if first:
                file.write(json.dumps({"lwq": "trials", "made_by": self.made_by}) + "\n")
            said = {**asdict(entry), "losses": _plain(entry.losses)}
            file.write(json.dumps(said) + "\n")
        self.entries.append(entry)

    def _read(self) -> Iterator[Entry]:
        *whole, torn = self.path.read_text(encoding="utf-8").split("\n")
        if torn:  # cut off in the middle of a line: that trial is measured again
            self.path.write_text("".join(f"{line}\n" for line in whole), encoding="utf-8")
        if not whole:
            self.path.unlink()
            return
        head, *lines = whole
        try:
            made_by = json.loads(head)["made_by"]
            found = [_entry(json.loads(line)) for line in lines]
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(
                f"{self.path} is no journal of trials, or damaged ({error!r}); delete it, or name "
                "another file"
            ) from None
        if made_by != self.made_by:
            raise InputError(
                f"{self.path} holds trials of another model, quantizer or windows; name another "
                "file with journal"
            )
        yield from found


def _plain(losses: Losses) -> dict[str, Any]:
    """Losses as JSON has them, floats to the last bit."""
    values = {one.name: getattr(losses, one.name) for one in fields(losses)}
    return {
        name: value.tolist() if isinstance(value, np.ndarray) else value
        for name, value in values.items()
    }


def _entry(said: dict[str, Any]) -> Entry:
    losses: dict[str, Any] = {
        name: np.asarray(value) if isinstance(value, list) else value
        for name, value in said["losses"].items()
    }
    return Entry(said["plan"], said["windows"], said["passes"], Losses(**losses))
