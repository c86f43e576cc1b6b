"""Side by side with peers, in one run: python benchmarks/run.py [--only NAME] [--repeat 5].

Each repetition starts every contestant of a comparison in a process of its own, one after the
other, so that a machine that slows down slows them all. Each peer has a virtual environment, made
here. What is measured goes to benchmarks/measured.csv as it comes (a second run goes on from
there), and benchmarks/table.md is written from it.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import typer
from tqdm import tqdm

import lwq
from lwq.common import paths
from lwq.inputs import assets

HERE = Path(__file__).resolve().parent
MEASURED, TABLE = HERE / "measured.csv", HERE / "table.md"
ENVIRONMENTS = HERE.parent / ".venv-bench"
MODEL = "smollm2-135m"
JUDGE, CALIBRATE = (8, 128), (8, 512)

# comparison -> contestants: (who, file, arguments)
COMPARISONS = {
    "sweep": [("lwq", "cases.py", "sweep"), ("quanto", "with_quanto.py", "loop")],
    "scan": [("lwq", "cases.py", "scan")],
    "rtn": [
        ("lwq", "cases.py", "rtn"),
        ("quanto", "with_quanto.py", "quantize"),
        ("hqq", "with_hqq.py", "quantize"),
        ("autoround", "with_autoround.py", "quantize"),
    ],
    "gptq": [("lwq", "cases.py", "gptq"), ("gptqmodel", "with_gptqmodel.py", "quantize")],
    "growth": [("lwq", "cases.py", "growth")],
    "memory": [
        ("lwq", "memory.py", work)
        for work in ("nothing", "statistics in memory", "statistics streamed")
    ],
    "large": [("lwq", "memory.py", work) for work in ("quantize 28 blocks", "quantize 56 blocks")],
}
ONCE = {"memory", "large"}  # minutes each, and a peak hardly varies

# measure, comparison, numerator, denominator, what must be reached
RATIOS = [
    (
        "nested sweep, a plan / a full forward with the same losses",
        "sweep",
        "lwq: a plan",
        "lwq: a full forward",
        "≤ 0.72",
    ),
    (
        "nested sweep with quantizing, a plan / the optimum-quanto loop",
        "sweep",
        "lwq: a plan, all",
        "quanto: a plan",
        "≤ 0.5",
    ),
    (
        "one-block scan, a plan / a full forward",
        "scan",
        "lwq: a plan",
        "lwq: a full forward",
        "≤ 0.72",
    ),
    ("rtn 4 bits / optimum-quanto qint4", "rtn", "lwq: rtn", "quanto: quantize and pack", "≤ 1.0"),
    ("hqq 4 bits / hqq", "rtn", "lwq: hqq", "hqq: quantize and pack", ""),
    (
        "rtn 4 bits / auto-round without tuning",
        "rtn",
        "lwq: rtn",
        "autoround: quantize and pack",
        "",
    ),
    ("gptq 4 bits / GPTQModel", "gptq", "lwq: quantize", "gptqmodel: quantize", "≤ 0.7"),
    (
        "gptq with full-precision inputs / GPTQModel",
        "gptq",
        "lwq: quantize, full-precision inputs",
        "gptqmodel: quantize",
        "",
    ),
    *(
        (
            f"{kind}, seconds a plan: {2 * n} blocks / {n}",
            "growth",
            f"lwq: {kind}, {2 * n} blocks",
            f"lwq: {kind}, {n} blocks",
            "≤ 2.2",
        )
        for kind in ("sweep", "scan")
        for n in (4, 8, 16)
    ),
    *(
        (
            f"allocation by {kind}: {10 * n:,} units / {n:,}",
            "growth",
            f"lwq: {kind}, {10 * n} units",
            f"lwq: {kind}, {n} units",
            "",
        )
        for kind in ("topk", "levels")
        for n in (100, 1_000, 10_000)
    ),
    (
        "peak memory, all statistics: streamed / in memory",
        "memory",
        "lwq: statistics streamed, bytes",
        "lwq: statistics in memory, bytes",
        "",
    ),
    (
        "peak memory, quantizing streamed: 56 blocks / 28",
        "large",
        "lwq: quantize 56 blocks, bytes",
        "lwq: quantize 28 blocks, bytes",
        "0.9 to 1.1",
    ),
]
PIP_ARGS = os.environ.get("PIP_ARGS", "").split()


def main(
    only: Annotated[
        list[str], typer.Option(help=f"one of {list(COMPARISONS)}; several are allowed")
    ] = [],  # noqa: B006
    repeat: Annotated[int, typer.Option(help="repetitions")] = 5,
    afresh: Annotated[bool, typer.Option(help="forget what was measured before")] = False,
) -> None:
    """Compare lwq with its peers."""
    if afresh:
        MEASURED.unlink(missing_ok=True)
    chosen = only or list(COMPARISONS)
    for peer in {who for name in chosen for who, *_ in COMPARISONS[name]} - {"lwq"}:
        environment(peer)
    data, model = windows(), assets.fetch(MODEL)
    todo = [
        (name, repetition, *contestant)
        for name in chosen
        for repetition in range(1 if name in ONCE else repeat)
        for contestant in COMPARISONS[name]
    ]
    for name, repetition, who, file, argument in tqdm(todo, desc="benchmarks"):
        if not known(name, repetition, who, argument):
            keep(name, repetition, who, argument, measure(who, file, argument, model, data))
    TABLE.write_text(table(), encoding="utf-8")
    print(TABLE.read_text(encoding="utf-8"))


def environment(peer: str) -> None:
    """Make the peer's virtual environment, with the versions of peers/PEER.txt."""
    folder, wanted = ENVIRONMENTS / peer, HERE / "peers" / f"{peer}.txt"
    stamp = folder / "stamp"
    if stamp.is_file() and stamp.read_text() == wanted.read_text():
        return
    print(f"making the environment of {peer} ...", flush=True)
    subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
    subprocess.run(
        [folder / "bin" / "python", "-m", "pip", "install", "--quiet", *PIP_ARGS, "-r", wanted],
        check=True,
    )
    stamp.write_text(wanted.read_text())


def windows() -> Path:
    """The folder with the token windows that all contestants read."""
    folder = paths.writable(paths.cache() / "benchmarks" / "windows")
    _, tokenizer = lwq.load(MODEL)
    np.save(folder / "judge.npy", lwq.windows("wiki", tokenizer, *JUDGE, split="judge").numpy())
    np.save(folder / "calibrate.npy", lwq.windows("c4", tokenizer, *CALIBRATE).numpy())
    return folder


def measure(who: str, file: str, argument: str, model: Path, data: Path) -> dict[str, float]:
    """What the contestant prints last, as JSON: label -> seconds or bytes."""
    if who == "lwq":
        command = [sys.executable, HERE / file, argument, data]
    else:
        command = [
            ENVIRONMENTS / who / "bin" / "python",
            HERE / "peers" / file,
            argument,
            model,
            data,
        ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=HERE)
    if done.returncode:
        sys.exit(f"{who} {argument} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def known(name: str, repetition: int, who: str, argument: str) -> bool:
    """Whether this was measured before."""
    if not MEASURED.is_file():
        return False
    rows = pd.read_csv(MEASURED)
    same = (
        (rows["comparison"] == name)
        & (rows["repetition"] == repetition)
        & (rows["who"] == who)
        & (rows["case"] == argument)
    )
    return bool(same.any())


def keep(name: str, repetition: int, who: str, argument: str, found: dict[str, float]) -> None:
    """Append to measured.csv."""
    rows = [
        {
            "comparison": name,
            "repetition": repetition,
            "who": who,
            "case": argument,
            "label": label,
            "value": value,
        }
        for label, value in found.items()
    ]
    pd.DataFrame(rows).to_csv(MEASURED, mode="a", header=not MEASURED.is_file(), index=False)


def table() -> str:
    """Ratios with their spread over repetitions, then every figure."""
    rows = pd.read_csv(MEASURED)
    rows["label"] = rows["who"] + ": " + rows["label"]
    wide = rows.pivot_table(index=["comparison", "repetition"], columns="label", values="value")
    lines = [
        "| measure | median ratio | lowest to highest | runs | must reach |",
        "|---|---|---|---|---|",
    ]
    for measure_, comparison, above, below, reach in RATIOS:
        if comparison not in wide.index or not {above, below} <= set(wide.columns):
            continue
        ratio = (wide.loc[comparison, above] / wide.loc[comparison, below]).dropna()
        if len(ratio):
            lines.append(
                f"| {measure_} | {ratio.median():.3f} | {ratio.min():.3f} to {ratio.max():.3f} | "
                f"{len(ratio)} | {reach} |"
            )
    lines += ["", "| figure | median | lowest | highest | runs |", "|---|---|---|---|---|"]
    for (comparison, label), part in rows.groupby(["comparison", "label"])["value"]:
        scale, unit = (1e9, "GB") if label.endswith("bytes") else (1, "s")
        numbers = " | ".join(
            f"{value / scale:.3g} {unit}" for value in (part.median(), part.min(), part.max())
        )
        lines.append(f"| {comparison}, {label.removesuffix(', bytes')} | {numbers} | {len(part)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    typer.run(main)
