"""`memit calibrate`: find hyperparameters for a model that has no preset."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli import output
from cli.errors import CommandFailed
from cli.eval_progress import TerminalProgress
from cli.facts_file import read_facts

if TYPE_CHECKING:
    from contracts.facts import Fact
    from memit_core.calibrate.calibration import Calibration


def calibrate(
    facts: Annotated[
        str | None,
        typer.Argument(
            help="Your facts, as `memit edit` takes them; else a packaged set.", metavar="[FILE]"
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Model folder or hub name, instead of the default model.")
    ] = None,
    to: Annotated[
        Path, typer.Option(help="Write the hyperparameters here, and the heat map beside it.")
    ] = Path("hparams.json"),
    minutes: Annotated[float, typer.Option(min=0.1, help="Time that the search may take.")] = 15,
    corpus: Annotated[
        str | None,
        typer.Option(help="Text file or dataset for the covariance.", metavar="FILE|NAME"),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
) -> None:
    """Find the hyperparameters that suit a model, and say what it can learn with them.

    The same command again goes on after a stop. `memit serve --hparams` takes the result.
    """
    output.require_folder(to)
    if to.suffix != ".json":
        raise CommandFailed(f"{to}: --to must end in .json; the heat map goes beside it, as .png")
    given = [] if facts is None else read_facts(facts)
    # Imported here: what needs torch takes seconds, and the other commands need none of it.
    from memit_core.calibrate.heat_map import draw_heat_map
    from memit_core.errors import MemitError
    from memit_core.eval.extras import need

    try:
        need("matplotlib", "the heat map")
        found, name = _found(
            [line.fact for line in given], model, minutes, corpus, device, dtype, _work_of(to)
        )
        picture = to.with_suffix(".png")
        draw_heat_map(picture, name, found.trace, found.hparams.layers)
    except KeyboardInterrupt:
        output.say(output.messages(), "stopped; the same command goes on from here")
        raise
    except (MemitError, OSError, ValueError) as error:
        raise CommandFailed(str(error)) from error
    text = json.dumps(found.preset, indent=2, ensure_ascii=False, allow_nan=False)
    to.write_text(f"{text}\n", "utf-8")
    shutil.rmtree(_work_of(to))
    output.results().print(_table(found.preset))
    for line in found.verdict:
        output.say(output.results(), line)
    options = [*([] if model is None else ["--model", model]), "--hparams", str(to)]
    output.say(
        output.messages(),
        f"wrote {to} and {picture}; start with: memit serve {shlex.join(options)}",
    )


def _work_of(to: Path) -> Path:
    return to.with_name(f"{to.name}.work")


def _found(
    facts: list[Fact],
    model: str | None,
    minutes: float,
    corpus: str | None,
    device: str,
    dtype: str,
    work: Path,
) -> tuple[Calibration, str]:
    from memit_core.calibrate.calibration import calibrate as search
    from memit_core.corpus import read_corpus
    from memit_core.default_model import DEFAULT_MODEL
    from memit_core.loading import load_model
    from memit_core.processors import limit_threads
    from memit_core.transformers_internals import disable_progress_bar
    from registry.folder_store import FolderStore
    from registry.registry import Registry
    from worker.core_fact import core_fact

    text = None if corpus is None else read_corpus(corpus)
    disable_progress_bar()  # the bars shown are our own
    limit_threads()
    with TerminalProgress(output.messages()) as progress:
        loaded = load_model(model or DEFAULT_MODEL, device=device, dtype=dtype, progress=progress)
        found = search(
            loaded,
            [core_fact(fact) for fact in facts],
            minutes=minutes,
            corpus=text,
            cache=Registry(FolderStore(work)).artefacts(loaded.digest),
            scratch=work,
            progress=progress,
        )
    return found, loaded.name


SHOWN = {
    "stage": "stage",
    "layers": "layers",
    "mom2_update_weight": "λ",
    "clamp": "clamp",
    "v_lr": "step size",
    "steps": "steps",
    "facts": "facts",
    "efficacy": "ES",
    "paraphrase": "PS",
    "neighborhood": "NS",
    "said": "said",
    "perplexity_ratio": "perplexity ×",
}
SHARES = ("efficacy", "paraphrase", "neighborhood", "said")
PERCENT = 100


def _table(preset: dict[str, Any]) -> Any:
    """The way to the result: a row a trial, shares in percent."""
    rows = [[_cell(row, name) for name in SHOWN] for row in preset["calibration"]["table"]]
    unedited = {"stage": "unedited", **preset["calibration"]["unedited"]}
    rows.append([_cell(unedited, name) for name in SHOWN])
    return output.table(SHOWN.values(), rows)


def _cell(row: dict[str, Any], name: str) -> str:
    value = row.get(name)
    if value is None:
        return ""
    if name in SHARES:
        return f"{PERCENT * value:.1f}"
    if name == "layers":
        first, last = value[0], value[-1]
        return str(first) if first == last else f"{first} to {last}"
    if name == "perplexity_ratio":
        return f"{value:.3f}"
    return f"{value:g}" if isinstance(value, float) else str(value)
