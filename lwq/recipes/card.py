"""The card of a compressed model: what it is, what was lost, how to load it."""

import shlex
from collections import Counter
from collections.abc import Mapping

from lwq.common.markup import code, line, markdown
from lwq.common.version import VERSION
from lwq.recipes.compressed import Compressed

LOAD = {  # target -> the lines that load the folder
    "lwq": "import lwq\n\nmodel, tokenizer = lwq.load({folder!r})",
    "transformers": (
        "from transformers import AutoModelForCausalLM  # and: pip install compressed-tensors\n\n"
        "model = AutoModelForCausalLM.from_pretrained({folder!r})"
    ),
    "vllm": "from vllm import LLM\n\nmodel = LLM({folder!r})",
    "mlx": "from mlx_lm import load\n\nmodel, tokenizer = load({folder!r})",
    "llama.cpp": "llama-cli -m {quoted} -p 'Once upon a time'",
}


def card(made: Compressed, asked: Mapping[str, str], model: str, target: str) -> str:
    """The README of the folder, in Markdown."""
    rows = [line.cells() for line in made.lines]
    head = list(rows[0])
    counts = Counter(map(str, made.plan.bits.values()))
    quoted = shlex.quote(f"{line(made.folder.name)}/model.gguf")
    guard = made.plan.provenance.get("guard", {})
    said = [f"- {markdown(key)}: {code(value)}" for key, value in asked.items()]
    return "\n".join(
        [
            f"# {markdown(model)}, compressed by lwq {VERSION}",
            "",
            f"Bits of {len(made.plan.bits)} units: "
            + ", ".join(f"{count} at {option}" for option, count in sorted(counts.items()))
            + ". `plan.json` has them one by one.",
            "",
            f"| {' | '.join(map(markdown, head))} |",
            f"|{'---|' * len(head)}",
            *(f"| {' | '.join(map(markdown, row.values()))} |" for row in rows),
            "",
            f"Judged on {markdown(made.judge)}, beside the untouched model; 95 % intervals over "
            f"documents. {markdown(made.advice)}",
            "",
            "## How it was made",
            "",
            *said,
            f"- guard: {code(guard)}",
            "",
            "## How to load it",
            "",
            "```",
            LOAD[target].format(folder=line(made.folder.name), quoted=quoted),
            "```",
            "",
            f"The licence is that of {markdown(model)}. Quality was measured on a few thousand "
            "tokens of one text: judge it on yours before you rely on it.",
            "",
        ]
    )
