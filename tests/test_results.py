"""A results folder survives a kill between its files, and names what is damaged."""

import csv
import json
import shutil

import numpy as np
import pandas as pd
import pytest

import lwq
from lwq.contracts import Plan
from lwq.results import cells, measurements, plans
from lwq.studies import experiment

TEXTS = experiment.texts("toy", "toy", 2, 32, 3, 32)


def study(folder, model="toy"):
    return experiment.Experiment("orderings", str(model), "rtn", *TEXTS, lwq.Results(folder))


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("done") / "r"
    here = study(folder)
    here.sweep(here.orderings("zd"), 4, 2, 3)
    return folder


def test_a_kill_between_the_two_tables_loses_nothing(done, tmp_path, monkeypatch):
    folder = tmp_path / "r"
    shutil.copytree(done, folder)
    before = [(folder / name).read_bytes() for name in (measurements.TABLE, measurements.WINDOWS)]
    table = pd.read_csv(folder / measurements.TABLE)
    # one row behind windows.parquet
    table[table["id"] != table["id"].iloc[0]].to_csv(folder / measurements.TABLE, index=False)
    with pytest.raises(lwq.InputError, match="do not belong together.*delete both"):
        measurements.load(folder)
    lwq.Results(folder).write()
    assert [
        (folder / name).read_bytes() for name in (measurements.TABLE, measurements.WINDOWS)
    ] == before
    table[table["id"] != table["id"].iloc[0]].to_csv(folder / measurements.TABLE, index=False)
    shutil.rmtree(folder / "runs")
    with pytest.raises(lwq.InputError, match="stand in one only; delete both"):
        lwq.Results(folder)


def test_a_table_that_is_none_is_named(done, tmp_path):
    for name, content in (
        (measurements.TABLE, b""),
        (measurements.TABLE, b"\xff\xfe\x00"),
        (measurements.TABLE, b'id,value\n"x'),
        (
            measurements.TABLE,
            (done / measurements.TABLE).read_bytes().replace(b",perplexity,", b",perplexity,x", 1),
        ),
        (measurements.WINDOWS, b"PAR1 no"),
    ):
        folder = tmp_path / f"r{len(list(tmp_path.iterdir()))}"
        shutil.copytree(done, folder)
        (folder / name).write_bytes(content)
        for read in (measurements.load, lwq.Results):
            with pytest.raises(lwq.InputError, match="is damaged .*delete both"):
                read(folder)
    victim = next((done / "runs").glob("*.json"))
    record = json.loads(victim.read_text())
    del record["arrays"]
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / victim.name).write_text(json.dumps(record))
    with pytest.raises(lwq.InputError, match=r"it lacks \['arrays'\]"):
        lwq.Results(tmp_path)


def test_ids_that_look_like_numbers_stay_text(done, tmp_path):
    shutil.copytree(done, tmp_path / "r")
    for name in (measurements.TABLE, measurements.WINDOWS):
        read, write = (
            (pd.read_csv, "to_csv")
            if name == measurements.TABLE
            else (pd.read_parquet, "to_parquet")
        )
        frame = read(tmp_path / "r" / name)
        ids = {key: f"0{number}e1" for number, key in enumerate(sorted(frame["id"].unique()))}
        getattr(frame.assign(id=frame["id"].map(ids)), write)(tmp_path / "r" / name, index=False)
    table, windows = measurements.load(tmp_path / "r")
    assert set(table["id"]) == set(windows["id"]) and "00e1" in set(table["id"])


@pytest.mark.parametrize("name", ["007", "1e5", "True", "2024", "NA", " lead "])
def test_text_that_looks_like_something_else_stays_text(name, done, tmp_path):
    shutil.copytree(done, tmp_path / "r")
    file = tmp_path / "r" / measurements.TABLE
    pd.read_csv(file, dtype=str, keep_default_na=False).assign(model=name, judge=name).to_csv(
        file, index=False
    )
    table, _ = measurements.load(tmp_path / "r")
    assert set(table["model"]) == set(table["judge"]) == {name}


def test_other_weights_or_settings_under_one_name_are_measured_anew(tmp_path):
    """A folder that changed under its name is another model: its rows stand apart, and none of the
    old ones is taken for it.
    """
    values, folder = [], tmp_path / "mine"
    model, tokenizer = lwq.load("toy")
    for change in (
        {},
        {"rope_parameters": {"rope_theta": 10.0, "rope_type": "default"}},
        {"rms_norm_eps": 1.0},
        None,
    ):
        if change is None:
            model.model.layers[0].mlp.down_proj.weight.data[0, 0] += 1
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        settings = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(settings | (change or {})))
        here = study(tmp_path / "r", folder)
        scores = here.orderings("lim")
        table = here.sweep(scores, 4, 2, 3)
        values.append(
            (table["value"].round(6).tolist(), list(scores["lim"].values()), here.fingerprint)
        )
        assert (
            set(table["fingerprint"]) == {here.fingerprint}
            and len(table[table["ordering"] == "original"]) == 3
        )
    assert [len({str(value) for value in column}) for column in zip(*values, strict=True)] == [
        4,
        4,
        4,
    ]


def test_damaged_scores_are_made_again(tmp_path):
    here = study(tmp_path / "r")
    before = dict(here.orderings("zd")["zd"])
    for file in (tmp_path / "r" / "scores").glob("*.json"):
        file.write_text("{")
    assert dict(here.orderings("zd")["zd"]) == before


def test_a_rank_correlation_names_what_it_is_with(tmp_path):
    here = study(tmp_path / "r")
    for default in ("zd", "first_to_last"):
        here.rankings(["zd"], here.orderings(default)[default])
    rows = here.results.table(metric="spearman").set_index("judge")["value"]
    assert len(rows) == 2 and rows[rows.index.str.startswith("zd(")].tolist() == [1]
    flat = here.orderings("zd")["zd"]
    with pytest.raises(lwq.InputError, match="all scores are equal"):
        here.rankings(
            ["last_to_first"], experiment.replace(flat, importance=dict.fromkeys(flat, 1.0))
        )


def test_what_cannot_share_a_figure_is_refused_before_it_is_measured(tmp_path):
    here = study(tmp_path / "r")
    with pytest.raises(lwq.InputError, match="units of different kinds"):
        here.orderings(["lim", "zd(granularity='matrix')"])
    with pytest.raises(lwq.InputError, match="high=2, low=4"):
        here.sweep(here.orderings("zd"), 2, 4, 3)
    with pytest.raises(lwq.InputError, match="windows=1"):
        experiment.Experiment(
            "x",
            "toy",
            "rtn",
            *experiment.texts("toy", "toy", 2, 32, 1, 32),
            lwq.Results(tmp_path / "r"),
        )
    assert not here.results.found


def test_rows_say_how_their_plans_were_found(done):
    table, _ = measurements.load(done)
    ways = table.drop_duplicates("ordering").set_index("ordering")["way"].to_dict()
    assert ways == {"original": "original", "uniform": "uniform", "zd": "move"}
    moved = table[table["way"] == "move"]
    assert set(moved["allocator"]) == {"topk()"} and set(table["family"]) == {"grid"}
    assert (moved["budget"] == "moved=" + moved["moved"].astype(str)).all()
    assert table["seed"].isna().all()


def test_the_seed_of_a_random_order_is_a_number(tmp_path):
    here = study(tmp_path / "r")
    here.sweep(here.orderings("random", 2), 4, 2, 3)
    seeds = measurements.load(tmp_path / "r")[0].groupby("ordering")["seed"].first()
    assert seeds[["random(seed=0)", "random(seed=1)"]].tolist() == [0, 1]
    assert seeds[["original", "uniform"]].isna().all()


def test_every_row_has_its_plan(done):
    table, _ = measurements.load(done)
    kept = plans.read(done)
    assert set(kept) == set(table["plan"])
    for row in table.drop_duplicates("plan").to_dict("records"):
        plan = kept[row["plan"]]
        assert plan["model"] == row["model"] and plan["quantizer"] == row["quantizer"]
        assert sum(bits == 2 for bits in plan["bits"].values()) in (0, row["moved"])
        layout = study(done).bank.layout
        assert Plan(plan["bits"], layout, plan["quantizer"]).id == row["plan"]


def test_plans_survive_a_torn_last_line_and_come_back(done, tmp_path):
    folder = tmp_path / "r"
    shutil.copytree(done, folder)
    whole = (folder / plans.PLANS).read_bytes()
    last = whole.splitlines(keepends=True)[-1]
    (folder / plans.PLANS).write_bytes(whole[: -len(last) // 2])
    assert len(plans.read(folder)) == whole.count(b"\n") - 1
    lwq.Results(folder).write()
    assert (folder / plans.PLANS).read_bytes() == whole, "runs/ has the plan"
    shutil.rmtree(folder / "runs")
    (folder / plans.PLANS).unlink()
    here = study(folder)
    here.sweep(here.orderings("zd"), 4, 2, 3)
    assert (folder / plans.PLANS).read_bytes() == whole, "the study makes them without measuring"
    (folder / plans.PLANS).write_bytes(b"{}\n" + whole)
    with pytest.raises(lwq.InputError, match="line 1 of .*plans.jsonl is damaged .*it lacks"):
        plans.read(folder)


def test_a_kill_while_plans_are_written_leaves_the_old_file(done, tmp_path, monkeypatch):
    folder = tmp_path / "r"
    shutil.copytree(done, folder)
    before = (folder / plans.PLANS).read_bytes()
    here = lwq.Results(folder)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(plans.json, "dumps", _interrupt)
        here.write()
    assert (folder / plans.PLANS).read_bytes() == before


def _interrupt(*arguments, **options):
    raise KeyboardInterrupt


CELLS = ("=1+1", "+1", "-x", "@sum", "\tx", "\rx", "'=1", "''=1", "'x", "a,b", 'a"b', "a\nb", "ü")


def test_no_cell_is_a_formula_and_all_read_back(tmp_path):
    frame = pd.DataFrame({"name": CELLS, "value": np.arange(len(CELLS)) - 1.5})
    cells.write(frame, tmp_path / "t.csv")
    with (tmp_path / "t.csv").open(newline="", encoding="utf-8") as file:
        shown = [line["name"] for line in csv.DictReader(file)]
    assert not [name for name in shown if name.startswith(("=", "+", "-", "@", "\t", "\r"))]
    read = cells.read(tmp_path / "t.csv", ["name", "another"])
    assert read["name"].tolist() == list(CELLS) and read["value"].tolist() == list(frame["value"])


@pytest.mark.parametrize("name", ["=HYPERLINK(1)", "-m", "'=m", "@m"])
def test_a_model_s_name_is_no_formula_in_the_table(name, done, tmp_path):
    folder = tmp_path / "r"
    shutil.copytree(done, folder)
    table, _ = measurements.load(folder)
    cells.write(table.assign(model=name), folder / measurements.TABLE)
    shutil.rmtree(folder / "runs")
    lwq.Results(folder).write()
    assert f",{name}," not in (folder / measurements.TABLE).read_text()
    assert set(measurements.load(folder)[0]["model"]) == {name}
