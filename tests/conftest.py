"""Tiny models and windows that many tests share. What a test changes, it loads for itself."""

import matplotlib
import pytest
import torch

matplotlib.use("Agg")

import lwq
from lwq.quantizers.shared import libggml

torch.set_num_threads(1)  # tiny models: a second thread costs more than it brings


def pytest_collection_modifyitems(items):
    """What packs with ggml is skipped where its library is missing."""
    reason = f"ggml's library is missing: {libggml.INSTALL}"
    for item in () if libggml.available() else items:
        if "ggml" in item.name.lower() and item.path.name != "test_rooms.py":
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(autouse=True)
def bank_folder(tmp_path, monkeypatch):
    """Each test has a bank on disk of its own; what an earlier run left there would hide faults."""
    monkeypatch.setattr("lwq.engine.store.default", lambda: tmp_path / "bank")
    return tmp_path / "bank"


@pytest.fixture(autouse=True)
def runs_folder(tmp_path, monkeypatch):
    """What a test runs is no command of the user's, whose `lwq status` shows his own."""
    monkeypatch.setenv("LWQ_RUNS", str(tmp_path / "runs"))


@pytest.fixture
def toy():
    return lwq.load("toy")


@pytest.fixture(scope="session")
def windows():
    return lwq.windows("toy", lwq.load("toy")[1], n=6, length=48)


@pytest.fixture(scope="session")
def judge():
    return lwq.windows("toy", lwq.load("toy")[1], n=6, length=48, split="judge")


@pytest.fixture
def weight():
    return torch.randn(32, 128, generator=torch.Generator().manual_seed(0))
