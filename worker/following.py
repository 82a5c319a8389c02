"""What an engine loads ahead of requests: what `active` names, and what it is about to name."""

from __future__ import annotations

import logging
from concurrent.futures import Future

from redis import Redis

from contracts.errors import ServiceError
from contracts.ids import VERSION_ID
from contracts.transport import WANTED_VERSION_KEY
from contracts.versions import ACTIVE, AliasRecord
from registry.errors import RecordDamaged
from registry.kinds import explained
from registry.registry import Registry
from worker.changes import Changes
from worker.engine.thread import EngineThread

log = logging.getLogger(__name__)

REFUSALS_KEPT = 8


class Following:
    """Looks where `active` points and what an editor asks for, and has the engine load both."""

    def __init__(
        self, registry: Registry, redis: Redis, engine: EngineThread, changes: Changes
    ) -> None:
        self.active: str | None = None
        """What it last saw `active` name; of a split the heaviest version."""
        self.refused: dict[str, str] = {}
        """Why versions could not be loaded; the newest few."""
        self._registry = registry
        self._redis = redis
        self._engine = engine
        self._poll = changes.timer()
        self._active: list[str] = []
        self._wanted: str | None = None
        self._lost = ""
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
            record = self._read_active()
            if record is not None and record.versions != self._active:
                self._follow(record.versions)
        told = self._redis.get(WANTED_VERSION_KEY)
        wanted = told.decode(errors="replace") if isinstance(told, bytes) else None
        if wanted != self._wanted:
            self._wanted = wanted
            if wanted is not None and VERSION_ID.fullmatch(wanted):
                self._load(wanted)
        self._take_results()

    def _read_active(self) -> AliasRecord | None:
        try:
            return self._registry.aliases.get(ACTIVE)
        except RecordDamaged as error:
            # Versions are served by their ids all the same.
            if str(error) != self._lost:
                log.error("what active names is not known: %s", explained(error))
            self._lost = str(error)
            return None

    def _follow(self, versions: list[str]) -> None:
        self.active, *others = versions
        for version in versions:
            if version not in self._active:
                self._load(version)
        self._active = versions
        if not self._engine.keep(versions):
            log.warning(
                "active is split among %d versions, more than fit in memory at once: they are "
                "loaded again and again; raise MEMIT_RESIDENT_MB",
                len(others) + 1,
            )

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
