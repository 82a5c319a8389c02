"""Let a causal language model write the sample of text over which MEMIT's covariance is taken.

The covariance stands for what the model already knows, so text that the model itself finds likely
serves for it, and a sample committed as data is there without a network. Most of it is drawn from
the model's own distribution, rare words and nonsense included: the covariance protects what it has
seen. The last documents, which drift is measured on, are plainer prose. Documents are separated by
blank lines. Looping and tiny documents are thrown away.

    python scripts/sample_corpus.py --output memit_core/data/covariance_sample.txt
"""

from __future__ import annotations

import re
import zlib
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn
from transformers import StoppingCriteria, StoppingCriteriaList

from memit_core.default_model import DEFAULT_MODEL
from memit_core.loading import load_model
from memit_core.views import view_of

OPENINGS = (
    """
The|In|A|When|It was|Although|During|After|Since|Many|On the|There are|At the time|By|For most
According to|Before|Because of|As|One of the|She|He|They|We|I|My|Our|This is|If|Most|Some|Last
The first|The city of|The history of|The river|The company|The university|The species|The album
The film|The novel|The team|The war|The government|The church|The museum|The island|The village
The president|The king|The author|The actress|The composer|The painter|The scientist|The engine
The program|The recipe|The patient|The court|The bank|The market|The law|The disease|The battle
Born in|Located in|Founded in|Published in|Built in|Scientists|Researchers|Historians|Doctors
Students|Farmers|Critics|Early in|Once upon a time|Yesterday|Today|Recently|In the summer of
Between|Across|Under|Near|Two|Three|Several|Every|Each|No|Not|What|How|Why|Where|Who|While
Despite|Until|With|Without|From|Through|To|Of all|Like|Unlike|Water|Music|Language|Football|Gold
""".replace("\n", "|")
    .strip("|")
    .split("|")
)
"""Neutral first words: alone, the start-of-document token gives much the same few kinds of text."""

SEPARATORS = ("<|endoftext|>", "<s>", "<bos>")
"""What stands before a document in pre-training; a chat model's own BOS would start a chat."""

CONTROL_TOP_P = 0.93
"""Of the last documents; 1 for the others."""
MIN_TOKENS = 48
LOOP_RATIO = 0.39
"""zlib size over plain size: about 0.54 for 1,000 characters of prose, far less for loops."""

UNFIT = re.compile(
    r"assistant|<\|im_|as an ai|language model"  # a chat
    r"|https?:|www\.|\w@\w"  # addresses, made up or not
    r"|\b(?:sex|nud[ei]|rap(?:e|ist)\b|shit|fuck|nazi|jew(?:s|ish)?\b|muslim|islam|suicid)",
    re.IGNORECASE,
)
"""What a file that everybody gets should not hold, not even in a model's idle talk."""


class Advance(StoppingCriteria):  # type: ignore[misc]  # transformers is not typed
    """Moves the bar by a step at every new token; stops nothing."""

    def __init__(self, bar: Progress, task: Any) -> None:
        self.bar, self.task = bar, task

    def __call__(self, input_ids: torch.Tensor, _scores: Any, **_: Any) -> torch.Tensor:
        self.bar.update(self.task, description=f"token {input_ids.shape[1]} of each row")
        return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)


def is_prose(text: str, tokens: int) -> bool:
    """Whether a document is long enough, does not repeat itself and is not a chat."""
    if tokens < MIN_TOKENS or "\ufffd" in text or UNFIT.search(text):
        return False
    data = text.encode()
    return len(zlib.compress(data, 9)) / len(data) > LOOP_RATIO


def start_token(tokenizer: Any) -> list[int]:
    vocabulary = tokenizer.get_vocab()
    known = [vocabulary[name] for name in SEPARATORS if name in vocabulary]
    if known:
        return known[:1]
    return [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]


def sample(
    model: Any,
    tokenizer: Any,
    openings: list[str],
    new_tokens: int,
    top_p: float,
    hook: StoppingCriteria,
) -> list[str]:
    """One document for each opening, sampled in one batch."""
    start = start_token(tokenizer)
    rows = [start + tokenizer(text, add_special_tokens=False)["input_ids"] for text in openings]
    width = max(map(len, rows))
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows], device=model.device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    out = model.generate(
        ids,
        attention_mask=mask.to(model.device),
        max_new_tokens=new_tokens,
        do_sample=True,
        temperature=1.0,
        top_p=top_p,
        top_k=0,
        pad_token_id=pad,
        eos_token_id=sorted(set(tokenizer.all_special_ids)),
        stopping_criteria=StoppingCriteriaList([hook]),
    )
    return list(tokenizer.batch_decode(out, skip_special_tokens=True))


def main(
    output: Annotated[Path, typer.Option(help="Text file to write.")],
    model: Annotated[str, typer.Option(help="Folder or hub name.")] = DEFAULT_MODEL,
    tokens: Annotated[int, typer.Option(help="Tokens for the covariance.")] = 160_000,
    control: Annotated[int, typer.Option(help="Tokens of plainer prose at the end.")] = 10_000,
    document: Annotated[int, typer.Option(help="Longest document in tokens.")] = 256,
    batch: Annotated[int, typer.Option(help="Documents sampled at once.")] = 96,
    seed: Annotated[int, typer.Option(help="Of the sampling.")] = 1,
) -> None:
    """Sample documents until they hold enough tokens, and write them."""
    loaded = load_model(model)
    tokenizer = loaded.tokenizer
    view = view_of(loaded.model)
    torch.manual_seed(seed)
    documents: list[str] = []
    at = 0
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as bar, torch.inference_mode():
        for wanted, top_p in ((tokens, 1.0), (control, CONTROL_TOP_P)):
            task = bar.add_task("sampling", total=wanted)
            count = 0
            while count < wanted:
                openings = [OPENINGS[(at + i) % len(OPENINGS)] for i in range(batch)]
                at += batch
                hook = Advance(bar, task)
                for raw in sample(view, tokenizer, openings, document, top_p, hook):
                    text = re.sub(r"\n\s*\n+", "\n", raw).strip()
                    length = len(tokenizer(text, add_special_tokens=False)["input_ids"])
                    if count < wanted and is_prose(text, length):
                        documents.append(text)
                        count += length
                bar.update(task, completed=min(count, wanted))
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text("\n\n".join(documents) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
