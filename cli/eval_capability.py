"""What `memit eval capability` does: ask a model, write facts or take a version, ask again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli import output
from cli.errors import CommandFailed
from cli.eval_options import CapabilityOptions
from cli.eval_progress import TerminalProgress
from cli.eval_run import editor_of, write_report
from cli.eval_table import capability_table
from cli.facts_file import read_facts
from cli.options import settings_of

if TYPE_CHECKING:
    from contracts.facts import Fact
    from memit_core.edit import Editor
    from memit_core.model import Model
    from memit_core.progress import ProgressCallback


def capability(options: CapabilityOptions) -> None:
    """Run the measurement and print the table.

    Raises:
        CommandFailed: an input cannot be read or used, or the report cannot be written.
    """
    if options.facts is not None and options.version is not None:
        raise CommandFailed("give --facts or --version, not both")
    if options.json is not None:
        output.require_folder(options.json)
    facts = [] if options.facts is None else [line.fact for line in read_facts(options.facts)]
    # Imported here: what needs torch takes seconds, and the other commands need none of it.
    from contracts.errors import ServiceError
    from memit_core.errors import MemitError
    from registry.errors import RegistryError

    try:
        report = _measured(options, facts)
    except (MemitError, RegistryError, ServiceError, OSError, ValueError) as error:
        raise CommandFailed(str(error)) from error
    if options.json is not None:
        write_report(options.json, report)
    output.results().print(capability_table(report["before"], report["after"]))
    count = ", ".join(f"{name} {items}" for name, items in report["items"].items())
    seconds = ", ".join(f"{name} {value:.1f} s" for name, value in report["seconds"].items())
    output.say(output.messages(), f"items: {count}; {seconds}")


def _measured(options: CapabilityOptions, facts: list[Fact]) -> dict[str, Any]:
    from memit_core.eval.capability import KINDS, accuracy, capability_items, right_answers
    from memit_core.eval.costs import Stopwatch
    from memit_core.eval.report import summary_json
    from memit_core.software import software

    items = capability_items(options.seed)
    clock = Stopwatch()
    with TerminalProgress(output.messages()) as progress:
        editor = editor_of(options, clock, progress)
        with clock.stage("before"):
            before = accuracy(items, right_answers(editor.base, items, progress))
        with clock.stage("edit"):
            edited = _edited(options, editor, facts, progress)
        after = None
        if edited is not None:
            with clock.stage("after"):
                after = accuracy(items, right_answers(edited, items, progress))
    loaded = editor.loaded
    return {
        "unit": "percent",
        "model": {"name": loaded.name, "digest": loaded.digest, "dtype": loaded.dtype_name},
        "facts": len(facts),
        "version": options.version,
        "seed": options.seed,
        "items": {kind: sum(item.kind == kind for item in items) for kind in KINDS},
        "before": summary_json(before),
        "after": None if after is None else summary_json(after),
        "seconds": clock.seconds,
        "software": software(),
    }


def _edited(
    options: CapabilityOptions, editor: Editor, facts: list[Fact], progress: ProgressCallback
) -> Model | None:
    """The model with the facts or of the version; None where neither was given."""
    from memit_core.facts import group_facts
    from worker.core_fact import core_fact

    if facts:
        groups = group_facts(core_fact(fact) for fact in facts)
        return editor.model_with(editor.solve(groups, progress))
    if options.version is not None:
        return _version(options.version, options.home, editor)
    return None


def _version(ref: str, home: Path | None, editor: Editor) -> Model:
    """The base with the version's changes, read from the registry."""
    from memit_core.weights import decode_delta
    from registry.folder_store import FolderStore
    from registry.registry import Registry

    folder = settings_of(home).registry_path
    if not folder.is_dir():
        raise CommandFailed(f"{folder}: there is no registry")
    registry = Registry(FolderStore(folder))
    version = registry.versions.describe(registry.versions.resolve(ref))
    loaded = editor.loaded
    if loaded.digest != version.base:
        raise CommandFailed(
            f"{loaded.name} is not the base of {version.id}: its digest is {loaded.digest}, the "
            f"version's base is {version.base}; name the right one with --model"
        )
    changes = {one.module: decode_delta(registry.blobs.get(one.blob)) for one in version.weights}
    return editor.model_with(changes)
