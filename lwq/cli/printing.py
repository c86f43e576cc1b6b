"""What commands print: tables on standard output."""

from typing import Any


def show(title: str, columns: list[str], rows: list[list[Any]]) -> None:
    """A table on standard output; numbers to the right."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        numeric = bool(rows) and isinstance(rows[0][index], int | float)
        table.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(
            *(
                f"{cell:,.4g}"
                if isinstance(cell, float)
                else f"{cell:,}"
                if type(cell) is int
                else str(cell)
                for cell in row
            )
        )
    console = Console()
    console.print(table) if console.is_terminal else Console(width=160).print(table)


def show_scores(title: str, scores: Any) -> None:
    """Importance of each unit, or its harm at each width; and its place in the order of moves."""
    from lwq.contracts import Costs

    place = {unit: rank for rank, unit in enumerate(scores.order(), start=1)}
    if isinstance(scores, Costs):
        widths = sorted(next(iter(scores.values())), reverse=True)
        columns = [f"harm at {width}" for width in widths]
        rows = [[unit, *(scores[unit][w] for w in widths), place[unit]] for unit in scores]
    else:
        columns = ["importance", "standard error"]
        rows = [[unit, scores[unit], scores.stderr.get(unit, ""), place[unit]] for unit in scores]
    show(title, ["unit", *columns, "moved as number"], rows)


def show_size(size: Any) -> None:
    """Every convention side by side: average bits are never printed alone."""
    show(
        "size",
        [
            "nominal bits, mean of layers",
            "nominal bits",
            "true bits",
            "bits of the whole model",
            "plan bytes",
            "model bytes",
        ],
        [
            [
                size.layer_bits,
                size.avg_bits,
                size.true_bits,
                size.model_bits,
                size.plan_bytes,
                size.total_bytes,
            ]
        ],
    )


def show_answers(title: str, found: Any) -> None:
    """Accuracy on each task, with its interval over items."""
    from lwq.report import intervals

    rows = [[name, *intervals.mean(score.correct), score.chance] for name, score in found.items()]
    show(title, ["task", "accuracy", "low", "high", "chance"], rows)


def show_losses(title: str, model: Any, judging: Any, truth: Any) -> None:
    """Evaluate `model` and show what it loses, beside the reference `truth` where there is one,
    with intervals over windows.
    """
    import numpy as np

    from lwq.engine.evaluate import evaluate
    from lwq.report import intervals

    losses = evaluate(model, judging, truth)
    rows = [["perplexity", *intervals.paired(lambda v, axis: np.exp(v.mean(axis)), losses.nll)]]
    if truth is not None and losses.kl is not None and losses.top1 is not None:
        rows.append(["retained quality", *intervals.retained(truth.losses.nll, losses.nll)])
        rows.append(["KL (nats/token)", *intervals.mean(losses.kl)])
        rows.append(["top-1 agreement", *intervals.mean(losses.top1)])
    show(title, ["metric", "value", "low", "high"], rows)
