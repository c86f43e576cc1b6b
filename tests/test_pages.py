"""Pages of notebooks: looked up, never measured, and small.

pytest tests/test_pages.py
"""

import json

import pytest

import lwq
from lwq.common import paths
from lwq.report import claims
from lwq.report.sections import orderings as section
from lwq.results import measurements
from lwq.studies import candidates, experiment, grid, pages, replay
from lwq.studies.replay import Replay

LIMIT = 3_000_000  # bytes of all pages
KIND = experiment.KIND


def made(results, study="orderings"):
    texts = experiment.texts("toy", "toy", 4, 48, 4, 48)
    return experiment.Experiment(study, "toy", "rtn", *texts, lwq.Results(results))


@pytest.fixture
def measured(tmp_path):
    """A sweep of the toy model, its scores and its table."""
    study = made(tmp_path)
    scores = study.orderings(["lim", "zd", "random"], 1)
    return tmp_path, scores, study.sweep(scores, 4, 2, 5)


@pytest.fixture
def looking_up():
    token = KIND.set(None)
    assert "nothing is loaded or measured" in replay.look_up()
    yield
    KIND.reset(token)


def test_a_page_shows_what_was_measured_and_leaves_no_trace(measured, looking_up, monkeypatch):
    folder, scores, table = measured
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    monkeypatch.setattr("lwq.models.load", lambda *a, **k: pytest.fail("loaded"))
    study = made(folder)
    assert isinstance(study, Replay)
    seen = study.orderings(["lim", "zd", "random"], 1)
    for label, own in scores.items():  # every step was measured: the order is known to the block
        assert seen[label].order() == own.order()
    again = study.sweep(seen, 4, 2, 5)
    assert again.equals(table)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()} == before
    said = claims.said("orderings", section.RULES, again, study.results.windows())
    assert said == claims.said("orderings", section.RULES, table, lwq.Results(folder).windows())


def test_what_was_not_measured_ends_the_run(measured, looking_up):
    folder, scores, _ = measured
    study = made(folder)
    with pytest.raises(lwq.InputError, match="has no row of .* measures what is missing"):
        study.sweep(scores, 8, 2, 2)
    with pytest.raises(lwq.InputError, match="has no row of"):
        study.answer(candidates.curve(scores, study.quantizer, 4, 2, [1]), ["piqa"], 5)
    with pytest.raises(lwq.InputError, match="has no rows of pruning on 'toy'"):
        made(folder, "pruning").table()


def test_a_random_model_is_called_one():
    assert "shapes only" in repr(pages.banner("toy", "toy-2"))
    assert "shapes only" in pages.banner("toy")._repr_html_()
    assert pages.banner("toy", "smollm2-135m") is None


@pytest.mark.parametrize("study", [n for n, e in grid.catalogue().items() if "page" in e])
def test_each_study_with_a_page_has_one_with_its_verdict(study):
    entry = grid.catalogue()[study]
    assert 1 <= entry["page"] <= len(entry["sizes"][pages.SIZE])
    file = paths.REPORTS / "notebooks" / entry["notebook"]
    if not file.is_file() and study not in set(measurements.load(paths.RESULTS)[0]["study"]):
        pytest.skip("no row of this study is tracked")
    page = json.loads(file.read_text("utf-8"))
    said = "".join(page["cells"][-1]["outputs"][0]["text"])
    assert all(f"({key}) " in said for key in entry.get("claims", {}))
    assert f"point {entry['page']} of" in "".join(page["cells"][1]["source"])
    text = json.dumps(page)
    assert str(paths.WORK) not in text and "IProgress" not in text


def test_all_pages_are_small():
    found = (paths.REPORTS / "notebooks").glob("[0-9][0-9]_*.ipynb")
    assert sum(path.stat().st_size for path in found if "-" not in path.name) < LIMIT
