"""What is cached is named by the code that made it: an edit of any file on the way gives another
name.

pytest tests/test_hashing.py
"""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import lwq
from lwq.common.hashing import code_digest, codes, imports
from lwq.engine import apply, bank, costs, evaluate, store, sweep
from lwq.models import structure
from lwq.quantizers import QUANTIZERS
from lwq.quantizers.shared import grid
from lwq.quantizers.storage import packed, sparse
from lwq.scorers import SCORERS
from lwq.statistics import forward, sums

HOME = Path(lwq.__file__).parent
STANDS_ON = {
    "block_drop": (SCORERS["block_drop"], [evaluate, sweep, forward, structure]),
    "lim": (SCORERS["lim"], [forward, structure]),
    "gptq": (QUANTIZERS["gptq"], [grid, packed, sums]),
    "wanda": (QUANTIZERS["wanda"], [packed, sparse, sums]),
    "measured costs": (costs, [sweep, evaluate, bank, apply, store]),
    "what runs a quantizer": (apply, [forward, sums, structure, store]),
}


@pytest.fixture
def edit(monkeypatch):
    """From then on a file reads as if a line had been added to it."""
    read = Path.read_bytes

    def change(path):
        monkeypatch.setattr(
            Path, "read_bytes", lambda self: read(self) + (b"# edited" if self == path else b"")
        )

    return change


@pytest.mark.parametrize(
    ("code", "place"), [(c, p) for c, places in STANDS_ON.values() for p in [*places]], ids=str
)
def test_an_edited_file_is_other_code(code, place, edit):
    before = code_digest(code)
    assert code_digest(code) == before
    edit(Path(place.__file__).resolve())
    assert code_digest(code) != before


def test_a_neighbour_in_the_same_dict_does_not_count(edit):
    before, hqq = (
        (code_digest(QUANTIZERS["gptq"]), code_digest(apply), code_digest(SCORERS["lim"])),
        code_digest(QUANTIZERS["hqq"]),
    )
    edit(HOME / "quantizers" / "hqq.py")
    assert (
        code_digest(QUANTIZERS["gptq"]),
        code_digest(apply),
        code_digest(SCORERS["lim"]),
    ) == before
    assert code_digest(QUANTIZERS["hqq"]) != hqq


def test_a_strategy_inside_another_counts(edit):
    turned = SCORERS["reversed"](SCORERS["lim"]())
    before = codes(turned)
    edit(HOME / "scorers" / "hidden_states.py")
    assert codes(turned) != before


def test_code_that_cannot_be_read_is_said():
    scope = {"dataclass": dataclass}
    exec("@dataclass\nclass Mine: pass", scope)
    with pytest.raises((OSError, TypeError)):
        code_digest(scope["Mine"])


def test_code_is_read_in_any_locale():
    code = (
        "from lwq.common.hashing import code_digest; from lwq.quantizers import QUANTIZERS; "
        "print(code_digest(QUANTIZERS['gptq']))"
    )
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-c", code]
    found = subprocess.run(command, env=os.environ | plain, capture_output=True, text=True)
    assert found.stdout.strip() == code_digest(QUANTIZERS["gptq"]), found.stderr


def test_a_file_that_changes_while_the_process_runs_is_read_again(tmp_path):
    """As a user's own does beside a notebook; an import that was added counts, too."""
    file = tmp_path / "mine.py"
    file.write_text("from lwq.engine import apply\n")
    assert imports(file) == (("lwq.engine", "apply"),)
    file.write_text("from lwq.engine import store\n")
    assert imports(file) == (("lwq.engine", "store"),)
