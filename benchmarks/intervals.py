"""Do intervals hold? python benchmarks/intervals.py [--measure]

One model judged on two draws of windows that share no document: the difference of what the two say
is 0 in truth, and a 95 % interval of it should hold 0 in 95 of 100 pairs. With --measure the losses
of the windows are measured first, of models that benchmarks/intervals.csv lacks (minutes each); the
table goes to docs/intervals.md.
"""

from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import typer
from torch import nn

import lwq
from lwq import models
from lwq.contracts import Plan
from lwq.inputs import texts
from lwq.inputs.texts import Drawn
from lwq.report import bootstrap
from lwq.report.bootstrap import Interval, Sample

HERE = Path(__file__).parent
MEASURED = HERE / "intervals.csv"
PAGE = HERE.parent / "docs" / "intervals.md"
MODELS = ("smollm2-135m", "gemma3-270m", "qwen2.5-coder-0.5b")
TEXTS = ("wiki", "c4")
LENGTH = 64  # tokens a window
SIZES = (16, 32)  # windows a draw
POOL = 96  # windows that are measured, of each text
PAIRS = 2000
OLD = ("smollm2-135m", "wiki", 16, 30)  # model, text, windows and pairs of consecutive draws
QUANTIZER, BITS = "rtn()", 4
COLUMNS = ["model", "text", "way", "draw"]  # and document, nll, rounded
BY_DOCUMENT, CONSECUTIVE = "by document", "consecutive"
Statistic = Callable[[np.ndarray], np.ndarray]
TEXT = """<!-- written by `python benchmarks/intervals.py` -->
# Do the intervals hold?

One model, judged twice, on two draws of windows that share no document. In truth nothing differs,
so a 95 % interval of the difference should hold 0 in about 95 of 100 pairs of draws. The last two
columns say in how many of 100 it does.

{table}

- **Drawn by document** is how windows are drawn (`lwq.inputs.texts.draw`): each document gives one
  window, here of {length} tokens, its beginning, and short ones are joined. {pool} windows of each
  judging split were measured once. A pair of draws takes the first of them in a random order, and
  the next as many. So the two of a pair share no document, and the variance of their difference is
  what it is for two draws out of an endless text; the pairs among themselves share documents.
- **Consecutive** is how windows were drawn before: cuts that follow each other through the
  documents, in the orders of seeds 0 to {last}, two a pair, each drawn and measured on its own.
- **Over windows, as before**: percentiles of a bootstrap that takes each window for a document.
- **Over documents**: what every interval of lwq is (`lwq.report.bootstrap`). Documents are drawn
  with all of their windows, and the percentiles lie further out where there are few of them, as
  Student's t does (Hesterberg, arXiv:1411.5279, the expanded percentile interval): plain ones of 16
  values are too narrow by a tenth.
- The difference of two draws has an interval made of the two (`lwq.report.bootstrap.between`).
- *Kept at 4 bits* is retained quality: the perplexity of the untouched model over that with all
  blocks rounded to 4 bits (`rtn`, groups of 64), a paired number, as those of the report are.

Arithmetic: bfloat16. Measured: `benchmarks/intervals.csv`.
"""


def main(
    measure: Annotated[bool, typer.Option(help="measure models that have no losses yet")] = False,
) -> None:
    """Write docs/intervals.md."""
    if measure:
        known = pd.read_csv(MEASURED) if MEASURED.is_file() else pd.DataFrame(columns=["model"])
        for name in set(MODELS) - set(known["model"]):
            known = pd.concat([known, losses_of(name)])
            known.to_csv(MEASURED, index=False)
    PAGE.write_text(page(table(pd.read_csv(MEASURED))), encoding="utf-8")


def losses_of(name: str) -> pd.DataFrame:
    """Mean NLL of each window, of the untouched model and of the rounded one."""
    tokenizer = lwq.load(name)[1]
    drawn = {(text, BY_DOCUMENT, 0): apart(text, tokenizer) for text in TEXTS}
    if name == OLD[0]:
        drawn |= {
            (OLD[1], CONSECUTIVE, seed): texts.consecutive(
                OLD[1], tokenizer, OLD[2], LENGTH, "judge", seed
            )
            for seed in range(2 * OLD[3])
        }
    model = lwq.load(name, dtype="bfloat16")[0]
    nll = {place: nll_of(model, found) for place, found in drawn.items()}
    layout = models.layout(model)
    lwq.quantize_(model, Plan(dict.fromkeys(layout.units, BITS), layout, QUANTIZER))
    rounded = {
        place: nll_of(model, found) for place, found in drawn.items() if place[1] == BY_DOCUMENT
    }
    return pd.concat(
        pd.DataFrame(
            {
                **dict(zip(COLUMNS, (name, *place), strict=True)),
                "document": found.documents,
                "nll": nll[place],
                "rounded": rounded.get(place, np.nan),
            }
        )
        for place, found in drawn.items()
    )


def nll_of(model: nn.Module, drawn: Drawn) -> np.ndarray:
    """Nats a token, one mean a window (n,)."""
    return lwq.evaluate(model, drawn.windows).nll.round(6)


def apart(text: str, tokenizer: Any) -> Drawn:
    """Windows of a judging split that share no document."""
    drawn = texts.draw(text, tokenizer, POOL, LENGTH, "judge", 0)
    assert len(np.unique(drawn.documents)) == POOL
    return drawn


@lru_cache
def _shares(windows: int) -> np.ndarray:
    """The share of each window in each of 9,999 draws (draws, windows)."""
    chosen = np.random.default_rng(0).integers(windows, size=(9999, windows))
    return np.stack([np.bincount(row, minlength=windows) for row in chosen]) / windows


def _plain(statistic: Statistic, *samples: Sample) -> Interval:
    """As intervals were before: percentiles of a bootstrap over windows."""
    values = np.stack([sample.values for sample in samples])
    drawn = statistic(values @ _shares(values.shape[1]).T)
    value = float(statistic(values.mean(1)[:, None])[0])
    return Interval(value, *map(float, np.quantile(drawn, [0.025, 0.975])))


# what is compared -> the losses that it is made of, and how
COMPARED: dict[str, tuple[tuple[str, ...], Statistic]] = {
    "perplexity": (("nll",), lambda means: np.exp(means[0])),
    "kept at 4 bits": (("nll", "rounded"), lambda means: np.exp(means[0] - means[1])),
}
INTERVALS = {"over windows, as before": _plain, "over documents": bootstrap.paired}


def table(measured: pd.DataFrame) -> pd.DataFrame:
    """In how many of how many pairs of draws an interval of the difference holds 0."""
    found = []
    for (model, text, way), pool in measured.groupby(["model", "text", "way"], sort=False):
        for size in SIZES if way == BY_DOCUMENT else OLD[2:3]:
            pairs = list(_in_turn(pool) if way == CONSECUTIVE else _at_random(pool, size))
            line = {"model": model, "text": text, "windows": size, "drawn": way}
            for what, (names, statistic) in COMPARED.items():
                if not pool[list(names)].isna().any(axis=None):
                    held = {
                        kind: sum(_holds(interval, statistic, names, *pair) for pair in pairs)
                        for kind, interval in INTERVALS.items()
                    }
                    found.append({**line, "of": what, "pairs": len(pairs), **held})
    return pd.DataFrame(found)


def _at_random(pool: pd.DataFrame, size: int) -> Iterator[tuple[pd.DataFrame, pd.DataFrame]]:
    """Pairs of draws out of all windows; the two of a pair share no window, and so no document."""
    for seed in range(PAIRS):
        order = np.random.default_rng(seed).permutation(len(pool))
        yield pool.iloc[order[:size]], pool.iloc[order[size : 2 * size]]


def _in_turn(pool: pd.DataFrame) -> Iterator[tuple[pd.DataFrame, pd.DataFrame]]:
    """Draws as they were made, two by two."""
    draws = [part for _, part in pool.groupby("draw")]
    yield from zip(draws[::2], draws[1::2], strict=True)


def _holds(
    interval: Any, statistic: Statistic, names: tuple[str, ...], *draws: pd.DataFrame
) -> bool:
    first, second = (
        interval(
            statistic,
            *(Sample(rows[name].to_numpy(), rows["document"].to_numpy()) for name in names),
        )
        for rows in draws
    )
    gap = bootstrap.between(first, second)
    return gap.low <= 0 <= gap.high


def page(found: pd.DataFrame) -> str:
    """The page, in Markdown."""
    shares = found.assign(
        **{name: (100 * found[name] / found["pairs"]).map("{:.0f}".format) for name in INTERVALS}
    )
    lines = [[*shares], ["---"] * shares.shape[1], *shares.astype(str).to_numpy().tolist()]
    return TEXT.format(
        table="\n".join(f"| {' | '.join(line)} |" for line in lines),
        length=LENGTH,
        pool=POOL,
        last=2 * OLD[3] - 1,
    )


if __name__ == "__main__":
    typer.run(main)
