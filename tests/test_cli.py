"""The shell's verbs, end to end on the toy model, and their exit codes."""

import re
import subprocess
import sys
import time

import architectures
import pytest
import typer
from typer.testing import CliRunner

import lwq
from lwq import models
from lwq.cli import arguments, lists, printing
from lwq.cli.commands import app
from lwq.engine import tasks

SMALL = ["--text", "toy", "--nsamples", "4", "--seqlen", "48"]


def call(*arguments):
    result = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_score_plan_quantize_eval(tmp_path):
    scores, plan, out = tmp_path / "s.json", tmp_path / "p.json", tmp_path / "out"
    assert "model.layers.3" in call("score", "toy", "--scorer", "lim", "--out", scores, *SMALL)
    arguments = (
        "plan",
        scores,
        "--bits",
        "4,2",
        "--avg-bits",
        "3.5",
        "--quantizer",
        "gptq",
        "--out",
        plan,
    )
    assert "nothing written" in call(*arguments, "--dry-run") and not plan.exists()
    assert "true bits" in call(*arguments) and plan.exists()
    said = call("quantize", "toy", plan, "--out", out, *SMALL)
    assert (
        "files as large as the model's" in said
        and "relative error" in said
        and "--format lwq packs it" in said
    )
    output = call(
        "eval", out, "--text", "toy", "--windows", "4", "--length", "48", "--reference", "toy"
    )
    assert "retained quality" in output and "top-1 agreement" in output and narrow(output)
    assert "perplexity" in call("eval", "toy", "--text", "toy", "--windows", "4", "--length", "48")


def narrow(output):
    """Whether no line of a table is wider than 80 cells."""
    from rich.cells import cell_len

    tables = [line for line in output.splitlines() if line[:1] in set("┏┃┡│└")]
    return max(map(cell_len, tables)) <= 80


@pytest.mark.parametrize("flag", ["-h", "--help"])
@pytest.mark.parametrize("command", sorted(typer.main.get_command(app).commands))
def test_help_has_two_names_everywhere(command, flag):
    assert "Usage:" in call(command, flag) and "Usage:" in call(flag)


def test_the_list_of_commands_has_no_line_that_breaks_in_the_middle(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    for command in typer.main.get_command(app).commands.values():
        first = command.help.split("\n\n")[0]
        assert first.endswith(".") and "\n" not in first, first
        assert first in call("--help"), first


def test_version_is_one_line():
    assert call("--version") == f"lwq {lwq.__version__}\n"


def test_tables_fit_80_columns(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    layout = deep(30)
    importance = {unit: 1.234e-5 * (1 + place) for place, unit in enumerate(layout.units)}
    harm = {
        unit: {width: value / width for width in (2, 3, 4, 5, 6, 8)}
        for unit, value in importance.items()
    }
    scores, costs, out = tmp_path / "s.json", tmp_path / "c.json", tmp_path / "p.json"
    lwq.Scores(importance, layout, "lim", importance).save(scores)
    lwq.Costs(harm, layout, "fisher_kl").save(costs)
    for source in (scores, costs):
        output = call("plan", source, "--bits", "4,3", "--avg-bits", 3.5, "--out", out)
        assert narrow(output) and "whole model" in output and " MB" in output
    capsys.readouterr()
    printing.show_scores("scores", lwq.Scores.load(scores))
    printing.show_scores("costs", lwq.Costs.load(costs))
    output = capsys.readouterr().out
    assert narrow(output) and all(unit in output for unit in layout.units)


def test_sizes_are_shown_where_no_width_suits_every_matrix(capsys):
    """They ended `lwq quantize` with an error after its folder was written."""
    layout = models.layout(architectures.narrow(), "matrix")
    wide = {unit for unit, own in layout.units.items() if own[unit][1] == 96}
    bits = {unit: 16 if unit in wide else 4 for unit in layout.units}
    printing.show_plan(lwq.Plan(bits, layout, "rtn()"), lwq.QUANTIZERS["rtn"]())
    output = capsys.readouterr().out
    assert wide and "whole model" in output and "no uniform bits" in " ".join(output.split())


def test_costs_are_the_default_and_a_plan_says_what_they_leave_out(tmp_path):
    """The default was the first of the list, whose plans lose to uniform bits."""
    costs, out = tmp_path / "c.json", tmp_path / "p.json"
    call("score", "toy", "--out", costs, *SMALL)
    assert isinstance(lwq.Costs.load(costs).quantizer, str)
    call("plan", costs, "--avg-bits", 3.5, "--out", out)
    assert lwq.Plan.load(out).quantizer.startswith("rtn(")  # as lwq.allocate(costs) has it
    other = ("--quantizer", "gptq(clip=True)", "--out", out)
    said = " ".join(call("plan", costs, "--size", "150kB", *other).split())
    assert "found with rtn, and the plan is for gptq(clip=True)" in said
    assert "33.02 kB of it stay at 16 bits" in said
    said = call("plan", costs, "--avg-bits", 3.5, "--quantizer", "rtn", "--out", out)
    assert "the plan is for" not in said and "stay at 16" not in said
    assert len(set(lwq.Plan.load(out).bits.values())) > 1
    assert lwq.allocate(lwq.Costs.load(costs), avg_bits=3.5).quantizer.startswith("rtn(")


def deep(blocks):
    """The layout of a model with long names of matrices."""
    units = {
        f"model.layers.{block}.self_attn.{name}": {f"model.layers.{block}.{name}": (576, 576)}
        for block in range(blocks)
        for name in ("q_proj", "k_proj")
    }
    rest = {"": 10**7, **{f"model.layers.{block}": 1152 for block in range(blocks)}}
    return lwq.Layout("deep", "0" * 16, "matrix", units, rest)


@pytest.mark.parametrize(
    "kind", ["scorers", "allocators", "quantizers", "models", "texts", "tasks", "studies"]
)
def test_list_names_everything(kind):
    from lwq.inputs import assets

    output = call("list", kind)
    assert kind != "models" or re.search(r"smollm2-135m +│ +134.5 │ +538 │", output)
    tables = {
        "scorers": lwq.SCORERS,
        "allocators": lwq.ALLOCATORS,
        "quantizers": lwq.QUANTIZERS,
        "models": assets.MODELS,
    }
    assert kind != "tasks" or {
        row.split()[1] for row in output.splitlines() if row.startswith("│ ") and row[2] != " "
    } == set(tasks.STOCK)
    assert all(name in output for name in tables.get(kind, {})) and len(output.splitlines()) > 3
    assert narrow(output)


@pytest.mark.parametrize("kind", ["scorers", "allocators", "quantizers"])
def test_what_a_method_is_is_said_to_the_end(kind):
    said = {name: rest for name, *rest in lists.KINDS[kind]()}
    assert not {name: rest for name, rest in said.items() if rest[-1][-1] not in ".?"}
    assert all(all(rest) for rest in said.values()), "a scorer that does not say what it costs"


def test_study_and_report(tmp_path):
    assert "nothing was run" in call("study", "orderings", "--dry-run", "-p", "high=8")
    output = call(
        "study", "orderings", "-p", "steps=2", "-p", "seeds=1", "-p", "orderings=[lim, random]"
    )
    assert "executed copy" in output
    assert "report.html" in call("report", "--size", "smoke")
    latex = call("report", "--size", "smoke", "--table", "orderings.worth", "--format", "latex")
    assert latex.startswith("\\begin{tabular}") and "toy" in latex and "LIM" in latex
    with pytest.raises(lwq.InputError, match="unknown table 'orderings.wort' .did you mean 'order"):
        call("report", "--size", "smoke", "--table", "orderings.wort")
    with pytest.raises(lwq.InputError, match="unknown table 'worth'; choose one of"):
        call("report", "--size", "smoke", "--table", "worth")


def shell(*arguments):
    return subprocess.run([sys.executable, "-m", "lwq", *arguments], capture_output=True, text=True)


def test_help_is_quick_and_needs_no_torch():
    start = time.monotonic()
    code = (
        "import sys; sys.modules['torch'] = sys.modules['pandas'] = None\n"
        "from lwq.cli.commands import main; sys.argv = ['lwq', '--help']; main()"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0 and "quantize" in result.stdout
    assert time.monotonic() - start < 3


def test_bad_input_is_one_line_and_exit_code_2(tmp_path):
    result = shell("list", "scorer")
    assert result.returncode == 2 and result.stderr.startswith(
        "lwq: unknown kind 'scorer' (did you mean 'scorers'?)"
    )
    for words, message in [
        (("list",), "list what? Name one of scorers, "),
        (("plan", str(tmp_path / "no.json"), "--moved", "1"), "cannot read scores"),
        (("score", "toy", "--out", "/proc/none/s.json"), "cannot write into /proc/none"),
        (("study", "orderings", "-p", "steps"), "write name=value"),
        (("fetch", "smollm3"), "unknown model, text or task"),
    ]:
        result = shell(*words)
        assert (
            result.returncode == 2 and message in result.stderr and "Traceback" not in result.stderr
        ), result.stderr
    for words, said in [
        (("compress", "toy", "--out", str(tmp_path / "o")), "--size, --avg-bits and --true-bits, "),
        (("check", "toy", "--size", "1MB", "--avg-bits", "3"), "not --size and --avg-bits"),
        (("plan", "s.json", "--moved", "1", "--size", "1MB"), "not --size and --moved"),
    ]:
        with pytest.raises(lwq.InputError, match=said):
            CliRunner().invoke(app, words, catch_exceptions=False)
    with pytest.raises(lwq.InputError, match="numbers or names with commas"):
        CliRunner().invoke(app, ["plan", "x", "--bits", "4;2"], catch_exceptions=False)


@pytest.fixture
def made(tmp_path, monkeypatch):
    """Scores of the toy model in the current folder, and from then on no model loads."""
    monkeypatch.chdir(tmp_path)
    lwq.score(lwq.load("toy")[0], "zd").save("s.json")
    call("plan", "s.json", "--moved", "1", "--quantizer", "rtn", "--out", "p.json")
    call(
        "plan",
        "s.json",
        "--bits",
        "4,0",
        "--moved",
        "1",
        "--quantizer",
        "rtn",
        "--out",
        "drops.json",
    )
    monkeypatch.setattr(models, "load", lambda *a, **k: pytest.fail("loaded"))


@pytest.mark.parametrize(
    "arguments, message",
    [
        ("score toy --out .", "--out . is a folder; name a file"),
        ("score toy --text c44", "unknown text 'c44' .did you mean 'c4'"),
        ("plan s.json --moved 1 --out .", "--out . is a folder; name a file"),
        (
            "quantize toy p.json --out x --quantizer gptq",
            r"--quantizer gptq.* is not the plan's, rtn\(.*; make the plan with",
        ),
        ("quantize toy p.json --out x --format ggml", "unknown format 'ggml'"),
        ("quantize toy p.json --out .", "is not empty"),
        ("quantize toy drops.json --out x", "`lwq eval MODEL --plan PLAN` applies it in memory"),
        ("eval toy --text wikii", "unknown text 'wikii' .did you mean 'wiki'"),
        ("eval toy --reference smollm2", "unknown model 'smollm2' .did you mean 'smollm2-135m'"),
        ("eval toy --tasks hellaswagg", "unknown task 'hellaswagg'"),
        ("eval toy --tasks piqa --reference toy", "leave out one of the two"),
        ("eval toy --quantizer rtn", "name it with --plan"),
        ("eval toy --hub --items 5", "--items --hub: no questions without --tasks; leave it out"),
        ("eval toy --nsamples 4", "--nsamples: nothing is calibrated without --plan"),
        ("eval toy --tasks piqa --length 9", "--length: --tasks ask questions of their own"),
        ("plan s.json --moved 1 --no-guard --dtype x", "--no-guard --dtype: no model is read"),
        ("plan s.json --moved 1 --nsamples 4", "--nsamples: no model is read"),
        ("plan toy --from f.gguf --bits 3,2", "--bits: --from takes a plan as it is"),
        ("compress toy --avg-bits 4 --dry-run --dtype x", "unknown dtype 'x'"),
        ("compress toy --dry-run --like none.gguf", "none.gguf"),
        ("study orderings --dry-run --tflops 0", "--tflops 0: a speed above 0"),
        ("study orderings --dry-run -p orderings=[lim,zd(", "is not YAML .*close its brackets"),
    ],
)
def test_what_cannot_work_is_refused_before_a_model_loads(made, arguments, message):
    with pytest.raises(lwq.InputError, match=message):
        call(*arguments.split())


@pytest.mark.parametrize("arguments", ["--items 0", "--windows 1"])
def test_counts_have_a_least(made, arguments):
    assert CliRunner().invoke(app, ["eval", "toy", *arguments.split()]).exit_code == 2


def test_a_plan_that_drops_blocks_is_judged_in_memory(tmp_path):
    model, _ = lwq.load("toy")
    layout = models.layout(model)
    lwq.Plan(dict(zip(layout.units, (0, 4, 2, 16), strict=True)), layout, "gptq()").save(
        tmp_path / "p.json"
    )
    small = ("--text", "toy", "--windows", "4", "--length", "48", "--reference", "toy")
    output = call(
        "eval", "toy", "--plan", tmp_path / "p.json", "--calibrate", "toy", *SMALL[2:], *small
    )
    assert "p.json on toy/judge" in " ".join(output.split())
    tokenizer = lwq.load("toy")[1]
    lwq.quantize_(model, lwq.Plan.load(tmp_path / "p.json"), lwq.windows("toy", tokenizer, 4, 48))
    losses = lwq.evaluate(model, lwq.windows("toy", tokenizer, 4, 48, "judge"))
    assert f"{losses.perplexity:,.4g}" in output


def test_a_reference_with_another_vocabulary_is_refused(tmp_path):
    model, tokenizer = lwq.load("toy")
    model.resize_token_embeddings(300)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(
        lwq.InputError, match="has a vocabulary of 300 tokens that is not the 257 of 'toy'"
    ):
        call(
            "eval",
            "toy",
            "--text",
            "toy",
            "--windows",
            "4",
            "--length",
            "48",
            "--reference",
            tmp_path,
        )


def test_plan_takes_costs_and_fractions(tmp_path):
    layout = models.layout(lwq.load("toy")[0])
    harm = {unit: {4: 1.0, 2: 3.0 + i} for i, unit in enumerate(layout.units)}
    lwq.Costs(harm, layout, "made up").save(tmp_path / "c.json")
    call(
        "plan",
        tmp_path / "c.json",
        "--allocator",
        "knapsack",
        "--moved",
        "1",
        "--out",
        tmp_path / "p.json",
    )
    assert list(lwq.Plan.load(tmp_path / "p.json").bits.values()) == [2, 4, 4, 4]
    arguments = (
        "--bits",
        "3.25,3",
        "--quantizer",
        "owq",
        "--moved",
        "3",
        "--out",
        tmp_path / "p.json",
    )
    with pytest.raises(lwq.InputError, match="lack the widths"):
        call("plan", tmp_path / "c.json", *arguments)
    call("plan", tmp_path / "c.json", *arguments, "--allocator", "topk")
    assert sorted(lwq.Plan.load(tmp_path / "p.json").bits.values()) == [3, 3, 3, 3.25]
    assert all(name in call("list", "allocators") for name in lwq.ALLOCATORS)


def test_embeddings_and_head_stand_in_the_order_of_the_forward_pass():
    layout = models.layout(architectures.make("llama"), "block", outside=True)
    assert len(layout.outside) == 2
    plan = lwq.Plan(dict.fromkeys(layout.units, 8), layout, "rtn")
    last = printing.strip(plan, lwq.QUANTIZERS["rtn"]()).splitlines()[-2:]
    assert last == ["embed_tokens: 8 bits", "lm_head: 8 bits"]


def test_plan_draws_the_windows_that_it_is_told_to(tmp_path):
    words = "plan toy --avg-bits 4 --quantizer rtn --no-guard --nsamples 3 --seqlen 40 --out"
    call(*words.split(), tmp_path / "p.json")
    assert "3x40" in str(lwq.Plan.load(tmp_path / "p.json").provenance)


def test_values_of_parameters():
    assert arguments.pair('orderings=[lim, zd(two_sided=True, pool="matrix")]')[1] == [
        "lim",
        'zd(two_sided=True, pool="matrix")',
    ]
    assert arguments.pair("orderings=[lim, 'reversed(zd)']")[1] == ["lim", "reversed(zd)"]
    assert (
        arguments.pair("quantizer=rtn(group_size=32, sym=True)")[1]
        == "rtn(group_size=32, sym=True)"
    )
    assert arguments.pair("moved=[1, 2]")[1] == [1, 2] and arguments.pair("hub=true")[1] is True


def test_an_estimate_says_what_does_not_fit(monkeypatch):
    monkeypatch.setattr("lwq.studies.forecast.free", lambda: 8 << 30)
    arguments = ("study", "orderings", "--dry-run", "--tflops")
    output = call(*arguments, "0.0003", "--size", "paper", "-p", "results_dir=results/smoke")
    assert (
        "GiB, and 8.0 GiB are free here" in output
        and "more than 1,000 hours" in output
        and "-p dtype=bfloat16" in output
    )
    assert "here" not in (quiet := call(*arguments, "1")) and "hours at this speed" not in quiet


def test_ctrl_c_ends_with_one_line():
    code = (
        "import sys; from lwq import cli; from lwq.studies import grid; sys.argv = ['lwq', "
        "'study', 'orderings']\n"
        "def stop(*a): raise KeyboardInterrupt\n"
        "grid.points = stop; cli.main()"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 130 and result.stderr.startswith(
        "lwq: interrupted; run the same command again"
    ), result.stderr


def test_public_names():
    assert all(getattr(lwq, name) is not None for name in lwq.__all__)
    assert callable(lwq.evaluate) and callable(lwq.export) and "load" in dir(lwq)
    with pytest.raises(AttributeError, match="no attribute 'scor'"):
        _ = lwq.scor


def test_a_checkpoint_larger_than_memory_goes_through_the_same_verbs(tmp_path):
    model, tokenizer = lwq.load("toy")
    folder, scores, plan = tmp_path / "model", tmp_path / "s.json", tmp_path / "p.json"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    call("score", folder, "--scorer", "lim", "--out", scores, "--stream", *SMALL)
    call("plan", scores, "--bits", "4,2", "--moved", "2", "--out", plan)
    call("quantize", folder, plan, "--out", tmp_path / "a", "--stream", *SMALL)
    call("quantize", folder, plan, "--out", tmp_path / "b", *SMALL)
    prints = [lwq.models.fingerprint(lwq.load(str(tmp_path / name))[0]) for name in "ab"]
    assert prints[0] == prints[1]
    arguments = ("--text", "toy", "--windows", "4", "--length", "48")
    streamed, whole = (
        call("eval", tmp_path / "a", "--stream", *arguments),
        call("eval", tmp_path / "b", *arguments),
    )
    assert streamed.split("perplexity")[1] == whole.split("perplexity")[1]


def test_a_cluster_that_is_not_there():
    with pytest.raises(lwq.InputError, match="no Dask scheduler answers at 'nowhere'"):
        call("study", "orderings", "--dask", "nowhere")
