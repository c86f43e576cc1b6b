"""One command from a model to a smaller one that other programs run."""

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from os import PathLike
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lwq import models
from lwq.common import paths
from lwq.common.errors import InputError
from lwq.common.hashing import code_digest, codes, digest
from lwq.common.kept import kept
from lwq.common.names import spec
from lwq.contracts import Budget, Losses, Option, Plan, Size
from lwq.contracts.methods import Quantizer
from lwq.engine.bank import Bank
from lwq.engine.evaluate import reference
from lwq.engine.store import Store
from lwq.engine.sweep import Sweep
from lwq.exporters import fill, require_exportable
from lwq.inputs import resolve
from lwq.inputs.texts import Drawn, WindowSpec, token_digest
from lwq.quantizers import QUANTIZERS
from lwq.recipes.card import card
from lwq.recipes.compressed import Compressed, Judged
from lwq.recipes.outlook import Work
from lwq.recipes.recommend import Recipe
from lwq.recipes.wanted import Wanted, judging
from lwq.report import bootstrap

DONE = "compress.json"  # in the folder: what was asked for, and what was measured


def compress(
    model: str | PathLike[str],
    out: str | Path,
    *,
    size: str | int | None = None,
    avg_bits: float | None = None,
    true_bits: float | None = None,
    target: str = "lwq",
    quantizer: str | Quantizer | None = None,
    bits: tuple[Option, ...] | None = None,
    like: str | Path | None = None,
    recipe: Recipe | None = None,
    judge: WindowSpec | None = None,
    dtype: str = "float32",
    stream: bool = False,
    trust_remote_code: bool = False,
) -> Compressed:
    """Score, plan, guard, quantize, judge, export and describe a model.

    What takes long is kept (quantized matrices in the bank, the plan beside it), so that a run that
    was killed goes on from there, and one that is repeated does nothing twice.

    Args:
        model: a name or a path for `lwq.load`.
        out: a new folder; it appears whole or not at all.
        size, avg_bits, true_bits: the budget, exactly one; `size` is of the tensors that the format
            writes, embeddings and head included: "95MB", "1.2GiB".
        target: what will run it, a name in `lwq.exporters.targets.TARGETS`.
        quantizer: what rounds; None: the target's.
        bits: options to choose from; None: the target's.
        like: a file with somebody else's plan, as `lwq.exporters.reading.plan_from` reads it: it is
            judged beside ours, made by our quantizer, and its bytes are the budget where no other
            is given.
        recipe: how the plan is found.
        judge: windows that the table is measured on; None: 16 × 256 tokens of wiki.

    Raises:
        InputError: before the work starts, for a target, budget or folder that cannot be.
    """
    model = resolve.said(model)
    wanted = Wanted.of(target, quantizer, size, avg_bits, true_bits, like)
    packer, exporter, recipe = wanted.packer, wanted.exporter, recipe or Recipe()
    folder = Path(out).expanduser().resolve()
    loaded, tokenizer = models.load(
        model, dtype, stream=stream, trust_remote_code=trust_remote_code
    )
    exporter.require_model(loaded, tokenizer)
    layout = wanted.layout(loaded)
    beyond, theirs = exporter.beyond(layout, loaded), wanted.theirs(layout)
    budget = wanted.budget(layout, beyond, theirs, bits)
    recipe.require(budget)
    judge = judge or judging(models.name(loaded), loaded.config)
    drawn = judge.draw(tokenizer)
    asked = _asked(loaded, budget, packer, target, recipe)
    windows, asked["calibrated on"] = _read(recipe, loaded, "calibrate")
    asked["guarded on"] = _read(recipe, loaded, "tune")[1] if recipe.guard else ""
    asked["judge"] = f"{judge} #{token_digest(drawn.windows)}"
    if theirs is not None:
        asked["like"] = f"{Path(str(like)).name} {theirs.id}"
    if (found := _finished(folder, asked)) is not None:
        print("already there: nothing was measured or written anew", file=sys.stderr)
        return found
    require_exportable(_all_high(budget, packer), folder, exporter)
    _say(loaded, budget, packer, recipe, judge, stream)
    plan = _planned(loaded, recipe, budget, wanted, asked)
    require_exportable(plan, folder, exporter)
    bank = Bank(loaded, packer, windows, Store())
    others = uniform_around(plan, budget) | ({} if theirs is None else {"like": theirs})
    lines = _lines(loaded, plan, others, budget, bank, drawn, beyond)
    said = f"{_advice(lines)} {bootstrap.remark(drawn.documents)}".strip()
    made = Compressed(folder, target, plan, tuple(lines), str(judge), said)
    with paths.whole(folder) as work:
        fill(work, loaded, bank.packed_of(plan), plan, tokenizer, exporter)
        _describe(work, made, asked, model)
    bank.release()
    return made


def _read(recipe: Recipe, model: nn.Module, split: str) -> tuple[Tensor, str]:
    """Windows that the recipe will read, and the words for them: other tokens, other words."""
    windows, said = recipe.drawn(model, split, None)
    return windows, f"{said} #{token_digest(windows)}"


def _say(
    model: Any,
    budget: Budget,
    packer: Quantizer,
    recipe: Recipe,
    judge: WindowSpec,
    stream: bool,
) -> None:
    """The estimate, before the first stage."""
    work = Work.of(model, budget, packer, recipe, judge, stream)
    print(f"estimate: {work.outlook(model.dtype.itemsize)}", file=sys.stderr)


def _asked(
    model: nn.Module, budget: Budget, packer: Quantizer, target: str, recipe: Recipe
) -> dict[str, str]:
    """What decides the result, but for the texts, in words; equal words, equal folder."""
    return {
        "model": f"{models.name(model)} {budget.layout.fingerprint}-{models.configuration(model)}",
        "budget": f"{budget.limit}={budget.amount} of {list(budget.widths)}",
        "quantizer": spec(QUANTIZERS, packer),
        "target": target,
        "dtype": str(model.dtype).removeprefix("torch."),
        "recipe": repr(recipe),
    }


def _all_high(budget: Budget, packer: Quantizer) -> Plan:
    """Every unit at its highest option: what the format must hold before the work starts."""
    bits = {unit: options[0] for unit, options in budget.choices.items()}
    return Plan(bits, budget.layout, spec(QUANTIZERS, packer))


def _planned(
    model: nn.Module,
    recipe: Recipe,
    budget: Budget,
    wanted: Wanted,
    asked: Mapping[str, str],
) -> Plan:
    """The recipe's plan, kept in the cache under what was asked for, what the format holds, and the
    code that finds it.
    """
    try:
        made = [code_digest(Recipe), *codes(wanted.packer), *codes(wanted.exporter)]
    except (OSError, TypeError):  # code of the user's own that cannot be read
        place = None
    else:
        held = sorted((unit, list(map(str, own))) for unit, own in budget.choices.items())
        source = digest([{**asked, "judge": ""}, held, *made])
        place = paths.writable(paths.cache() / "plans", "LWQ_CACHE") / f"{source}.json"
    return kept(place, Plan.load, lambda: recipe(model, budget, wanted.packer))


def _lines(
    model: nn.Module,
    plan: Plan,
    others: Mapping[str, Plan],
    budget: Budget,
    bank: Bank,
    drawn: Drawn,
    beyond: int,
) -> list[Judged]:
    """The table, measured on `drawn` of the judge split."""
    bank.restore_()
    truth = reference(model, drawn.windows, documents=drawn.documents)
    sweep = Sweep(model, drawn.windows, bank, truth)
    named_plans = {**others, "plan": plan}
    distinct = {made.id: made for made in named_plans.values()}
    found = {made.id: losses for made, losses in sweep.measure(distinct.values(), "judge")}
    untouched = Size.of(budget.layout, dict.fromkeys(budget.layout.units, 16), budget.quantizer)
    lines = [_line("untouched", untouched.total_bytes + beyond, truth.losses, found[plan.id])]
    for name, made in named_plans.items():
        weight = made.size(budget.quantizer).total_bytes + beyond
        lines.append(
            _line(name, weight, found[made.id], None if name == "plan" else found[plan.id])
        )
    return lines


def uniform_bits(budget: Budget) -> dict[str, dict[str, Option]]:
    """ "all 4" -> one option for every unit that has a choice, where all of these have it."""
    found = {}
    for option in budget.offered:
        bits = {
            unit: own[0] if len(own) == 1 else option
            for unit, own in budget.choices.items()
            if len(own) == 1 or option in own
        }
        if len(bits) == len(budget.choices) and option in bits.values():
            found[f"all {option}"] = bits
    return found


def uniform_around(plan: Plan, budget: Budget) -> dict[str, Plan]:
    """The largest uniform plan that is no larger than `plan`, and the next one, where there are."""
    total = plan.size(budget.quantizer).total_bytes
    found = []
    for name, bits in uniform_bits(budget).items():
        made = Plan(bits, plan.layout, plan.quantizer)
        found.append((made.size(budget.quantizer).total_bytes, name, made))
    found.sort(key=lambda entry: entry[0])
    below = [entry for entry in found if entry[0] <= total][-1:]
    above = [entry for entry in found if entry[0] > total][:1]
    return {name: made for _, name, made in (*below, *above)}


def _line(name: str, weight: int, losses: Losses, plan: Losses | None) -> Judged:
    found = bootstrap.samples(losses)
    beyond = None if plan is None else bootstrap.mean(found["kl"] - bootstrap.samples(plan)["kl"])
    perplexity = bootstrap.perplexity(found["nll"])
    kl, top1 = bootstrap.mean(found["kl"]), bootstrap.mean(found["top1"])
    return Judged(name, weight / 1e6, perplexity, kl, top1, beyond)


def _advice(lines: list[Judged]) -> str:
    """What the next uniform size would cost and bring."""
    plan = lines[-1]
    larger = [
        line for line in lines[1:-1] if line.name != "like" and line.megabytes > plan.megabytes
    ]
    if not larger:
        return "The plan is as large as the widths allow."
    above, more = larger[0], larger[0].megabytes - plan.megabytes
    if above.kl.value >= plan.kl.value:
        return f"{above.name} bits take {more:,.2f} MB more and are no nearer to the original."
    return (
        f"{more:,.2f} MB more buy {above.name} bits: KL {above.kl.value:.4f}, perplexity "
        f"{above.perplexity.value:.4g}."
    )


def _describe(work: Path, made: Compressed, asked: Mapping[str, str], model: str) -> None:
    """The card, and the record of what was asked for, in the folder before it has its name."""
    record = {"asked": dict(asked), "judge": made.judge, "advice": made.advice}
    lines = [asdict(line) for line in made.lines]
    with paths.writing(work):
        (work / "README.md").write_text(card(made, asked, model), encoding="utf-8")
        record["files"] = {file.name: _size(file) for file in sorted(work.iterdir())}
        said = json.dumps({**record, "lines": lines}, indent=1)
        (work / DONE).write_text(said, encoding="utf-8")


def _size(file: Path) -> int:
    """Bytes of a file, −1 where there is none."""
    return file.stat().st_size if file.is_file() else -1


def _finished(folder: Path, asked: Mapping[str, str]) -> Compressed | None:
    """What stands in `folder`, if it is just that."""
    if not (folder / DONE).is_file():
        return None
    try:
        record = json.loads((folder / DONE).read_text(encoding="utf-8"))
        before, files = dict(record["asked"]), dict(record["files"])
        lines = tuple(Judged.read(line) for line in record["lines"])
    except (ValueError, TypeError, KeyError):
        raise InputError(
            f"{folder / DONE} is damaged, or another program's; choose a new folder"
        ) from None
    if other := [key for key in {**before, **asked} if before.get(key) != asked.get(key)]:
        told = "; ".join(f"{key}: {before.get(key)} there, {asked.get(key)} now" for key in other)
        raise InputError(f"{folder} holds another result ({told}); choose a new folder")
    if gone := [name for name, size in files.items() if _size(folder / name) != size]:
        raise InputError(
            f"{folder} is not as it was written: {gone[:4]} missing or changed; delete it and run "
            f"the same command again"
        )
    plan = Plan.load(folder / "plan.json")
    return Compressed(folder, asked["target"], plan, lines, record["judge"], record["advice"])
