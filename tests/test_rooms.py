"""Data goes one way through the house: every import of lwq points to a room further up, and files
stand on no circle.

pytest tests/test_rooms.py
"""

import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import lwq
from lwq.common import hashing

HOME = Path(lwq.__file__).parent
# from the top of the house down: a room imports only from itself and from those before it
ROOMS = (
    *(
        "common",
        "contracts",
        "inputs",
        "models",
        "statistics",
        "quantizers",
        "engine",
        "scorers",
        "allocators",
    ),
    *("exporters", "results", "studies", "report", "recipes", "cli"),
)
FILES = sorted(file for file in HOME.rglob("*.py") if file.parent != HOME)


def dotted(file: Path) -> str:
    return ".".join(("lwq", *file.relative_to(HOME).with_suffix("").parts)).removesuffix(
        ".__init__"
    )


MODULES = {dotted(file): file for file in FILES}


def arrows(file: Path) -> set[str]:
    """Modules that a file imports, at its top or inside functions; a name of a module that is a
    module itself is that one.
    """
    found = {
        f"{module}.{name}" if f"{module}.{name}" in MODULES else module
        for module, name in hashing.imports(file)
    }
    return found - {dotted(file)}


def test_the_rooms_are_these():
    assert {file.relative_to(HOME).parts[0] for file in FILES} == set(ROOMS)
    assert {file.name for file in HOME.glob("*.py")} == {"__init__.py", "__main__.py"}


@pytest.mark.parametrize("file", FILES, ids=dotted)
def test_no_import_runs_back_up(file):
    place = ROOMS.index(file.relative_to(HOME).parts[0])
    rooms = {module: module.split(".")[1] for module in arrows(file) if module != "lwq"}
    assert "lwq" not in arrows(file), "the public names stand on every room"
    assert not {module for module, room in rooms.items() if ROOMS.index(room) > place}


def test_no_circle():
    graph = {
        module: {arrow for arrow in arrows(file) if arrow in MODULES}
        for module, file in MODULES.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_the_reading_sees_imports_inside_functions(tmp_path):
    (tmp_path / "x.py").write_text(
        "def f():\n    from lwq.models import load\n    import lwq.cli\n"
    )
    assert set(hashing.imports(tmp_path / "x.py")) == {("lwq.models", "load"), ("lwq.cli", "")}


@pytest.mark.parametrize(
    "code", ["lwq.ALLOCATORS", "import lwq.report.page", "import lwq.cli.commands"]
)
def test_no_torch(code):
    ask = f"import sys, lwq; {code}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr
