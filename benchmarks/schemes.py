"""auto-round's AutoScheme against lwq's recipe: who hands out 2, 4 and 8 bits better?

    python benchmarks/schemes.py [smollm2-135m]

Both see the same documents of c4, choose among 2, 4 and 8 bits in groups of 64 for the matrices of
the blocks, and their plans are rounded to nearest and judged alike: KL to the untouched model and
perplexity on wiki's judge split. AutoScheme comes first; lwq may spend the stored bits that its
plan takes, and no more. A third line lets lwq choose among all of its widths, a fourth is the
uniform plan of most bits within the limit. Seconds are those of choosing, AutoScheme's with its
rounding. Written to schemes.csv and schemes.md.
"""

import json
import subprocess
import time
from collections.abc import Iterator
from typing import Annotated, Any

import pandas as pd
import torch
import typer
from run import ENVIRONMENTS, HERE, environment

import lwq
from lwq import models
from lwq.allocators import within
from lwq.common import paths
from lwq.contracts import Budget, Option, Plan
from lwq.inputs import resolve, texts
from lwq.recipes.recommend import Recipe
from lwq.report.bootstrap import mean, samples

PEER = "autoround"
WIDTHS = (8, 4, 2)
ALL = (8, 7, 6, 5, 4, 3, 2)


def main(
    name: str = "smollm2-135m",
    averages: Annotated[str, typer.Option(help="as auto-round counts them")] = "3.0,3.5,3.875",
    windows: Annotated[int, typer.Option(help="judging windows of 256 tokens")] = 16,
) -> None:
    """Compare plans at equal stored bits."""
    environment(PEER)
    theirs = schemes(name, averages)
    model, tokenizer = lwq.load(name)
    judge = lwq.windows("wiki", tokenizer, n=windows, length=256, split="judge")
    reference = lwq.reference(model, judge)
    plans = list(planned(model, theirs))
    bank = lwq.Bank(model, lwq.QUANTIZERS["rtn"]())
    sweep = lwq.Sweep(model, judge, bank, reference)
    found = {plan.id: losses for plan, losses in sweep.measure(plan for _, _, plan, _ in plans)}
    rows = [
        line(average, who, plan, seconds, found[plan.id]) for average, who, plan, seconds in plans
    ]
    table = pd.DataFrame(rows)
    table.to_csv(HERE / "schemes.csv", index=False)
    text = table.round(3).to_markdown(index=False)
    (HERE / "schemes.md").write_text(f"{name}, rtn, groups of 64\n\n{text}\n", encoding="utf-8")
    print(text)


def schemes(name: str, averages: str) -> dict[str, Any]:
    """What the peer chose: bits (average -> layer -> bits) and seconds (by average); kept."""
    folder = paths.writable(paths.cache() / "benchmarks" / "schemes")
    kept = folder / f"{name}-{averages}.json"
    if not kept.is_file():
        documents = folder / "documents.json"
        drawn = [{"text": one} for one in texts.split_documents("c4", "calibrate")]
        documents.write_text(json.dumps(drawn), encoding="utf-8")
        python, peer = ENVIRONMENTS / PEER / "bin" / "python", HERE / "peers/with_autoscheme.py"
        command = [str(part) for part in (python, peer, averages, resolve.fetch(name), documents)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=folder)
        kept.write_text(done.stdout.strip().splitlines()[-1], encoding="utf-8")
    found: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
    return found


def planned(
    model: torch.nn.Module, theirs: dict[str, Any]
) -> Iterator[tuple[str, str, Plan, float]]:
    """(average, who, plan, seconds that choosing took) at each average."""
    layout, packer = models.layout(model, "matrix"), lwq.QUANTIZERS["rtn"]()
    recipe = Recipe(guard=False)
    drawn, said = recipe.drawn(model, "calibrate", None)
    budget = Budget(layout, ALL, packer, "avg_bits", 8)
    start = time.perf_counter()
    costs = recipe.costs(model, budget, packer, drawn, said)
    priced = time.perf_counter() - start
    for average, bits in theirs["bits"].items():
        chosen = {unit: width for unit, width in bits.items() if unit in layout.units}
        plan = Plan(chosen, layout, "rtn()")
        yield average, "AutoScheme, 8 4 2 bits", plan, theirs["seconds"][average]
        limit = plan.size(packer).true_bits
        for widths in (WIDTHS, ALL):
            own = within(costs, held(layout, packer, widths, limit), "knapsack", quantizer=packer)
            yield average, f"lwq, {' '.join(map(str, widths))} bits", own, priced
        even = max(width for width in ALL if uniform(layout, width).size(packer).true_bits <= limit)
        yield average, f"uniform {even} bits", uniform(layout, even), 0.0


def held(layout: Any, packer: Any, widths: tuple[Option, ...], limit: float) -> Budget:
    """At most `limit` stored bits a weight."""
    return Budget(layout, widths, packer, "true_bits", limit)


def uniform(layout: Any, width: Option) -> Plan:
    """One width everywhere."""
    return Plan(dict.fromkeys(layout.units, width), layout, "rtn()")


def line(average: str, who: str, plan: Plan, seconds: float, losses: Any) -> dict[str, Any]:
    """A line of the table."""
    size = plan.size(lwq.QUANTIZERS["rtn"]())
    kl = mean(samples(losses)["kl"])
    return {
        "average": average,
        "who": who,
        "true bits": size.true_bits,
        "perplexity": losses.perplexity,
        "KL": kl.value,
        "from": kl.low,
        "to": kl.high,
        "seconds": seconds,
    }


if __name__ == "__main__":
    typer.run(main)
