"""Which commands run and how they ended: killed, interrupted, refused, done.

pytest tests/test_runs.py
"""

import re
import subprocess
import sys
import time

import pytest
from typer.testing import CliRunner

from lwq.cli import status
from lwq.cli.commands import app
from lwq.common import runs
from lwq.common.errors import InputError

CHILD = """
import sys, time
from lwq.common import runs
with runs.noted(["compress", "toy"]):
    print("ready", flush=True)
    time.sleep(60)
"""


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LWQ_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("LWQ_RUNS")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache"


def outcomes():
    return {run.words: run.outcome for run in runs.known()}


def test_how_a_command_ended():
    ends = {
        "good": None,
        "exit 0": SystemExit(0),
        "exit 2": SystemExit(2),
        "ctrl-c": SystemExit(130),
        "refused": InputError("no such model"),
        "interrupted": KeyboardInterrupt(),
    }
    for words, error in ends.items():
        try:
            with runs.noted([words]):
                assert outcomes()[words] == runs.RUNS
                if error:
                    raise error
        except BaseException as raised:
            assert raised is error
    assert outcomes() == {
        "good": "done",
        "exit 0": "done",
        "exit 2": "failed",
        "ctrl-c": "stopped",
        "refused": "failed: no such model",
        "interrupted": "stopped",
    }
    assert all(run.ended >= run.started for run in runs.known())


def test_a_killed_command_is_stopped_and_its_twin_is_not_noted():
    child = subprocess.Popen([sys.executable, "-c", CHILD], stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "ready\n"
    assert outcomes() == {"compress toy": runs.RUNS}
    with runs.noted(["compress", "toy"]):
        pass  # the same command in the same folder: the first one counts
    assert outcomes() == {"compress toy": runs.RUNS}
    child.kill()
    child.communicate()
    assert outcomes() == {"compress toy": runs.STOPPED}
    with runs.noted(["compress", "toy"]):
        assert outcomes() == {"compress toy": runs.RUNS}
    assert outcomes() == {"compress toy": runs.DONE}


def test_no_cache_stops_no_command(monkeypatch):
    monkeypatch.setenv("LWQ_CACHE", "/proc/none")
    with runs.noted(["score", "toy"]):
        done = True
    assert done


def test_only_the_last_are_kept(monkeypatch, cache):
    monkeypatch.setattr(runs, "KEPT", 3)
    for number in range(5):
        with runs.noted([str(number)]):
            time.sleep(0.01)
    assert list(outcomes()) == ["4", "3", "2"]
    assert len(list((cache / "runs").glob("[!.]*"))) == 6


def test_status_shows_commands_and_studies(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(InputError), runs.noted(["score", "y"]):
        raise InputError("unknown y; choose one of " + ", ".join("abcdefghijklmnopqrstuvwxyz"))
    with runs.noted(["fetch", "x"]):
        output = (
            CliRunner().invoke(app, ["status", "--size", "smoke"], catch_exceptions=False).output
        )
    assert re.search(r"runs +│ lwq fetch x +│", output), output
    assert "unknown y" in output and " …" in output and "y, z" not in output
    (line,) = [line for line in output.splitlines() if " template " in line]
    assert line.split("│")[1].strip() == "smoke" and " of 8" in line
    assert all(len(line) <= 80 for line in output.splitlines() if line[:1] in set("┏┃┡│└"))


def test_status_counts_studies_only_when_asked(monkeypatch):
    counted = []
    monkeypatch.setattr("lwq.cli.status._sizes", lambda size: counted.append(size) or [])
    plain = CliRunner().invoke(app, ["status"], catch_exceptions=False).output
    assert "commands" in plain and "lwq status --studies" in plain and not counted
    asked = CliRunner().invoke(app, ["status", "--studies"], catch_exceptions=False).output
    assert counted == [None] and "studies: no rows yet" in asked


def test_the_commands_are_shown_before_studies_are_counted(monkeypatch, capsys):
    monkeypatch.setattr("lwq.cli.status._sizes", lambda size: pytest.fail(capsys.readouterr().out))
    with pytest.raises(pytest.fail.Exception, match="commands: none noted yet"):
        status.status(studies=True)


def test_one_plan_is_no_plans():
    assert status._counted(1, "plan") == "1 plan" and status._counted(1200, "plan") == "1,200 plans"
