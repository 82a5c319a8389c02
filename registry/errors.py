"""Errors of storage; what a client caused is raised as one of `contracts.errors`.

RegistryError
├── StorageError       the disk or object store is full, broken or out of reach
├── BlobMissing        no blob of this digest is here
├── BlobDamaged        its bytes do not hash to its digest
└── RecordDamaged      a JSON record cannot be read as what it should be
    └── ManifestDamaged    a manifest's bytes do not hash to its version id
"""

from __future__ import annotations


class RegistryError(Exception):
    """Base of every error of storage; the message names the file."""


class StorageError(RegistryError):
    """The disk or object store is full, broken or out of reach; another time it may work."""


class BlobMissing(RegistryError):
    """No blob of this digest is here."""

    def __init__(self, digest: str) -> None:
        super().__init__(f"blob {digest} is missing")
        self.digest = digest


class BlobDamaged(RegistryError):
    """The blob's bytes do not hash to its digest."""

    def __init__(self, digest: str) -> None:
        super().__init__(f"blob {digest} is damaged: its bytes have another digest")
        self.digest = digest


class RecordDamaged(RegistryError):
    """A JSON record cannot be read as what it should be."""

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(f"{key} is damaged: {reason}")
        self.key = key


class ManifestDamaged(RecordDamaged):
    """A manifest's bytes do not hash to its version id."""
