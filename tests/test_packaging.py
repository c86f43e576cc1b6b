"""pyproject.toml, constraints.txt and environment.yml say the same; notebooks are kept as they
should be.

pytest tests/test_packaging.py
"""

import json
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import lwq

ROOT = Path(__file__).resolve().parents[1]
TOUR = "00_tour.ipynb"
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
PINS = [
    Requirement(line)
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    if line and not line.startswith("#")
]
PINNED = {canonicalize_name(pin.name): pin for pin in PINS}
DECLARED = [
    Requirement(text) for text in [*PROJECT["dependencies"], *EXTRAS["test"], *EXTRAS["dev"]]
]
PIP = re.compile(r"^(?P<flag>-[ce]) (?P<value>\S+)$")


def stored(notebook: Path) -> dict:
    """What git keeps of a notebook, so that one just run may show its outputs; the file where git
    has none.
    """
    command = ["git", "-C", str(ROOT), "show", f":./notebooks/{notebook.name}"]
    try:
        shown = subprocess.run(command, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):  # no git, no checkout, or not added yet
        shown = notebook.read_bytes()
    return json.loads(shown)


def code_cells(notebook: dict) -> list[dict]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


@pytest.mark.parametrize(
    "needed", [need for need in DECLARED if need.name != "lwq"], ids=lambda need: need.name
)
def test_each_dependency_is_pinned_within_its_bounds(needed):
    pin = PINNED[canonicalize_name(needed.name)]
    (exact,) = pin.specifier
    assert needed.specifier.contains(exact.version), f"{pin} is outside {needed}"


def test_each_pin_is_exact_and_stands_once():
    assert all(
        len(pin.specifier) == 1 and next(iter(pin.specifier)).operator == "==" for pin in PINS
    )
    assert not [
        pin
        for pin in PINS
        if "+" in str(pin.specifier) or pin.url or pin.marker or "*" in str(pin.specifier)
    ]
    assert len(PINNED) == len(PINS)
    # what the asset pages and the report were made with
    assert str(PINNED["torch"].specifier) == "==2.13.0"


def test_each_dependency_has_its_reason():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    table = text.partition("## Each dependency, and why")[2]
    named = {
        name
        for line in table.splitlines()
        if line.startswith("|")
        for name in re.findall(r"[\w-]+", line.split("|")[1])
    }
    optional = [Requirement(text) for extra in EXTRAS.values() for text in extra]
    wanted = {need.name for need in [*DECLARED, *optional]} - {"lwq"}
    assert wanted == named - {"package", "---", *EXTRAS.keys() - wanted}


def test_environment_agrees_with_pyproject():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    conda = [entry for entry in environment["dependencies"] if isinstance(entry, str)]
    (pip,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    assert environment["name"] == PROJECT["name"]
    # all else comes from the pins
    assert [re.split(r"[<>=!]", entry)[0] for entry in conda] == ["python", "pip"]
    assert SpecifierSet(conda[0].removeprefix("python")) == SpecifierSet(PROJECT["requires-python"])
    options = dict(PIP.match(line).group("flag", "value") for line in pip)
    assert (ROOT / options["-c"]).name == "constraints.txt"
    folder, extra = re.fullmatch(r"(.+)\[(\w+)\]", options["-e"]).groups()
    assert folder == "." and extra in EXTRAS
    assert f"-e '.[{extra}]'" in (ROOT / "Makefile").read_text(encoding="utf-8")


def test_one_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = re.search(r"^## \[(.+?)\]", changelog, re.MULTILINE).group(1)
    assert PROJECT["version"] == lwq.__version__ == citation["version"] == newest


def test_outputs_stay_out_of_git_but_for_the_tour_and_the_pages():
    lines = (ROOT / ".gitattributes").read_text(encoding="utf-8").splitlines()
    rules = [line.split() for line in lines if line.split() and ".ipynb" in line.split()[0]]
    assert rules == [
        ["*.ipynb", "filter=nbstripout", "diff=ipynb"],
        [f"notebooks/{TOUR}", "filter=", "diff="],
        ["reports/notebooks/*.ipynb", "filter=", "diff="],
    ]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebook_defines_nothing(path):
    source = "\n".join("".join(cell["source"]) for cell in code_cells(stored(path)))
    assert not re.findall(r"^\s*(?:async\s+)?(?:def|class)\s.*", source, re.MULTILINE), (
        "move it into lwq"
    )


@pytest.mark.parametrize(
    "path", [path for path in NOTEBOOKS if path.name != TOUR], ids=lambda path: path.name
)
def test_notebook_is_stored_without_outputs(path):
    dirty = [
        cell
        for cell in code_cells(stored(path))
        if cell["outputs"] or cell["execution_count"] is not None
    ]
    assert not dirty, f"run: nbstripout --keep-id notebooks/{path.name}"
