"""Start a worker: read the settings, load the model, and work."""

from __future__ import annotations

import logging
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

from contracts import logs, tracing
from contracts.errors import ServiceError
from contracts.settings import Settings
from memit_core.errors import MemitError
from memit_core.loading import load_model
from memit_core.processors import limit_threads
from memit_core.transformers_internals import disable_progress_bar
from registry.errors import RegistryError
from worker.process import WorkerProcess
from worker.progress import Interrupted
from worker.starting import Starting

log = logging.getLogger(__name__)

CANNOT_START = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Load the model and work; the process's exit status."""
    parser = ArgumentParser("python -m worker", description="Serve a model, and edit it.")
    parser.add_argument(
        "--role",
        choices=["all", "engine", "editor"],
        help="generate (engine), write facts (editor), or both; by default MEMIT_ROLE, else both",
    )
    role = parser.parse_args(arguments).role
    settings = Settings() if role is None else Settings(role=role)
    logs.configure(settings.log_level, settings.log_format, settings.secrets())
    if settings.log_format == "json":
        disable_progress_bar()  # no line of JSON
    try:
        tracing.configure("memit-worker")
        starting = Starting(settings.redis(), settings.model)
        if settings.hparams is not None and not Path(settings.hparams).is_file():
            raise MemitError(f"--hparams {settings.hparams}: there is no such file")
        limit_threads()
        log.info("loading %s", settings.model)
        loaded = load_model(
            settings.model,
            device=settings.device,
            dtype=settings.dtype,
            progress=starting,
        )
        log.info("loaded %s on %s as %s", loaded.name, loaded.device, loaded.dtype_name)
        process = WorkerProcess(settings, loaded, starting)
    except Interrupted:
        return 0
    except (MemitError, ServiceError, RegistryError, ValueError, OSError) as error:
        log.critical("cannot start: %s", error)
        return CANNOT_START
    except Exception as error:
        # Nobody foresaw it, so the log gets all of it; who reads the end of the log, the reason.
        log.exception("an unexpected error at the start")
        log.critical("cannot start: %s: %s", type(error).__name__, error)
        return CANNOT_START
    try:
        process.run()
    finally:
        tracing.shut_down()
    return 0
