"""The shell's verbs, end to end on the toy model, and their exit codes."""

import subprocess
import sys
import time

import pytest
from typer.testing import CliRunner

import lwq
from lwq.cli import app

SMALL = ["--text", "toy", "--nsamples", "4", "--seqlen", "48"]


def call(*arguments):
    result = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_score_plan_quantize_eval(tmp_path):
    scores, plan, out = tmp_path / "s.json", tmp_path / "p.json", tmp_path / "out"
    assert "model.layers.3" in call("score", "toy", "--scorer", "lim", "--out", scores, *SMALL)
    arguments = ("plan", scores, "--bits", "4,2", "--avg-bits", "3.5", "--quantizer", "gptq", "--out", plan)
    assert "nothing written" in call(*arguments, "--dry-run") and not plan.exists()
    assert "true bits" in call(*arguments) and plan.exists()
    assert "relative error" in call("quantize", "toy", plan, "--out", out, *SMALL)
    output = call("eval", out, "--text", "toy", "--windows", "4", "--length", "48", "--reference", "toy")
    assert "retained quality" in output and "top-1 agreement" in output
    assert "perplexity" in call("eval", "toy", "--text", "toy", "--windows", "4", "--length", "48")


@pytest.mark.parametrize("kind", ["scorers", "allocators", "quantizers", "models", "texts", "tasks", "studies"])
def test_list_names_everything(kind):
    from lwq import assets

    output = call("list", kind)
    tables = {"scorers": lwq.SCORERS, "allocators": lwq.ALLOCATORS, "quantizers": lwq.QUANTIZERS, "models": assets.MODELS}
    assert all(name in output for name in tables.get(kind, {})) and len(output.splitlines()) > 3


def test_study_and_report(tmp_path):
    assert "nothing was run" in call("study", "orderings", "--dry-run", "-p", "high=8")
    output = call("study", "orderings", "-p", "steps=2", "-p", "seeds=1", "-p", "orderings=[lim, random]")
    assert "executed copy" in output
    assert "report.html" in call("report", "--size", "smoke")


def shell(*arguments):
    return subprocess.run([sys.executable, "-c", "from lwq.cli import main; main()", *arguments], capture_output=True, text=True)


def test_help_is_quick_and_needs_no_torch():
    start = time.monotonic()
    code = (
        "import sys; sys.modules['torch'] = sys.modules['pandas'] = None\n"
        "from lwq.cli import main; sys.argv = ['lwq', '--help']; main()"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0 and "quantize" in result.stdout
    assert time.monotonic() - start < 3


def test_bad_input_is_one_line_and_exit_code_2(tmp_path):
    result = shell("list", "scorer")
    assert result.returncode == 2 and result.stderr.startswith("lwq: unknown kind 'scorer' (did you mean 'scorers'?)")
    for arguments, message in [
        (("plan", str(tmp_path / "no.json")), "cannot read scores"),
        (("score", "toy", "--out", "/proc/none/s.json"), "cannot write into /proc/none"),
        (("study", "orderings", "-p", "steps"), "write name=value"),
        (("fetch", "smollm3"), "unknown model, text or task"),
    ]:
        result = shell(*arguments)
        assert result.returncode == 2 and message in result.stderr and "Traceback" not in result.stderr, result.stderr
    with pytest.raises(lwq.InputError, match="whole numbers with commas"):
        CliRunner().invoke(app, ["plan", "x", "--bits", "4;2"], catch_exceptions=False)


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
    streamed, whole = call("eval", tmp_path / "a", "--stream", *arguments), call("eval", tmp_path / "b", *arguments)
    assert streamed.split("perplexity")[1] == whole.split("perplexity")[1]


def test_a_cluster_that_is_not_there():
    with pytest.raises(lwq.InputError, match="no Dask scheduler answers at 'nowhere'"):
        call("study", "orderings", "--dask", "nowhere")
