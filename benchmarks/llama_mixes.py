"""Planned GGUF files against llama.cpp's own mixes at the same bytes, judged inside llama.cpp.

    python benchmarks/llama_mixes.py smollm2-135m OUT [--quantizer "ggml(gptq=True)"]

Both sides start from the same float32 file, with the carried model's hidden units permuted, and
have the same 16 windows of c4: llama.cpp for its importance matrix, lwq for that and for its
scores. KL to the float32 file is taken on windows of wiki's judge split. What is there already is
not made again. llama.cpp comes as LIBLLAMA names it, or from npm; see peers/with_llama_cpp.py.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
import typer
from run import ENVIRONMENTS, HERE, environment

import lwq
from lwq import models
from lwq.common.names import build, spec
from lwq.contracts import KEPT, Plan
from lwq.engine.apply import packed
from lwq.engine.store import Store
from lwq.exporters import export
from lwq.exporters.gguf import FILE, GGUF
from lwq.exporters.llama_cpp.settings import Settings
from lwq.inputs import texts
from lwq.report import llama
from lwq.report.bootstrap import Sample, paired
from lwq.scorers.fisher import FisherKL
from lwq.statistics.forward import stream

PACKAGE = "@node-llama-cpp/linux-x64@3.22.1"
OWN = "llama.cpp-"  # begins the names of its own files
MIXES = ("Q2_K", "Q3_K_M", "Q4_K_S", "Q4_K_M", "Q5_K_M")
OPTIONS = ("q8_0", "q6_k", "q5_k", "q5_0", "q4_1", "q4_k", "q4_0", "iq4_nl", "q3_k", "q2_k")
NORMS = frozenset({"input_norms"})


def main(
    name: str,
    out: Path,
    quantizer: Annotated[str, typer.Option(help="ggml, with its settings")] = "ggml",
    mixes: Annotated[str, typer.Option(help="llama.cpp's own, whose bytes are matched")] = ",".join(
        MIXES
    ),
    pack: Annotated[
        str, typer.Option(help="pack the plans with this one, such as ggml(gptq=True)")
    ] = "",
    options: Annotated[str, typer.Option(help="types to plan with")] = ",".join(OPTIONS),
    windows: Annotated[int, typer.Option(help="judging windows of 256 tokens")] = 16,
    uniform: Annotated[str, typer.Option(help="plans of one type to judge too")] = "",
) -> None:
    """Compare, and print the table; judged.json in OUT has every window. llama.cpp's own mixes go
    into the report's table too.
    """
    work = Work(name, out, quantizer, pack or quantizer, tuple(options.split(",")))
    own = [work.own(mix, weighed) for mix in mixes.split(",") for weighed in (False, True)]
    targets = {mix: os.path.getsize(work.own(mix, True)) for mix in mixes.split(",")}
    planned = [work.planned(mix, size) for mix, size in targets.items()]
    planned += [work.uniform(option) for option in filter(None, uniform.split(","))]
    judged = work.judge([*own, *planned], windows)
    record(name, judged, work.documents)
    print(table(judged, work.documents))


class Work:
    """The model, its windows, and the files that are made of it below `out`."""

    def __init__(self, name: str, out: Path, quantizer: str, pack: str, options: tuple[str, ...]):
        self.out = out.absolute()
        self.out.mkdir(parents=True, exist_ok=True)
        self.name = name
        self.model, self.tokenizer = lwq.load(name)
        self.calibration = lwq.windows("c4", self.tokenizer, 16, 512)
        self.quantizer = build(lwq.QUANTIZERS, "quantizer", quantizer)
        self.text, self.options = spec(lwq.QUANTIZERS, self.quantizer), options
        self.packer = spec(lwq.QUANTIZERS, build(lwq.QUANTIZERS, "quantizer", pack))
        self.layout = models.layout(self.model, "matrix", True)
        self.reference = self._reference()

    def own(self, mix: str, weighed: bool) -> Path:
        """llama.cpp's own mix, with or without an importance matrix."""
        file = self.out / f"{OWN}{mix}{'-imatrix' if weighed else ''}.gguf"
        if not file.is_file():
            matrix = [self._importance()] if weighed else []
            peer("quantize", self.reference, file, mix, *matrix)
        return file

    def planned(self, mix: str, size: int) -> Path:
        """A plan within `size` bytes, header counted, as a file."""
        return self._file(f"{label(self.packer)}-{mix}", lambda: self._plan(size))

    def uniform(self, option: str) -> Path:
        """One type for every matrix."""
        return self._file(f"{label(self.packer)}-{option}", lambda: self._even(option))

    def judge(self, files: list[Path], windows: int) -> dict[str, Any]:
        """What llama.cpp finds of each file, window by window."""
        drawn = texts.draw("wiki", self.tokenizer, windows, 256, "judge", 0)
        self.documents = drawn.documents
        np.save(self.out / "judge.npy", drawn.windows.numpy())
        found = self.out / "judged.json"
        peer("judge", self.reference, self.out / "judge.npy", found, *files)
        return json.loads(found.read_text(encoding="utf-8"))

    def _reference(self) -> Path:
        folder = self.out / "float32"
        if not folder.is_dir():
            export(
                self.model,
                self._even(KEPT),
                folder,
                self.tokenizer,
                None,
                GGUF(kept="float32"),
            )
        return folder / FILE

    def _importance(self) -> Path:
        """Second moments of each matrix's inputs, under llama.cpp's names."""
        file, settings = self.out / "imatrix.npz", Settings.of(self.model)
        if not file.is_file():
            found = {
                settings.tensor_name(f"{name}.weight"): (own.square_sum / own.tokens).numpy()
                for block in stream(self.model, self.calibration, NORMS)
                for name, own in block.matrices.items()
                if own.square_sum is not None
            }
            np.savez(file, **found)
        return file

    def _file(self, name: str, plan: Any) -> Path:
        folder = self.out / name
        if not (folder / FILE).is_file():
            folder.mkdir(exist_ok=True)
            self.tokenizer.save_pretrained(folder)
            made = replace(plan(), quantizer=self.packer)
            made.save(folder / "plan.json")
            GGUF()(self.model, self._packed(made), made, folder)
        return folder / FILE

    def _packed(self, plan: Plan) -> Iterator[tuple[str, Any]]:
        """What is stored of each matrix. Of the quantizer that scored, the bank has it already:
        every (matrix, type) was made once.
        """
        if self.packer != self.text:
            model, _ = lwq.load(self.name)
            yield from packed(model, plan, self.calibration)
            return
        bank = lwq.Bank(self.model, self.quantizer, self.calibration, Store())
        bank.prepare([plan])
        yield from ((name, bank.made(name, plan.bits[name])) for name in self.layout.units)
        bank.release()

    def _plan(self, size: int) -> Plan:
        even = self._even(self.options[0])
        beyond = GGUF().size(self.model, even, self.reference.parent).total
        beyond -= even.size(self.quantizer).total_bytes
        scores = self._scores()
        return lwq.allocate(
            scores,
            self.model,
            self.options,
            self.quantizer,
            "knapsack",
            max_bytes=size - beyond,
        )

    def _scores(self) -> Any:
        file = self.out / f"{label(self.text)}-costs.json"
        if not file.is_file():
            scorer = FisherKL(self.text, self.options, windows=16, outside=True)
            lwq.score(self.model, scorer, self.calibration, "c4").save(file)
        return lwq.Costs.load(file)

    def _even(self, option: Any) -> Plan:
        return Plan(dict.fromkeys(self.layout.units, option), self.layout, self.text)


def label(quantizer: str) -> str:
    """Its text, as the name of a folder."""
    return "".join(c if c.isalnum() else "-" for c in quantizer)


def peer(*arguments: Any) -> None:
    """Run llama.cpp in its environment."""
    environment("llama_cpp")
    command = [
        ENVIRONMENTS / "llama_cpp" / "bin" / "python",
        HERE / "peers" / "with_llama_cpp.py",
        *map(str, arguments),
    ]
    subprocess.run(command, check=True, env={**os.environ, "LIBLLAMA": str(library())})


def library() -> Path:
    """The folder of libllama, fetched by npm where LIBLLAMA does not name one."""
    if named := os.environ.get("LIBLLAMA"):
        return Path(named)
    folder = ENVIRONMENTS / "llama_cpp" / "npm"
    if not folder.is_dir():
        work = folder.with_suffix(".part")
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        subprocess.run(["npm", "pack", "--silent", PACKAGE], cwd=work, check=True)
        shutil.unpack_archive(next(work.glob("*.tgz")), work)
        work.rename(folder)
    return folder / "package" / "bins" / "linux-x64"


def record(name: str, judged: dict[str, Any], documents: np.ndarray) -> None:
    """llama.cpp's own mixes of one model, into the table that the report reads."""
    rows = []
    for path, found in judged.items():
        mix, _, weighed = Path(path).stem.removeprefix(OWN).partition("-")
        if Path(path).stem.startswith(OWN):
            value, low, high = paired(_first, Sample(np.array(found["kl"]), documents))
            ends = [found["bytes"], value, low, high, len(documents), "llama.cpp"]
            rows.append([name, mix, bool(weighed), *ends])
    results = HERE.parent / "results"
    before = llama.read(results)
    frame = pd.DataFrame(rows, columns=list(llama.COLUMNS))
    whole = pd.concat([before[before["model"] != name], frame])
    whole.to_csv(results / llama.FILE, index=False, lineterminator="\n")


def table(judged: dict[str, Any], documents: np.ndarray) -> str:
    """One line a file; a planned one with its KL minus that of llama.cpp's own mixes."""
    kl = {path: Sample(np.array(found["kl"]), documents) for path, found in judged.items()}
    rows = []
    for path, found in judged.items():
        place = Path(path)
        label = place.parent.name if place.name == FILE else place.stem
        row = {
            "file": label,
            "MB": found["bytes"] / 1e6,
            "KL": kl[path].mean(),
            "perplexity": float(np.exp(np.mean(found["nll"]))),
            "top-1": float(np.mean(found["same"])),
            "tokens/s": found["tokens_a_second"],
        }
        for other, against in (("plain", ".gguf"), ("imatrix", "-imatrix.gguf")):
            mix = label.rpartition("-")[2]
            rival = place.parents[1] / f"{OWN}{mix}{against}"
            if place.name == FILE and str(rival) in kl:
                gap = paired(_first, kl[path] - kl[str(rival)])
                row[f"− {other}"] = f"{gap.value:+.4f} ({gap.low:+.4f} to {gap.high:+.4f})"
        rows.append(row)
    return pd.DataFrame(rows).fillna("").to_string(index=False, float_format="%.4f")


def _first(means: np.ndarray) -> np.ndarray:
    return means[0]


if __name__ == "__main__":
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    typer.run(main)
