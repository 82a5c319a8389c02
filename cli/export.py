"""`memit export`: a version as a folder that other programs open."""

from __future__ import annotations

import json as jsonlib
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

import typer

from cli import output
from cli.client import Client
from cli.errors import CommandFailed
from cli.exported import FACTS, MANIFEST, Exported, read_exported, unpack
from cli.options import DEFAULT_URL, Json, Url
from contracts.exports import ADAPTER_RANKS, LOSSLESS, Export, Format
from registry.card import model_card

if TYPE_CHECKING:
    from cli.export_model import Check

MEGABYTE = 1e6


def export(
    version: Annotated[str, typer.Argument(help="Version (v3-…, v3) or alias to export.")],
    to: Annotated[Path, typer.Option(help="Folder to make: new, or empty.")],
    format: Annotated[  # noqa: A002 - the name of the option
        Format,
        typer.Option(
            help="delta: what the version adds, in our own files; peft: a LoRA folder; "
            "merged: a whole Hugging Face model."
        ),
    ] = "delta",
    max_rank: Annotated[
        int, typer.Option(min=1, help="Largest rank of a LoRA folder; vLLM takes up to 512.")
    ] = ADAPTER_RANKS[-1],
    allow_loss: Annotated[
        bool,
        typer.Option("--allow-loss", help="Cut a LoRA to --max-rank even where that loses facts."),
    ] = False,
    check: Annotated[
        bool | None,
        typer.Option(
            "--check/--no-check",
            help="Ask the folder's weights for the version's facts, with the base loaded. "
            "By default where a cut lost more than rounding.",
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Folder or hub name of the base model; by default what the version says"),
    ] = None,
    url: Url = DEFAULT_URL,
    json: Json = False,
) -> None:
    """Make a folder of a version: our own files, a LoRA adapter, or a whole model."""
    # Only merged and checked folders need torch, which is imported there.
    from memit_core.errors import MemitError
    from memit_core.saving import whole_folder

    os.environ.setdefault("TQDM_DISABLE", "1")  # the bars shown are our own
    params: dict[str, str] = {"format": "delta" if format == "merged" else format}
    if format == "peft":
        params |= {"max_rank": str(max_rank), "allow_loss": str(allow_loss).lower()}
    try:
        with whole_folder(to) as made:
            told = _make(made, url, version, format, params, check, model)
    except (MemitError, OSError, ValueError) as error:
        raise CommandFailed(str(error)) from error
    told = {"folder": str(to), **told}
    if json:
        output.print_json(told)
    else:
        for line in _summary(told):
            output.say(output.results(), line)


def _make(
    made: Path,
    url: str,
    version: str,
    form: Format,
    params: dict[str, str],
    check: bool | None,
    model: str | None,
) -> dict[str, Any]:
    """Fill the folder; what there is to tell of it."""
    checked = None
    with tempfile.TemporaryDirectory(dir=made.parent) as scratch:
        sent = Path(scratch) / "sent" if form == "merged" else made
        _fetch(url, version, params, Path(scratch) / "archive", sent)
        found = read_exported(sent)
        export = _described(found, form)
        if form == "merged":
            from cli.export_model import make_merged

            checked = make_merged(found, sent, made, model, bool(check))
            for name in (MANIFEST, FACTS):
                (sent / name).rename(made / name)
        elif form == "peft" and (_lossy(export) if check is None else check):
            from cli.export_model import check_adapter

            checked = check_adapter(found, url, model)
    _write(made, "export.json", export.model_dump_json(indent=2))
    _write(made, "README.md", model_card(found.version, found.facts, export, _notes(checked)))
    size = sum(file.stat().st_size for file in made.rglob("*") if file.is_file())
    told = {"format": form, "version": found.version.id, "facts": len(found.facts), "bytes": size}
    if form == "peft":
        told |= {"rank": export.rank, "relative_error": export.relative_error}
    if checked is not None:
        told |= {"logit_difference": checked.logits, "asked": checked.asked, "lost": checked.lost}
    return told


def _fetch(url: str, version: str, params: dict[str, str], archive: Path, folder: Path) -> None:
    path = f"/versions/{quote(version, safe='')}/checkpoint"
    with Client(url) as client, archive.open("wb") as file:
        client.download(path, file, params)
    unpack(archive, folder)
    archive.unlink()


def _lossy(export: Export) -> bool:
    return (export.relative_error or 0) > LOSSLESS


def _described(found: Exported, form: Format) -> Export:
    sent = found.read("export.json")
    if sent is not None:
        return Export.model_validate_json(sent)
    from service.release import release

    one = found.version
    return Export(
        format=form,
        version=one.id,
        base=one.base,
        model=one.model,
        dtype=one.dtype,
        made_by=release(),
    )


def _write(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text, "utf-8")


def _notes(check: Check | None) -> list[str]:
    if check is None:
        return []
    kept = check.asked - len(check.lost)
    notes = [
        f"Largest difference of a logit from the version, asked its facts: {check.logits:.2g}",
        f"Of {check.asked} facts that the version answers, {kept} are answered",
    ]
    if check.lost:
        notes.append(f"Lost: {jsonlib.dumps(check.lost)}")
    return notes


def _summary(told: dict[str, Any]) -> list[str]:
    size = f"{told['bytes'] / MEGABYTE:,.1f} MB"
    lines = [
        f"{told['folder']}: {told['version']} as {told['format']}, {told['facts']} facts, {size}"
    ]
    if "rank" in told:
        lines.append(f"Rank {told['rank']}, relative error {told['relative_error']:.1e}.")
        if told["relative_error"] > LOSSLESS:
            lines.append("That is more than rounding: the adapter is not the version.")
    if "lost" in told:
        lines.append(
            f"Largest difference of a logit: {told['logit_difference']:.2g}. "
            f"Lost {len(told['lost'])} of {told['asked']} facts that the version answers."
        )
        lines += [f"Lost: {fact}" for fact in told["lost"]]
    return lines
