"""What a notebook asks for in text: two texts, a quantizer, scorers, questions of tasks."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from lwq.common.names import build, split
from lwq.contracts.methods import Quantizer
from lwq.inputs.texts import WindowSpec
from lwq.quantizers import QUANTIZERS
from lwq.scorers import SCORERS


class Questions(NamedTuple):
    """Which questions of a task are asked: the arguments of `evaluate_tasks`, the same for every
    plan.
    """

    items: int
    seed: int
    hub: bool

    def named(self, task: str) -> str:
        """As the column `judge` names them."""
        return f"{task} {self.items} items seed {self.seed}{' hub' * self.hub}"


def texts(
    calibrate: str, judge: str, nsamples: int, seqlen: int, windows: int, length: int
) -> tuple[WindowSpec, WindowSpec]:
    """Where a study calibrates and where it judges: two splits that share no document."""
    return WindowSpec(calibrate, "calibrate", nsamples, seqlen, 0), WindowSpec(
        judge, "judge", windows, length, 0
    )


def quantizer(text: str | Quantizer, **settings: Any) -> Quantizer:
    """A quantizer from text, with settings on top: `quantizer("gptq", group_size=64)`."""
    return build(QUANTIZERS, "quantizer", text, **settings)


def scorers(names: str | Sequence[str] | Mapping[str, str], seeds: int) -> dict[str, Any]:
    """Label -> scorer; the arguments are those of `Experiment.orderings`."""
    named = names if isinstance(names, Mapping) else {n: n for n in _labels(names, seeds)}
    return {label: build(SCORERS, "scorer", text) for label, text in named.items()}


def _labels(names: str | Sequence[str], seeds: int) -> list[str]:
    """The orderings that `names` stand for: `random` is one for each seed."""
    seeded = [f"random(seed={seed})" for seed in range(seeds)]
    return [label for name in split(names) for label in (seeded if name == "random" else [name])]
