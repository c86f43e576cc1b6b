"""What came out of a compression: the plan, what was measured, and where it is."""

import html
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from lwq.contracts import Plan
from lwq.report.bootstrap import Interval

LOAD = {  # target -> the lines that load the folder
    "lwq": "import lwq\n\nmodel, tokenizer = lwq.load({folder!r})",
    "transformers": (
        "from transformers import AutoModelForCausalLM  # and: pip install compressed-tensors\n\n"
        "model = AutoModelForCausalLM.from_pretrained({folder!r})"
    ),
    "vllm": "from vllm import LLM\n\nmodel = LLM({folder!r})",
    "mlx": "from mlx_lm import load\n\nmodel, tokenizer = load({folder!r})",
    "llama.cpp": "llama-cli -m {file} -p 'Once upon a time'",
}


def loading(target: str, folder: str) -> str:
    """The lines that load a folder, whatever its name is."""
    return LOAD[target].format(folder=folder, file=shlex.quote(f"{folder}/model.gguf"))


def text(value: Interval, form: str = ".4g") -> str:
    """`0.12 [0.10, 0.14]`."""
    return f"{value.value:{form}} [{value.low:{form}}, {value.high:{form}}]"


@dataclass(frozen=True)
class Judged:
    """One line of the table: a plan, its bytes and its quality, with 95 % intervals over documents.

    Attributes:
        name: "untouched", "all 4 bits", "plan".
        megabytes: of the tensors that the format writes.
        perplexity, kl, top1: on the judging windows; KL in nats a token, to the untouched model.
        beyond_plan: KL of this line less that of the plan, None for the plan itself.
    """

    name: str
    megabytes: float
    perplexity: Interval
    kl: Interval
    top1: Interval
    beyond_plan: Interval | None

    @classmethod
    def read(cls, line: Mapping[str, Any]) -> "Judged":
        """From JSON."""
        beyond = line["beyond_plan"]
        return cls(
            line["name"],
            line["megabytes"],
            Interval(*line["perplexity"]),
            Interval(*line["kl"]),
            Interval(*line["top1"]),
            None if beyond is None else Interval(*beyond),
        )

    def cells(self) -> dict[str, str]:
        """As text, under the heads of the table."""
        beyond = "" if self.beyond_plan is None else text(self.beyond_plan, "+.4g")
        return {
            "": self.name,
            "MB": f"{self.megabytes:,.2f}",
            "perplexity": text(self.perplexity),
            "KL (nats/token)": text(self.kl),
            "top-1 agreement": text(self.top1),
            "KL beyond the plan's": beyond,
        }


@dataclass(frozen=True)
class Compressed:
    """What `compress` made.

    Attributes:
        folder: where it is.
        target: what runs it.
        plan: bits of each unit; its provenance says what the guard found.
        lines: the untouched model, uniform bits on either side, the plan.
        judge: words for the judging windows.
        advice: one sentence: what a little more would buy.
    """

    folder: Path
    target: str
    plan: Plan
    lines: tuple[Judged, ...]
    judge: str
    advice: str

    @property
    def loading(self) -> str:
        """The lines that load it, as they stand on its card."""
        return loading(self.target, str(self.folder))

    @property
    def file_bytes(self) -> int:
        """Bytes of its files of weights, whose headers no budget counts."""
        files = [one for one in self.folder.iterdir() if one.suffix in {".safetensors", ".gguf"}]
        return sum(one.stat().st_size for one in files)

    @property
    def table(self) -> pd.DataFrame:
        """One row a line, intervals as text."""
        return pd.DataFrame([line.cells() for line in self.lines])

    def _repr_html_(self) -> str:
        table = self.table.to_html(index=False, escape=True)
        said = f"<p>{html.escape(self.advice)}</p><pre>{html.escape(self.loading)}</pre>"
        return table + said
