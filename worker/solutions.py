"""Solutions in the registry: solved once for a set of facts, and again if a blob is lost."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from contracts.ids import Digest
from contracts.versions import LayerWeights
from memit_core.errors import MemitError
from memit_core.facts import Fact
from memit_core.loading import LoadedModel
from memit_core.methods import Method
from memit_core.progress import ProgressCallback, silent
from memit_core.weights import Delta, LowRank, decode_delta, encode_delta
from registry.errors import BlobDamaged, BlobMissing
from registry.registry import Registry
from worker.core_fact import core_fact
from worker.deltas import Deltas

log = logging.getLogger(__name__)


class NotReproduced(MemitError):
    """A version solved again from its facts did not come out bit for bit as it was stored."""


class Solutions:
    """What one method makes of sets of facts, on one base model."""

    def __init__(
        self,
        registry: Registry,
        method: Method,
        loaded: LoadedModel,
        deltas: Deltas,
    ) -> None:
        self._registry = registry
        self._method = method
        self._structure = loaded.structure
        self._deltas = deltas
        self._artefacts = registry.artefacts(loaded.digest)

    def of(
        self, facts: Sequence[Fact], options: Mapping[str, Any], progress: ProgressCallback
    ) -> list[LayerWeights]:
        """Blobs of the solution for these facts; one that was solved before is read back.

        Kept by content like z: the first solution of a set of facts stands, so that the same facts
        give the same bits on any worker, whatever its device or number of threads.

        Raises:
            MemitError: as `Method.solve`.
            StorageError: the storage is full or broken.
        """
        if not facts:
            return []
        name = f"solutions/{self._method.digest(facts, options)}"
        kept = self._artefacts.get(name)
        standing = None if kept is None else self._stored(kept)
        if standing is not None:
            return standing
        solved = self._method.solve(facts, options, progress)
        layers = [self._put(path, delta) for path, delta in solved.items()]
        fresh = json.dumps([layer.model_dump(mode="json") for layer in layers]).encode()
        kept = self._artefacts.put_once(name, fresh)
        if kept != fresh:
            standing = self._stored(kept)
            if standing is not None:
                return standing
            log.warning("%s was solved with other bits before, which nobody has any more", name)
        self._deltas.keep({layer.blob: solved[layer.module] for layer in layers})
        return layers

    def _stored(self, kept: bytes) -> list[LayerWeights] | None:
        """What a solution says, if all its blobs are there."""
        # An earlier release did not keep which way round the base's weight lies.
        transposed = {"transposed": self._structure.transposed}
        layers = [LayerWeights.model_validate(layer | transposed) for layer in json.loads(kept)]
        changes = self._read(layers)
        if changes is None:
            return None
        self._deltas.keep(changes)
        return layers

    def rebuild(self, version: str) -> None:
        """Solve a version's blobs again from its ledger and put them where they were.

        Raises:
            NotReproduced: what is solved now is not, bit for bit, what was stored.
        """
        manifest = self._registry.versions.get(version)
        facts = [core_fact(live.fact) for live in self._registry.ledger.live(version)]
        if self._read(manifest.weights) is not None:
            return  # somebody was quicker
        log.warning("%s is solved again from its facts: its weights are not there", version)
        solved = self._method.solve(facts, manifest.hparams, silent)
        for layer in manifest.weights:
            if self._registry.blobs.put(encode_delta(solved[layer.module])) != layer.blob:
                raise NotReproduced(
                    f"layer {layer.layer} came out with other bits than were stored "
                    "(another device, library or number of threads?)"
                )

    def _put(self, path: str, delta: Delta) -> LayerWeights:
        return LayerWeights(
            layer=self._structure.block_of(path),
            module=path,
            blob=self._registry.blobs.put(encode_delta(delta)),
            kind="low_rank" if isinstance(delta, LowRank) else "dense",
            rank=delta.rank,
            transposed=self._structure.transposed,
        )

    def _read(self, stored: Sequence[LayerWeights]) -> dict[Digest, Delta] | None:
        """From the disk, by blob; None if one is lost."""
        try:
            return {one.blob: decode_delta(self._registry.blobs.get(one.blob)) for one in stored}
        except (BlobMissing, BlobDamaged):
            return None
