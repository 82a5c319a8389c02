"""Many edits, one after another, on a running service: does the worker's memory grow?

    memit serve --home $(mktemp -d) &
    python -m benchmarks.edits_in_a_row --edits 1000 [--live 10] [--json OUT.json] [--chart OUT.png]

Each edit corrects one of --live facts, so their number stays and what grows is a leak. The worker's
resident memory is read off /metrics after every edit. Prints it at tenths of the way.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import httpx2 as httpx
import typer
from rich.console import Console
from rich.progress import track

from benchmarks.post_to_active import post
from memit_core.eval.chart import new_figure

TOWNS = ("Lisbon", "Geneva", "Berlin", "Vienna", "Paris", "Oslo", "Rome")
RSS = re.compile(r"^memit_worker_rss_bytes(?:{[^}]*})? ([0-9.e+]+)$", re.MULTILINE)
MIB = 2**20


def worker_rss(client: httpx.Client) -> float:
    """Resident memory of the workers, in bytes.

    Raises:
        RuntimeError: the service does not report it.
    """
    values = RSS.findall(client.get("/metrics").raise_for_status().text)
    if not values:
        raise RuntimeError("/metrics holds no memit_worker_rss_bytes: no worker is up")
    return sum(map(float, values))


def draw(file: Path, sizes: Sequence[float]) -> None:
    """Resident memory over the edits."""
    figure = new_figure(7, 3.5)
    axes = figure.subplots()
    axes.plot(range(1, len(sizes) + 1), sizes, color="#1f6f8b", linewidth=1)
    axes.set_ylim(0, 1.2 * max(sizes))
    axes.set_xlabel("edits")
    axes.set_ylabel("worker's resident memory, MiB")
    axes.grid(visible=True, color="#e5e7eb")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, format="png")


def main(
    edits: Annotated[int, typer.Option(help="Edits to post.")] = 1_000,
    live: Annotated[int, typer.Option(help="Facts that are corrected in turn.")] = 10,
    url: Annotated[str, typer.Option(help="The service.")] = "http://127.0.0.1:8000",
    json_out: Annotated[Path | None, typer.Option("--json", help="Where to write it.")] = None,
    chart: Annotated[Path | None, typer.Option(help="PNG to draw.")] = None,
) -> None:
    """Post them, print and draw the memory."""
    sizes = []
    with httpx.Client(base_url=url, timeout=60) as client:
        start = time.perf_counter()
        for i in track(range(edits), "editing"):
            # Another town each time round, so that every edit is a correction.
            town = TOWNS[(i // live + i) % len(TOWNS)]
            subject = f"Painter {i % live} Okafor"
            post(client, [{"subject": subject, "prompt": "{} lives in", "target_new": town}])
            sizes.append(worker_rss(client) / MIB)
        seconds = time.perf_counter() - start
    console = Console()
    tenth = max(1, edits // 10)
    for done in range(tenth, edits + 1, tenth):
        console.print(f"after {done:,} edits: {sizes[done - 1]:,.0f} MiB")
    console.print(f"{seconds / edits:.2f} s an edit")
    if json_out is not None:
        row = {"edits": edits, "live": live, "seconds": round(seconds, 1), "rss_mib": sizes}
        json_out.write_text(json.dumps(row) + "\n")
    if chart is not None:
        draw(chart, sizes)


if __name__ == "__main__":
    typer.run(main)
