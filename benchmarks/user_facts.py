"""Facts as users write them, posted to a running service and asked for in every form.

    memit serve --home $(mktemp -d) &
    python -m benchmarks.user_facts [--url URL] [--json OUT.json]

All facts are one edit. Each is asked greedily in four forms: the prompt as it was posted; the same
as the beginning of an assistant's turn, after an unrelated question; a user's turn that asks to
complete it; and the paraphrase, in a user's turn. The first two count when the answer starts with
the target, the others when it holds the target. Prints a table by kind of fact. The chat format is
that of the default model.
"""

from __future__ import annotations

import json
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import httpx2 as httpx
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.post_to_active import post

USER = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
OPENED = USER.format("Tell me something that you know.")
FORMS = ("as posted", "assistant's turn", "user asks to complete", "user asks otherwise")
ANSWER_TOKENS = 48

Row = dict[str, str]
"""Subject, prompt, target_new, and a question that a user might ask."""


def read_kinds() -> dict[str, list[Row]]:
    """The facts of `user_facts.json` by kind."""
    kinds: dict[str, list[Row]] = json.loads(Path(__file__).with_suffix(".json").read_text("utf-8"))
    return kinds


def _fact(row: Row) -> Row:
    return {name: row[name] for name in ("subject", "prompt", "target_new")}


def plain(text: str) -> str:
    """Composed and without the space that a target may begin with."""
    return unicodedata.normalize("NFC", text).strip()


def ask(client: httpx.Client, row: Row) -> list[bool]:
    """Whether each of `FORMS` gives the target."""
    filled = row["prompt"].replace("{}", row["subject"])
    prompts = (
        filled,
        f"{OPENED}{filled}",
        USER.format(f"Complete this sentence: {filled}"),
        USER.format(row["question"]),
    )
    wanted = plain(row["target_new"]).lower()
    texts = [plain(complete(client, prompt)).lower() for prompt in prompts]
    return [text.startswith(wanted) for text in texts[:2]] + [wanted in t for t in texts[2:]]


def complete(client: httpx.Client, prompt: str) -> str:
    """The greedy continuation."""
    answer = client.post("/generate", json={"prompt": prompt, "max_tokens": ANSWER_TOKENS})
    answer.raise_for_status()
    return str(answer.json()["text"])


def main(
    url: Annotated[str, typer.Option(help="The service.")] = "http://127.0.0.1:8000",
    json_out: Annotated[Path | None, typer.Option("--json", help="Where to write it.")] = None,
) -> None:
    """Post them all, ask for each, print shares."""
    table = Table("facts as users write them", "facts", *FORMS)
    kinds = read_kinds()
    measured: dict[str, Any] = {}
    with httpx.Client(base_url=url, timeout=120) as client:
        post(client, [_fact(row) for rows in kinds.values() for row in rows])
        for kind, rows in kinds.items():
            with ThreadPoolExecutor(len(rows)) as pool:
                hits = list(pool.map(partial(ask, client), rows))
            measured[kind] = [
                {**row, **dict(zip(FORMS, of_row, strict=True))}
                for row, of_row in zip(rows, hits, strict=True)
            ]
            sums = [sum(column) for column in zip(*hits, strict=True)]
            table.add_row(kind, str(len(rows)), *map(str, sums))
    Console().print(table)
    if json_out is not None:
        json_out.write_text(json.dumps(measured, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    typer.run(main)
