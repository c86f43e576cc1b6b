"""What commands print: tables on standard output."""

import textwrap
from typing import TYPE_CHECKING, Any

from lwq.common import strips
from lwq.common.markup import plain
from lwq.common.sizes import readable

if TYPE_CHECKING:
    from rich.console import JustifyMethod

    from lwq.contracts import Layout, Plan, Size
    from lwq.contracts.methods import Quantizer
    from lwq.inputs.texts import Drawn
    from lwq.recipes.check import Checked
    from lwq.recipes.compressed import Compressed


NAME = 40  # cells of a first column that is not folded
INTERVAL = ("95 % low", "95 % high")


def show(title: str, columns: list[str], rows: list[list[Any]]) -> None:
    """A table on standard output as wide as the terminal, 80 columns where there is none; numbers
    to the right, long texts on several lines. All texts are shown as they are: rich would read
    `[bold]` in a name as markup.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(plain(title)), title_justify="left")
    texts = [[plain(_shown(cell)) for cell in row] for row in rows]
    for index, column in enumerate(columns):
        numeric = bool(rows) and isinstance(rows[0][index], int | float)
        longest = max((len(row[index]) for row in texts), default=0)
        whole = numeric or (index == 0 and longest <= NAME)
        justify: JustifyMethod = "right" if numeric else "left"
        table.add_column(
            Text(plain(column)),
            justify=justify,
            overflow="fold",
            min_width=longest if whole else None,
        )
    for row in texts:
        table.add_row(*map(Text, row))
    Console().print(table)


def _shown(cell: Any) -> str:
    if isinstance(cell, float):
        return f"{cell:,.4g}"
    return f"{cell:,}" if type(cell) is int else str(cell)


def show_scores(title: str, scores: Any) -> None:
    """Importance of each unit, or its harm at its widths, three at most; and its place in the order
    of moves.
    """
    from lwq.contracts import Costs

    place = {unit: rank for rank, unit in enumerate(scores.order(), start=1)}
    if isinstance(scores, Costs):
        every = list(next(iter(scores.values())))
        widths = every if len(every) < 4 else [every[0], every[len(every) // 2], every[-1]]
        if len(widths) < len(every):
            title += f"; the file holds {len(every)} widths"
        columns = [f"harm at {width}" for width in widths]
        rows = [[unit, *(scores[unit][w] for w in widths), place[unit]] for unit in scores]
    else:
        columns = ["importance", "standard error"]
        rows = [[unit, scores[unit], scores.stderr.get(unit, ""), place[unit]] for unit in scores]
    show(title, ["unit", *columns, "moved as number"], rows)


def show_plan(plan: "Plan", packer: "Quantizer") -> None:
    """The strip of a plan, how many units have which option, and its size beside uniform bits."""
    print(strip(plan, packer))
    print(f"units: {strips.counted(plan.bits.values())}")
    show_size(plan, packer)


def show_compressed(made: "Compressed") -> None:
    """What was decided, what it lost beside uniform bits, and where it is."""
    from lwq.common.names import rebuild
    from lwq.quantizers import QUANTIZERS
    from lwq.recipes.compressed import text

    print(strip(made.plan, rebuild(QUANTIZERS, "quantizer", made.plan.quantizer)))
    if guard := made.plan.provenance.get("guard"):
        show_guard(guard)
    rows = [
        [
            line.name,
            f"{line.megabytes:,.2f}",
            f"{line.perplexity.value:.4g}",
            text(line.kl, ".3g"),
            "" if line.beyond_plan is None else text(line.beyond_plan, "+.2g"),
        ]
        for line in made.lines
    ]
    show("with 95 % intervals", ["", "MB", "perplexity", "KL", "KL beyond the plan's"], rows)
    print(f"judged on {made.judge}. {made.advice}")
    print(
        f"written to {made.folder}: {readable(made.file_bytes)} in files of weights, their headers "
        "(and, in a GGUF, the vocabulary) beside the tensors; README.md there says how it was "
        "made. To load it:\n"
    )
    print(textwrap.indent(made.loading, "    "))
    print(f"\nThe same with yours: lwq compress FOLDER --size … --target {made.target} --out DIR")


def show_checked(found: "Checked") -> None:
    """What was found of a model, line by line, and what uniform plans of it weigh."""
    for line in found.lines():
        print(line)
    table = found.table
    show(
        "bytes of uniform plans, under every convention",
        table.columns.tolist(),
        table.to_numpy().tolist(),
    )


def show_guard(found: dict[str, Any]) -> None:
    """What the guard of a recipe found, in a sentence."""
    if "why" in found:
        print(f"guard: {found['why']}")
        return
    print(
        f"guard: the {found['kept']} plan is kept. Mixed minus uniform: "
        f"{found['difference']:+.4g} nats of KL a token after {found['tokens']:,} tokens "
        f"(e-value {found['evidence']:.3g}, 20 decides); "
        f"{readable(found['mixed_bytes'])} against {readable(found['uniform_bytes'])}"
    )


def strip(plan: "Plan", packer: "Quantizer") -> str:
    """One digit a block in the order of the forward pass: nominal bits a weight, rounded; "." is a
    block that is dropped and "#" one at 16 bits. Embeddings and head stand behind.
    """
    from lwq.contracts import nominal_bits

    layout = plan.layout
    weights = dict.fromkeys(map(layout.block_of, plan.bits), 0)
    bits = dict.fromkeys(weights, 0.0)
    for unit, option in plan.bits.items():
        weights[layout.block_of(unit)] += layout.weights(unit)
        bits[layout.block_of(unit)] += nominal_bits(option, packer) * layout.weights(unit)
    places = [place for place in bits if place not in layout.outside]
    rows = strips.digits(bits[place] / max(weights[place], 1) for place in places)
    beyond = [
        f"{unit.rpartition('.')[2]}: {option} bits"
        for unit, option in plan.bits.items()
        if unit in layout.outside
    ]
    first = "blocks, first to last: "
    indent = "\n" + " " * len(first)
    return "\n".join([first + indent.join(rows), *beyond])


def show_size(plan: "Plan", packer: "Quantizer") -> None:
    """Every convention side by side, average bits never alone; and uniform bits around it."""
    size = plan.size(packer)
    total = size.total_bytes
    uniform = _uniform(plan.layout, packer, total)
    sizes = {"plan": size, **uniform}
    lines = {
        "nominal bits, mean of layers": "layer_bits",
        "nominal bits": "avg_bits",
        "true bits": "true_bits",
        "bits of the whole model": "model_bits",
    }
    rows = [[what, *(getattr(one, key) for one in sizes.values())] for what, key in lines.items()]
    for what, key in (("plan", "plan_bytes"), ("whole model", "total_bytes")):
        rows.append([what, *(readable(getattr(one, key)) for one in sizes.values())])
    show("size", ["", *sizes], rows)
    told = "uniform bits of the same bytes stand between the last two columns"
    if len(set(plan.bits.values())) == 1:
        told = "uniform bits"
    if not uniform:
        told = "no width suits every matrix, so that no uniform bits stand beside it"
    print(f"{readable(total)} ({total:,} bytes); {told}")


def _uniform(layout: "Layout", packer: "Quantizer", total: int) -> dict[str, "Size"]:
    """Uniform bits on either side of so many bytes; none where they do not suit every matrix."""
    from lwq.allocators import adjacent
    from lwq.common.errors import InputError
    from lwq.contracts import Size

    try:
        return {
            f"all {width}": Size.of(layout, dict.fromkeys(layout.units, width), packer)
            for width in adjacent(layout, packer, "max_bytes", total)
        }
    except InputError:
        return {}


def show_answers(title: str, found: Any) -> None:
    """Accuracy on each task, with Wilson's interval over items: of a few that are all wrong a
    bootstrap makes one of no width.
    """
    from scipy.stats import binomtest

    rows: list[list[Any]] = []
    for name, score in found.items():
        right = binomtest(int(score.correct.sum()), len(score.correct))
        interval = right.proportion_ci(method="wilson")
        rows.append([name, right.statistic, interval.low, interval.high, score.chance])
    show(title, ["task", "accuracy", *INTERVAL, "chance"], rows)


def show_losses(title: str, model: Any, judging: "Drawn", truth: Any) -> None:
    """Evaluate `model` and show what it loses, beside the reference `truth` where there is one,
    with intervals over documents.
    """
    from lwq.engine.evaluate import evaluate
    from lwq.report import bootstrap

    losses = evaluate(model, judging.windows, truth, documents=judging.documents)
    found = bootstrap.samples(losses)
    rows = [["perplexity", *bootstrap.perplexity(found["nll"])]]
    if truth is not None:
        before = bootstrap.samples(truth.losses)["nll"]
        rows.append(["retained quality", *bootstrap.retained(before, found["nll"])])
        rows.append(["KL (nats/token)", *bootstrap.mean(found["kl"])])
        rows.append(["top-1 agreement", *bootstrap.mean(found["top1"])])
    show(title, ["metric", "value", *INTERVAL], rows)
    if said := bootstrap.remark(losses.documents):
        print(said)
