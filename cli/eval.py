"""`memit eval`: write a dataset's records into a model and report how it fares before and after."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.errors import CommandFailed
from cli.eval_run import EvalRequest, evaluate

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    help="Measure edits as the field does, without a service.",
)

File = Annotated[Path, typer.Argument(help="Records: a JSON list, or one record a line.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Records to take at most.")]
Skip = Annotated[int, typer.Option(min=0, help="Records to leave out at the beginning.")]
Batch = Annotated[
    str,
    typer.Option(metavar="all|K", help="Records written at once, always into the unedited model."),
]
Model = Annotated[
    str | None, typer.Option(help="Model folder or hub name, instead of the default model.")
]
HParamsFile = Annotated[
    Path | None, typer.Option("--hparams", help="JSON file of hyperparameters.")
]
Json = Annotated[Path | None, typer.Option("--json", help="Write the whole report to this file.")]
Chart = Annotated[Path | None, typer.Option(help="Write a chart to this PNG file.")]
HeldOut = Annotated[
    Path | None,
    typer.Option("--text", help="Text for the perplexity, instead of the end of the corpus."),
]
Corpus = Annotated[
    str | None, typer.Option(help="Text file or dataset for the covariance.", metavar="FILE|NAME")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
Dtype = Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")]
Seed = Annotated[int, typer.Option(min=0, help="Of free generations and of the Score's interval.")]
Generate = Annotated[
    bool, typer.Option("--generate/--no-generate", help="Measure free generations, or do not.")
]
Generations = Annotated[
    int, typer.Option(min=1, help="Records, from the first, of which texts are generated.")
]
ReferenceFile = Annotated[
    Path | None,
    typer.Option("--references", help="attribute_snippets.json, for the reference score."),
]

DEFAULT_GENERATIONS = 20


@app.command()
def counterfact(
    file: File,
    limit: Limit = None,
    skip: Skip = 0,
    batch: Batch = "all",
    model: Model = None,
    hparams: HParamsFile = None,
    json: Json = None,
    chart: Chart = None,
    text: HeldOut = None,
    corpus: Corpus = None,
    generate: Generate = True,
    generations: Generations = DEFAULT_GENERATIONS,
    references: ReferenceFile = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    seed: Seed = 0,
) -> None:
    """Efficacy, paraphrase and neighborhood success on CounterFact, and free generations."""
    evaluate(
        EvalRequest(
            dataset="counterfact",
            file=file,
            limit=limit,
            skip=skip,
            batch=batch_size(batch),
            model=model,
            hparams=hparams,
            json=json,
            chart=chart,
            text=text,
            corpus=corpus,
            generations=generations if generate else 0,
            references=references,
            device=device,
            dtype=dtype,
            seed=seed,
        )
    )


@app.command()
def zsre(
    file: File,
    limit: Limit = None,
    skip: Skip = 0,
    batch: Batch = "all",
    model: Model = None,
    hparams: HParamsFile = None,
    json: Json = None,
    chart: Chart = None,
    text: HeldOut = None,
    corpus: Corpus = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    seed: Seed = 0,
) -> None:
    """Efficacy, paraphrase and specificity on zsRE: teacher-forced accuracy of answers."""
    evaluate(
        EvalRequest(
            dataset="zsre",
            file=file,
            limit=limit,
            skip=skip,
            batch=batch_size(batch),
            model=model,
            hparams=hparams,
            json=json,
            chart=chart,
            text=text,
            corpus=corpus,
            generations=0,
            references=None,
            device=device,
            dtype=dtype,
            seed=seed,
        )
    )


def batch_size(text: str) -> int | None:
    """Records at once; None for "all".

    Raises:
        CommandFailed: it is neither "all" nor a number from 1.
    """
    if text == "all":
        return None
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise CommandFailed(f"--batch must be all or a number from 1, got {text!r}")
    return int(text)
