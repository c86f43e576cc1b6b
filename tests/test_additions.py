"""What one addition touches: in a copy of the house, new files and a line in a dict, run up to a
number in a report.

pytest tests/test_additions.py
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from lwq.common import paths

CARRIED = ("lwq", "notebooks", "studies", "reports/sections")
FILES = ("reports/report.md.j2", "reports/macros.md.j2")


def contents(house: Path) -> dict[str, str]:
    """Every file but what runs leave behind, by its path -> hash."""
    found = (path for folder in (*CARRIED, "reports") for path in (house / folder).rglob("*"))
    return {
        str(path.relative_to(house)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in found
        if path.suffix in (".py", ".ipynb", ".yaml", ".j2")
        and not {"smoke", "__pycache__"} & set(path.parts)
    }


class House:
    """A copy of the package and of what it ships with, to add to."""

    def __init__(self, folder: Path):
        self.folder = folder
        for name in CARRIED:
            ignored = shutil.ignore_patterns("__pycache__", "_data", ".ipynb_checkpoints")
            shutil.copytree(paths.DATA / name, folder / name, ignore=ignored)
        for name in FILES:
            shutil.copy(paths.DATA / name, folder / name)
        self.before = contents(folder)

    def write(self, path: str, text: str) -> None:
        """A new file."""
        assert not (self.folder / path).exists()
        (self.folder / path).write_text(text, encoding="utf-8")

    def copy(self, path: str, to: str, *changes: tuple[str, str]) -> None:
        """A new file that is like another, but for these changes."""
        text = (self.folder / path).read_text(encoding="utf-8")
        for old, new in changes:
            assert old in text, f"{path} has no {old!r}"
            text = text.replace(old, new)
        self.write(to, text)

    def register(self, path: str, table: str, line: str, module: str) -> None:
        """A line in the dict `table` of the file at `path`, and the import that it needs."""
        file = self.folder / path
        text, found = re.subn(
            rf"^({table}\b.*= \{{)$", rf"{module}\n\n\1\n    {line},", file.read_text(), flags=re.M
        )
        assert found == 1
        file.write_text(text)

    def touched(self) -> tuple[set[str], set[str]]:
        """(new files, changed files)."""
        now = contents(self.folder)
        changed = {path for path, sha in self.before.items() if now.get(path) != sha}
        return set(now) - set(self.before), changed

    def lwq(self, *arguments: str) -> str:
        """What `lwq` prints, run from the copy."""
        place = {"PYTHONPATH": str(self.folder), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
        command = [sys.executable, "-m", "lwq", *arguments]
        done = subprocess.run(
            command, cwd=self.folder, env={**os.environ, **place}, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture
def house(tmp_path):
    return House(tmp_path / "house")


CLAIM = """claims:
  t:
    place: 99
    short: 2 bits are worse than 8
    words: Two bits cost quality
    says: It holds where the 95 % interval of the divergence at 2 bits lies above `nats`.
    rule: costs
    numbers: {nats: 0.0}

sizes:"""
RULE = '''

def costs(table, windows, numbers):
    """All blocks at 2 bits diverge from the untouched model by more than `nats`."""
    kl = intervals.by_id(windows, "kl")
    for row in table[(table["metric"] == "kl") & (table["avg_bits"] == 2)].to_dict("records"):
        value = intervals.mean(kl[row["id"]])
        verdict = claims.decide(value, numbers["nats"])
        yield row["model"], row["ordering"], verdict, f"{value.value:.6f} nats", (row["id"],)


RULES["costs"] = costs
'''


def test_a_study_is_added_with_four_files_and_a_line(house):
    name = ("template", "mine")
    house.copy(
        "notebooks/template.ipynb", "notebooks/90_mine.ipynb", (r"\"template\"", r"\"mine\"")
    )
    house.copy(
        "studies/template.yaml",
        "studies/mine.yaml",
        ("template.ipynb", "90_mine.ipynb"),
        ("\nsizes:", "\n" + CLAIM),
    )
    house.copy("lwq/report/sections/template.py", "lwq/report/sections/mine.py", name)
    section = house.folder / "lwq/report/sections/mine.py"
    section.write_text(
        section.read_text().replace("import claims, figures", "import claims, figures, intervals")
        + RULE
    )
    house.copy("reports/sections/template.md.j2", "reports/sections/mine.md.j2")
    house.register(
        "lwq/report/sections/__init__.py",
        "SECTIONS",
        '"mine": mine.section',
        "from lwq.report.sections import mine",
    )
    assert "mine: 0 of 8 plans measured" in house.lwq("study", "mine", "--dry-run")
    house.lwq("study", "mine")
    assert "mine: 8 of 8 plans measured, nothing left" in house.lwq("study", "mine", "--dry-run")
    house.lwq("report", "--size", "smoke")
    page = (house.folder / "reports/smoke/report.md").read_text()
    table = pd.read_csv(house.folder / "results/smoke/table.csv")
    kl = table[(table["metric"] == "kl") & (table["avg_bits"] == 2)].iloc[0]
    assert f"| {kl['ordering']} | 2.00 | {kl['value']:.4f} | {kl['id']} |" in page
    assert f"{kl['value']:.6f} nats" in page and "[(t)](#mine) Two bits cost quality" in page
    verdicts = pd.read_csv(house.folder / "reports/smoke/verdicts.csv")
    assert set(verdicts["claim"]) == {"t"} and set(verdicts["verdict"]) == {"holds"}
    assert (house.folder / "reports/smoke/figures/mine-plans.png").is_file()
    assert house.touched() == (
        {
            "notebooks/90_mine.ipynb",
            "studies/mine.yaml",
            "lwq/report/sections/mine.py",
            "reports/sections/mine.md.j2",
        },
        {"lwq/report/sections/__init__.py"},
    )
