"""`memit train-mend`: train the network that the editing method MEND needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli import output
from cli.dataclass_command import command_of
from cli.errors import CommandFailed
from cli.eval_progress import TerminalProgress

if TYPE_CHECKING:
    from memit_core.methods.mend.trainer import Outcome


@dataclass(frozen=True)
class TrainMendOptions:
    """Train the network of the editing method MEND for one model.

    The same command again goes on after a stop. MEMIT_METHOD=mend with MEMIT_MEND takes the result.
    """

    records: Annotated[
        Path, typer.Argument(help="CounterFact's records: a JSON list, or one record a line.")
    ]
    out: Annotated[
        Path, typer.Option(help="Folder for the network; holds the unfinished training meanwhile.")
    ]
    model: Annotated[
        str | None, typer.Option(help="Model folder or hub name, instead of the default model.")
    ] = None
    limit: Annotated[int | None, typer.Option(min=1, help="Records to take at most.")] = None
    skip: Annotated[int, typer.Option(min=0, help="Records to leave out at the beginning.")] = 0
    steps: Annotated[int, typer.Option(min=1, help="Steps at most.")] = 1_000
    together: Annotated[
        int, typer.Option(min=1, help="Facts that are written at once in a step.")
    ] = 1
    rank: Annotated[int, typer.Option(min=1, help="Of the network's layers.")] = 1_920
    rate: Annotated[float, typer.Option(min=1e-9, max=1, help="Learning rate of the network.")] = (
        1e-4
    )
    seed: Annotated[int, typer.Option(min=0, help="Of everything that is drawn.")] = 0
    corpus: Annotated[
        str | None,
        typer.Option(
            help="Text that edits shall leave alone: a file or dataset.", metavar="FILE|NAME"
        ),
    ] = None
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto"
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto"


def _run(options: TrainMendOptions) -> None:
    # Imported here: what needs torch takes seconds, and the other commands need none of it.
    from memit_core.errors import MemitError

    try:
        done = _trained(options)
    except KeyboardInterrupt:
        output.say(output.messages(), "stopped; the same command goes on from the last save")
        raise
    except (MemitError, OSError, ValueError) as error:
        raise CommandFailed(str(error)) from error
    output.results().print(_table(done))
    output.say(
        output.messages(),
        f"wrote {done.file}; use it with: MEMIT_METHOD=mend MEMIT_MEND={done.file}",
    )


def _trained(options: TrainMendOptions) -> Outcome:
    from memit_core.corpus import default_corpus, read_corpus
    from memit_core.default_model import DEFAULT_MODEL
    from memit_core.eval.datasets import COUNTERFACT
    from memit_core.loading import load_model
    from memit_core.methods.mend.trainer import Options, train
    from memit_core.processors import limit_threads
    from memit_core.transformers_internals import disable_progress_bar

    records = COUNTERFACT.read(options.records, skip=options.skip, limit=options.limit)
    facts = [replace(one.fact, paraphrase_prompts=one.paraphrases) for one in records]
    text = default_corpus() if options.corpus is None else read_corpus(options.corpus)
    how = Options(options.steps, options.seed, options.rank, options.together, options.rate)
    disable_progress_bar()  # the bars shown are our own
    limit_threads()
    with TerminalProgress(output.messages()) as progress:
        loaded = load_model(
            options.model or DEFAULT_MODEL,
            device=options.device,
            dtype=options.dtype,
            progress=progress,
        )
        return train(loaded, facts, text, options.out, how, progress)


def _table(done: Outcome) -> Any:
    """Losses of held-out records, in nats."""
    standing = done.standing
    rows = [
        _row("untrained", standing.before),
        _row(f"after {standing.best_step} steps", standing.best),
    ]
    return output.table(["network", "edit loss", "KL on other text"], rows)


def _row(name: str, losses: Sequence[float]) -> list[str]:
    edit, locality = losses
    return [name, f"{edit:.3f}", f"{locality:.5f}"]


train_mend = command_of(TrainMendOptions, _run, "train_mend")
