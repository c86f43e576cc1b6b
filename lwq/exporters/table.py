"""The page "what loads where", from what the exporters themselves hold and refuse.

`python -m lwq.exporters.table docs/formats.md` writes it.
"""

import sys
from pathlib import Path
from typing import Any

from lwq.common.errors import InputError
from lwq.common.names import rebuild
from lwq.contracts import DROPPED, Layout, Option, Plan
from lwq.exporters import EXPORTERS, named
from lwq.quantizers import QUANTIZERS

BLOCK = "model.layers.0"
SHAPE = (1024, 1024)
VARIANTS = {  # formats that hold less for one of their readers
    "compressed-tensors": ("compressed-tensors(target='vllm')",),
    "gptq": ("gptq(target='vllm')",),
    "auto-round": ("auto-round(target='vllm')",),
}
HEADER = """# What loads where

Made by `python -m lwq.exporters.table docs/formats.md` from what the exporters hold and refuse; a
test compares the two. `lwq.exporters.nearest(plan, format)` makes of any plan the nearest one that
a format holds, and `lwq.exporters.targets.budget` plans within one from the start.

| format | written for | bits, symmetric | bits, asymmetric | zeros that are numbers (hqq) | groups | ggml's types | embeddings, head | drops blocks | outliers, masks | q, k, v and gate, up alike |
|---|---|---|---|---|---|---|---|---|---|---|
"""  # noqa: E501


def page() -> str:
    """The whole page, Markdown."""
    formats = [spelled for name in EXPORTERS for spelled in (name, *VARIANTS.get(name, ()))]
    return HEADER + "".join(f"| {' | '.join(row(format))} |\n" for format in formats)


def row(format: str) -> list[str]:
    """The cells of one line."""
    grids = ["rtn(group_size=64, sym=True)", "rtn(group_size=64)", "hqq(group_size=64)"]
    symmetric, asymmetric, numbers = (
        [bits for bits in (2, 3, 4, 5, 6, 7, 8) if holds(format, quantizer, bits)]
        for quantizer in grids
    )
    return [
        f"`{format}`",
        named(format).says,
        *(_listed(widths) for widths in (symmetric, asymmetric, numbers)),
        _listed(_groups(format)),
        _said(holds(format, "ggml", 4)),
        _said(any(holds(format, own, 4, outside=4) for own in ("rtn(group_size=64)", "ggml"))),
        _said(holds(format, "rtn(group_size=64)", DROPPED)),
        _said(holds(format, "owq", 3.1) and holds(format, "magnitude", 4.2)),
        "must be" if named(format).groups(_layout("matrix")) else "need not",
    ]


def holds(format: str, quantizer: str, option: Option, outside: Option | None = None) -> bool:
    """Whether the exporter takes a plan of one block with `option` (and an embedding with
    `outside`).
    """
    layout = _layout("block", outside is not None)
    bits = {BLOCK: option} | ({} if outside is None else {"model.embed_tokens": outside})
    strategy: Any = rebuild(QUANTIZERS, "quantizer", quantizer)
    if option not in (DROPPED, *strategy.levels):
        return False
    try:
        named(format).require(Plan(bits, layout, quantizer), strategy)
        return True
    except InputError:
        return False


def _groups(format: str) -> list[int]:
    """Group sizes that some width of it has."""
    return [
        size
        for size in (-1, 16, 32, 64, 128, 256)
        if any(
            holds(format, f"rtn(group_size={size}, sym={symmetric})", bits)
            for bits in (4, 8)
            for symmetric in (True, False)
        )
    ]


def _layout(granularity: str, outside: bool = False) -> Layout:
    parts = ("q_proj", "k_proj", "v_proj", "o_proj")
    matrices = {f"{BLOCK}.self_attn.{part}": SHAPE for part in parts}
    units: dict[str, dict[str, tuple[int, int]]] = (
        {BLOCK: matrices}
        if granularity == "block"
        else {name: {name: shape} for name, shape in matrices.items()}
    )
    if outside:
        units["model.embed_tokens"] = {"model.embed_tokens": SHAPE}
    return Layout("any", "", granularity, units, {BLOCK: 2048, "": 1024})


def _listed(found: list[int]) -> str:
    return ", ".join("a row" if one == -1 else str(one) for one in found) or "–"


def _said(held: bool) -> str:
    return "yes" if held else "no"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page(), encoding="utf-8")
