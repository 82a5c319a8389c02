"""What `memit eval` does: read, load, measure, report."""

from __future__ import annotations

import json as jsonlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli import output
from cli.errors import CommandFailed
from cli.eval_options import CapabilityOptions, EvalOptions
from cli.eval_progress import TerminalProgress
from cli.eval_table import capability_table, notes, results_table
from contracts.settings import Settings

if TYPE_CHECKING:
    from memit_core.edit import Editor
    from memit_core.eval.benchmark import Result
    from memit_core.eval.costs import Stopwatch
    from memit_core.eval.datasets import Dataset
    from memit_core.eval.records import Record
    from memit_core.progress import ProgressCallback

TITLES = {"counterfact": "CounterFact", "zsre": "zsRE"}


def evaluate(options: EvalOptions) -> None:
    """Run the measurement and print the table.

    Raises:
        CommandFailed: an input cannot be read or used, or an output cannot be written.
    """
    _check_outputs(options)
    # Imported here: what needs torch takes seconds, and the other commands need none of it.
    from memit_core.errors import MemitError

    try:
        report = _measured(options)
    except (MemitError, OSError, ValueError) as error:
        raise CommandFailed(str(error)) from error
    output.results().print(results_table(options.dataset, report["before"], report["after"]))
    if report["capability"] is not None:
        output.results().print(capability_table(**report["capability"]))
    for line in notes(report):
        output.say(output.messages(), line)


def _check_outputs(options: EvalOptions) -> None:
    """Every file that shall be written has a folder to be in."""
    for file in (options.json, options.chart):
        if file is not None:
            output.require_folder(file)


def _measured(options: EvalOptions) -> dict[str, Any]:
    """The report, written to its files where they were asked for."""
    from memit_core.eval.benchmark import Options, run
    from memit_core.eval.costs import Stopwatch, peak_memory
    from memit_core.eval.datasets import COUNTERFACT, ZSRE
    from memit_core.eval.extras import need
    from memit_core.eval.references import NO_REFERENCES, read_references
    from memit_core.eval.report import as_json

    dataset = {"counterfact": COUNTERFACT, "zsre": ZSRE}[options.dataset]
    references = (
        NO_REFERENCES if options.reference_file is None else read_references(options.reference_file)
    )
    records = dataset.read(
        options.file, skip=options.skip, limit=options.limit, references=references
    )
    measures = Options(
        batch=options.batch_size,
        asked=options.asked,
        in_a_row=options.in_a_row,
        method=_method(options.method),
        given=options.given,
        generations=options.generated,
        chats=options.chats if options.chat else 0,
        capability=options.capability,
        held_out=None if options.text is None else _text(options.text),
        documents=[text for texts in references.values() for text in texts],
        seed=options.seed,
    )
    if options.chart is not None:
        need("matplotlib", "the chart")
    _need_for_generations(options.generated, records)
    clock = Stopwatch()
    with TerminalProgress(output.messages()) as progress:
        editor = editor_of(options, clock, progress)
        result = run(editor, dataset, records, measures, progress)
    report = as_json(
        result,
        editor,
        dataset=_dataset_json(options, dataset, result),
        batch=options.batch_size or "all",
        in_a_row=options.in_a_row,
        seed=options.seed,
        seconds={**clock.seconds, **result.seconds},
        peak_memory_bytes=peak_memory(editor.loaded.device),
    )
    if options.json is not None:
        write_report(options.json, report)
    if options.chart is not None:
        _draw(options.chart, options.dataset, result, editor)
    return report


def _method(name: str) -> str:
    from memit_core.methods import METHODS

    if name not in METHODS:
        raise CommandFailed(f"--method must be one of {', '.join(METHODS)}, got {name!r}")
    return name


def write_report(file: Path, report: dict[str, Any]) -> None:
    """As JSON that people can read too."""
    text = jsonlib.dumps(report, indent=2, ensure_ascii=False, allow_nan=False)
    file.write_text(f"{text}\n", "utf-8")


def _need_for_generations(generations: int, records: list[Record]) -> None:
    """Ask for what free generations need before the model is loaded."""
    from memit_core.eval.extras import need

    generating = [record for record in records[:generations] if record.generation_prompts]
    if generating:
        need("nltk", "generation entropy (leave it out with --no-generate)")
    if any(record.reference_texts for record in generating):
        need("sklearn", "the reference score (leave it out with --no-generate)")


def editor_of(
    options: EvalOptions | CapabilityOptions, clock: Stopwatch, progress: ProgressCallback
) -> Editor:
    """An editor of the model that the options name."""
    from memit_core.corpus import read_corpus
    from memit_core.default_model import DEFAULT_MODEL
    from memit_core.edit import Editor
    from memit_core.hparams import from_file
    from memit_core.loading import load_model
    from memit_core.processors import limit_threads
    from memit_core.transformers_internals import disable_progress_bar

    hparams = None if options.hparams is None else from_file(options.hparams)
    corpus = None if options.corpus is None else read_corpus(options.corpus)
    disable_progress_bar()  # the bars shown are our own
    limit_threads()
    with clock.stage("load"):
        loaded = load_model(
            options.model or DEFAULT_MODEL,
            device=options.device,
            dtype=options.dtype,
            progress=progress,
        )
    return Editor(loaded, hparams, corpus=corpus, network=Settings().mend)


def _text(file: Path) -> str:
    try:
        return file.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise CommandFailed(f"{file}: is not UTF-8 (byte {error.start})") from None


def _dataset_json(options: EvalOptions, dataset: Dataset, result: Result) -> dict[str, Any]:
    return {
        "name": dataset.name,
        "file": options.file.name,
        "skip": options.skip,
        "limit": options.limit,
        "conflicts_left_out": result.conflicts,
    }


def _draw(file: Path, dataset: str, result: Result, editor: Editor) -> None:
    from memit_core.eval.chart import draw_chart

    count = len(result.measured)
    title = f"{TITLES[dataset]}, {count} facts\n{editor.loaded.name}"
    draw_chart(file, title, result.before, result.after)
