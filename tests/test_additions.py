"""What one addition touches: in a copy of the house, new files and a line in a dict, run up to a
number in a report.

pytest tests/test_additions.py
"""

import hashlib
import json
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


COMMANDS = """
import json, sys
from lwq.cli import main

for arguments in json.loads(sys.argv[1]):
    sys.argv = ["lwq", *arguments]
    try:
        main()
    except SystemExit as done:
        if done.code:
            raise
"""


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

    def lwq(self, *commands: tuple[str, ...]) -> str:
        """What `lwq` prints, one command after the other, run from the copy in one process."""
        place = {"PYTHONPATH": str(self.folder), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
        command = [sys.executable, "-c", COMMANDS, json.dumps(commands)]
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
    house.copy("reports/sections/template.md.j2", "reports/sections/mine.md.j2")
    house.register(
        "lwq/report/sections/__init__.py",
        "SECTIONS",
        '"mine": mine.section',
        "from lwq.report.sections import mine",
    )
    dry = ("study", "mine", "--dry-run")
    said = house.lwq(dry, ("study", "mine"), dry, ("report", "--size", "smoke"))
    _, _, then = said.partition("mine: 0 of 8 plans measured")
    assert then and "mine: 8 of 8 plans measured, nothing left" in then
    page = (house.folder / "reports/smoke/report.md").read_text()
    table = pd.read_csv(house.folder / "results/smoke/table.csv")
    kl = table[(table["metric"] == "kl") & (table["avg_bits"] == 2)].iloc[0]
    assert f"| {kl['ordering']} | 2.00 | {kl['value']:.4f} | {kl['id']} |" in page
    assert f"{kl['value']:.6f} nats" in page and "Two bits cost quality" in page
    assert "| (t) 2 bits are worse than 8 | **holds**: toy | [why](#mine) |" in page
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


SCORER = '''"""Importance from gradients: how far each block's outputs pull on the loss."""

from dataclasses import dataclass, field

from lwq.scorers.shared.listening import Source
from lwq.statistics.forward import GRADIENTS, WINDOWS


@dataclass(frozen=True)
class Pull:
    """Mean squared gradient at the outputs of the block's matrices."""

    granularity: str = "block"
    needs = frozenset({WINDOWS, GRADIENTS})
    source = Source(windows=2)

    def listener(self, model, stats):
        return Sums()


@dataclass
class Sums:
    """block -> sum of squared gradients."""

    found: dict = field(default_factory=dict)

    def add(self, gradients):
        if ".layers." in gradients.part:
            pulls = sum(float(pair.g.square().sum()) for pair in gradients.pairs.values())
            self.found[gradients.part] = self.found.get(gradients.part, 0.0) + pulls

    def result(self):
        return self.found
'''
QUANTIZER = '''"""Rows on a grid of one scale each; half a bit keeps the last columns in 16."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from lwq.contracts.methods import Quantizer
from lwq.quantizers.storage.packed import Exact, Packed


@dataclass(frozen=True)
class Tail(Quantizer):
    """b bits, or b + 0.5: then the last columns that half a bit pays for stay in 16."""

    levels: ClassVar[tuple] = (2, 2.5, 3, 3.5, 4)

    def __call__(self, weight, option, stats):
        bits, kept = int(option), self._kept(weight.shape[1], option)
        half = 2 ** (bits - 1)
        scale = (weight.abs().amax(1, keepdim=True) / (half - 0.5)).half()
        codes = ((weight / scale).round() + half).clamp(0, 2 * half - 1).byte()
        index = torch.arange(weight.shape[1] - kept, weight.shape[1], dtype=torch.int32)
        exact = Exact(index, weight[:, index.long()].half()) if kept else None
        return Packed(codes, scale, bits, exact=exact)

    def _kept(self, columns, option):
        return round((option - int(option)) * columns / (16 - int(option)))

    def nbytes(self, shape, option):
        kept = self._kept(shape[1], option)
        codes = -(-shape[0] * (shape[1] - kept) * int(option) // 8)
        return codes + 2 * shape[0] + kept * (2 * shape[0] + 4)
'''
EXPORTER = '''"""What each matrix weighs, as text."""

from dataclasses import dataclass

from lwq.common.errors import InputError
from lwq.contracts.methods import Exporter


@dataclass(frozen=True)
class Weights(Exporter):
    """One line a matrix: its name and its bytes."""

    @property
    def says(self):
        return "a list of bytes"

    def require(self, plan, quantizer):
        if 0 in plan.bits.values():
            raise InputError("a list of bytes has no dropped blocks")

    def __call__(self, model, packed, plan, folder):
        lines = [f"{name} {made.nbytes}" for name, made in packed]
        (folder / "bytes.txt").write_text("\\n".join(lines))
        return folder
'''
ALLOCATOR = '''"""Try one unit after the other at the higher option, and keep what measures best."""

from dataclasses import dataclass
from typing import ClassVar

from lwq.common.errors import LimitSpent
from lwq.contracts.methods import Allocator


@dataclass(frozen=True)
class Trials(Allocator):
    """The best of the plans with one unit up."""

    searches: ClassVar[bool] = True

    def __call__(self, scores, budget, objective=None):
        high, low = budget.widths
        tried = [{**dict.fromkeys(scores, low), unit: high} for unit in scores]
        harms = {}
        try:
            for number, bits in enumerate(tried):
                harms[objective(bits).harm] = number
        except LimitSpent:
            pass
        return tried[harms[min(harms)]]
'''
USE = """
import lwq
from lwq.engine.objective import Objective

model, tokenizer = lwq.load("toy")
windows = lwq.windows("toy", tokenizer, n=4, length=48)
scores = lwq.score(model, "pull", windows)
sweep = lwq.Sweep(model, windows, lwq.Bank(model, lwq.QUANTIZERS["tail"]()))
objective = Objective(sweep, limit=20)
plan = lwq.allocate(
    scores, model, (3.5, 2), "tail", "trials", avg_bits=2.4, objective=objective
)
print("tried", len(objective.log), "spent", objective.spent, "options", set(plan.bits.values()))
lwq.export(model, plan, "out", tokenizer, format="weights")
print("bytes", plan.size(lwq.QUANTIZERS["tail"]()).plan_bytes)
"""


def test_one_of_each_kind_is_added_with_a_file_and_a_line(house):
    """A scorer that needs gradients, a quantizer with fractions, an exporter, a search."""
    kinds = {
        "scorers": ("pull", "Pull", "SCORERS", SCORER),
        "quantizers": ("tail", "Tail", "QUANTIZERS", QUANTIZER),
        "exporters": ("weights", "Weights", "EXPORTERS", EXPORTER),
        "allocators": ("trials", "Trials", "ALLOCATORS", ALLOCATOR),
    }
    new, lists = {"use.py"}, []
    for room, (name, kind, table, text) in kinds.items():
        house.write(f"lwq/{room}/{name}_of_mine.py", text)
        module = f"from lwq.{room}.{name}_of_mine import {kind}"
        house.register(f"lwq/{room}/__init__.py", table, f'"{name}": {kind}', module)
        new.add(f"lwq/{room}/{name}_of_mine.py")
        lists.append(("list", room if room != "exporters" else "formats"))
    said = house.lwq(*lists)
    assert all(f"│ {name} " in said for name, *_ in kinds.values())
    (house.folder / "use.py").write_text(USE)
    place = {**os.environ, "PYTHONPATH": str(house.folder), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "use.py"], cwd=house.folder, env=place, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "tried 4 spent" in done.stdout and "options {3.5, 2}" in done.stdout.replace(
        "{2, 3.5}", "{3.5, 2}"
    )
    stored = (house.folder / "out/bytes.txt").read_text().splitlines()
    total = sum(int(line.rpartition(" ")[2]) for line in stored)
    assert f"bytes {total}" in done.stdout
    options = ("-p", "orderings=[pull,random]", "-p", "quantizer=tail", "-p", "group_size=0")
    house.lwq(
        ("study", "orderings", *options, "-p", "ablations=false"), ("report", "--size", "smoke")
    )
    page = (house.folder / "reports/smoke/report.md").read_text()
    table = pd.read_csv(house.folder / "results/smoke/table.csv")
    assert {"pull", "random(seed=0)"} <= set(table["ordering"])
    assert set(table["quantizer"]) == {"tail()"} and "pull" in page
    assert house.touched()[0] == new - {"use.py"}
    assert house.touched()[1] == {f"lwq/{room}/__init__.py" for room in kinds}
