"""Facts in the prompt instead of in the weights: what each way answers, and what a question costs.

    python -m benchmarks.retrieval FACTS.json --sizes 1,10,100,500 --ks 1,5 [--json OUT.json]

FACTS.json holds CounterFact records. Of every size the facts are written into the model, and the
same facts are searched: those k whose prompts are nearest to a question, by TF-IDF, stand before
it, in plain text and in the user's turn of a chat; then both at once. All ways are asked the same
records, spread evenly over those of the largest size, and scored as `memit eval` does; facts of a
small size are written in groups, each into the unedited model. The last columns are the mean of the
tokens that retrieval adds to a question, and the median of milliseconds for a question that is
asked alone and answered with a few tokens, the search included.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean, median
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.quality import ASKED, groups_of, percent
from memit_core.default_model import DEFAULT_MODEL
from memit_core.edit import Editor
from memit_core.eval.chat import ChatScores, UserTurn, as_it_is
from memit_core.eval.datasets import COUNTERFACT
from memit_core.eval.extras import need
from memit_core.eval.generation import continuations
from memit_core.eval.measures import Measures
from memit_core.eval.records import Record, spread, without_conflicts
from memit_core.eval.report import summary_json
from memit_core.eval.summary import summarise
from memit_core.facts import Fact, group_facts
from memit_core.hparams import from_file
from memit_core.joining import separator
from memit_core.loading import load_model
from memit_core.model import Model
from memit_core.tokens import encode_text
from registry import FolderStore, Registry

ANSWER_TOKENS = 8
"""Of an answer whose time is taken."""
TIMED = 20
"""Questions whose time is taken, at most."""
INSTRUCTION = "Take these facts as true:"

Prompt = Callable[[str], str]
"""From a question to the text that is asked."""


class Retrieval:
    """The facts that are nearest to a question, put before it.

    Args:
        k: facts at most; those that share no word with the question are left out.

    Raises:
        MissingExtra: scikit-learn is not installed.
    """

    def __init__(self, facts: Sequence[Fact], k: int) -> None:
        text = need("sklearn.feature_extraction.text", "retrieval")
        self._vectors: Any = text.TfidfVectorizer(sublinear_tf=True)
        self._index: Any = self._vectors.fit_transform([fact.filled for fact in facts])
        self._texts = [sentence(fact) for fact in facts]
        self._k = k

    def found(self, question: str) -> list[str]:
        """The facts as sentences, the nearest last, next to the question."""
        scores = (self._index @ self._vectors.transform([question]).T).toarray()[:, 0]
        nearest = np.argsort(-scores, kind="stable")[: self._k]
        return [self._texts[i] for i in reversed(nearest) if scores[i] > 0]

    def prompt(self, question: str) -> str:
        """The question with facts before it, each on a line."""
        return "\n".join([*self.found(question), question])

    def turn(self, question: str, said: str) -> str:
        """A user's turn that gives the facts before what it says."""
        found = self.found(question)
        return "\n".join([INSTRUCTION, *found, "", said]) if found else said


def sentence(fact: Fact) -> str:
    """A fact as a prompt tells it."""
    target = fact.target_new.strip()
    stop = "" if target.endswith(".") else "."
    return f"{fact.filled}{separator(fact.filled, target)}{target}{stop}"


@dataclass
class Found:
    """What a way of knowing facts answered, of all groups of a size."""

    measures: list[Measures] = field(default_factory=list)
    tokens_added: list[int] = field(default_factory=list)
    milliseconds: list[float] = field(default_factory=list)

    def row(self) -> dict[str, Any]:
        """Figures in percent, mean tokens that are added, median milliseconds a question."""
        summary = summary_json(summarise(self.measures))
        return {
            "asked": len(self.measures),
            **{name: summary[name] for name in ASKED},
            "ci95": {name: summary["ci95"][name] for name in ASKED},
            "tokens_added": fmean(self.tokens_added),
            "milliseconds": median(self.milliseconds),
        }


@dataclass(frozen=True)
class Way:
    """A way to know the facts: a model, and what it is asked instead of a question."""

    name: str
    model: Model
    prompt: Prompt = str
    turn: UserTurn = as_it_is

    def ask(self, asked: Sequence[Record], found: Found) -> Found:
        """Add what it answers to `found`."""

        def questions(record: Record) -> list[tuple[str, str]]:
            return [(self.prompt(one), target) for one, target in COUNTERFACT.questions(record)]

        measures = replace(COUNTERFACT, questions=questions).score(self.model, asked)
        chats = ChatScores(asked, self.model.tokenizer, self.turn)
        found.measures += chats.add(self.model, asked, measures)
        prompts = [p for record in asked for p in (record.fact.filled, *record.paraphrases)]
        found.tokens_added += map(self._added, prompts)
        left = TIMED - len(found.milliseconds)
        found.milliseconds += [self._milliseconds(p) for p in prompts[: max(0, left)]]
        return found

    def _added(self, question: str) -> int:
        tokenizer = self.model.tokenizer
        with_facts, alone = (
            len(encode_text(tokenizer, text)[0]) for text in (self.prompt(question), question)
        )
        return with_facts - alone

    def _milliseconds(self, question: str) -> float:
        start = time.perf_counter()
        ids, _ = encode_text(self.model.tokenizer, self.prompt(question))
        continuations(self.model, [ids], ANSWER_TOKENS)
        return 1_000 * (time.perf_counter() - start)


def ways(editor: Editor, group: Sequence[Record], ks: Sequence[int]) -> list[Way]:
    """All ways to know the facts of a group."""
    written = list(dict.fromkeys(record.request for record in group))
    edited = editor.model_with(editor.solve(group_facts(written)))
    searched = {f"retrieval, k = {k}": Retrieval(written, k) for k in ks}
    both = {f"edited, and {name}": (edited, found) for name, found in searched.items()}
    alone = {name: (editor.base, found) for name, found in searched.items()}
    return [
        Way("unedited", editor.base),
        Way("edited", edited),
        *(Way(name, model, f.prompt, f.turn) for name, (model, f) in (alone | both).items()),
    ]


def main(
    facts: Annotated[Path, typer.Argument(help="CounterFact records.")],
    sizes: Annotated[str, typer.Option(help="Facts at once, by commas.")] = "1,10,100,500",
    ks: Annotated[str, typer.Option(help="Facts before a question, by commas.")] = "1,5",
    asked: Annotated[int, typer.Option(help="Records of each size that are asked.")] = 50,
    skip: Annotated[int, typer.Option(help="Records to leave out at the beginning.")] = 0,
    model: Annotated[str, typer.Option(help="Model folder or hub name.")] = DEFAULT_MODEL,
    hparams: Annotated[Path | None, typer.Option(help="JSON file of hyperparameters.")] = None,
    home: Annotated[Path | None, typer.Option(help="Registry folder where z is kept.")] = None,
    json_out: Annotated[Path | None, typer.Option("--json", help="Where to write it.")] = None,
) -> None:
    """Measure every size in every way, and print."""
    numbers = [int(size) for size in sizes.split(",")]
    records = without_conflicts(COUNTERFACT.read(facts, skip=skip))[: max(numbers)]
    loaded = load_model(model)
    cache = None if home is None else Registry(FolderStore(home)).artefacts(loaded.digest)
    editor = Editor(loaded, None if hparams is None else from_file(hparams), cache=cache)
    table = Table("facts", "way", "asked", *ASKED.values(), "tokens added", "ms a question")
    console, rows = Console(width=200), []
    questioned = spread(records, asked)
    known = {record.index for record in questioned}
    for size in numbers:
        found: dict[str, Found] = {}
        for group in groups_of(records, questioned, size):
            of_it = [record for record in group if record.index in known]
            for way in ways(editor, group, [int(k) for k in ks.split(",")]):
                found[way.name] = way.ask(of_it, found.get(way.name, Found()))
        for name, one in found.items():
            rows.append({"facts": size, "way": name, **one.row()})
            table.add_row(str(size), *_cells(rows[-1]))
            console.print(size, *_cells(rows[-1]), sep="  ")
            if json_out is not None:
                json_out.write_text(json.dumps(rows, indent=2) + "\n")
    console.print(table)


def _cells(row: dict[str, Any]) -> list[str]:
    costs = (f"{row['tokens_added']:.1f}", f"{row['milliseconds']:.0f}")
    return [row["way"], str(row["asked"]), *(percent(row, name) for name in ASKED), *costs]


if __name__ == "__main__":
    typer.run(main)
