"""A study from measurement to page: resume, tables, figures, report, papermill, and what goes
wrong.
"""

import errno
import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from filelock import FileLock

import lwq
from lwq.common import paths
from lwq.inputs import texts
from lwq.report import figures, intervals, overview, page
from lwq.report.sections import SECTIONS
from lwq.results import measurements
from lwq.studies import candidates, experiment, forecast, grid, setup, sizes
from lwq.studies.rehearsal import key_of, rehearse, run_cells, stand_in

TEXTS = experiment.texts("toy", "toy", 4, 48, 6, 48)
ORDERINGS = "lim, zd, reversed(lim), zd(two_sided=True, pool='matrix'), random"


def run(folder, steps=3):
    study = experiment.Experiment("orderings", "toy", "gptq", *TEXTS, lwq.Results(folder))
    return study, study.sweep(study.orderings(ORDERINGS, 2), 4, 2, steps)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    _, table = run(folder)
    return folder, table


def test_rows_say_everything(done):
    _, table = done
    assert set(table["metric"]) == {"perplexity", "kl", "top1"}
    assert table.groupby("ordering")["moved"].unique()["lim"].tolist() == [0, 2, 4]
    assert set(table["ordering"]) >= {
        "original",
        "uniform",
        "lim",
        "random(seed=0)",
        "random(seed=1)",
    }
    original = table[table["ordering"] == "original"].set_index("metric")["value"]
    assert original["kl"] == 0 and original["top1"] == 1
    assert (table["true_bits"] >= table["avg_bits"]).all() and (table["n"] == 6).all()
    assert (
        table["scorer"][table["ordering"] == "lim"].iloc[0]
        == "lim(average='tokens', final_norm=False)"
    )


def test_a_second_run_measures_nothing_and_writes_the_same_bytes(done, monkeypatch):
    folder, table = done
    before = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.glob("*.*")}
    monkeypatch.setattr(setup, "Sweep", lambda *a: pytest.fail("measured again"))
    monkeypatch.setattr(setup, "Bank", lambda *a: pytest.fail("quantized again"))
    _, again = run(folder)
    pd.testing.assert_frame_equal(table, again)
    assert before == {
        p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.glob("*.*")
    }


def test_two_fresh_runs_give_the_same_tables(done, tmp_path):
    run(tmp_path)
    for name in (measurements.TABLE, measurements.WINDOWS):
        assert (tmp_path / name).read_bytes() == (done[0] / name).read_bytes()


def test_the_tables_alone_are_enough_to_resume(done, tmp_path, monkeypatch):
    for name in (measurements.TABLE, measurements.WINDOWS):
        shutil.copy(done[0] / name, tmp_path)
    monkeypatch.setattr(setup, "Sweep", lambda *a: pytest.fail("measured again"))
    _, table = run(tmp_path)
    pd.testing.assert_frame_equal(table, done[1])


def test_an_interrupted_study_keeps_what_it_measured(tmp_path, monkeypatch):
    real, calls = lwq.Sweep._measure, []

    def stop_at_third(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(lwq.Sweep, "_measure", stop_at_third)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path)
    kept = sorted((tmp_path / "runs").iterdir())
    records = [json.loads(p.read_text())["row"] for p in kept]
    assert len({row["plan"] for row in records}) == 2 and [row["id"] for row in records] == [
        p.stem for p in kept
    ]
    run(tmp_path)
    assert len(calls) == 3 + (
        len({r["row"]["plan"] for r in lwq.Results(tmp_path).found.values()}) - 2
    )


def test_what_another_process_is_writing_is_not_read(done, tmp_path):
    """A measurement on its way to disk has a name of its own, which may be gone a moment later."""
    kept = lwq.Results(tmp_path)
    with paths.replacing(kept.runs / "0123456789ab.json") as half_written:
        half_written.write_text("{")
        assert half_written.exists() and not lwq.Results(tmp_path).found
        kept.add(next(iter(lwq.Results(done[0]).found.values())))
        assert len(lwq.Results(tmp_path).found) == 1


def test_equal_plans_share_one_measurement(tmp_path, monkeypatch):
    calls, real = [], lwq.Sweep._measure
    monkeypatch.setattr(lwq.Sweep, "_measure", lambda *a: calls.append(1) or real(*a))
    _, table = run(tmp_path)
    assert len(calls) == table["plan"].nunique() < table["id"].nunique()


def test_another_dtype_stands_beside_its_deviation(tmp_path, monkeypatch):
    # the windows that the bound below was set on: the toy at 3 bits is 2.4 % off on others
    monkeypatch.setattr(texts, "draw", texts.consecutive)
    lwq.Experiment(
        "orderings", "toy", "rtn", *TEXTS, lwq.Results(tmp_path / "r"), dtype="bfloat16"
    ).sweep(
        lwq.Experiment(
            "orderings", "toy", "rtn", *TEXTS, lwq.Results(tmp_path / "r"), "bfloat16"
        ).orderings("zd"),
        4,
        3,
        3,
    )
    table, _ = measurements.load(tmp_path / "r")
    found = {entry["what"]: entry["deviation"] for entry in overview.deviations(table)}
    assert set(found) == {"untouched", "3 bits", "4 bits"}
    assert all(0 < abs(value) < 0.02 for value in found.values())
    assert [part["dtype"].unique().tolist() for part in intervals.sweeps(table)] == [["bfloat16"]]
    text = page.build(tmp_path / "r", tmp_path / "out").with_suffix(".md").read_text()
    assert f"| toy | rtn | bfloat16 | untouched | {100 * found['untouched']:+.2f} % |" in text
    with pytest.raises(lwq.InputError, match="deviation from float32 was not measured"):
        list(overview.deviations(table[table["dtype"] == "bfloat16"]))


def test_plans_are_quantized_in_one_dtype_and_judged_in_another(tmp_path):
    study = lwq.Experiment(
        "orderings", "toy", "gptq", *TEXTS, lwq.Results(tmp_path / "r"), "float32", "bfloat16"
    )
    table = study.sweep(study.orderings("zd"), 4, 2, 3)
    assert set(table["dtype"]) == {"bfloat16 from float32"} and set(table["fingerprint"]) == {
        study.fingerprint
    }
    exact, judged = lwq.load("toy")[0], study.judged
    (plan,) = [c.plan for c in candidates.uniform(study.bank.layout, study.quantizer, [2])]
    lwq.quantize_(exact, plan, study.calibration)  # the same result, rounded once
    study.bank.apply_(plan)
    for name, matrix in lwq.models.matrices(judged).items():
        assert torch.equal(matrix.view(), lwq.models.matrices(exact)[name].view().bfloat16())
    found, _ = measurements.load(tmp_path / "r")
    assert {entry["dtype"] for entry in overview.deviations(found)} == {"bfloat16 from float32"}
    assert next(study.loaded[0].parameters()).dtype == torch.float32
    with pytest.raises(lwq.InputError, match="judge_dtype"):
        lwq.Experiment(
            "orderings", "toy", "gptq", *TEXTS, lwq.Results(tmp_path / "r"), judge_dtype="int8"
        )


def test_damage_is_named(done, tmp_path):
    shutil.copytree(done[0], tmp_path / "r")
    victim = next((tmp_path / "r" / "runs").iterdir())
    victim.write_text("{")
    with pytest.raises(lwq.InputError, match="is damaged"):
        lwq.Results(tmp_path / "r")
    with pytest.raises(lwq.InputError, match="no table.csv and windows.parquet"):
        measurements.load(tmp_path)
    windows = pd.read_parquet(tmp_path / "r" / measurements.WINDOWS)
    windows[windows["id"] != windows["id"].iloc[0]].to_parquet(
        tmp_path / "r" / measurements.WINDOWS
    )
    with pytest.raises(lwq.InputError, match="do not belong together"):
        measurements.load(tmp_path / "r")
    pd.read_csv(done[0] / measurements.TABLE).drop(columns="environment").to_csv(
        tmp_path / "r" / measurements.TABLE
    )
    with pytest.raises(
        lwq.InputError,
        match=r"columns of another version of lwq \(\['Unnamed: "
        r"0', 'environment'\]\)",
    ):
        measurements.load(tmp_path / "r")
    (tmp_path / "r" / measurements.TABLE).unlink()
    record = json.loads((done[0] / "runs" / victim.name).read_text())
    del record["row"]["environment"]
    victim.write_text(json.dumps(record))
    with pytest.raises(lwq.InputError, match="is damaged .columns of another version"):
        lwq.Results(tmp_path / "r")


def test_the_same_text_for_both_is_refused(tmp_path):
    with pytest.raises(lwq.InputError, match="same split"):
        experiment.Experiment("x", "toy", "rtn", TEXTS[0], TEXTS[0], lwq.Results(tmp_path))
    with pytest.raises(lwq.InputError, match="would look lossless; use 64"):
        experiment.Experiment(
            "x", "smollm2-135m@file", "rtn(group_size=32)", *TEXTS, lwq.Results(tmp_path)
        )
    with pytest.raises(lwq.InputError, match="steps=1"):
        candidates.counts_moved(4, 1)
    assert candidates.counts_moved(30, 8) == [0, 4, 9, 13, 17, 21, 26, 30]
    assert experiment.quantizer("gptq", group_size=32).group_size == 32


def test_every_figure_draws_and_labels_its_axes(done):
    folder, table = done
    _, windows = measurements.load(folder)
    made = [
        figures.curves(table),
        figures.retained_curve(table, windows),
        figures.thresholds(intervals.limits(table, windows)),
        figures.strip({name: lwq.score(lwq.load("toy")[0], name) for name in ("zd", "random")}),
        figures.plans({"a": {"x": 4, "y": 2}, "b": {"x": 4, "y": 4}}),
        figures.plans({"a": {"x": 4, "y": 4}}),
    ]
    for figure in made:
        axes = [axis for axis in figure.axes if axis.get_label() != "<colorbar>"]
        assert any(axis.get_xlabel() for axis in axes)
        figure.canvas.draw()
    assert not plt.get_fignums(), "figures belong to the caller, not to pyplot"


def test_the_report_is_built_from_the_tables_alone(done, tmp_path):
    code = (
        f"import sys; from lwq.report import page; page.build({str(done[0])!r}, "
        f"{str(tmp_path)!r})\n"
        "assert not {'torch', 'transformers'} & set(sys.modules), 'right of results nothing needs "
        "torch'"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=paths.WORK)
    text, html = (tmp_path / "report.md").read_text(), (tmp_path / "report.html").read_text()
    table = pd.read_csv(done[0] / measurements.TABLE)
    original = table.loc[
        (table["ordering"] == "original") & (table["metric"] == "perplexity"), "value"
    ].iloc[0]
    assert f"{original:.2f}" in text and "25-50 %" in text
    assert (
        "data:image/png;base64," in html
        and "<img" in html
        and "default-src 'none'" in html
        and 'src="figures' not in html
    )
    assert (
        page.built_from(tmp_path / "report.md")
        == hashlib.sha256((done[0] / measurements.TABLE).read_bytes()).hexdigest()
    )
    first = {p: p.read_bytes() for p in tmp_path.rglob("*.*")}
    stale = tmp_path / "figures" / "of-another-table.png"
    stale.write_bytes(b"")
    page.build(done[0], tmp_path)
    assert not stale.exists()
    assert all(p.read_bytes() == content for p, content in first.items()), (
        "the same tables give the same bytes"
    )
    assert not any(np.isnan(v) for v in table["value"])


def test_a_study_is_four_files():
    assert set(SECTIONS) == set(grid.names())
    for name, study in grid.catalogue().items():
        assert (paths.NOTEBOOKS / study["notebook"]).is_file()
        template = (paths.TEMPLATES / "sections" / f"{name}.md.j2").read_text(encoding="utf-8")
        assert "settings(claims)" in template and "verdict(claims)" in template


@pytest.mark.parametrize("study", [name for name in grid.names() if name != "template"])
def test_a_report_can_be_built_while_a_study_runs(study, tmp_path):
    """Whatever was measured first: the ends alone, or some plans of some orderings."""
    table, windows = measurements.load(paths.RESULTS)
    rows = table[
        (table["study"] == study)
        & table["model"].isin(["smollm2-135m@file", "ladder-2", "ladder-4"])
    ]
    if rows.empty:
        pytest.skip("no row of this study is tracked")
    ends = rows["ordering"].isin(intervals.ENDS)
    for i, count in enumerate((0, 3, 25)):
        some = rows.loc[~ends, "id"].drop_duplicates().sample(count, random_state=i)
        part = rows[ends | rows["id"].isin(some)]
        folder = paths.writable(tmp_path / str(count))
        part.to_csv(folder / measurements.TABLE, index=False)
        windows[windows["id"].isin(part["id"])].to_parquet(folder / measurements.WINDOWS)
        assert page.build(folder, folder / "out").is_file()


def test_the_tracked_report_was_built_from_the_tracked_table():
    tracked = paths.RESULTS / measurements.TABLE
    if not tracked.is_file():
        assert not (paths.REPORTS / "report.md").exists(), "a report without its table"
        return
    assert (
        page.built_from(paths.REPORTS / "report.md")
        == hashlib.sha256(tracked.read_bytes()).hexdigest()
    )
    readme = (paths.WORK / "README.md").read_text()
    assert page.MARKS[0] + "\n" + page.verdict_table(paths.REPORTS) + page.MARKS[1] in readme


def test_the_verdicts_go_between_their_marks(done, tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{page.MARKS[0]}\nstale\n{page.MARKS[1]}\nafter\n")
    page.build(done[0], tmp_path / "out")
    page.put_into_readme(readme, tmp_path / "out")
    page.put_into_readme(readme, tmp_path / "out")
    text = readme.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "stale" not in text
    assert text.count("| claim | toy |") == 1 and any(
        word in text for word in ("holds", "does not hold", "undecided")
    )
    readme.write_text("nothing")
    page.put_into_readme(readme, tmp_path / "out")
    assert readme.read_text() == "nothing"


def test_parameters_are_checked_before_anything_runs(tmp_path):
    with pytest.raises(lwq.InputError, match=r"unknown parameter of 10_orderings.ipynb 'bitz'"):
        grid.points("orderings", "smoke", {"bitz": 4})
    with pytest.raises(lwq.InputError, match="only numbers, text"):
        grid.points("orderings", "smoke", {"high": np.int64(4)})
    with pytest.raises(lwq.InputError, match="unknown study 'ordering'.*did you mean 'orderings'"):
        grid.points("ordering")
    with pytest.raises(lwq.InputError, match="unknown size"):
        grid.points("orderings", "huge")
    for changes, message in [
        ({"steps": "ten"}, "steps='ten': a whole number is needed, such as steps=3"),
        ({"ablations": 1}, "true or false is needed"),
        ({"windows": -3}, "windows=-3: 2 is the least"),
        ({"fewer": [4, 0]}, r"fewer=\[4, 0\]: 1 is the least"),
        ({"orderings": "lim"}, r'a list is needed, such as orderings=\["lim"\]'),
        ({"orderings": []}, "one name or more"),
        ({"orderings": ["lim", "zdd"]}, "orderings=.*unknown scorer 'zdd' .did you mean 'zd'"),
        ({"quantizer": "gptqq"}, "unknown quantizer 'gptqq'"),
        ({"quantizer": "quanto"}, "add group_size=0"),
        ({"tasks": ["hella"]}, "unknown task 'hella'"),
        ({"other_texts": [7]}, "a list is needed"),
        ({"text": "no.txt"}, "text='no.txt': unknown text"),
        ({"judge_dtype": "int8"}, "judge_dtype='int8': unknown dtype"),
        ({"model": "smollm2"}, "unknown model 'smollm2' .did you mean 'smollm2-135m'"),
        ({"avg_bits": [float("nan")]}, "only numbers"),
    ]:
        with pytest.raises(lwq.InputError, match=message):
            grid.points("orderings", "smoke", changes)
    with pytest.raises(lwq.InputError, match=r'models=\["toy"\]'):
        grid.points("model_scale", "smoke", {"models": "toy"})
    with pytest.raises(lwq.InputError, match="rates=.*unknown layer rates 'unifrm'"):
        grid.points("pruning", "smoke", {"rates": ["unifrm"]})
    grid.points(
        "dynamic_methods",
        "smoke",
        {"extra": 1, "model": "owner/name", "judge_dtype": "bfloat16", "seeds": 0},
    )
    (tmp_path / "file").write_text("")
    with pytest.raises(lwq.InputError, match="cannot write into .*file.*results_dir"):
        grid.points("orderings", "smoke", {"results_dir": str(tmp_path / "file")})


def test_paths_of_ones_own_start_at_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("mine", "toy", "c4"):
        (tmp_path / folder).mkdir()
    (tmp_path / "mine.txt").write_text("")
    texts = {"text": "mine.txt", "judge": "toy", "other_texts": ["mine.txt", "c4"]}
    (point,) = grid.points(
        "orderings", "smoke", {"model": "mine", **texts, "results_dir": "results/smoke"}
    )
    text = str(tmp_path / "mine.txt")
    expected = {
        "model": str(tmp_path / "mine"),
        "text": text,
        "judge": "toy",
        "other_texts": [text, "c4"],
    }
    assert point.parameters == {**expected, "results_dir": "results/smoke"}
    (point,) = grid.points("model_scale", "smoke", {"models": ["toy", "mine"]})
    assert point.parameters["models"] == ["toy", str(tmp_path / "mine")]


@pytest.mark.parametrize("study", grid.names())
def test_every_size_of_every_study_passes_the_check(study):
    for size in grid.catalogue()[study]["sizes"]:
        for point in grid.points(study, size, {"results_dir": str(paths.RESULTS / "smoke")}):
            assert point.notebook.is_file()


def at_smoke(study, tmp_path, **overrides):
    (point,) = grid.points(study, "smoke", {"results_dir": str(tmp_path / "r"), **overrides})
    return point


@pytest.mark.parametrize("study", grid.names())
def test_an_estimate_counts_what_a_study_measures(study, tmp_path):
    """Before the study: about as many plans as it measures; afterwards: nothing left."""
    point = at_smoke(study, tmp_path)
    before = forecast.of_point(point)
    run_cells(point.notebook, point.parameters)
    rows = lwq.Results(tmp_path / "r").table(metric="perplexity")
    plans = sum(part["plan"].nunique() for _, part in rows.groupby("model"))
    # orders of so few blocks share plans, and which do only the model tells
    assert before.plans == pytest.approx(plans, rel=0.15)
    assert before.measured == 0 and not before.finished
    after = forecast.of_point(point, forecast.measured(tmp_path / "r"))
    assert after.measured == after.plans == before.plans and after.finished
    assert after.tokens == after.operations == 0


def test_what_was_measured_on_a_real_model_is_not_left():
    """Which uniform files lie near a size hangs on the share of embeddings and head."""
    known = forecast.measured(paths.RESULTS)
    for point in grid.points("which_score", "laptop")[:7]:
        assert forecast.of_point(point, known).finished, point.parameters


def test_a_stand_in_has_the_weights_of_the_model():
    for name in ("smollm2-135m", "gemma3-270m", "qwen2.5-coder-0.5b"):
        made, known = stand_in(name, outside=True), sizes.of(name)
        assert made.total == pytest.approx(known.parameters, rel=0.01)
        head = made.weights("lm_head")
        assert head == pytest.approx(known.parameters - known.in_blocks, rel=0.01)


def test_rows_alone_are_those_of_the_measurements(done, tmp_path):
    whole = {key: record["row"] for key, record in lwq.Results(done[0]).found.items()}
    rows = {row["id"]: row for row in measurements.rows(done[0])}
    assert forecast.measured(done[0]) == {key_of(row) for row in whole.values()}
    assert rows.keys() == whole.keys() and not list(measurements.rows(tmp_path / "none"))


def test_an_estimate_grows_with_what_is_asked(tmp_path, monkeypatch):
    found = forecast.of_point(at_smoke("orderings", tmp_path))
    twice = forecast.of_point(at_smoke("orderings", tmp_path, windows=8))
    large = forecast.of_point(at_smoke("orderings", tmp_path, model="smollm2-135m"))
    assert twice.tokens > 1.2 * found.tokens and large.memory > found.memory
    assert found.seconds(1e9) == pytest.approx(2 * found.seconds(2e9))
    asked = forecast.of_point(at_smoke("orderings", tmp_path, tasks=["piqa"], items=10))
    assert asked.questions > 0 == found.questions and asked.tokens > found.tokens
    assert forecast.speed() > 1e8
    monkeypatch.setenv("LWQ_CACHE", str(tmp_path))
    (ladder,) = grid.points("model_scale", "quick", {"results_dir": str(tmp_path / "r")})
    untrained = forecast.of_point(ladder)
    monkeypatch.setattr("lwq.inputs.ladder.place", lambda recipe: tmp_path)
    training = untrained.tokens - forecast.of_point(ladder).tokens
    assert training == pytest.approx(3 * 3 * 1600 * 4 * 256)


def test_a_rehearsal_leaves_no_trace(tmp_path):
    forecast.of_point(at_smoke("pruning", tmp_path))
    assert not any((tmp_path / "r").iterdir())
    assert type(experiment.Experiment("x", "toy", "rtn", *TEXTS, lwq.Results(tmp_path))) is (
        experiment.Experiment
    )


def test_a_cell_that_needs_numbers_is_named(tmp_path):
    book = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_code_cell("x: int = 1", metadata={"tags": ["parameters"]}),
            nbformat.v4.new_code_cell("1 / (x - 2)"),
        ]
    )
    nbformat.write(book, tmp_path / "n.ipynb")
    assert rehearse(tmp_path / "n.ipynb", {}) == []
    with pytest.raises(
        lwq.InputError, match="cell 1 of n.ipynb does not run without numbers .*look"
    ):
        rehearse(tmp_path / "n.ipynb", {"x": 2})


@pytest.mark.parametrize("study", ["orderings", "model_scale", "pruning", "dynamic_methods"])
def test_paper_size_is_checked_without_a_hub(study):
    for point in grid.points(study, "paper", {"results_dir": str(paths.RESULTS / "smoke")}):
        found = forecast.of_point(point)
        # most for the ends of a sweep, which are judged in float32 too
        assert 50 < found.plans < 1000 and 10 < found.memory / forecast.GIB < 120
        assert 0.1 < found.seconds(1e14) / 3600 < 48


def small_point(tmp_path, **overrides):
    parameters = {
        "orderings": ["lim", "random"],
        "seeds": 1,
        "steps": 2,
        "results_dir": str(tmp_path / "r"),
        **overrides,
    }
    return grid.Point(
        "orderings",
        paths.NOTEBOOKS / "10_orderings.ipynb",
        parameters,
        tmp_path / "out" / "run.ipynb",
    )


def test_a_study_runs_through_papermill_and_leaves_no_times_behind(tmp_path):
    output = grid.run(small_point(tmp_path))
    text = output.read_text()
    assert (
        "image/png" in text
        and "stderr" not in text
        and "papermill" not in json.loads(text)["metadata"]
    )
    assert (tmp_path / "r" / measurements.TABLE).is_file()
    assert sorted(p.name for p in output.parent.iterdir()) == ["run.ipynb", "run.lock"]


def test_a_second_run_is_refused_and_leaves_the_first_alone(tmp_path):
    point = small_point(tmp_path)
    point.output.parent.mkdir()
    partial = point.output.with_suffix(".partial.ipynb")
    partial.write_text("of the first")
    with FileLock(point.output.with_suffix(".lock")):
        for _ in range(2):
            with pytest.raises(lwq.InputError, match="is being run by another process"):
                grid.run(point)
    assert partial.read_text() == "of the first"


def test_a_failed_study_is_never_taken_for_a_result(tmp_path):
    point = small_point(tmp_path, quantizer="gptqq")
    with pytest.raises(lwq.RunError, match="orderings failed in cell .*unknown quantizer 'gptqq'"):
        grid.run(point)
    assert not point.output.exists() and point.output.with_suffix(".failed.ipynb").exists()


def test_a_full_disk_ends_a_study_with_its_reason(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("papermill.iorw.LocalHandler.write", full)
    point = small_point(tmp_path)
    with pytest.raises(lwq.RunError, match="cannot write .*run.ipynb: No space left on device"):
        grid.run(point)
    assert [path.name for path in point.output.parent.iterdir()] == ["run.lock"]


def test_plain_papermill_works_from_any_folder(tmp_path):
    command = [
        sys.executable,
        "-m",
        "papermill",
        str(paths.NOTEBOOKS / "template.ipynb"),
        str(tmp_path / "out.ipynb"),
    ]
    subprocess.run(
        [*command, "-p", "results_dir", str(tmp_path / "r")],
        check=True,
        cwd=tmp_path,
        capture_output=True,
    )
    assert (tmp_path / "r" / measurements.TABLE).is_file()
    assert Path(tmp_path / "out.ipynb").is_file()


def test_a_text_that_changed_under_its_name_is_measured_again(tmp_path):
    path = tmp_path / "mine.txt"
    tables = []
    for word in ("one", "two"):
        path.write_text("\n\n".join(f"{word} {i} " * 300 for i in range(30)))
        specs = experiment.texts(str(path), str(path), 2, 48, 2, 48)
        study = experiment.Experiment("x", "toy", "rtn", *specs, lwq.Results(tmp_path / "r"))
        tables.append(study.sweep(study.orderings(["zd"]), 4, 2, 2))
    assert not set(tables[0]["id"]) & set(tables[1]["id"])


def test_experiments_made_by_using_share_the_model_and_the_reference(tmp_path):
    study = experiment.Experiment("orderings", "toy", "gptq", *TEXTS, lwq.Results(tmp_path))
    other = study.using(experiment.quantizer("rtn"), TEXTS[0].on(n=2))
    assert (
        other.loaded is study.loaded
        and other.judged is study.judged
        and other.reference is study.reference
    )
    assert other.bank is not study.bank and other.bank.quantizer != study.bank.quantizer
    study.release()
    assert other.loaded is study.loaded
