"""Which versions are in memory, by bytes: loaded on demand beside the decode loop, evicted when
unused.

`load_wanted`, `lease` and `release` are called by the thread that runs the forward, between steps,
so the serving view changes only when nothing runs on it. `ensure`, `keep` and `held` may be called
by any.
"""

from __future__ import annotations

import copy
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future

import torch
from structlog.contextvars import bound_contextvars
from torch import nn

from contracts import retry_after as after
from contracts.errors import ServiceError, Unavailable
from contracts.ids import VersionId
from contracts.plain import plain
from memit_core.loading import LoadedModel
from memit_core.mlp import mlp_matrices
from memit_core.packed import PackedConv1D, PackedLinear
from memit_core.structure import Structure
from memit_core.weights import served_weight
from registry.errors import BlobDamaged, BlobMissing
from registry.registry import Registry
from worker.deltas import Deltas
from worker.engine.canary import check_canaries
from worker.engine.going_first import finish
from worker.engine.versioned import ServingView

Weights = dict[str, torch.Tensor]

FIRST_LOADS = 4
"""Versions loaded at once while it is not known yet how large they are."""

logger = logging.getLogger(__name__)


class Residents:
    """Edited versions in the serving view, of `budget` bytes or one; the base is there, uncounted.

    A version has its room from the moment it begins to load, as much as the largest so far took.
    For one that is wanted, the least recently used ones without a lease go, those to be kept only
    after all others. When all are leased, the least recently used one takes no new leases until it
    is free, so that nobody waits for ever.
    """

    def __init__(
        self,
        view: ServingView,
        loaded: LoadedModel,
        structure: Structure,
        registry: Registry,
        deltas: Deltas,
        *,
        base_version: VersionId,
        budget: int,
        rebuild: Callable[[VersionId], None] | None = None,
    ) -> None:
        """Begin with the base alone.

        Args:
            budget: bytes of the matrices that edited versions changed, packed copies included.
            rebuild: puts the blobs of a version again when one is missing or damaged; called on
                a loading thread, one at a time, once before the load is tried again.
        """
        self._view = view
        self._loaded = loaded
        self._structure = structure
        self._registry = registry
        self._deltas = deltas
        self._base_version = base_version
        self._budget = budget
        self._bytes: dict[VersionId, int] = {}  # of each version that ever was in memory
        self._rebuild = rebuild
        self._rebuilding = threading.Lock()
        # A fast tokenizer must not be used by two threads at once, and edits use the loaded one.
        self._tokenizer = copy.deepcopy(loaded.tokenizer)
        self._checking = threading.Lock()
        self._leases: dict[VersionId, int] = {}  # least recently used first
        self._loading: dict[VersionId, Future[Weights]] = {}
        self._kept: frozenset[VersionId] = frozenset()
        self._draining: VersionId | None = None
        self._asked: deque[tuple[VersionId, Future[None]]] = deque()
        self._ensured: list[tuple[VersionId, Future[None]]] = []

    def ensure(self, version: VersionId) -> Future[None]:
        """Bring `version` into memory at the next steps, ahead of what requests want.

        The future ends when it is installed, or with `Unavailable` when it cannot be loaded.
        """
        future: Future[None] = Future()
        self._asked.append((version, future))
        return future

    def keep(self, versions: Iterable[VersionId]) -> bool:
        """Evict these only where all others are leased, from now on; loads none of them.

        Returns:
            Whether all of them fit in memory at once, as far as is known.
        """
        self._kept = frozenset(versions) - {self._base_version}
        return len(self._kept) < 2 or self._taken(self._kept, 0) <= self._budget

    def held(self) -> list[VersionId]:
        """Versions in memory: the base, then from the least to the most recently used."""
        return [self._base_version, *self._leases]

    def holds(self, version: VersionId) -> bool:
        return version == self._base_version or version in self._leases

    @property
    def loading(self) -> bool:
        """Whether something is on its way into memory."""
        return bool(self._loading or self._asked or self._ensured)

    def lease(self, version: VersionId) -> bool:
        """Keep `version` in memory until `release`; False if it is not there (yet)."""
        if version == self._base_version:
            return True
        if version not in self._leases or version == self._draining:
            return False
        self._leases[version] = self._leases.pop(version) + 1
        return True

    def release(self, version: VersionId) -> None:
        """Give one lease back."""
        if version != self._base_version:
            self._leases[version] -= 1

    def load_wanted(self, wanted: Iterable[VersionId]) -> dict[VersionId, ServiceError]:
        """Install what has been loaded, and begin to load what is wanted as slots are free.

        Args:
            wanted: versions of the waiting requests, the first to be served first.

        Returns:
            Why versions could not be loaded, since the last call; the next want tries again.
        """
        failed = self._install_loaded()
        while self._asked:
            self._ensured.append(self._asked.popleft())
        self._ensured = [ask for ask in self._ensured if not self._answered(ask, failed)]
        self._draining = None
        ahead: set[VersionId] = set()
        for version in [*(version for version, _ in self._ensured), *wanted]:
            ahead.add(version)
            if self.holds(version) or version in self._loading or version in failed:
                continue
            if not self._make_room(version, ahead):
                break
            self._begin_loading(version)
        return failed

    def _install_loaded(self) -> dict[VersionId, ServiceError]:
        failed: dict[VersionId, ServiceError] = {}
        for version in [version for version, load in self._loading.items() if load.done()]:
            load = self._loading.pop(version)
            error = load.exception()
            if error is not None:
                failed[version] = Unavailable(
                    f"version {version} cannot be loaded: {plain(error)}",
                    retry_after=after.VERSION_NOT_LOADED,
                )
                continue
            self._view.install(version, load.result())
            self._leases[version] = 0
            self._bytes[version] = self._size(load.result())
            # It may be larger than the room that was made for it.
            while self._taken(self._leases, 0) > self._budget and self._evict({version}):
                pass
        return failed

    def _answered(
        self, ask: tuple[VersionId, Future[None]], failed: dict[VersionId, ServiceError]
    ) -> bool:
        version, future = ask
        if self.holds(version):
            future.set_result(None)
        elif version in failed:
            future.set_exception(failed[version])
        return future.done()

    def _make_room(self, version: VersionId, ahead: set[VersionId]) -> bool:
        """Have room for one version more, sparing those that are wanted sooner."""
        while self._leases or self._loading:
            together = [version, *self._leases, *self._loading]
            if self._taken(together, self._budget // FIRST_LOADS) <= self._budget:
                break
            if not self._evict(ahead):
                return False
        return True

    def _evict(self, ahead: set[VersionId]) -> bool:
        """Let one version go that nobody uses; if all are used, one gets no new leases."""
        others = [version for version in self._leases if version not in ahead]
        others.sort(key=self._kept.__contains__)
        unused = next((version for version in others if self._leases[version] == 0), None)
        if unused is None:
            self._draining = next(iter(others), None)
            return False
        del self._leases[unused]
        finish(self._view.device)  # a prompt that nobody waits for may still be read with it
        self._view.remove(unused)
        return True

    def _taken(self, versions: Iterable[VersionId], unknown: int) -> int:
        """Bytes of these versions.

        One that never was in memory counts as the largest that was; before any was, as `unknown`.
        """
        largest = max(self._bytes.values(), default=unknown)
        return sum(self._bytes.get(version, largest) for version in versions)

    def _size(self, weights: Weights) -> int:
        """Bytes that a version's matrices take, those that are packed twice."""
        modules = (self._loaded.model.get_submodule(path) for path in weights)
        return sum(
            weight.nbytes * (2 if isinstance(module, (PackedLinear, PackedConv1D)) else 1)
            for weight, module in zip(weights.values(), modules, strict=True)
        )

    def _begin_loading(self, version: VersionId) -> None:
        load: Future[Weights] = Future()
        self._loading[version] = load
        threading.Thread(
            target=self._load, args=(version, load), name=f"load-{version}", daemon=True
        ).start()

    def _load(self, version: VersionId, load: Future[Weights]) -> None:
        with bound_contextvars(version_id=version):
            try:
                load.set_result(self._read_or_rebuild(version))
            except Exception as error:
                logger.exception("version %s cannot be loaded", version)
                load.set_exception(error)

    def _read_or_rebuild(self, version: VersionId) -> Weights:
        try:
            return self._read(version)
        except (BlobMissing, BlobDamaged) as error:
            if self._rebuild is None:
                raise
            logger.warning("version %s is solved again: %s", version, error)
            with self._rebuilding:
                self._rebuild(version)
            return self._read(version)

    @torch.no_grad()
    def _read(self, version: VersionId) -> Weights:
        """The served weights of `version` by module path, on the model's device."""
        manifest = self._registry.versions.get(version)
        if manifest.base != self._loaded.digest:
            raise ValueError(f"it was made for another base model ({manifest.model})")
        weights: Weights = {}
        editable = mlp_matrices(self._loaded.model, self._structure)
        for change in manifest.weights:
            if change.module not in editable:
                raise ValueError(f"{change.module} is no MLP matrix of {self._loaded.name}")
            base: torch.Tensor = self._loaded.model.get_submodule(change.module).weight
            delta = self._deltas.read(change.blob)
            weight = served_weight(base, delta, self._structure.transposed)
            # A parameter from here on, so that what is packed for the canaries is kept.
            weights[change.module] = nn.Parameter(weight, requires_grad=False)
        with self._checking:
            check_canaries(self._loaded, self._tokenizer, weights, manifest.canary)
        finish(self._view.device)
        return weights
