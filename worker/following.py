"""What an engine loads ahead of requests: the active version, and the one that is about to be."""

from __future__ import annotations

from concurrent.futures import Future

from redis import Redis

from contracts.errors import ServiceError
from contracts.ids import VERSION_ID
from contracts.transport import WANTED_VERSION_KEY
from contracts.versions import ACTIVE
from registry.registry import Registry
from worker.changes import Changes
from worker.engine.thread import EngineThread

REFUSALS_KEPT = 8


class Following:
    """Looks where `active` points and what an editor asks for, and has the engine load both."""

    def __init__(
        self, registry: Registry, redis: Redis, engine: EngineThread, changes: Changes
    ) -> None:
        self.active: str | None = None
        """What it last saw `active` name."""
        self.refused: dict[str, str] = {}
        """Why versions could not be loaded; the newest few."""
        self._registry = registry
        self._redis = redis
        self._engine = engine
        self._poll = changes.timer()
        self._wanted: str | None = None
        self._loading: dict[str, Future[None]] = {}

    @property
    def loading(self) -> bool:
        """Whether something is on its way into memory."""
        return bool(self._loading)

    def step(self) -> None:
        """Look once.

        Raises:
            RedisError: Redis does not answer.
            RegistryError: the registry cannot be read.
        """
        if self._poll.due():
            record = self._registry.aliases.get(ACTIVE)
            if record is not None and record.version != self.active:
                self.active = record.version
                self._load(record.version)
        told = self._redis.get(WANTED_VERSION_KEY)
        wanted = told.decode(errors="replace") if isinstance(told, bytes) else None
        if wanted != self._wanted:
            self._wanted = wanted
            if wanted is not None and VERSION_ID.fullmatch(wanted):
                self._load(wanted)
        self._take_results()

    def _load(self, version: str) -> None:
        self.refused.pop(version, None)
        self._loading[version] = self._engine.ensure(version)

    def _take_results(self) -> None:
        for version in [version for version, load in self._loading.items() if load.done()]:
            error = self._loading.pop(version).exception()
            if error is not None:
                said = error.detail if isinstance(error, ServiceError) else str(error)
                self.refused[version] = said
                self.refused = dict(list(self.refused.items())[-REFUSALS_KEPT:])
