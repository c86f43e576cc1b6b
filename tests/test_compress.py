"""From a model to a smaller one: every target, resumed and repeated, and what the folder says.

pytest tests/test_compress.py
"""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader

import lwq
from lwq.exporters.targets import TARGETS
from lwq.inputs.texts import WindowSpec
from lwq.recipes.recommend import Recipe
from lwq.recipes.wanted import judging

QUICK = Recipe(nsamples=4, seqlen=48, tune=24, length=48)


def made(folder, target="lwq", **changes):
    return lwq.compress("toy", folder, target=target, recipe=QUICK, **{"size": "140kB", **changes})


@pytest.mark.parametrize("target", [name for name in TARGETS if name != "llama.cpp"])
def test_each_target_gets_a_folder_within_the_budget(tmp_path, target):
    size = "200kB" if target in ("vllm", "transformers") else "140kB"
    found = made(tmp_path / "out", target, size=size)
    assert (found.folder / "plan.json").is_file()
    lines = {line.name: line for line in found.lines}
    assert lines["plan"].megabytes * 1e6 <= lwq.common.sizes.parse_bytes(size)
    assert lines["untouched"].kl.value == 0 and lines["plan"].kl.value > 0
    assert list(lines)[0] == "untouched" and list(lines)[-1] == "plan" and len(lines) >= 3
    page = (found.folder / "README.md").read_text()
    assert "How to load it" in page and found.advice in page and "guard" in page


def test_llama_cpp_gets_a_gguf_ggml(tmp_path):
    found = made(tmp_path / "out", "llama.cpp")
    (file,) = found.folder.glob("*.gguf")
    tensors = file.stat().st_size - GGUFReader(file).data_offset  # the rest is the header
    assert round(found.lines[-1].megabytes * 1e6) == tensors <= 140_000


@pytest.mark.parametrize("target", TARGETS)
def test_from_disk_it_makes_the_same_files_ggml(tmp_path, target):
    for part in lwq.load("toy"):
        part.save_pretrained(tmp_path / "saved")
    size = "200kB" if target in ("vllm", "transformers") else "140kB"
    sums = []
    for stream in (False, True):
        found = lwq.compress(
            str(tmp_path / "saved"),
            tmp_path / str(stream),
            size=size,
            target=target,
            recipe=replace(QUICK, text="toy"),
            judge=WindowSpec("toy", "judge", 4, 48, 0),
            stream=stream,
        )
        files = {
            f.name: f.read_bytes()
            for f in found.folder.iterdir()
            if f.suffix in (".gguf", ".safetensors") or f.name == "plan.json"
        }
        plan = json.loads(files.pop("plan.json"))
        sums.append((files, plan["bits"], [line.kl.value for line in found.lines]))
    assert sums[0][0] and sums[0][0] == sums[1][0] and sums[0][1] == sums[1][1]
    assert sums[0][2] == pytest.approx(sums[1][2], rel=1e-3)


def test_the_folder_opens_and_judges_as_the_table_says(tmp_path):
    found = made(tmp_path / "out")
    run: dict = {}
    exec(found.loading, run)  # the snippet of its card
    model, tokenizer = run["model"], run["tokenizer"]
    assert found.folder.name in (found.folder / "README.md").read_text().rpartition("```")[0]
    judging = lwq.windows("toy", tokenizer, n=16, length=256, split="judge")
    losses = lwq.evaluate(model, judging)
    assert losses.perplexity == pytest.approx(found.lines[-1].perplexity.value, rel=1e-6)


def test_repeated_it_does_nothing_and_changed_it_refuses(tmp_path, monkeypatch, capsys):
    found = made(tmp_path / "out")
    monkeypatch.setattr(Recipe, "costs", lambda *_: pytest.fail("scored again"))
    assert "already there" not in capsys.readouterr().err
    again = made(tmp_path / "out")
    assert "already there: nothing was measured or" in capsys.readouterr().err
    assert again == found and "plan" in again._repr_html_()
    with pytest.raises(lwq.InputError, match="holds another result"):
        made(tmp_path / "out", size="150kB")
    with pytest.raises(lwq.InputError, match="dtype: float32 there, bfloat16 now"):
        made(tmp_path / "out", dtype="bfloat16")
    (found.folder / "model.safetensors").unlink()
    with pytest.raises(lwq.InputError, match="model.safetensors.*missing"):
        made(tmp_path / "out")


@pytest.mark.parametrize("text", ["{", '{"a": 1}', "[1]"])
def test_a_record_of_somebody_else_is_refused(tmp_path, text):
    (tmp_path / "compress.json").write_text(text)
    with pytest.raises(lwq.InputError, match="damaged, or another program's"):
        made(tmp_path)


def test_a_folder_whose_name_begins_as_the_toy_does_is_a_model_of_its_own():
    assert judging("toy-8").text == "toy" and judging("toy-story").text == "wiki"


@pytest.mark.parametrize(("moments", "seed"), [(3, 0), pytest.param(20, 1, marks=pytest.mark.slow)])
def test_killed_it_leaves_the_whole_folder_or_none_and_ends_the_same_ggml(tmp_path, moments, seed):
    command = [sys.executable, "tests/kills.py", str(tmp_path), str(moments), str(seed)]
    home = Path(lwq.__file__).parents[1]
    done = subprocess.run(command, capture_output=True, text=True, cwd=home, check=True)
    told = json.loads(done.stdout)
    assert told["code"] == 0 and "model.gguf" in told["whole"]
    for one in told["found"]:
        assert one["left"] in (None, told["whole"])
        assert one["again"] == 0 and one["content"] == told["whole"] and not one["parts"]
    assert any(one["killed"] for one in told["found"])


def test_somebody_elses_plan_is_judged_beside_ours_at_its_bytes_ggml(tmp_path):
    theirs = made(tmp_path / "theirs", "llama.cpp").folder / "model.gguf"
    found = lwq.compress(
        "toy", tmp_path / "ours", like=theirs, target="llama.cpp", recipe=replace(QUICK, seed=1)
    )
    lines = {line.name: line for line in found.lines}
    assert lines["plan"].megabytes <= lines["like"].megabytes <= 0.14
    assert list(lines)[-2:] == ["like", "plan"] and lines["like"].beyond_plan is not None


def test_killed_before_the_export_it_does_not_score_again(tmp_path, monkeypatch):
    from lwq.recipes import compress

    with monkeypatch.context() as patch:
        patch.setattr(compress, "fill", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            made(tmp_path / "out", size="141kB")
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(Recipe, "costs", lambda *_: pytest.fail("scored again"))
    found = made(tmp_path / "out", size="141kB")
    record = json.loads((found.folder / "compress.json").read_text())
    assert np.isfinite(record["lines"][-1]["kl"]).all()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"target": "vllmm"}, "unknown target 'vllmm'"),
        ({"size": "3kB"}, "out of reach"),
        ({"avg_bits": 3}, "exactly one of .*, not size and avg_bits"),
        ({"quantizer": "owq", "target": "mlx"}, "holds nothing that owq"),
        ({"bits": (8, 4, 0)}, "leave 0 out"),
    ],
)
def test_what_cannot_be_is_refused_before_the_work(tmp_path, monkeypatch, arguments, said):
    monkeypatch.setattr(Recipe, "costs", lambda *_: pytest.fail("scored"))
    with pytest.raises(lwq.InputError, match=said):
        made(tmp_path / "out", **arguments)
    assert not (tmp_path / "out").exists()


def written(text, path):
    from lwq.inputs.texts import documents

    path.write_text("\n\n".join(f"{text} {document}" for document in documents("toy")))
    return str(path)


def test_another_text_under_the_same_name_is_another_result(tmp_path, monkeypatch):
    text = written("a", tmp_path / "mine.txt")
    judge = WindowSpec(text, "judge", 2, 48, 0)
    asked = {"size": "140kB", "recipe": replace(QUICK, text=text, guard=False), "judge": judge}
    found = lwq.compress("toy", tmp_path / "one", **asked)
    written("b", tmp_path / "mine.txt")
    with pytest.raises(lwq.InputError, match=r"calibrated on: .*mine.txt.*#.* there, .* now"):
        lwq.compress("toy", tmp_path / "one", **asked)
    scored = []
    costs = Recipe.costs
    monkeypatch.setattr(Recipe, "costs", lambda *args: scored.append(1) or costs(*args))
    assert lwq.compress("toy", tmp_path / "two", **asked).lines != found.lines and scored


def test_a_plan_in_the_cache_is_made_again_where_it_is_damaged(tmp_path, monkeypatch):
    monkeypatch.setenv("LWQ_CACHE", str(tmp_path / "cache"))
    recipe = replace(QUICK, guard=False)
    plan = lwq.compress("toy", tmp_path / "one", size="140kB", recipe=recipe).plan
    files = [
        file for place in ("plans", "costs") for file in (tmp_path / "cache" / place).iterdir()
    ]
    assert len(files) == 2
    for file in files:
        file.write_text(file.read_text()[:-20])
    assert lwq.compress("toy", tmp_path / "two", size="140kB", recipe=recipe).plan == plan
    assert all(json.loads(file.read_text()) for file in files)


def test_a_plan_in_the_cache_is_not_one_of_what_the_format_held_before(tmp_path, monkeypatch):
    asked = {"bits": (4, 3, 2), "true_bits": 3.7, "recipe": replace(QUICK, guard=False)}
    found = lwq.compress("toy", tmp_path / "one", **asked).plan
    assert 3 in found.bits.values()
    own, last = lwq.exporters.own.Own.options, list(found.bits)[-1]
    monkeypatch.setattr(
        lwq.exporters.own.Own,
        "options",
        lambda self, layout, unit, quantizer: tuple(
            one for one in own(self, layout, unit, quantizer) if one != 3 or unit == last
        ),
    )
    other = lwq.compress("toy", tmp_path / "two", **asked).plan
    assert {unit for unit, option in other.bits.items() if option == 3} <= {last}


def test_a_model_that_reads_little_is_judged_on_what_it_reads(tmp_path):
    model, tokenizer = lwq.load("toy")
    model.config.max_position_embeddings = 64
    folder = tmp_path / "small"
    for part in (model, tokenizer):
        part.save_pretrained(folder)
    text = written("a", tmp_path / "mine.txt")
    asked = {"avg_bits": 4.5, "recipe": replace(QUICK, text=text)}
    with pytest.raises(lwq.InputError, match="128 tokens.* 64 at most"):
        lwq.check(str(folder), **asked, judge=WindowSpec(text, "judge", 2, 128, 0))
    assert judging("mine", model.config).length == 64


def test_texts_are_read_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr(Recipe, "costs", lambda *_: pytest.fail("scored"))
    with pytest.raises(lwq.InputError, match="nofile"):
        made(tmp_path / "out", judge=WindowSpec("nofile.txt", "judge", 4, 48, 0))
