"""What is left behind and what errors name: folders that appear whole, and scratch folders.

pytest tests/test_places.py
"""

import subprocess
import sys

import pytest
from filelock import FileLock

from lwq.common import paths
from lwq.common.errors import InputError, RunError
from lwq.models import streaming


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


def test_other_errors_of_the_system_stay_what_they_are(tmp_path):
    with pytest.raises(FileNotFoundError), paths.whole(tmp_path / "out"):
        (tmp_path / "nowhere" / "x").read_text()


KILLED = """
import os, sys
from pathlib import Path
from lwq.models.streaming import scratch
folder, lock = scratch(Path(sys.argv[1]))
(folder / "weights").write_text("x")
print(folder, flush=True)
os.kill(os.getpid(), 9)
"""


def test_scratch_of_a_killed_process_goes_and_of_a_living_one_stays(tmp_path):
    mine, lock = streaming.scratch(tmp_path)
    (mine / "weights").write_text("mine")
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == -9
    left = tmp_path / done.stdout.strip()
    assert (left / "weights").is_file()
    other, second = streaming.scratch(tmp_path)
    assert not left.exists() and other.is_dir() and (mine / "weights").is_file()
    with pytest.raises(TimeoutError):
        FileLock(mine / streaming.LOCK, timeout=0).acquire()
    second.release()
    lock.release()
