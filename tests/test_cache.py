"""What `lwq cache` says and deletes.

pytest tests/test_cache.py
"""

import pytest
from typer.testing import CliRunner

from lwq.cli import cache as command
from lwq.cli.app import app
from lwq.common import runs
from lwq.common.errors import InputError
from lwq.engine import store


@pytest.fixture
def home(tmp_path, monkeypatch):
    home = tmp_path / "cache"
    monkeypatch.setenv("LWQ_CACHE", str(home))
    for name, size in {"bank/ab": 3_000, "models/mine": 2_000, "strange-1": 5}.items():
        (home / name).mkdir(parents=True)
        (home / name / "file").write_bytes(b"x" * size)
    return home


def said(*words):
    done = CliRunner().invoke(app, ["cache", *words])
    return done.exception or " ".join(done.output.replace("│", " ").split())


def test_every_folder_with_its_size(home):
    text = said()
    assert "bank 3.00 kB quantized" in text and "models 2.00 kB" in text
    assert "strange-1 5 bytes aside" in text and "5.00 kB in all" in text


def test_only_what_is_named_goes(home):
    (home / "bank").rename(home.parent / "another disk")
    (home / "bank").symlink_to(home.parent / "another disk")
    assert "bank 3.00 kB" in said()
    assert "bank 0 bytes" in said("--clear", "bank")
    assert not list((home / "bank").iterdir()) and (home / "models" / "mine" / "file").is_file()


@pytest.mark.parametrize("name", ["strange-1", "..", "/", "."])
def test_nothing_else_can_be_cleared(home, name):
    error = said("--clear", name)
    assert isinstance(error, InputError) and "bank" in str(error) and (home / "strange-1").is_dir()


def test_nothing_goes_while_a_command_runs(home):
    with runs.noted(["compress", "toy"]):
        error = said("--clear", "bank")
        assert isinstance(error, InputError) and "lwq compress toy runs in" in str(error)
    assert (home / "bank").is_dir()


def test_the_limit_of_the_bank_is_the_one_that_is_said():
    assert f"{store.LIMIT >> 30} GiB" in command.HOLDS["bank"]
