"""Facts as users write them, posted to a running service and asked for in every form.

    memit serve --home $(mktemp -d) &
    python -m benchmarks.user_facts [--url URL] [--json OUT.json]
    python -m benchmarks.user_facts --model FOLDER|default [--hparams FILE] [--told] [--json OUT]

All facts are one edit; with --model it is written in this process, without a service. Each is asked
greedily in four forms: the prompt as it was posted; the same as the beginning of an assistant's
turn, after an unrelated question; a user's turn that asks to complete it; and the paraphrase, in a
user's turn. The first two count when the answer starts with the target, the others when it holds
the target. With --told nothing is written: the unedited model is told each fact just before it is
asked for it. Prints a table by kind of fact. The chat format is that of the default model.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import httpx2 as httpx
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.post_to_active import post
from benchmarks.retrieval import INSTRUCTION, sentence
from memit_core.default_model import DEFAULT_MODEL
from memit_core.edit import Editor
from memit_core.eval.greedy import greedy_answers
from memit_core.facts import Fact, group_facts
from memit_core.hparams import from_file
from memit_core.loading import load_model

USER = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
OPENING = "Tell me something that you know."
FORMS = ("as posted", "assistant's turn", "user asks to complete", "user asks otherwise")
ANSWER_TOKENS = 48
AT_ONCE = 8
"""Questions that a service is asked at a time."""

Row = dict[str, str]
"""Subject, prompt, target_new, and a question that a user might ask."""
Answers = Callable[[Sequence[str]], list[str]]
"""The greedy continuations of prompts."""


def read_kinds() -> dict[str, list[Row]]:
    """The facts of `user_facts.json` by kind."""
    kinds: dict[str, list[Row]] = json.loads(Path(__file__).with_suffix(".json").read_text("utf-8"))
    return kinds


def _fact(row: Row) -> Row:
    return {name: row[name] for name in ("subject", "prompt", "target_new")}


def plain(text: str) -> str:
    """Composed and without the space that a target may begin with."""
    return unicodedata.normalize("NFC", text).strip()


def prompts_of(row: Row, *, told: bool) -> tuple[str, ...]:
    """What is asked, in the order of `FORMS`.

    Args:
        told: say the fact itself before.
    """
    filled = row["prompt"].replace("{}", row["subject"])
    known = f"{INSTRUCTION}\n{sentence(_written(row))}\n\n" if told else ""
    return (
        f"{known}{filled}",
        f"{USER.format(known + OPENING)}{filled}",
        USER.format(f"{known}Complete this sentence: {filled}"),
        USER.format(f"{known}{row['question']}"),
    )


def hits_of(row: Row, answers: Sequence[str]) -> list[bool]:
    """Whether each of `FORMS` gives the target."""
    wanted = plain(row["target_new"]).lower()
    texts = [plain(answer).lower() for answer in answers]
    return [text.startswith(wanted) for text in texts[:2]] + [wanted in t for t in texts[2:]]


def served(client: httpx.Client, rows: Sequence[Row]) -> Answers:
    """Post the facts to a service, and ask it."""
    post(client, [_fact(row) for row in rows])

    def ask(prompts: Sequence[str]) -> list[str]:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            return list(pool.map(partial(complete, client), prompts))

    return ask


def complete(client: httpx.Client, prompt: str) -> str:
    """The greedy continuation."""
    answer = client.post("/generate", json={"prompt": prompt, "max_tokens": ANSWER_TOKENS})
    answer.raise_for_status()
    return str(answer.json()["text"])


def _written(row: Row) -> Fact:
    return Fact(row["subject"], row["prompt"], row["target_new"])


def unedited(model: str) -> Answers:
    """Ask the model as it is."""
    base = load_model(DEFAULT_MODEL if model == "default" else model).runnable()
    return lambda prompts: greedy_answers(base, prompts, ANSWER_TOKENS)


def written(model: str, hparams: Path | None, rows: Sequence[Row]) -> Answers:
    """Write the facts in this process, and ask the edited model."""
    loaded = load_model(DEFAULT_MODEL if model == "default" else model)
    editor = Editor(loaded, None if hparams is None else from_file(hparams))
    edited = editor.model_with(editor.solve(group_facts(map(_written, rows))))
    return lambda prompts: greedy_answers(edited, prompts, ANSWER_TOKENS)


def main(
    url: Annotated[str, typer.Option(help="The service.")] = "http://127.0.0.1:8000",
    model: Annotated[
        str | None,
        typer.Option(help="Folder, hub name or `default`: write here, without a service."),
    ] = None,
    hparams: Annotated[Path | None, typer.Option(help="Hyperparameters, with --model.")] = None,
    told: Annotated[
        bool, typer.Option("--told", help="Write nothing, say each fact before; with --model.")
    ] = False,
    json_out: Annotated[Path | None, typer.Option("--json", help="Where to write it.")] = None,
) -> None:
    """Write them all, ask for each, print shares."""
    if told and model is None:
        raise typer.BadParameter("needs --model", param_hint="--told")
    table = Table("facts as users write them", "facts", *FORMS)
    kinds = read_kinds()
    rows = [row for of_kind in kinds.values() for row in of_kind]
    with ExitStack() as stack:
        if model is None:
            client = stack.enter_context(httpx.Client(base_url=url, timeout=120))
            ask = served(client, rows)
        else:
            ask = unedited(model) if told else written(model, hparams, rows)
        prompts = [prompt for row in rows for prompt in prompts_of(row, told=told)]
        answers = iter(ask(prompts))
    measured: dict[str, Any] = {}
    for kind, of_kind in kinds.items():
        hits = [hits_of(row, [next(answers) for _ in FORMS]) for row in of_kind]
        measured[kind] = [
            {**row, **dict(zip(FORMS, of_row, strict=True))}
            for row, of_row in zip(of_kind, hits, strict=True)
        ]
        sums = [sum(column) for column in zip(*hits, strict=True)]
        table.add_row(kind, str(len(of_kind)), *map(str, sums))
    Console().print(table)
    if json_out is not None:
        json_out.write_text(json.dumps(measured, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    typer.run(main)
