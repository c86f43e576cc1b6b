"""A user's own classes, named in text: wherever lwq takes a name, and written back so that the text
builds them again.

pytest tests/test_strategies.py
"""

import re
import shutil
import sys
from dataclasses import dataclass

import pytest
import yaml

import lwq
from lwq.common import names, user_code
from lwq.quantizers import QUANTIZERS
from lwq.quantizers.rtn import RTN
from lwq.studies import budgets, experiment, grid

FILE = '''
from __future__ import annotations
from dataclasses import dataclass, field
from lwq.quantizers.rtn import RTN

@dataclass(frozen=True)
class Part:
    share: float = 0.5

@dataclass(frozen=True)
class Mine:
    """Importance = position to the power of k."""
    k: int = 1
    note: str = "a:b, c"
    part: Part = Part()
    needs = frozenset()

    def __call__(self, model, stats):
        return {name: float(i**self.k) for i, name in enumerate(stats)}

@dataclass(frozen=True)
class Rounding(RTN):
    """Another class, the same numbers."""

@dataclass(frozen=True)
class First:
    def __call__(self, scores, budget):
        order = list(scores)
        return {unit: budget.widths[order.index(unit) < budget.amount] for unit in order}

class Bare:
    pass
'''


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, with a file of the user's own; nothing is known of it yet."""
    (tmp_path / "my_scorers.py").write_text(FILE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(user_code, "_known", {})
    return tmp_path


def build(text, **settings):
    return names.build(lwq.SCORERS, "scorer", text, **settings)


@pytest.mark.parametrize(
    "place",
    [
        "my_scorers.py",
        "./sub/my_scorers.py",
        "{folder}/my_scorers.py",
        "my_module",
        "my_package.inner",
    ],
)
def test_a_class_is_named_by_its_file_or_its_module_and_written_back(place, folder, monkeypatch):
    monkeypatch.syspath_prepend(folder)
    for target in ("sub/my_scorers.py", "my_module.py", "my_package/inner.py"):
        (folder / target).parent.mkdir(exist_ok=True)
        shutil.copy("my_scorers.py", target)
    place = place.format(folder=folder)
    mine = build(f"{place}:Mine(k=2, note='x.py:Mine(')")
    assert (mine.k, mine.note, build(f" {place}:Mine ").k, build(f"{place}:Mine", k=5).k) == (
        2,
        "x.py:Mine(",
        1,
        5,
    )
    text = names.spec(lwq.SCORERS, mine)
    named = rf"{re.escape(place)}#\w{{8}}"
    assert re.fullmatch(
        rf"{named}:Mine\(k=2, note='x.py:Mine\(', "
        rf"part={named}:Part\(share=0.5\)\)",
        text,
    )
    assert build(text) == mine == names.rebuild(lwq.SCORERS, "scorer", text)
    turned = build(f"reversed({place}:Mine(k=2))")
    assert build(names.spec(lwq.SCORERS, turned)) == turned and turned.scorer.k == 2
    assert names.nickname(text) == f"{place}:Mine"
    for name in [name for name in sys.modules if name.startswith("my_")]:
        monkeypatch.delitem(sys.modules, name)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "none.py:Mine",
            r"'none.py:Mine' did not load: FileNotFoundError.*its path relative to "
            r".*, or a module that Python can",
        ),
        ("no.such:Mine", r"'no.such:Mine' did not load: ModuleNotFoundError: No module named 'no'"),
        ("broken.py:Mine", r"'broken.py:Mine' did not load: ZeroDivisionError: division by zero"),
        (
            "my_scorers.py:Nine",
            r"my_scorers.py has no dataclass 'Nine'; it has \['First', 'Mine', "
            r"'Part', 'RTN', 'Rounding'\]",
        ),
        (
            "reversed(my_scorers.py:Bare)",
            r"has no dataclass 'Bare'.*write "
            r"@dataclass\(frozen=True\)",
        ),
        (
            "my_scorers.py:Mine(j=2)",
            r"my_scorers.py#\w+:Mine: .*'j'; its settings are \['k', "
            r"'note', 'part'\]",
        ),
        (
            "my_scorers.py#00000000:Mine",
            r"my_scorers.py has changed since \(now \w{8}\); leave "
            r"out #00000000",
        ),
        ("my_scorers.py:Mine(", "is not a name or a call"),
        ("my_scorers.py", "is not a name or a call"),
        (
            "Mine",
            r"unknown scorer 'Mine'; choose one of \[.*; a class of your own is "
            r"file.py:Class or package.module:Class",
        ),
    ],
)
def test_bad_names_say_what_is_wrong_and_the_way_out(text, message, folder):
    (folder / "broken.py").write_text("1 / 0")
    with pytest.raises(lwq.InputError, match=message):
        build(text)
    assert not [name for name in sys.modules if name.startswith("broken")]


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        ("quantizer", "rtn('a')", "rtn: group_size='a' is not int"),
        ("quantizer", "gptq(clip=1)", "gptq: clip=1 is not bool"),
        ("quantizer", "gptq(damp_percent=True)", "damp_percent=True is not float"),
        ("scorer", "random(seed=1.5)", "random: seed=1.5 is not int"),
        ("scorer", "fisher_kl(options=4)", r"options=4 is not tuple\[int \| float \| str"),
        ("scorer", "fisher_kl(options=(4, None))", r"options=\(4, None\) is not tuple"),
        ("allocator", "knapsack(distortion=4)", r"distortion=4 is not Mapping\[int .* None$"),
        ("allocator", "knapsack(exact=None)", "exact=None is not int"),
    ],
)
def test_a_setting_of_another_type_is_named(kind, text, message):
    tables = {"quantizer": QUANTIZERS, "scorer": lwq.SCORERS, "allocator": lwq.ALLOCATORS}
    with pytest.raises(lwq.InputError, match=message):
        names.build(tables[kind], kind, text)
    whole = names.build(QUANTIZERS, "quantizer", "gptq(damp_percent=1, scale_dtype='float32')")
    assert whole.damp_percent == 1, "a whole number is a float"


def test_a_default_of_another_type_is_taken():
    @dataclass(frozen=True)
    class Loose:
        spare: int = None

    assert names.build({}, "scorer", Loose, spare=None).spare is None
    with pytest.raises(lwq.InputError, match="spare='a' is not int"):
        names.build({}, "scorer", Loose, spare="a")


def test_text_of_a_file_runs_no_code(toy, windows, folder):
    """A plan may name what this process has named; anything else is refused before it is
    imported.
    """
    scores = lwq.score(toy[0], "zd")
    plan = lwq.allocate(
        scores, toy[0], bits=(4, 2), moved=2, quantizer="my_scorers.py:Rounding(group_size=32)"
    )
    plan.save("plan.json")
    (folder / "trap.py").write_text("raise SystemExit('ran')")
    user_code._known.clear()  # another process
    loaded = lwq.Plan.load("plan.json")
    for text in (loaded.quantizer, "trap.py:Trap", "trap:Trap()", "subprocess:Popen('true')"):
        with pytest.raises(
            lwq.InputError,
            match="files run no code: name it yourself first, with --quantizer '[^#]*'",
        ):
            lwq.quantize_(toy[0], lwq.Plan(loaded.bits, loaded.layout, text))
    experiment.quantizer("my_scorers.py:Rounding")
    plain = lwq.allocate(scores, toy[0], bits=(4, 2), moved=2, quantizer="rtn(group_size=32)")
    assert lwq.quantize_(lwq.load("toy")[0], loaded) == lwq.quantize_(toy[0], plain)
    (folder / "my_scorers.py").write_text(FILE + "\n")
    user_code._known.clear()
    experiment.quantizer("my_scorers.py:Rounding")  # other code than the plan's
    with pytest.raises(lwq.InputError, match="its file as it was then"):
        lwq.quantize_(lwq.load("toy")[0], loaded)


@dataclass(frozen=True)
class Here(RTN):
    """An imported class, given as an object."""


def test_an_object_of_your_own_goes_into_a_plan_and_back(toy):
    plan = lwq.allocate(
        lwq.score(toy[0], "zd"), toy[0], bits=(4, 2), moved=2, quantizer=Here(group_size=32)
    )
    assert re.match(r"test_strategies#\w{8}:Here\(group_size=32", plan.quantizer)
    assert max(lwq.quantize_(toy[0], plan).values()) > 0


def test_an_experiment_takes_it_and_tells_two_states_of_the_file_apart(folder):
    texts = experiment.texts("toy", "toy", 2, 32, 2, 32)
    study = experiment.Experiment(
        "own", "toy", "my_scorers.py:Rounding", *texts, lwq.Results(folder / "r")
    )
    scores = study.orderings(
        "my_scorers.py:Mine(k=2, note='a,b'), reversed(my_scorers.py:Mine), lim"
    )
    assert list(scores["my_scorers.py:Mine(k=2, note='a,b')"].values()) == [0, 1, 4, 9]
    assert list(scores["reversed(my_scorers.py:Mine)"].values()) == [3, 2, 1, 0]
    assert (
        study.orderings(["reversed(my_scorers.py:Mine)"])["reversed(my_scorers.py:Mine)"].order()
        == list(scores["lim"])[::-1]
    )
    table = study.sweep(scores, 4, 2, 2)
    assert table["quantizer"].str.match(r"my_scorers.py#\w{8}:Rounding\(").all()
    assert (
        table.loc[table["ordering"].str.startswith("reversed"), "scorer"]
        .str.contains(r"scorer=my_scorers.py#\w{8}:Mine")
        .all()
    )
    (folder / "my_scorers.py").write_text(FILE.replace("i**self.k", "-i + 9"))
    again = experiment.Experiment(
        "own", "toy", "my_scorers.py:Rounding", *texts, lwq.Results(folder / "r")
    )
    with pytest.raises(
        lwq.InputError,
        match=r"holds rows of \[.my_scorers.py#\w{8}:Mine.*; "
        r"choose another results_dir",
    ):
        again.orderings(["my_scorers.py:Mine(k=2, note='a,b')"])
    again.results = lwq.Results(folder / "other")
    assert list(again.orderings(["my_scorers.py:Mine"])["my_scorers.py:Mine"].values()) == [
        9,
        8,
        7,
        6,
    ]


UNITS = """
from dataclasses import dataclass
import lwq

@dataclass(frozen=True)
class Units:
    granularity: str = "block"
    needs = frozenset()

    def __call__(self, model, stats):
        return {unit: 1.0 + i for i, unit in enumerate(lwq.units(model, self.granularity))}
"""


def test_which_score_compares_it_unit_by_unit(folder):
    """It was an unknown scorer, and with matrices beside blocks other code under the same name."""
    (folder / "units.py").write_text(UNITS)
    texts = experiment.texts("toy", "toy", 2, 32, 2, 32)
    study = experiment.Experiment(
        "which_score", "toy", experiment.quantizer("rtn"), *texts, lwq.Results(folder / "r")
    )
    for kind, units in (("block", 4), ("matrix", 28)):
        found = budgets.fitted(["units.py:Units"], study.quantizer, (4, 3), kind)
        scores = study.orderings(found)
        assert len(scores["units.py:Units"]) == units
        study.rankings(found, scores["units.py:Units"], 3)


def test_the_shell_takes_it_from_scores_to_a_study(folder):
    from test_cli import SMALL, call

    arguments = (
        "--bits",
        "4,2",
        "--moved",
        "2",
        "--quantizer",
        "my_scorers.py:Rounding",
        "--allocator",
        "my_scorers.py:First",
    )
    call("score", "toy", "--scorer", "my_scorers.py:Mine(k=2)", "--out", "s.json", *SMALL)
    call("plan", "s.json", *arguments, "--out", "p.json")
    assert list(lwq.Plan.load("p.json").bits.values()) == [2, 2, 4, 4]
    user_code._known.clear()
    with pytest.raises(lwq.InputError, match="files run no code"):
        call("quantize", "toy", "p.json", "--out", "out", *SMALL)
    assert "relative error" in call(
        "quantize", "toy", "p.json", "--quantizer", "my_scorers.py:Rounding", "--out", "out", *SMALL
    )
    orderings = yaml.safe_load("[my_scorers.py:Mine, reversed(my_scorers.py:Mine)]")
    # `-p orderings=[…]` needs no quotes
    assert orderings == ["my_scorers.py:Mine", "reversed(my_scorers.py:Mine)"]
    changes = {
        "orderings": orderings,
        "steps": 2,
        "ablations": False,
        "results_dir": str(folder / "results"),
    }
    (point,) = grid.points("orderings", "smoke", changes)
    grid.run(point)  # in a kernel whose folder is not this one
    table = lwq.Results(folder / "results").table()
    assert set(orderings) < set(table["ordering"])


@pytest.mark.parametrize(
    ("text", "items"),
    [
        ("lim, zd", ["lim", "zd"]),
        (
            "reversed(zd(two_sided=True, pool='matrix')), f(a=1, g(b=2), [3, 4])",
            ["reversed(zd(two_sided=True, pool='matrix'))", "f(a=1, g(b=2), [3, 4])"],
        ),
        ("lim", ["lim"]),
    ],
)
def test_a_list_is_cut_outside_brackets(text, items):
    assert names.split(text) == names.split(items) == items
