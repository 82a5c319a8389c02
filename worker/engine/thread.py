"""The engine's thread: takes tasks while there is room, steps, and writes what the step said."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass

from contracts import retry_after as after
from contracts.errors import Unavailable
from contracts.ids import VersionId
from contracts.settings import Settings
from memit_core.loading import LoadedModel
from memit_core.precision import free_memory
from memit_core.structure import Structure
from registry.registry import Registry
from worker.deltas import Deltas
from worker.engine.engine import DeviceLost, Engine
from worker.engine.going_first import going_first
from worker.engine.residents import Residents
from worker.engine.spans import GenerationSpans
from worker.engine.streams import GenerationStreams
from worker.engine.versioned import ServingView
from worker.openmp import release_threads

IDLE_MS = 100
"""How long an idle engine waits for a task before it looks at what else there is to do."""
PARKED_MS = 10
"""The same while something is being loaded."""
MAX_FAILURES = 20
"""Cycles that may fail one after the other before the process is given up."""
FAILURE_PAUSE = 0.1
JOIN_MARGIN = 10.0

FREE_SHARE = 0.25
"""Of the free memory: most that edited versions take by default."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EngineStatus:
    """What the engine says of itself; `versions` are those in memory, the base first."""

    alive: bool
    running: int
    waiting: int
    generated_tokens: int
    starts_per_second: float | None
    versions: list[VersionId]


class EngineThread:
    """The generation engine of a worker, in a thread of its own."""

    def __init__(
        self,
        loaded: LoadedModel,
        structure: Structure,
        registry: Registry,
        settings: Settings,
        *,
        deltas: Deltas,
        worker: str,
        base_version: VersionId,
        on_fatal: Callable[[BaseException], None],
        rebuild: Callable[[VersionId], None] | None = None,
    ) -> None:
        """Prepare the serving view; nothing runs before `start`.

        Args:
            worker: id that clients see in `StartEvent`, and consumer name in Redis.
            base_version: id of v0 in the registry.
            on_fatal: called on the engine's thread when it cannot go on (a lost device, or
                failure after failure); the process should end.
            rebuild: see `Residents`.

        Raises:
            UnsupportedModel: the model cannot be served in a padded batch.
            ValueError: no Redis is configured.
        """
        view = ServingView(loaded.model, base_version)
        self._residents = Residents(
            view,
            loaded,
            structure,
            registry,
            deltas,
            base_version=base_version,
            budget=_resident_bytes(loaded, settings.resident_mb),
            rebuild=rebuild,
        )
        self._engine = Engine(
            loaded,
            view,
            self._residents,
            worker=worker,
            max_batch=settings.max_batch,
            max_context=settings.max_context,
            max_parked=settings.max_queue,
            prefix_bytes=settings.prefix_cache_mb * 2**20,
            said=self._flush,
        )
        self._device = view.device
        self._streams = GenerationStreams(settings.redis(), worker)
        self._spans = GenerationSpans()
        self._on_fatal = on_fatal
        self._failures = 0
        self._stopping = threading.Event()
        self._grace = 0.0
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Begin to take tasks."""
        self._thread.start()

    def stop(self, grace: float = 5.0) -> None:
        """Take nothing more; running rows have `grace` seconds to end, others take the rest."""
        self._grace = grace
        self._stopping.set()
        self._thread.join(grace + JOIN_MARGIN)
        if self._thread.is_alive():
            logger.error("the engine did not stop within %.0f s", grace + JOIN_MARGIN)

    def status(self) -> EngineStatus:
        """How it stands now; from any thread."""
        return EngineStatus(
            alive=self._thread.is_alive(),
            running=self._engine.running,
            waiting=self._engine.waiting,
            generated_tokens=self._engine.generated_tokens,
            starts_per_second=self._engine.starts_per_second,
            versions=self._residents.held(),
        )

    def ensure(self, version: VersionId) -> Future[None]:
        """See `Residents.ensure`; from any thread."""
        return self._residents.ensure(version)

    def keep(self, versions: Iterable[VersionId]) -> bool:
        """See `Residents.keep`; from any thread."""
        return self._residents.keep(versions)

    def _run(self) -> None:
        try:
            with going_first(self._device):
                self._work()
            self._end_all("the worker is stopping", elsewhere=True)
        except Exception as error:
            logger.critical("the engine gives up", exc_info=True)
            self._end_all("the engine failed", elsewhere=True)
            self._on_fatal(error)
        finally:
            self._streams.close()

    def _work(self) -> None:
        while not self._stopping.is_set():
            self._cycle(taking=True)
        deadline = time.monotonic() + self._grace
        while self._engine.busy and time.monotonic() < deadline:
            self._cycle(taking=False)

    def _cycle(self, *, taking: bool) -> None:
        try:
            if taking:
                self._take()
            self._engine.step()
            self._flush()
            self._failures = 0
        except DeviceLost:
            raise
        except Exception:
            self._failures += 1
            if self._failures > MAX_FAILURES:
                raise
            logger.exception("a cycle of the engine failed")
            self._end_all("the engine failed", elsewhere=False)
            time.sleep(FAILURE_PAUSE)

    def _flush(self) -> None:
        """Write what was said, and forget whom nobody hears any more."""
        for request_id in self._streams.flush():
            self._engine.drop(request_id)
            self._spans.drop(request_id)

    def _take(self) -> None:
        pause = IDLE_MS
        if self._engine.waiting or self._residents.loading:
            pause = PARKED_MS
        block = None if self._engine.running else pause
        if block is not None:
            release_threads()
        for task in self._streams.take(self._engine.room, block):
            sink = self._streams.sink(task.id, task.sampling.n)
            self._engine.submit(task, self._spans.heard(task, sink))

    def _end_all(self, reason: str, *, elsewhere: bool) -> None:
        error = Unavailable(reason, retry_after=after.ENGINE_BUSY)
        self._engine.fail_all(error, elsewhere=elsewhere)
        self._streams.flush()


def _resident_bytes(loaded: LoadedModel, given_mb: float | None) -> int:
    """What edited versions may take in memory; see `Settings.resident_mb`."""
    if given_mb is not None:
        return int(given_mb * 2**20)
    model = sum(parameter.nbytes for parameter in loaded.model.parameters())
    return int(min(model, FREE_SHARE * free_memory(loaded.device)))
