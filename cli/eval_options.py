"""The options of `memit eval`, for each of its datasets."""

from __future__ import annotations

import json as jsonlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import typer

from cli.errors import CommandFailed
from cli.options import Home

DEFAULT_GENERATIONS = 20
DEFAULT_CHATS = 50


@dataclass(frozen=True)
class EvalOptions:
    """What every measurement takes."""

    dataset: ClassVar[str]

    file: Annotated[Path, typer.Argument(help="Records: a JSON list, or one record a line.")]
    limit: Annotated[int | None, typer.Option(min=1, help="Records to take at most.")] = None
    skip: Annotated[int, typer.Option(min=0, help="Records to leave out at the beginning.")] = 0
    batch: Annotated[
        str,
        typer.Option(
            metavar="all|K", help="Records written at once, each batch into the unedited model."
        ),
    ] = "all"
    asked: Annotated[
        int | None,
        typer.Option(min=1, help="Records to measure, spread evenly over those written."),
    ] = None
    in_a_row: Annotated[
        bool,
        typer.Option(
            "--in-a-row",
            help="Write each batch upon those before, and measure all records at the end.",
        ),
    ] = False
    method: Annotated[
        str, typer.Option(metavar="NAME", help="memit, rome, ft, alphaedit or ultraedit.")
    ] = "memit"
    option: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="Of the method; may be given several times."),
    ] = None
    model: Annotated[
        str | None, typer.Option(help="Model folder or hub name, instead of the default model.")
    ] = None
    hparams: Annotated[Path | None, typer.Option(help="JSON file of hyperparameters.")] = None
    json: Annotated[Path | None, typer.Option(help="Write the whole report to this file.")] = None
    chart: Annotated[Path | None, typer.Option(help="Write a chart to this PNG file.")] = None
    text: Annotated[
        Path | None,
        typer.Option(help="Text for the perplexity, instead of the end of the corpus."),
    ] = None
    corpus: Annotated[
        str | None,
        typer.Option(help="Text file or dataset for the covariance.", metavar="FILE|NAME"),
    ] = None
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto"
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto"
    seed: Annotated[
        int, typer.Option(min=0, help="Of free generations and of the Score's interval.")
    ] = 0
    chat: Annotated[bool, typer.Option("--chat/--no-chat", help="Ask in chats too, or do not.")] = (
        True
    )
    chats: Annotated[
        int, typer.Option(min=1, help="Records, from the first, that are asked in chats.")
    ] = DEFAULT_CHATS
    capability: Annotated[
        bool, typer.Option("--capability", help="Measure the packaged capability items too.")
    ] = False

    @property
    def batch_size(self) -> int | None:
        """Records at once; None for "all".

        Raises:
            CommandFailed: it is neither "all" nor a number from 1.
        """
        if self.batch == "all":
            return None
        if not self.batch.isascii() or not self.batch.isdigit() or int(self.batch) < 1:
            raise CommandFailed(f"--batch must be all or a number from 1, got {self.batch!r}")
        return int(self.batch)

    @property
    def given(self) -> dict[str, Any]:
        """The method's options by name.

        Raises:
            CommandFailed: one is not a name and a JSON value.
        """
        given = {}
        for text in self.option or ():
            name, _, value = text.partition("=")
            try:
                given[name] = jsonlib.loads(value)
            except ValueError:
                raise CommandFailed(
                    f"--option must be NAME=VALUE with a number or a list, got {text!r}"
                ) from None
        return given

    @property
    def generated(self) -> int:
        """Records of which texts are generated."""
        return 0

    @property
    def reference_file(self) -> Path | None:
        """What generated texts are compared with."""
        return None


@dataclass(frozen=True)
class CounterFactOptions(EvalOptions):
    """Efficacy, paraphrase and neighborhood success on CounterFact, and free generations."""

    dataset: ClassVar[str] = "counterfact"

    generate: Annotated[
        bool, typer.Option("--generate/--no-generate", help="Measure free generations, or do not.")
    ] = True
    generations: Annotated[
        int, typer.Option(min=1, help="Records, from the first, of which texts are generated.")
    ] = DEFAULT_GENERATIONS
    references: Annotated[
        Path | None, typer.Option(help="attribute_snippets.json, for the reference score.")
    ] = None

    @property
    def generated(self) -> int:
        return self.generations if self.generate else 0

    @property
    def reference_file(self) -> Path | None:
        return self.references


@dataclass(frozen=True)
class ZsreOptions(EvalOptions):
    """Efficacy, paraphrase and specificity on zsRE: teacher-forced accuracy of answers."""

    dataset: ClassVar[str] = "zsre"


@dataclass(frozen=True)
class CapabilityOptions:
    """What a model can do besides the facts: packaged cloze, arithmetic and grammar items."""

    model: Annotated[
        str | None, typer.Option(help="Model folder or hub name, instead of the default model.")
    ] = None
    facts: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="Facts, as `memit edit` takes them, to write and measure again."
        ),
    ] = None
    version: Annotated[
        str | None,
        typer.Option(help="Version (v3-…, v3) or alias of the registry, to compare with its base."),
    ] = None
    home: Home = None
    hparams: Annotated[Path | None, typer.Option(help="JSON file of hyperparameters.")] = None
    json: Annotated[Path | None, typer.Option(help="Write the report to this file.")] = None
    corpus: Annotated[
        str | None,
        typer.Option(help="Text file or dataset for the covariance.", metavar="FILE|NAME"),
    ] = None
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto"
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto"
    seed: Annotated[int, typer.Option(min=0, help="Of the arithmetic items.")] = 0
