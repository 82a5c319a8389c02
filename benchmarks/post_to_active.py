"""From POST /edits to the version being active, on a running service whose registry is empty.

    memit serve --home $(mktemp -d) &
    python -m benchmarks.post_to_active FACTS.json --sizes 1,99,900,1 [--url URL] [--json OUT.json]

FACTS.json holds CounterFact records; every size posts so many new facts beside those that live. So
1,99,900,1 is one fact on an empty version, 99 on one, 900 on a hundred, and one on a thousand.
Prints seconds in all and by stage.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, Any

import httpx2 as httpx
import typer
from rich.console import Console
from rich.table import Table

from memit_core.eval.datasets import COUNTERFACT
from memit_core.eval.records import without_conflicts

WAIT_SECONDS = 30
"""How long the service is asked to hold its answer; asking all the time would slow the edit."""
POLL_SECONDS = 0.1
POLL_SHARE = 0.02
"""Of what it took so far, between two polls of what takes longer."""
STAGES = ("prepare", "covariance", "z", "insert", "evaluate")


def post(client: httpx.Client, facts: list[dict[str, Any]]) -> dict[str, Any]:
    """Post one edit and wait until what it made is active.

    Raises:
        RuntimeError: it ended in another way.
    """
    start = time.perf_counter()
    answer = client.post(
        "/edits", json={"facts": facts}, headers={"Prefer": f"wait={WAIT_SECONDS}"}
    )
    answer.raise_for_status()
    edit = answer.json()
    while edit["state"] in ("queued", "running"):
        time.sleep(max(POLL_SECONDS, POLL_SHARE * (time.perf_counter() - start)))
        edit = client.get(f"/edits/{edit['id']}").json()
    seconds = time.perf_counter() - start
    if edit["state"] != "committed":
        raise RuntimeError(f"{edit['id']} is {edit['state']}: {edit.get('problem')}")
    return {"facts": len(facts), "seconds": round(seconds, 2), "stages": edit["report"]["seconds"]}


def main(
    facts: Annotated[Path, typer.Argument(help="CounterFact records.")],
    sizes: Annotated[str, typer.Option(help="New facts of each edit, by commas.")] = "1,99",
    url: Annotated[str, typer.Option(help="The service.")] = "http://127.0.0.1:8000",
    skip: Annotated[int, typer.Option(help="Records to leave out at the beginning.")] = 0,
    json_out: Annotated[Path | None, typer.Option("--json", help="Where to write it.")] = None,
) -> None:
    """Measure and print."""
    records = without_conflicts(COUNTERFACT.read(facts, skip=skip))
    unique = list({record.request.content[:2]: record.request for record in records}.values())
    table = Table("live before", "facts", "seconds", *STAGES)
    measured, live = [], 0
    with httpx.Client(base_url=url, timeout=60) as client:
        for size in (int(part) for part in sizes.split(",")):
            batch = [
                {"subject": f.subject, "prompt": f.prompt, "target_new": f.target_new}
                for f in unique[live : live + size]
            ]
            row = {"live_before": live, **post(client, batch)}
            measured.append(row)
            spent = (f"{row['stages'].get(stage, 0):.1f}" for stage in STAGES)
            table.add_row(str(live), str(size), f"{row['seconds']:.1f}", *spent)
            live += size
    Console().print(table)
    if json_out is not None:
        json_out.write_text(json.dumps(measured, indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
