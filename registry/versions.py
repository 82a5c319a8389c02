"""Versions: immutable manifests, and the log that says which of them count."""

from __future__ import annotations

import hashlib
import logging
import threading
from contextlib import suppress
from functools import lru_cache

from pydantic import BaseModel

from contracts.errors import NotFound
from contracts.ids import (
    ALIAS_NAME,
    VERSION_ID,
    VERSION_SHORT,
    VersionId,
    version_id,
    version_seq,
)
from contracts.versions import ACTIVE, Version, VersionManifest
from registry.aliases import Aliases
from registry.blobs import Blobs
from registry.errors import BlobDamaged, BlobMissing, ManifestDamaged, RecordDamaged
from registry.full_reports import FullReports
from registry.records import decode_record, encode_plain
from registry.releases import Releases
from registry.sequence import SequenceLog
from registry.split import drawn
from registry.store import Store

_MANIFESTS_CACHED = 256

logger = logging.getLogger(__name__)


class VersionEntry(BaseModel):
    """What `versions/by-seq/<n>.json` holds: the manifest that won number n, and whose it is."""

    version: VersionId
    edit_id: str | None = None


class Versions:
    """A version is committed by its entry in the log; a manifest without one is an orphan.

    A manifest is kept twice, under its id and as a blob: where the one is damaged, the other is
    read. An entry that is lost is known from the only manifest of its number.
    """

    def __init__(
        self,
        store: Store,
        blobs: Blobs,
        aliases: Aliases,
        full_reports: FullReports,
        releases: Releases,
    ) -> None:
        self._store = store
        self._blobs = blobs
        self._aliases = aliases
        self._full_reports = full_reports
        self._releases = releases
        self._log = SequenceLog(store, "versions/by-seq", VersionEntry, rebuilt=self._entry)
        self._read = lru_cache(maxsize=_MANIFESTS_CACHED)(self._load)
        self._by_edit: dict[str, str] = {}
        self._indexed = -1
        self._lock = threading.Lock()

    def tip(self) -> int:
        """Sequence number of the newest version; -1 when there is none."""
        return self._log.tip()

    def commit(self, manifest: VersionManifest) -> str | None:
        """Commit a version as number `manifest.seq`, which must be `tip() + 1`.

        An edit is committed once: if its version is in the log already, by this or by an earlier
        attempt, that version's id is the answer and nothing is written.

        Returns:
            The id of the version that stands for this edit; None if the number was taken by
            another manifest, so that the caller may number it anew.

        Raises:
            BlobMissing: a blob that the manifest names has not been put. Weights may be gone that
                were given up for another version of the same facts: they are solved again.
            ValueError: the number would leave a gap, or the manifest is not valid (a NaN in it).
            StorageError: the storage is full or broken.
        """
        data = encode_plain(manifest)
        VersionManifest.model_validate_json(data)  # what is committed can be loaded again
        version = version_id(manifest.seq, hashlib.sha256(data).hexdigest())
        tip = self.tip()
        if manifest.edit_id is not None:
            standing = self.of_edit(manifest.edit_id)
            if standing is not None:
                return standing
        if manifest.seq <= tip:
            return version if self.by_seq(manifest.seq) == version else None
        if manifest.seq > tip + 1:
            raise ValueError(f"version {manifest.seq} would leave a gap after {tip}")
        for blob in (manifest.live, *manifest.blobs):
            if not self._blobs.has(blob) and not self._given_up(blob):
                raise BlobMissing(blob)
        self._blobs.put(data)
        self._store.put_if_absent(_key(version), data)
        entry = VersionEntry(version=version, edit_id=manifest.edit_id)
        return version if self._log.append(manifest.seq, entry) else None

    def keep(self, manifest: VersionManifest) -> str:
        """Keep a manifest that shall be committed; its digest."""
        return self._blobs.put(encode_plain(manifest))

    def kept(self, digest: str) -> VersionManifest:
        """What `keep` has kept.

        Raises:
            BlobMissing, BlobDamaged: it is lost.
        """
        return decode_record(VersionManifest, f"blob {digest}", self._blobs.get(digest))

    def commit_as_next(self, manifest: VersionManifest) -> VersionId:
        """Commit under whatever number is free; the id of the version that stands for its edit.

        Of the facts of another number than the manifest says, `since` names the first one tried.

        Raises:
            As `commit`.
        """
        while (version := self.commit(manifest)) is None:
            manifest = manifest.model_copy(update={"seq": self.tip() + 1})
        return version

    def get(self, version: str) -> VersionManifest:
        """The manifest of a committed version, by its full id.

        Raises:
            NotFound: no version of this id was committed.
            ManifestDamaged: its bytes do not hash to its id.
        """
        if not VERSION_ID.fullmatch(version) or self.by_seq(version_seq(version)) != version:
            raise NotFound(f"no version {version}")
        return self._read(version)

    def manifest(self, version: VersionId) -> VersionManifest:
        """As `get`, of an orphan too.

        Raises:
            ManifestDamaged: as `get`, or there is none.
        """
        return self._read(version)

    def append_lost(self, version: VersionId) -> bool:
        """Put the entry of a version that is known to have been committed; False if it is taken."""
        entry = VersionEntry(version=version, edit_id=self.manifest(version).edit_id)
        return self._log.append(version_seq(version), entry)

    def describe(self, version: str) -> Version:
        """A version as clients see it: manifest, id, aliases, full report, whether it has weights.

        Raises:
            NotFound, ManifestDamaged: as `get`.
        """
        manifest = self.get(version)
        return Version(
            id=version,
            aliases=self._aliases.naming(version),
            full_report=self._full_reports.get(version),
            weights_kept=self.has_weights(version),
            **dict(manifest),
        )

    def has_weights(self, version: str) -> bool:
        """Whether a version's weights are there; False until those given up are solved again.

        Raises:
            NotFound, ManifestDamaged: as `get`.
        """
        manifest = self.get(version)
        if version not in self._releases.versions():
            return True
        return all(self._blobs.has(blob) for blob in manifest.blobs)

    def by_seq(self, number: int) -> str | None:
        """Id of the version with this sequence number; None if there is none.

        Raises:
            RecordDamaged: there is one, and which cannot be read.
        """
        entry = self._log.read(number)
        return None if entry is None else entry.version

    def resolve(self, ref: str, key: str | None = None) -> VersionId:
        """The full id that a full id, a short id such as `v12` or an alias names now.

        Args:
            key: draws one version of a split alias, see `drawn`; without one it is the heaviest.

        Raises:
            NotFound: it names nothing; the message repeats what was asked.
        """
        version: str | None = None
        if VERSION_ID.fullmatch(ref):
            version = ref if self.by_seq(version_seq(ref)) == ref else None
        elif VERSION_SHORT.fullmatch(ref):
            version = self.by_seq(version_seq(ref))
        elif ALIAS_NAME.fullmatch(ref):
            record = self._aliases.get(ref)
            if record is not None:
                version = record.version
                if key is not None and record.split:
                    version = drawn(ref, key, record.split)
        if version is None:
            raise NotFound(f"no version or alias {ref[:100]!r}")
        return version

    def of_edit(self, edit_id: str) -> str | None:
        """Id of the version that this edit made, rejected ones too; None if it made none (yet)."""
        with self._lock:
            new, self._indexed = self._log.numbered(after=self._indexed)
            for _, entry in new:
                if entry.edit_id is not None:
                    self._by_edit.setdefault(entry.edit_id, entry.version)
            return self._by_edit.get(edit_id)

    def oldest(self) -> tuple[VersionId, VersionManifest]:
        """The first version whose manifest can be read: v0, the untouched model, unless it is lost.

        Raises:
            NotFound: there is no version.
            RecordDamaged: no version can be read; says what is wrong with the first.
        """
        first: RecordDamaged | None = None
        for number in range(self.tip() + 1):
            try:
                version = self.by_seq(number)
                if version is not None:
                    return version, self._read(version)
            except RecordDamaged as error:
                first = first or error
        raise first or NotFound("there is no version")

    def made_active(self, version: str, edit_id: str) -> bool:
        """Whether this edit moved `active` to the version."""
        history = self._aliases.history(ACTIVE)
        return any((record.edit_id, record.version) == (edit_id, version) for record in history)

    def page(self, limit: int, before: int | None = None) -> tuple[list[str], int | None]:
        """Up to `limit` ids, newest first, of versions numbered below `before`.

        Returns:
            The ids, and the `before` of the next page or None after the last.
        """
        entries, following = self._log.page(limit, before)
        return [entry.version for entry in entries], following

    def damaged(self, limit: int | None = None, before: int | None = None) -> list[RecordDamaged]:
        """What is wrong with the entries that `page` leaves out; by default of the whole log."""
        return self._log.damaged(limit, before)

    def keep_copy(self, version: str) -> None:
        """Keep a sound manifest as a blob too, as earlier releases did not."""
        if self._copy(version) is None and (data := self._store.get(_key(version))):
            _decoded(version, data)
            self._blobs.put(data)

    def restore_manifest(self, version: VersionId) -> bool:
        """Put a manifest again that is damaged or gone, if its copy is whole; False if not.

        The damaged file is kept aside. Readers take the copy meanwhile.
        """
        copy = self._copy(version)
        if copy is None:
            return False
        try:
            _decoded(version, self._store.get(_key(version)))
        except ManifestDamaged:
            if not self._store.put_if_absent(_key(version), copy[1]):
                self._store.replace_damaged(_key(version), copy[1])
            return True
        return False

    def _given_up(self, blob: str) -> bool:
        """Whether this is a blob of weights that were given up, for whatever version."""
        if blob in self._releases.blobs():
            return True
        for version in self._releases.versions():
            with suppress(ManifestDamaged):
                if blob in self._read(version).blobs:
                    return True
        return False

    def _load(self, version: str) -> VersionManifest:
        try:
            return _decoded(version, self._store.get(_key(version)))
        except ManifestDamaged as error:
            copy = self._copy(version)
            if copy is None:
                raise
            logger.warning("%s; its copy, blob %s, is read instead", error, copy[0])
            return _decoded(version, copy[1])

    def _copy(self, version: str) -> tuple[str, bytes] | None:
        """Digest and bytes of the blob that is this manifest too; None if there is none."""
        head = version.partition("-")[2]
        for digest in self._store.names(f"blobs/sha256/{head[:2]}"):
            if digest.startswith(head):
                try:
                    return digest, self._blobs.get(digest)
                except (BlobMissing, BlobDamaged, ValueError) as error:
                    logger.warning("no copy of %s: %s", version, error)
        return None

    def _entry(self, number: int) -> VersionEntry | None:
        """The entry of a number whose record is lost, if only one manifest can be meant."""
        names = (name.removesuffix(".json") for name in self._store.names("versions"))
        found = []
        for version in names:
            if VERSION_ID.fullmatch(version) and version_seq(version) == number:
                try:
                    made_by = self._read(version).edit_id
                except ManifestDamaged:
                    return None
                found.append(VersionEntry(version=version, edit_id=made_by))
        return found[0] if len(found) == 1 else None


def _decoded(version: str, data: bytes | None) -> VersionManifest:
    key = _key(version)
    if data is None:
        raise ManifestDamaged(key, "it is in the log of versions but its file is gone")
    if version_id(version_seq(version), hashlib.sha256(data).hexdigest()) != version:
        raise ManifestDamaged(key, "its bytes have another digest")
    try:
        manifest = decode_record(VersionManifest, key, data)
    except RecordDamaged as error:
        raise ManifestDamaged(key, "it is whole, but of a schema unknown here") from error
    if manifest.seq != version_seq(version):
        raise ManifestDamaged(key, f"it says number {manifest.seq}")
    return manifest


def _key(version: str) -> str:
    return f"versions/{version}.json"
