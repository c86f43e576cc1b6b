"""What is left behind and what errors name: folders that appear whole, and scratch folders.

pytest tests/test_places.py
"""

import subprocess
import sys
from pathlib import Path

import pytest

from lwq.common import paths
from lwq.common.errors import InputError, RunError


@pytest.mark.parametrize("kind", [InputError, RunError])
def test_errors_name_the_folder_that_was_asked_for(tmp_path, kind):
    with (
        pytest.raises(kind, match=r"in \S+/out/x") as caught,
        paths.whole(tmp_path / "out") as work,
    ):
        raise kind(f"no room in {work}/x")
    assert ".part" not in str(caught.value) and not list(tmp_path.iterdir())


def test_a_full_disk_names_the_folder_that_was_asked_for(tmp_path):
    said = pytest.raises(RunError, match=r"cannot write \S+/out: No space left")
    with said as caught, paths.whole(tmp_path / "out"):
        raise OSError(28, "No space left on device")
    assert "make room" in str(caught.value) and not list(tmp_path.iterdir())


def test_what_something_else_wrote_into_the_folder_stays(tmp_path):
    (tmp_path / "out").mkdir()
    with (
        pytest.raises(RunError, match=r"/out is empty no more: .*choose a new folder"),
        paths.whole(tmp_path / "out") as work,
    ):
        (work / "ours").touch()
        (tmp_path / "out" / "theirs").touch()
    assert [file.name for file in tmp_path.rglob("*")] == ["out", "theirs"]


def test_other_errors_of_the_system_stay_what_they_are(tmp_path):
    with pytest.raises(FileNotFoundError), paths.whole(tmp_path / "out"):
        (tmp_path / "nowhere" / "x").read_text()


KILLED = """
import os
from lwq.common import paths
class Owner: pass
owner = Owner()
folder = paths.scratch(owner, "offload-")
(folder / "weights").write_text("x")
print(folder, flush=True)
os.kill(os.getpid(), 9)
"""


class Owner:
    """Whatever a scratch folder is for."""


def test_scratch_of_a_killed_process_goes_and_of_a_living_one_stays(tmp_path, monkeypatch):
    monkeypatch.setenv("LWQ_CACHE", str(tmp_path))
    owner, other = Owner(), Owner()
    mine = paths.scratch(owner, "offload-")
    done = subprocess.run([sys.executable, "-c", KILLED], capture_output=True, text=True)
    assert done.returncode == -9
    left = Path(done.stdout.strip())
    assert (left / "weights").is_file() and left.parent == mine.parent
    second = paths.scratch(other, "offload-")
    assert not left.exists() and second.is_dir() and mine.is_dir()
    del owner
    assert not mine.exists()


def test_what_is_set_aside_goes_with_its_block_and_after_a_kill(tmp_path, monkeypatch):
    monkeypatch.setenv("LWQ_CACHE", str(tmp_path))
    killed = KILLED.replace('scratch(owner, "offload-")', 'aside("plan-").__enter__()')
    done = subprocess.run([sys.executable, "-c", killed], capture_output=True, text=True)
    assert Path(done.stdout.strip()).is_dir()
    with pytest.raises(KeyError), paths.aside("plan-") as folder:
        assert [folder] == list(tmp_path.glob("plan-*"))
        raise KeyError
    assert not folder.exists()
