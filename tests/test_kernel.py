"""Notebooks run in the interpreter that lwq runs in; a kernel that dies is said to have died."""

import json
import os
import subprocess
import sys

import nbformat
import pytest

import lwq
from lwq.studies import grid


def point(folder, code):
    """A notebook of one cell, to be run as a study is."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    nbformat.write(notebook, folder / "one.ipynb")
    return grid.Point("one", folder / "one.ipynb", {}, folder / "out" / "one.ipynb")


@pytest.mark.parametrize("arguments", [["/no/such/python"], ["/bin/false"]])
def test_a_kernel_of_the_same_name_elsewhere_is_not_taken(arguments, tmp_path, monkeypatch):
    home = tmp_path / "kernels" / "python3"
    home.mkdir(parents=True)
    (home / "kernel.json").write_text(
        json.dumps({"argv": arguments, "display_name": "x", "language": "python"})
    )
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    executed = grid.run(point(tmp_path, "import sys, lwq; print(sys.executable, lwq.__file__)"))
    assert f"{sys.executable} {lwq.__file__}" in executed.read_text()
    assert os.environ["JUPYTER_PATH"] == str(tmp_path)


def test_a_kernel_that_is_killed_is_reported_as_that(tmp_path):
    with pytest.raises(lwq.RunError, match="process died .* when memory runs out"):
        grid.run(point(tmp_path, "import os; os.kill(os.getpid(), 9)"))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["one.lock"]


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_the_shell_prints_whatever_the_encoding(encoding):
    done = subprocess.run(
        [sys.executable, "-m", "lwq", "list", "quantizers"],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"},
    )
    assert done.returncode == 0 and b"hqq" in done.stdout, done.stderr.decode()
