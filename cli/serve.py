"""`memit serve`: the whole service, started and watched by one command."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import ValidationError

from cli import output
from cli.errors import CommandFailed

if TYPE_CHECKING:
    from cli.supervisor import Supervisor


def serve(
    model: Annotated[str | None, typer.Option(help="Model folder or hub name.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or mps.")] = None,
    dtype: Annotated[str | None, typer.Option(help="auto, float32, bfloat16 or float16.")] = None,
    hparams: Annotated[
        Path | None,
        typer.Option(help="JSON file of hyperparameters; else the registry's, or the preset."),
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address the API listens on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port the API listens on; 0 takes any.")] = None,
    home: Annotated[Path | None, typer.Option(help="Folder of registry, Redis and logs.")] = None,
) -> None:
    """Run the whole service until Ctrl-C: Redis (unless REDIS_URL is set), worker and API."""
    # Imported here: the other commands work where there is no Redis and no fork.
    from cli.embedded import embedded
    from cli.readiness import Readiness
    from contracts.settings import Settings

    options = {
        "model": model,
        "device": device,
        "dtype": dtype,
        "hparams": hparams and hparams.absolute(),
        "host": host,
        "port": port,
        "home": home and home.absolute(),
    }
    given = {name: value for name, value in options.items() if value is not None}
    try:
        settings = Settings.model_validate(given)
    except ValidationError as error:
        raise CommandFailed(
            "\n".join(f"{one['loc'][0]}: {one['msg']}" for one in error.errors())
        ) from None
    console = output.messages()

    def report(line: str) -> None:
        output.say(console, line)

    with embedded(settings, report) as house:
        stop_on_signals(house.supervisor)
        report(f"home {settings.home}, model {settings.model}")
        with Readiness(house, console):
            house.supervisor.run()


def stop_on_signals(supervisor: Supervisor) -> None:
    """Ctrl-C, SIGTERM and a closed terminal stop it in order; a second one at once."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, lambda *_: supervisor.stop())
