"""What a study knows before it judges: scores, measured costs and searched plans, kept in files
beside its rows.
"""

import importlib.metadata
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lwq import allocators as allocating
from lwq.common import paths
from lwq.common.errors import InputError
from lwq.common.hashing import code_digest, digest
from lwq.common.kept import kept
from lwq.common.names import spec
from lwq.contracts import Budget, Costs, Plan, Scores, load_scores
from lwq.engine import costs as measuring
from lwq.engine.bank import restore_
from lwq.engine.evaluate import reference
from lwq.engine.objective import Later
from lwq.engine.sweep import Sweep
from lwq.quantizers import QUANTIZERS
from lwq.results.measurements import Results
from lwq.scorers import SCORERS, score_all
from lwq.scorers.shared.code import scorer_codes
from lwq.scorers.shared.declared import Declared
from lwq.studies.setup import Setup

SEALED = re.compile(r"#\w+:\w+")  # the code of a class of a user's own, see `user_code`


def orderings(setup: Setup, scorers: Mapping[str, Any]) -> dict[str, Scores | Costs]:
    """Label -> Scores (or Costs, of a scorer that says what each option costs): those that are kept
    from their files, the others in one pass.
    """
    _require_same_code(setup, scorers)
    restore_(setup.loaded[0])
    files = _files(setup, scorers)
    known = {label: found for label, path in files.items() if (found := _known(path)) is not None}
    if missing := {label: scorers[label] for label in files if label not in known}:
        for label, scores in zip(missing, _scored(setup, list(missing.values())), strict=True):
            with paths.replacing(files[label]) as temporary:
                scores.save(temporary)
            known[label] = load_scores(files[label])
    kinds = {label: scores.layout.granularity for label, scores in known.items()}
    if len(set(kinds.values())) > 1:
        raise InputError(
            f"orderings of units of different kinds cannot share a figure: "
            f"{kinds}; run them one by one"
        )
    return {label: known[label] for label in files}


def _files(setup: Setup, scorers: Mapping[str, Any]) -> dict[str, Path]:
    """Label -> where its scores are kept, named by all that decides them."""
    source = [
        setup.fingerprint,
        setup.columns["calibration"],
        setup.dtype,
        importlib.metadata.version("transformers"),
    ]
    names = {
        label: digest([spec(SCORERS, scorer), *source, *scorer_codes(scorer)])
        for label, scorer in scorers.items()
    }
    folder = _folder(setup.results)
    return {label: folder / f"{name}.json" for label, name in names.items()}


def _scored(setup: Setup, scorers: list[Any]) -> list[Scores | Costs]:
    read = any(Declared.of(scorer).needs for scorer in scorers)
    windows = setup.calibration if read else None
    return score_all(setup.loaded[0], scorers, windows, setup.columns["calibration"])


def _known(path: Path) -> Scores | Costs | None:
    """The scores in a file, None where there are none; what is damaged is made again."""
    try:
        return load_scores(path) if path.is_file() else None
    except InputError:
        return None


def _require_same_code(setup: Setup, scorers: Mapping[str, Any]) -> None:
    """Raise InputError where rows of these labels come from another state of the user's file:
    curves would mix the two. Its settings may differ, as those of a score of blocks and of
    matrices do.
    """
    rows = [record["row"] for record in setup.results.found.values()]
    for label, scorer in scorers.items():
        text = spec(SCORERS, scorer)
        others = {
            row["scorer"]
            for row in rows
            if (row["study"], row["ordering"]) == (setup.study, label)
            and SEALED.findall(row["scorer"]) != SEALED.findall(text)
        }
        if ":" in label and others:
            raise InputError(
                f"{label!r} is {text} now, and {setup.results.folder} holds rows of "
                f"{sorted(others)}; choose another "
                "results_dir, or another name for the class"
            )


def costs(setup: Setup, widths: Sequence[int], windows: int) -> Costs:
    """Harm of each block at each width, measured on the first calibration windows."""
    few = setup.calibration[:windows, : setup.judging.shape[1]]
    data = setup.columns["calibration"]
    named = [
        spec(QUANTIZERS, setup.quantizer),
        *(setup.bank.source, setup.fingerprint, setup.arithmetic),
        *(code_digest(measuring), data, list(few.shape), list(widths)),
    ]
    path = _folder(setup.results) / f"costs-{digest(named)}.json"

    def measured() -> Costs:
        restore_(setup.judged)
        sweep = Sweep(setup.judged, few, setup.bank, reference(setup.judged, few))
        return measuring.measured_costs(sweep, widths, data=data)

    return kept(path, Costs.load, measured)


def searched(
    setup: Setup, scores: Scores | Costs, budget: Budget, allocator: str, passes: float
) -> Plan:
    """The plan of an allocator that measures plans, on windows of the calibration text's tune
    split.
    """
    tune = setup.judge.on(text=setup.calibrate.text, split="tune")
    layout = scores.layout
    named = [
        *(scores.scorer, scores.data, setup.fingerprint, setup.arithmetic, setup.bank.source),
        *(allocator, repr(passes), str(tune), code_digest(allocating)),
        *(budget.limit, budget.amount, list(map(str, budget.widths))),
        # another state of a scorer's code gives other numbers under the same name
        *(layout.granularity, bool(layout.outside), repr(list(scores.items()))),
    ]
    path = _folder(setup.results) / f"plan-{digest(named)}.json"
    journal = path.with_suffix(".trials")  # of a search that is killed: it goes on from there

    def found() -> Plan:
        tuned = setup.using(judge=tune)  # whose reference serves every search
        objective = Later(
            *(setup.judged, setup.bank, tuned.judging, layout, passes),
            truth=lambda: tuned.reference,
            journal=journal,
        )
        return allocating.within(scores, budget, allocator, objective)

    plan = kept(path, Plan.load, found)
    journal.unlink(missing_ok=True)
    return plan


def _folder(results: Results) -> Path:
    return paths.writable(results.folder / "scores")
