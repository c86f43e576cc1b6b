"""Points side by side give the rows of one after the other; a worker that dies costs its point a
second run, nothing more.
"""

import os
import signal
import threading
from dataclasses import replace
from pathlib import Path

import pytest

import lwq
from lwq.common import paths
from lwq.results import measurements
from lwq.studies import grid, pool


def points(folder):
    """The smallest study there is, with two quantizers."""
    notebook, results = paths.NOTEBOOKS / "template.ipynb", str(folder / "r")
    return [
        grid.Point(
            "template",
            notebook,
            {"quantizer": quantizer, "results_dir": results},
            folder / "out" / f"{name}.ipynb",
        )
        for name, quantizer in (("a", "rtn"), ("b", "gptq"))
    ]


def tables(folder):
    """Everything that must not depend on who ran it: the tables, and the executed copies."""
    lwq.Results(folder / "r").write()
    copies = {
        p.name: p.read_text().replace(str(folder), "")
        for p in sorted((folder / "out").glob("*.ipynb"))
    }
    return (
        (folder / "r" / measurements.TABLE).read_bytes(),
        (folder / "r" / measurements.WINDOWS).read_bytes(),
        copies,
    )


@pytest.fixture(scope="module")
def serial(tmp_path_factory):
    folder = tmp_path_factory.mktemp("serial")
    for point in points(folder):
        grid.run(point, quiet=True)
    return tables(folder)


def test_processes_give_the_same_tables(serial, tmp_path):
    copies = list(pool.in_processes(points(tmp_path), 2))
    assert len(copies) == 2 and tables(tmp_path) == serial


def test_a_process_that_dies_is_replaced(tmp_path, monkeypatch):
    flag = tmp_path / "died"
    monkeypatch.setenv("LWQ_TEST_FLAG", str(flag))
    monkeypatch.setattr(pool, "run", _dies_once)
    found = list(pool.in_processes(points(tmp_path), 2))
    assert sorted(p.name for p in found) == ["a.ipynb", "b.ipynb"] and flag.exists()
    for run in (_dies_always, _is_interrupted):  # one that is interrupted begins no other point
        monkeypatch.setattr(pool, "run", run)
        with pytest.raises(lwq.RunError, match="died 3 times"):
            list(pool.in_processes(points(tmp_path), 2))


def _dies_once(point, quiet):
    flag = Path(os.environ["LWQ_TEST_FLAG"])
    if point.output.stem == "a" and not flag.exists():
        flag.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return point.output


def _dies_always(point, quiet):
    os.kill(os.getpid(), signal.SIGKILL)


def _is_interrupted(point, quiet):
    raise KeyboardInterrupt


@pytest.fixture
def cluster():
    distributed = pytest.importorskip("distributed", reason="lwq[dask] is not installed")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None
    ) as found:
        yield found


@pytest.mark.filterwarnings("ignore")  # what distributed says of a worker that was killed
def test_a_cluster_gives_the_same_tables_though_a_worker_is_killed(serial, tmp_path, cluster):
    first = cluster.workers[0].pid
    found = pool.on_cluster(points(tmp_path), cluster.scheduler_address)
    threading.Timer(4, os.kill, (first, signal.SIGKILL)).start()
    assert len(list(found)) == 2
    assert tables(tmp_path) == serial
    again = lwq.Results(tmp_path / "r")
    assert not [p for p in points(tmp_path) if not p.output.is_file()] and again.found


def test_what_is_known_of_a_point_travels_and_is_not_measured_again(tmp_path):
    point, other = points(tmp_path)[0], points(tmp_path)[1]
    text, new = pool.remote(point, [])
    assert new and str(tmp_path / "r") in text
    _, none = pool.remote(point, new)
    assert none == []
    results = lwq.Results(tmp_path / "r")
    for record in new:
        results.add(record)
    assert len(pool.known(point, results)) == len(new) > 0
    elsewhere = replace(other, parameters={**other.parameters, "model": "smollm2-135m"})
    assert pool.known(elsewhere, results) == []
    assert len(pool.known(replace(other, parameters={"models": ["x", "toy"]}), results)) == len(new)


def test_refusals(tmp_path, cluster, monkeypatch):
    with pytest.raises(lwq.InputError, match="no Dask scheduler answers at 'nowhere'"):
        list(pool.on_cluster(points(tmp_path), "nowhere"))
    monkeypatch.setattr(pool, "VERSION", "9.9")
    with pytest.raises(lwq.InputError, match="workers with another version of lwq than 9.9"):
        list(pool.on_cluster(points(tmp_path), cluster.scheduler_address))
    with pytest.raises(lwq.InputError, match="jobs=-1"):
        pool.jobs(3, -1)
    assert pool.jobs(3, 8) == 3 and pool.jobs(1) == 1 and pool.jobs(0) == 1
