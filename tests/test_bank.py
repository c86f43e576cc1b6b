"""The bank: the same as quantizing, once; kept on disk under a key that nothing stale can have."""

import multiprocessing
import os
from dataclasses import dataclass, replace
from pathlib import Path

import architectures
import pytest
import torch
from safetensors.torch import save_file
from test_apply import plan_for

import lwq
from lwq import models, quantizers
from lwq.common.names import build, spec
from lwq.contracts import Plan
from lwq.engine import bank as bank_module
from lwq.engine.apply import quantize_
from lwq.engine.bank import Bank, source
from lwq.engine.store import Store
from lwq.quantizers.gptq import GPTQ
from lwq.quantizers.hqq import HQQ
from lwq.quantizers.masks import Magnitude
from lwq.quantizers.quanto import Quanto
from lwq.quantizers.rtn import RTN
from lwq.quantizers.spqr import SpQR
from lwq.statistics.sums import MatrixStats
from lwq.studies import candidates, experiment


@dataclass(frozen=True)
class Counting(RTN):
    """Writes a line for each matrix that it quantizes."""

    log: str = ""

    def __call__(self, weight, bits, stats=None):
        with open(self.log, "a") as file:
            file.write(f"{bits}\n")
        return super().__call__(weight, bits, stats)


@pytest.fixture
def counting(tmp_path):
    (tmp_path / "log").write_text("")
    return Counting(log=str(tmp_path / "log"))


def counted(quantizer, widths):
    return plan_for(architectures.make("llama"), widths, spec(quantizers.QUANTIZERS, quantizer))


def made(quantizer):
    """Widths that were quantized so far, sorted."""
    with open(quantizer.log) as file:
        return sorted(int(line) for line in file)


@pytest.mark.parametrize("store", [True, False])
@pytest.mark.parametrize(
    "quantizer", ["rtn()", "quanto()", "gptq()", "gptq(act_order=False, inputs='full')"]
)
@pytest.mark.parametrize("name", ["llama", "gemma3", "qwen3_moe"])
def test_equals_quantize(name, quantizer, store):
    windows = architectures.tokens(8)
    model, other = architectures.make(name), architectures.make(name)
    strategy = lwq.common.names.build(quantizers.QUANTIZERS, "quantizer", quantizer)
    bank = Bank(
        model, strategy, windows, Store() if store else None, memory=1000 if store else 1 << 30
    )
    truth = model(windows).logits
    for widths in [(4, 2, 4), (2, 4, 4), (16, 2, 0), (4, 4, 4)]:
        bank.apply_(plan_for(other, widths, quantizer))
        fresh = architectures.make(name)
        quantize_(fresh, plan_for(fresh, widths, quantizer), windows)
        assert torch.equal(model(windows).logits, fresh(windows).logits), widths
    bank.restore_()
    assert torch.equal(model(windows).logits, truth)


def test_each_width_once_all_in_one_pass(counting, monkeypatch):
    passes, real = [], bank_module.quantized
    monkeypatch.setattr(bank_module, "quantized", lambda *a: passes.append(1) or real(*a))
    bank = Bank(architectures.make("llama"), counting)
    plans = [counted(counting, widths) for widths in [(4, 2, 2), (2, 4, 8), (8, 8, 4), (4, 2, 2)]]
    bank.prepare(plans)
    for plan in plans:
        bank.apply_(plan)
    assert made(counting) == sorted([4, 2, 8, 2, 4, 8, 2, 8, 4] * 7) and len(passes) == 1


def test_another_process_finds_it_on_disk(counting):
    plans = [counted(counting, widths) for widths in [(4, 2), (2, 4)]]
    Bank(architectures.make("llama"), counting, store=Store()).prepare(plans)
    first = made(counting)
    model, fresh = architectures.make("llama"), architectures.make("llama")
    again = Bank(model, counting, store=Store())
    again.prepare(plans)
    again.apply_(plans[1])
    assert made(counting) == first
    quantize_(fresh, replace(plans[1], quantizer="rtn()"))
    assert models.fingerprint(model) == models.fingerprint(fresh)


def test_two_processes_make_it_once(counting, bank_folder):
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=_prepare, args=(counting, str(bank_folder))) for _ in range(2)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert made(counting) == [2] * 7 + [4] * 14


def _prepare(quantizer, folder):
    Bank(architectures.make("llama"), quantizer, store=Store(folder)).prepare(
        [counted(quantizer, (4, 2))]
    )


def test_what_was_made_before_a_kill_is_not_made_again(counting, monkeypatch):
    class Killed(Exception):
        pass

    put, seen = Store.put, []

    def put_five(self, key, packed):
        if len(seen) == 5:
            raise Killed
        seen.append(key)
        put(self, key, packed)

    plan = counted(counting, (3,))
    monkeypatch.setattr(Store, "put", put_five)
    with pytest.raises(Killed):
        Bank(architectures.make("llama"), counting, store=Store()).prepare([plan])
    monkeypatch.setattr(Store, "put", put)
    Bank(architectures.make("llama"), counting, store=Store()).prepare([plan])
    assert len(made(counting)) == 21 + 1


def test_the_key_covers_weights_statistics_settings_and_code(monkeypatch):
    model, windows = architectures.make("llama"), architectures.tokens(4)
    print_ = models.fingerprint(model)
    keys = [
        source(GPTQ(), print_, windows),
        source(GPTQ(), print_, windows.flip(0)),
        source(GPTQ(), print_, windows.reshape(2, -1)),
        source(GPTQ(damp_percent=0.02), print_, windows),
        source(GPTQ(), "0" * 16, windows),
        source(RTN(), print_, None),
    ]
    assert source(RTN(), print_, windows) == source(RTN(), print_, None), (
        "data-free: the windows do not matter"
    )
    assert source(GPTQ(), print_, windows.clone()) == keys[0]
    monkeypatch.setattr(bank_module, "codes", lambda *_: ["other code"])
    keys.append(source(GPTQ(), print_, windows))
    monkeypatch.setattr(bank_module, "version", lambda package: f"a later {package}")
    keys.append(source(GPTQ(), print_, windows))
    assert len(set(keys)) == len(keys)


def test_a_quantizer_whose_code_cannot_be_read_stays_in_memory(bank_folder):
    scope = {"RTN": RTN}
    exec("class Mine(RTN):\n    pass", scope)
    model = architectures.make("llama")
    bank = Bank(model, scope["Mine"](), store=Store())
    bank.apply_(counted(bank.quantizer, (4,)))
    assert bank.source == "" and not list(bank_folder.glob("*/*"))


KINDS = [RTN(), RTN(sym=True), Quanto(), Quanto("bfloat16"), HQQ()]


@pytest.mark.parametrize(
    ("quantizer", "bits"),
    [(kind, bits) for kind in KINDS for bits in (2, 3, 4, 7, 8) if bits in kind.levels],
)
def test_a_stored_matrix_comes_back_whole(weight, quantizer, bits):
    store, packed = Store(), quantizer(weight, bits)
    store.put("ab12", packed)
    again = store.get("ab12")
    assert again.nbytes == packed.nbytes and again.bits == bits
    for part in ("codes", "scales", "zeros", "shifts"):
        a, b = getattr(packed, part), getattr(again, part)
        assert (a is None and b is None) or (torch.equal(a, b) and a.dtype == b.dtype)


@pytest.mark.parametrize("quantizer", [RTN(), SpQR(), Magnitude()])
def test_a_byte_that_changed_is_never_read_as_valid(weight, quantizer):
    store, weight = Store(), weight[:16, :64]
    packed = quantizer(weight, quantizer.levels[1], MatrixStats(gram=weight.T @ weight))
    store.put("ab12", packed)
    path = store._path("ab12")
    whole, truth = path.read_bytes(), packed.dequantize()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        again = store.get("ab12")
        assert again is None or torch.equal(again.dequantize(), truth), place
        assert path.exists() == (again is not None)


def test_a_file_of_an_earlier_version_has_no_checksum_and_is_made_again(weight):
    store, packed = Store(), RTN()(weight, 4)
    store.put("ab12", packed)
    save_file(
        packed.tensors(),
        store._path("ab12"),
        {name: str(value) for name, value in packed.header().items()},
    )
    assert store.get("ab12") is None and "ab12" not in store


def test_the_folder_keeps_its_limit_and_the_latest(weight):
    store = Store()
    for index in range(6):
        store.put(f"{index}0", RTN()(weight, 4))
        os.utime(store._path(f"{index}0"), (index, index))
    assert store.get("00") is not None  # used just now
    size = store._path("00").stat().st_size
    store.limit = 3 * size
    store.prune()
    assert [key for key in range(6) if f"{key}0" in store] == [0, 4, 5]


@pytest.mark.parametrize(
    "damage", [lambda data: data[:40], lambda data: data[:-5] + bytes([data[-5] ^ 1]) + data[-4:]]
)
def test_damage_counts_as_missing(counting, damage):
    plan = counted(counting, (4,))
    store = Store()
    bank = Bank(architectures.make("llama"), counting, store=store, memory=0)
    bank.prepare([plan])
    for name in ("model.layers.1.mlp.up_proj", "model.layers.2.self_attn.q_proj"):
        path = store._path(bank._key(name, 4))
        path.write_bytes(damage(path.read_bytes()))
    fresh = architectures.make("llama")
    with_damage = Bank(fresh, counting, store=store)
    with_damage.apply_(plan)
    assert len(made(counting)) == 23
    other = architectures.make("llama")
    quantize_(other, replace(plan, quantizer="rtn()"))
    assert models.fingerprint(fresh) == models.fingerprint(other)


def test_two_banks_of_one_model_do_not_disturb_each_other():
    model = architectures.make("llama")
    first, second = Bank(model, RTN()), Bank(model, Quanto())
    for bank in (first, second, first):
        plan = counted(bank.quantizer, (4, 2))
        bank.apply_(plan)
        fresh = architectures.make("llama")
        quantize_(fresh, plan)
        assert models.fingerprint(model) == models.fingerprint(fresh)
    assert Bank(model, RTN()).layout == first.layout


@pytest.mark.parametrize(
    "text", ["rtn()", "gptq(sym=True)", "gptq(inputs='full')", "elsewhere.py#12345678:Mine()", ""]
)
def test_a_plan_says_the_quantizer_that_it_gets(text):
    model, windows = architectures.make("llama"), architectures.tokens(4)
    bank, before = Bank(model, GPTQ(), windows), models.fingerprint(model)
    ours = (
        r"bank's is gptq\(group_size=64, .*\); "
        r"make the plan with the bank's, or a Bank of the plan's"
    )
    with pytest.raises(
        lwq.InputError,
        match=rf"the plan's quantizer is {text[:3]}.* and the "
        rf"{ours}",
    ):
        bank.apply_(plan_for(model, (4, 0, 16), text))
    assert models.fingerprint(model) == before
    bank.apply_(plan_for(model, (16, 0, 16), text))  # nothing to quantize
    for same in ("gptq", "gptq()", "gptq(group_size=64)", spec(quantizers.QUANTIZERS, GPTQ())):
        bank.prepare([plan_for(model, (16, 4, 16), same)])


def test_a_plan_of_ones_own_quantizer_holds_while_its_file_does(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = "from dataclasses import dataclass\nfrom lwq.quantizers.rtn import RTN\n"
    code += "@dataclass(frozen=True)\nclass Mine(RTN):\n    k: int = 1\n"
    Path("mine.py").write_text(code)
    mine, model = (
        build(quantizers.QUANTIZERS, "quantizer", "mine.py:Mine(k=2)"),
        architectures.make("llama"),
    )
    plan, bank = counted(mine, (4,)), Bank(model, mine)
    assert plan.quantizer.startswith("mine.py#")
    bank.prepare([plan, replace(plan, quantizer=plan.quantizer.partition("(")[0] + "(k=2)")])
    Path("mine.py").write_text(code + "\n")
    changed = build(quantizers.QUANTIZERS, "quantizer", "mine.py:Mine(k=2)")
    with pytest.raises(
        lwq.InputError,
        match=r"the plan's quantizer is mine.py#\w+:Mine.* the "
        r"bank's is mine.py#",
    ):
        Bank(model, changed).prepare([plan])


@pytest.mark.parametrize("name", quantizers.QUANTIZERS)
def test_the_plans_of_studies_name_the_banks_quantizer(name, tmp_path):
    first = experiment.Experiment(
        "s", "toy", "rtn", *experiment.texts("toy", "toy", 2, 48, 2, 48), lwq.Results(tmp_path)
    )
    study = first.using(experiment.quantizer(name, **candidates.WITHOUT_OUTLIERS.get(name, {})))
    orders, packer = study.orderings(["zd"]), study.quantizer
    made = [
        *candidates.ends(study.bank.layout, packer, 4, 4),
        *candidates.drops(orders, packer, [1]),
    ]
    if name in candidates.WITHOUT_OUTLIERS:
        made += candidates.outlier_budgets(orders, packer, 3, 0.4)
    if 4 not in packer.levels:
        made += candidates.masks(study, candidates.RATES, [7.0])
    assert {candidate.plan.quantizer for candidate in made} == {
        spec(quantizers.QUANTIZERS, study.bank.quantizer)
    }


def test_refusals(toy, windows):
    model, _ = toy
    with pytest.raises(lwq.InputError, match="sweeps need inputs='uniform' or 'full'"):
        Bank(model, GPTQ(inputs="quantized"), windows)
    bank = Bank(model, RTN(), memory=100)
    with pytest.raises(
        lwq.InputError,
        match=r"did not stay in the bank: its limits \(100 bytes "
        r"of memory, 0 bytes on disk\)",
    ):
        bank.apply_(plan_for(lwq.load("toy")[0], (4,)))
    half = plan_for(model, (0, 4), granularity="group")
    with pytest.raises(lwq.InputError, match="0 bits for a part of"):
        bank.prepare([half])
    with pytest.raises(lwq.InputError, match=r"RTN has no width \[1\]"):
        bank.prepare([Plan(dict.fromkeys(half.bits, 1), half.layout, "rtn()")])
    quantize_(model, plan_for(model, (4,)))
    with pytest.raises(lwq.InputError, match="made for other weights"):
        Bank(model, RTN()).apply_(plan_for(lwq.load("toy")[0], (4,)))


def test_a_bank_is_out_of_date_once_its_model_was_quantized(toy, windows, tmp_path):
    """It would put back weights of the model as it was, and call the rest untouched."""
    model, tokenizer = toy
    bank, other = Bank(model, RTN()), Bank(model, RTN())
    sweep = lwq.Sweep(model, windows, bank)
    plan, again = plan_for(model, (16, 16, 16, 3)), plan_for(model, (2, 2, 16, 16))
    bank.apply_(plan)
    quantize_(model, again)  # puts the bank's plan back first
    fresh, _ = lwq.load("toy")
    quantize_(fresh, again)
    assert models.fingerprint(model) == models.fingerprint(fresh)
    uses = (
        lambda: bank.apply_(plan),
        lambda: bank.prepare([plan]),
        bank.restore_,
        bank.release,
        lambda: list(bank.packed_of(plan)),
        lambda: other.apply_(plan),
        lambda: next(sweep.measure([plan])),
    )
    for use in uses:
        with pytest.raises(lwq.InputError, match="make a new Bank"):
            use()
    assert models.fingerprint(model) == models.fingerprint(fresh)
    bank = Bank(model, RTN())
    lwq.export(model, plan_for(model, (16, 16, 4, 4)), tmp_path / "out", tokenizer)
    with pytest.raises(lwq.InputError, match="make a new Bank"):
        bank.apply_(plan)


def test_a_bank_is_out_of_date_once_what_it_quantizes_was_quantized(toy):
    exact, _ = toy
    bank = Bank(models.cast(exact, "bfloat16"), RTN(), exact=exact)
    plan = plan_for(exact, (4,))
    bank.apply_(plan)
    quantize_(exact, plan)
    with pytest.raises(lwq.InputError, match="make a new Bank"):
        bank.apply_(plan)
    bank.restore_()


def test_a_refused_plan_leaves_the_bank_as_good_as_new(toy):
    model, _ = toy
    bank, plan = Bank(model, RTN()), plan_for(model, (4,))
    with pytest.raises(lwq.InputError, match="no width"):
        quantize_(model, Plan(dict.fromkeys(plan.bits, 1), plan.layout, "rtn()"))
    bank.apply_(plan)
    fresh, _ = lwq.load("toy")
    quantize_(fresh, plan)
    assert models.fingerprint(model) == models.fingerprint(fresh)
