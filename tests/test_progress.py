"""Progress that nobody watches: whole lines, seldom, and none for quick work.

pytest tests/test_progress.py
"""

import subprocess
import sys
import time
from importlib.util import find_spec

from lwq.common import progress


def test_a_pipe_gets_whole_lines_at_the_pace(monkeypatch, capfd):
    monkeypatch.setattr(progress, "EVERY", 0.3)
    start = time.monotonic()
    for _ in progress.track(range(12), "score"):
        time.sleep(0.1)
    took = time.monotonic() - start
    error = capfd.readouterr().err
    assert "\r" not in error and "\x1b" not in error and error.endswith("\n")
    lines = error.splitlines()
    assert all(line.startswith("score: ") and " of 12 (" in line for line in lines)
    assert lines[-1].startswith("score: 12 of 12 (100 %)")
    assert 2 <= len(lines) <= took / 0.3 + 2


def test_quick_work_and_bars_inside_bars_add_no_lines(monkeypatch, capfd):
    monkeypatch.setattr(progress, "EVERY", 0.1)
    for _ in progress.track(range(5), "quick", leave=False):
        pass
    with progress.bar("outer", None) as outer:
        time.sleep(0.6)
        for _ in progress.track(range(3), "inner", leave=False):
            pass
        outer.update(7)
    lines = capfd.readouterr().err.splitlines()
    assert lines and all(line.startswith("outer: 7, ") for line in lines)


def test_no_warning_of_widgets_in_a_kernel():
    code = "import ipykernel.zmqshell{first}, tqdm.auto"
    said = [
        subprocess.run(
            [sys.executable, "-W", "always", "-c", code.format(first=first)],
            capture_output=True,
            text=True,
        ).stderr
        for first in ("", ", lwq.common.progress")
    ]
    assert "IProgress" not in said[1]
    assert "IProgress" in said[0] or find_spec("ipywidgets")
