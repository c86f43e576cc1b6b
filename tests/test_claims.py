"""Verdicts follow their rules: built from tables whose truth is known."""

import re
from importlib import import_module

import numpy as np
import pandas as pd
import pytest

from lwq.contracts import Row
from lwq.contracts.section import Verdict
from lwq.report import beside, claims, figures, intervals, overview, sweeps
from lwq.report.figures import style
from lwq.report.intervals import Interval
from lwq.report.sections import dynamic_methods, model_scale, orderings, pruning, which_score
from lwq.studies import grid

WINDOWS = 40
RULES = grid.claims()
SECTIONS = {name: import_module(f"lwq.report.sections.{name}") for name in grid.catalogue()}


def verdicts(tables, *keys):
    """Of these claims, by the rules of their section."""
    (study,) = {RULES[key]["study"] for key in keys}
    table, windows = tables
    chosen = {key: RULES[key] for key in keys}
    return claims.verdicts(table, windows, chosen, SECTIONS[study].RULES)


def seed_of(ordering):
    return int(ordering[12:-1]) if ordering.startswith("random(seed=") else None


def way_of(row):
    """What the studies say of such a row."""
    study, low = row["study"], row["low"]
    ways = {
        "orderings": "move",
        "model_scale": "move",
        "pruning": "same size" if low else "drop",
        "dynamic_methods": {0: "outlier budget", 1: "one bit more"}.get(
            row["high"] - low, "base bits"
        ),
    }
    ends = {"original": "original", "knapsack": "knapsack"}
    ends["uniform"] = "plain" if study == "dynamic_methods" else "uniform"
    mask = row["quantizer"].startswith(("wanda", "magnitude"))
    return {
        "way": "mask" if mask else ends.get(row["ordering"], ways.get(study)),
        "family": "mask" if mask else "grid",
    }


class Tables:
    """Rows and windows, written down one plan at a time."""

    def __init__(self):
        self.rows, self.windows = [], []
        # shared: what one window costs more than another
        self.noise = np.random.default_rng(0).normal(0, 0.3, WINDOWS)

    def add(self, nll, spread=0.002, kl=None, **columns):
        key = f"id{len(self.rows)}"
        own = np.random.default_rng(len(self.rows)).normal(0, spread, WINDOWS)
        losses = nll + self.noise + own - own.mean()
        base = dict.fromkeys(Row.__dataclass_fields__, "") | {
            "id": key, "study": "orderings", "model": "m", "quantizer": "gptq()",
            "high": 4, "low": 2, "moved": 0, "units": 20, "avg_bits": 4.0, "true_bits": 4.3,
            "plan_bytes": 1, "total_bytes": 2, "judge": "j", "calibration": "c", "dtype": "float32",
            "metric": "perplexity", "value": float(np.exp(losses.mean())), "n": WINDOWS,
        }  # fmt: skip
        row = {**base, **columns}
        self.rows.append({**row, "seed": seed_of(row["ordering"]), **way_of(row), **columns})
        if kl is not None:
            self.rows.append({**self.rows[-1], "metric": "kl", "value": kl})
        self.windows.append(
            pd.DataFrame(
                {
                    "id": key,
                    "window": range(WINDOWS),
                    "document": range(WINDOWS),
                    "tokens": 9,
                    "nll": losses,
                    "kl": np.nan if kl is None else kl * np.exp(self.noise / 10),
                }
            )
        )
        return self

    def done(self):
        return pd.DataFrame(self.rows), pd.concat(self.windows, ignore_index=True)


def sweep(tables, name, until, **columns):
    """An ordering that loses nothing until a share of the blocks, and everything after."""
    for moved in range(0, 21):
        tables.add(
            3.0 if moved <= 20 * until else 5.0,
            ordering=name,
            moved=moved,
            avg_bits=4 - moved / 10,
            **columns,
        )
    return tables


def ends(tables, **columns):
    tables.add(2.9, ordering="original", avg_bits=16.0, **columns)
    tables.add(3.0, ordering="uniform", **columns)
    return tables.add(5.0, ordering="uniform", moved=20, avg_bits=2.0, **columns)


@pytest.mark.parametrize(
    ("lim", "random", "expected"),
    [
        (0.4, 0.05, claims.HOLDS),
        (0.4, 0.3, claims.UNDECIDED),
        (0.1, 0.05, claims.FAILS),
        (0.4, 0.5, claims.FAILS),
    ],
)
def test_how_far(lim, random, expected):
    tables = sweep(sweep(ends(Tables()), "lim", lim), "random(seed=0)", random)
    (found,) = verdicts(tables.done(), "a")
    assert (
        found.verdict == expected
        and f"LIM close until {lim:.0%}" in found.number
        and f"random order until {random:.0%}" in found.number
    )
    assert len(found.ids) == 42


def test_a_score_better_than_every_random_order_stands_out():
    tables = sweep(sweep(sweep(ends(Tables()), "lim", 0.4), "zd", 0.2), "random(seed=0)", 0.1)
    (line,) = sweeps.beyond_chance(sweeps.swept(*sweep(tables, "random(seed=1)", 0.3).done(), 0.9))
    assert line["cells"]["LIM"].startswith("**0.") and "**" not in line["cells"]["ZD"]
    middle, low, high = (float(part) for part in re.findall(r"0\.\d+", line["random"]))
    assert low < middle < high < float(line["cells"]["LIM"][2:7])
    (alone,) = sweeps.beyond_chance(sweeps.swept(*sweep(ends(Tables()), "lim", 0.4).done(), 0.9))
    assert "**" not in alone["cells"]["LIM"] and alone["random"] == "–"
    assert set(alone["cells"]) == {"LIM"}


def test_reasons_count_where_both_halves_of_a_claim_break():
    tables = sweep(sweep(sweep(ends(Tables()), "lim", 0.4), "zd", 0.0), "random(seed=0)", 0.3)
    table, windows = tables.done()
    found = orderings.reach(sweeps.swept(table, windows, 0.9), RULES["a"]["numbers"])
    assert [found[key] for key in ("settings", "short", "first", "late", "sweeps")] == [
        2,
        1,
        1,
        1,
        1,
    ]
    assert found["random"] == ["30%", "30%"] and found["luck"] == 1
    assert (
        found["above"] == {"lim": 1, "zd": 0}
        and found["models"] == ["m"]
        and found["least"] == found["most"] == "5%"
    )
    assert orderings.across(table, RULES["headline"]["numbers"]) == {
        "below": [],
        "above": ["m, gptq: 90% at 4 bits"],
    }
    assert orderings.across(table, RULES["headline"]["numbers"] | {"quality": 0.95})["below"] == [
        "m, gptq: 90% at 4 bits"
    ]
    assert orderings.reach([], RULES["a"]["numbers"])["settings"] == 0


def test_depth_without_any_score():
    tables = Tables()
    for depth, loss in ((2, 1.0), (4, 0.5), (8, 0.25)):
        shared = {"study": "model_scale", "model": f"ladder-{depth}", "units": depth}
        for moved in (0, depth // 2, depth):
            tables.add(3.0 + loss * moved / depth, ordering="random(seed=0)", moved=moved, **shared)
        tables.add(3.0, ordering="uniform", avg_bits=4, **shared)
        tables.add(3.0 + loss, ordering="uniform", moved=depth, avg_bits=2, **shared)
    (line,) = model_scale.depth(*tables.done())
    assert line == "gptq, 4 to 2 bits: +1.00, and all blocks at 2 bits keep 36.8%, 60.7%, 77.9%"


def test_lines_stand_in_the_order_that_readers_expect():
    names = ["smollm2-135m", "ladder-16", "ladder-2", "gemma3-270m"]
    assert sorted(names, key=overview.place) == [
        "gemma3-270m",
        "smollm2-135m",
        "ladder-2",
        "ladder-16",
    ]


def kl_plan(tables, kl, ordering, moved, **columns):
    """A row of KL beside that of perplexity, of a plan named after both."""
    shared = {"ordering": ordering, "moved": moved, "plan": f"{ordering}{moved}", **columns}
    tables.add(3 + kl, **shared)
    own = np.full(WINDOWS, kl) * np.linspace(0.9, 1.1, WINDOWS)
    tables.windows[-1] = tables.windows[-1].assign(kl=own)
    row = {**tables.rows[-1], "metric": "kl", "value": own.mean()}
    tables.rows.append(row)


def kl_tables(*mixed, sizes=(4, 3, 2)):
    """Uniform bits whose KL is ten times more with each bit less, and mixes: (name, bits, KL)."""
    tables = Tables()
    for bits in sizes:
        size = {"avg_bits": bits, "true_bits": bits, "total_bytes": 100 + bits, "plan_bytes": bits}
        kl_plan(tables, 10.0**-bits, "uniform", 20 * (bits == 2), **size)
    for place, (name, bits, kl) in enumerate(mixed):
        size = {"avg_bits": bits, "true_bits": bits, "total_bytes": 100 + bits, "plan_bytes": bits}
        kl_plan(tables, kl, name, 5 + place, **size)
    return tables


def test_mixes_that_beat_uniform_bits_are_counted_without_the_unmoved():
    table, windows = kl_tables(("lim", 3.5, 0.5e-3), ("lim", 3, 1e-3), ("lim", 2.5, 9e-2)).done()
    ratios = beside.ratios(beside.arenas(table, windows))
    (line,) = sweeps.worth(table, ratios)
    assert line["cells"]["LIM"].endswith("of 3")
    # between 4 and 3 bits a straight line in log KL: 10 ** -3.5
    value = ratios["lim5"].value
    assert value == pytest.approx(0.5e-3 / 10**-3.5, rel=1e-6)
    assert line["cells"]["LIM"] == "0 better, 2 worse of 3"


def test_an_unfinished_sweep_has_no_verdict():
    tables = sweep(sweep(ends(Tables()), "lim", 0.4), "random(seed=0)", 0.05)
    table, windows = tables.done()
    last = table[(table["ordering"] == "lim") & (table["moved"] == 13)]["id"].iloc[0]
    assert verdicts((table, windows), "a")
    assert not verdicts((table[table["id"] != last], windows[windows["id"] != last]), "a")


def test_the_headline_reads_the_largest_plan_that_fits():
    tables = sweep(ends(Tables()), "lim", 0.6)
    (found,) = verdicts(tables.done(), "headline")
    assert found.number.endswith("at 2.90 (4.30 true) bits") or "at 2.80" in found.number
    assert found.verdict == claims.HOLDS and found.number.startswith("90.5%")
    assert not verdicts(ends(Tables()).done(), "headline")


@pytest.mark.parametrize(
    ("scored", "random", "expected"),
    [
        (2.9, 2.95, claims.HOLDS),
        (2.9, 2.85, claims.UNDECIDED),
        (3.1, 3.2, claims.FAILS),
        (3.0, 3.1, claims.UNDECIDED),
    ],
)
def test_what_a_score_adds(scored, random, expected):
    tables = Tables()
    shared = {"study": "dynamic_methods", "quantizer": "owq(outlier_bits=0.1)"}
    tables.add(3.0, ordering="uniform", high=3, low=3, **shared)
    tables.add(scored, ordering="lim", high=4, low=2, moved=3, **shared)
    tables.add(random, ordering="random(seed=0)", high=4, low=2, moved=3, **shared)
    (found,) = verdicts(tables.done(), "b")
    assert found.verdict == expected and found.setting == "owq, base bits, k = 3, lim"
    gains = dynamic_methods.gained(*tables.done())
    assert gains["value"].tolist() == pytest.approx([3 - scored, 3 - random], abs=1e-9)
    dynamic_methods.gains(gains).canvas.draw()


@pytest.mark.parametrize(
    ("kl", "expected"), [(0.4, claims.HOLDS), (0.6, claims.UNDECIDED), (None, claims.UNDECIDED)]
)
def test_one_bit_more_stands_beside_the_line_between_two_widths(kl, expected):
    tables = Tables()
    shared = {"study": "dynamic_methods", "quantizer": "owq(outlier_bits=0.1)"}
    for bits, nll in ((3, 4.0), (4, 2.0)):
        size = {"true_bits": bits + 0.4, "total_bytes": 100 * bits}
        # straight in log KL: 10^-0.25 = 0.56 at a quarter of the way
        tables.add(
            nll, kl=10.0 ** (3 - bits), ordering="uniform", high=bits, low=bits, **size, **shared
        )
    size = {"true_bits": 3.65, "total_bytes": 325, "moved": 12}
    tables.add(3.3, kl=kl, ordering="lim", high=4, low=3, **size, **shared)
    tables.add(3.6, kl=0.9, ordering="random(seed=0)", high=4, low=3, **size, **shared)
    (found,) = verdicts(tables.done(), "b")
    assert found.verdict == expected and found.setting == "owq, one bit more, k = 8, lim"
    assert found.number.startswith("saves +0.200 [") and (
        "random orders -0.100 (-0.100 to -0.100); in KL" in found.number
    )


def test_ways_in_which_a_score_decides():
    tables = Tables()
    shared = {"study": "dynamic_methods", "quantizer": "owq(outlier_bits=0.1)"}
    tables.add(3.0, ordering="uniform", high=3, low=3, **shared)
    for ordering, loss in (
        ("lim", 2.9),
        ("zd", 3.2),
        ("reversed(zd)", 3.1),
        ("random(seed=0)", 2.95),
        ("random(seed=1)", 3.1),
    ):
        tables.add(loss, ordering=ordering, high=4, low=2, moved=3, **shared)
    (line,) = dynamic_methods.ways(
        verdicts(tables.done(), "b"), dynamic_methods.gained(*tables.done())
    )
    assert line["scores"]["LIM"] == {"settings": 1, "holds": 1, "above": 1, "beats": 0}, (
        "its reverse was not measured"
    )
    assert line["scores"]["ZD"] == {"settings": 1, "holds": 0, "above": 0, "beats": 0}
    assert (line["way"], line["gaining"]) == ("base bits", "1 of 2")


def test_each_plan_stands_beside_the_plain_one_of_its_own_base():
    tables = Tables()
    shared = {"study": "dynamic_methods", "quantizer": "owq(outlier_bits=0.1)"}
    for bits, nll in ((3, 4.0), (4, 2.0)):
        tables.add(nll, ordering="uniform", high=bits, low=bits, true_bits=bits + 0.4, **shared)
        tables.add(
            nll - 0.1,
            ordering="lim",
            high=bits + 1,
            low=bits - 1,
            moved=2,
            true_bits=bits + 0.4,
            **shared,
        )
    assert dynamic_methods.gained(*tables.done())["value"].tolist() == pytest.approx([0.1, 0.1])


def test_dropping_against_quantizing():
    tables = Tables()
    shared = {"study": "pruning", "high": 16, "ordering": "lim"}
    for k in (4, 8):
        tables.add(3.5 + k, low=0, moved=k, true_bits=16 - 0.8 * k, **shared)
        tables.add(3.1, low=4, moved=k + 1, true_bits=16 - 0.8 * k - 0.1, **shared)
        tables.add(9.5 + k, low=2, moved=k, true_bits=16 - 0.8 * k, **shared)
    # larger than both: must not be compared
    tables.add(1.0, low=4, moved=1, true_bits=15.9, **shared)
    # far smaller than both: a comparison would not be fair
    tables.add(1.0, low=3, moved=15, true_bits=5.0, **shared)
    found = verdicts(tables.done(), "c", "c, 2 bits")
    assert [(v.claim, v.verdict) for v in found] == [
        ("c", claims.HOLDS),
        ("c, 2 bits", claims.HOLDS),
    ]
    gaps = pruning.gaps(*tables.done())
    assert gaps.groupby(["bits", "dropped"])["value"].first().round(6).to_dict() == {
        (2, 4): -6, (2, 8): -6, (4, 4): 4.4, (4, 8): 8.4,
    }  # fmt: skip
    figures.pruning_gaps(gaps).canvas.draw()


def test_the_best_order_of_either_side():
    tables = Tables()
    shared = {"study": "pruning", "high": 16, "moved": 4, "true_bits": 12.8}
    for ordering, drop, quantize in (("lim", 5.0, 3.5), ("zd", 4.0, 3.8)):
        tables.add(drop, low=0, ordering=ordering, **shared)
        tables.add(quantize, low=4, ordering=ordering, **shared)
    tables.add(1.0, low=0, ordering="knapsack", **shared)
    gaps = pruning.gaps(*tables.done()).set_index("ordering")["value"]
    assert gaps.round(6).to_dict() == {"lim": 1.5, "zd": 0.2, "best": 0.5}
    counted = pruning.pruned(pruning.gaps(*tables.done()), "blocks", [4], ["lim", "zd"])
    assert [counted[key] for key in ("comparisons", "quantizing", "pruning")] == [2, 2, 0]
    assert counted["least"] == pytest.approx(0.2)
    (line,) = pruning.best(pruning.gaps(*tables.done()), RULES["c"]["numbers"])
    assert (line["model"], line["bits"], line["comparisons"]) == ("m", "8, 4, 3", 1) and line[
        "least"
    ] == pytest.approx(0.5)


def test_where_dropping_becomes_the_lesser_evil():
    gaps = pd.DataFrame(
        [
            ("m", "q", "blocks", 4, "lim", bits, gap - 0.2, gap + 0.2)
            for bits, gap in ((12, 2), (10, 1), (8, -3), (7, 0.1), (6, 1))
        ]
        + [("m", "q", "blocks", 2, "lim", bits, -0.6, -0.4) for bits in (12.0, 10.0)],
        columns=["model", "quantizer", "pruned", "bits", "ordering", "true_bits", "low", "high"],
    ).sort_values("true_bits")
    found = pruning.crossings(gaps.assign(seed=None)).set_index("bits")
    runs = found.loc[4, ["wins", "most", "least"]].to_numpy().tolist()
    assert runs == [
        ["quantizing", 12, 10],
        ["pruning", 8, 8],
        ["neither", 7, 7],
        ["quantizing", 6, 6],
    ]
    assert found.loc[2, ["wins", "most", "least"]].tolist() == ["pruning", 12, 10]


def test_single_weights_are_pruned_by_the_best_mask_of_that_size():
    tables = Tables()
    shared = {"study": "pruning", "high": 16}
    tables.add(9.0, low=0, moved=4, true_bits=12.0, ordering="lim", **shared)
    tables.add(3.0, low=4, moved=6, true_bits=11.8, ordering="lim", **shared)
    for mask, loss, size in (
        ("wanda()", 3.4, 11.9),
        ("magnitude()", 5.0, 12.0),
        ("wanda()", 2.0, 14.0),
    ):
        tables.add(
            loss, low=1, moved=20, true_bits=size, ordering="uniform", quantizer=mask, **shared
        )
    gaps = pruning.gaps(*tables.done()).set_index("pruned")
    assert gaps["value"].round(6).to_dict() == {"blocks": 6.0, "weights": 0.4}
    found = verdicts(tables.done(), "c, weights")
    assert [v.verdict for v in found] == [claims.HOLDS]


@pytest.mark.parametrize(
    ("untils", "expected"),
    [
        ((0.2, 0.4, 0.6, 0.8), claims.HOLDS),
        ((0.8, 0.6, 0.4, 0.2), claims.FAILS),
        ((1.0,) * 4, claims.UNDECIDED),
    ],
)
def test_depth(untils, expected):
    tables = Tables()
    for depth, until in zip((2, 4, 8, 16), untils, strict=True):
        shared = {"study": "model_scale", "model": f"ladder-{depth}"}
        for moved in range(depth + 1):
            loss = 3.0 + 2 * max(0, moved / depth - until)
            tables.add(loss, spread=0.05, ordering="lim", moved=moved, units=depth, **shared)
        tables.add(3.0, ordering="uniform", units=depth, **shared)
    (found,) = verdicts(tables.done(), "d")
    assert (found.model, found.verdict) == ("depth ladder", expected)
    areas = sweeps.areas(*tables.done())
    model_scale.scale_areas(areas).canvas.draw()


def test_finer_steps_do_not_make_a_model_better():
    """Everything lost at the last block: the area of a deep model is larger, at the same shares it
    is not.
    """
    tables = Tables()
    for depth in (2, 4, 8, 16):
        shared = {
            "study": "model_scale",
            "model": f"ladder-{depth}",
            "fingerprint": str(depth),
            "units": depth,
        }
        for moved in range(depth + 1):
            tables.add(3.0 + (moved == depth), ordering="lim", moved=moved, **shared)
        tables.add(3.0, ordering="uniform", **shared)
    found = verdicts(tables.done(), "d", "d, same shares")
    assert [(verdict.claim, verdict.verdict) for verdict in found] == [
        ("d", claims.HOLDS),
        ("d, same shares", claims.UNDECIDED),
    ]


def test_the_area_of_a_straight_line():
    x = np.linspace(0, 1, 5)
    quality = 1 - x / 2
    nll = np.tile(-np.log(quality)[:, None], (1, 8))
    found = intervals.area(x[::-1], nll[::-1], np.zeros(8))
    assert found == pytest.approx((0.75, 0.75, 0.75))


def test_a_model_has_a_verdict_only_where_its_settings_agree():
    def verdict(model, word):
        return Verdict("a", model, "s", word, "n", ())

    found = claims.by_model(
        [verdict("x", claims.HOLDS), verdict("x", claims.FAILS), verdict("y", claims.HOLDS)]
    )
    assert found["verdict"].tolist() == [claims.SPLIT, claims.HOLDS]
    assert found["settings"].tolist() == ["1 hold, 1 do not", "all 1"]
    assert found["number"].tolist() == ["s: n (holds); s: n (does not hold)", "s: n (holds)"]


def test_a_claim_that_holds_nowhere_says_so():
    found = claims.by_model(
        Verdict("a", "x", "s", word, "n", ()) for word in (claims.FAILS, claims.UNDECIDED)
    )
    assert found["settings"].tolist() == ["1 do not, 1 undecided"]


def test_an_interval_decides():
    assert claims.decide(Interval(1, 0.5, 2)) == claims.HOLDS
    assert claims.decide(Interval(1, 0.5, 2), 2.5) == claims.FAILS
    assert claims.decide(Interval(0, -0.5, 2)) == claims.UNDECIDED


def test_every_claim_has_words_a_rule_and_a_study():
    for claim in RULES.values():
        assert {"study", "place", "short", "words", "says", "rule", "numbers"} == set(claim)
        assert claim["rule"] in SECTIONS[claim["study"]].RULES


def test_figures_of_sweeps_say_what_they_show():
    table, windows = sweep(
        sweep(sweep(ends(Tables()), "lim", 0.2), "zd", 0.3), "random(seed=0)", 0.05
    ).done()
    axis = figures.retained_curve(table, windows).axes[0]
    lim, zd = (line.get_xdata() for line in axis.lines[1:3])
    assert lim[[0, -1]].tolist() == zd[[0, -1]].tolist() == [0, 1] and (lim[1:-1] != zd[1:-1]).all()
    assert axis.get_yscale() == "log", "most of it lies near 0"
    kept = table[(table["moved"] <= 4) & table["seed"].isna()]
    assert figures.retained_curve(kept, windows).axes[0].get_yscale() == "linear"
    table, windows = sweep(Tables(), "lim", 1.0).done()
    lossless = figures.retained_curve(pd.concat([table, table.assign(ordering="uniform")]), windows)
    lossless.canvas.draw()
    assert not lossless.axes[0].texts, "90 % and 95 % lie outside"
    bottom, top = lossless.axes[0].get_ylim()
    assert bottom < 1 < top


def test_how_far_each_model_goes_as_a_picture():
    table, windows = sweep(
        sweep(sweep(ends(Tables()), "lim", 0.2), "zd", 0.3), "random(seed=0)", 0.05
    ).done()
    limits, areas = intervals.limits(table, windows, (0.9,)), sweeps.areas(table, windows)
    two, four = (
        figures.far(
            *(
                pd.concat([part.assign(sweep=f"m\nq {i}") for i in range(count)])
                for part in (limits, areas)
            )
        )
        for count in (2, 4)
    )
    assert two.get_figheight() < four.get_figheight()
    label = two.axes[0].get_xlabel()
    assert (
        "keeps 90 %\nof the quality at the high width" in label
        and "hollow: less than the first step" in label
    )


def test_a_direction_turned_round_is_no_reading():
    readings = ["lim", "lim(average='flat')", "zd(larger_is_important=True)"]
    table = pd.DataFrame(
        {
            "model": "m",
            "ordering": readings,
            "calibration": "c4/calibrate 8x512 seed 0 #0",
            "value": [0.9, 0.6, -1],
        }
    )
    axis = orderings.rankings(table).axes[0]
    assert [text.get_text() for text in axis.get_yticklabels()] == [
        "LIM on c4, 8 × 512 tokens",
        "LIM: cosine of a whole window",
    ]
    assert axis.get_xlim()[0] == pytest.approx(0.5)


def test_a_tenth_score_has_a_look_a_column_and_a_line_of_its_own():
    names = [*RULES["a"]["numbers"]["orderings"], *(f"score_{i}" for i in range(8))]
    tables = sweep(ends(Tables()), "random(seed=0)", 0.3)
    for name in names:
        sweep(sweep(tables, name, 0.2), f"reversed({name})", 0.1)
    table, windows = tables.done()
    looks = style.looks(style.labels(table))
    assert len({(look.color, look.marker) for name, look in looks.items()}) == len(looks) == 22
    more = style.looks(f"score_{i}" for i in range(100))
    assert len({(look.color, look.marker) for look in more.values()}) == 102
    assert looks == style.looks(reversed(style.labels(table)))
    (line,) = sweeps.beyond_chance(sweeps.swept(table, windows, 0.9))
    assert list(line["cells"])[:3] == ["LIM", "ZD", "score 0"] and len(line["cells"]) == 20
    (line,) = sweeps.worth(table, {})
    assert len(line["cells"]) == 11
    axis = figures.retained_curve(table, windows).axes[0]
    labels = axis.get_figure().legends[0].get_texts()
    assert {"score 7", "score 7 reversed"} < {text.get_text() for text in labels}
    limits, areas = intervals.limits(table, windows, (0.9,)), sweeps.areas(table, windows)
    figures.far(limits.assign(sweep="s"), areas.assign(sweep="s")).canvas.draw()


def test_looks_of_old_scores_do_not_change_with_new_ones():
    alone, beside = style.looks(["lim", "zd"]), style.looks(["a_new_one", "lim", "zd"])
    assert {name: beside[name] for name in alone} == alone
    assert (alone["lim"].color, alone["zd"].marker) == ("#0072B2", "s")


def test_rows_of_two_texts_are_neither_averaged_nor_mixed_in_one_line():
    tables = Tables()
    for judge, losses in {"wiki/1": (2.0, 2.1, 2.2), "code/1": (3.0, 3.1, 3.4)}.items():
        own = {"judge": judge, "low": 0}
        tables.add(losses[0], ordering="original", way="original", avg_bits=16.0, **own)
        for bits, loss in zip((4, 3), losses[1:], strict=True):
            tables.add(loss, ordering="uniform", avg_bits=float(bits), **own)
    lines = overview.uniform(tables.done()[0])["lines"]
    assert [line["quantizer"] for line in lines] == ["gptq, code/1", "gptq, wiki/1"]
    assert [cell.split()[1] for line in lines for cell in line["cells"]] == [
        *("(90%)", "(67%)"),
        *("(90%)", "(82%)"),
    ]
    tables = Tables()
    for text, value in (("c4/1", 0.9), ("code/1", -0.5)):
        shared = {"study": "which_score", "way": "reading", "metric": "spearman", "ordering": "lim"}
        tables.add(1.0, value=value, calibration=text, judge="at_option", **shared)
    found = which_score.readings(tables.done()[0])
    assert [line["spearman"] for line in found] == ["0.90", "-0.50"]
