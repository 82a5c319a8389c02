"""Blobs: named by their content, verified at every read, mended but never overwritten."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from registry import FolderStore, Registry
from registry.errors import BlobDamaged, BlobMissing
from tests.unit.registry.stores import damage

DATA = b"safetensors, say" * 100


def key_of(digest: str) -> str:
    return f"blobs/sha256/{digest[:2]}/{digest}"


def test_a_blob_is_named_by_its_sha256(registry: Registry) -> None:
    digest = registry.blobs.put(DATA)
    assert digest == hashlib.sha256(DATA).hexdigest()
    assert registry.store.get(key_of(digest)) == DATA
    assert registry.blobs.get(digest) == DATA
    assert registry.blobs.has(digest)
    assert registry.blobs.put(DATA) == digest


def test_a_missing_blob_is_named(registry: Registry) -> None:
    digest = "a" * 64
    assert not registry.blobs.has(digest)
    with pytest.raises(BlobMissing, match=digest):
        registry.blobs.get(digest)
    with pytest.raises(BlobMissing, match=digest):
        registry.blobs.stream(digest)


def test_a_large_blob_comes_piece_by_piece(registry: Registry) -> None:
    data = os.urandom(3 * 2**20 + 5)
    pieces = list(registry.blobs.stream(registry.blobs.put(data)))
    assert len(pieces) > 3
    assert b"".join(pieces) == data


def test_a_part_of_a_blob(registry: Registry) -> None:
    digest = registry.blobs.put(DATA)
    assert registry.blobs.size(digest) == len(DATA)
    assert b"".join(registry.blobs.part(digest, 5, 205)) == DATA[5:205]
    assert registry.blobs.size("a" * 64) is None
    with pytest.raises(BlobMissing):
        registry.blobs.part("a" * 64, 0, 1)


def test_a_damaged_blob_is_never_streamed_whole(registry: Registry) -> None:
    data = os.urandom(3 * 2**20 + 5)
    digest = registry.blobs.put(data)
    damage(registry.store, key_of(digest), data[:-1] + bytes([data[-1] ^ 1]))
    out = []
    with pytest.raises(BlobDamaged):
        out.extend(registry.blobs.stream(digest))
    assert len(b"".join(out)) < len(data)


@pytest.mark.parametrize("bad", ["", "a" * 63, "A" * 64, "../" + "a" * 61, "a" * 64 + "\n"])
def test_what_is_not_a_digest_never_becomes_a_path(registry: Registry, bad: str) -> None:
    for call in (registry.blobs.get, registry.blobs.has, registry.blobs.quarantine):
        with pytest.raises(ValueError, match="not a digest"):
            call(bad)


@pytest.mark.parametrize("how", ["bit", "truncated", "empty"])
def test_a_damaged_blob_is_detected_set_aside_and_put_again(registry: Registry, how: str) -> None:
    digest = registry.blobs.put(DATA)
    flipped = bytes([DATA[0] ^ 1]) + DATA[1:]
    spoiled = {"bit": flipped, "truncated": DATA[:-1], "empty": b""}[how]
    damage(registry.store, key_of(digest), spoiled)

    with pytest.raises(BlobDamaged, match=digest):
        registry.blobs.get(digest)
    with pytest.raises(BlobDamaged, match=digest):
        list(registry.blobs.stream(digest))
    registry.blobs.quarantine(digest)
    with pytest.raises(BlobMissing):
        registry.blobs.get(digest)
    assert len(registry.store.names("quarantine")) == 1, "kept for whoever wants to look"

    registry.blobs.put(DATA)
    assert registry.blobs.get(digest) == DATA


def test_putting_the_bytes_again_mends_a_damaged_blob(registry: Registry) -> None:
    digest = registry.blobs.put(DATA)
    damage(registry.store, key_of(digest), DATA[:10])
    assert registry.blobs.put(DATA) == digest
    assert registry.blobs.get(digest) == DATA
    [aside] = registry.store.names("quarantine")
    assert registry.store.get(f"quarantine/{aside}") == DATA[:10]


def test_while_many_mend_a_blob_it_is_never_missing(tmp_path: Path) -> None:
    """A commit that looks in between must find it."""
    blobs = Registry(FolderStore(tmp_path)).blobs
    digest = blobs.put(DATA)
    for _ in range(20):
        damage(FolderStore(tmp_path), key_of(digest), DATA[:10])
        with ThreadPoolExecutor(4) as pool:
            mending = [pool.submit(blobs.put, DATA) for _ in range(4)]
            while not all(one.done() for one in mending):
                assert blobs.has(digest)
        assert blobs.get(digest) == DATA


def test_a_sound_or_missing_blob_is_not_quarantined(registry: Registry) -> None:
    digest = registry.blobs.put(DATA)
    registry.blobs.quarantine(digest)
    registry.blobs.quarantine("c" * 64)
    assert registry.blobs.get(digest) == DATA
    assert registry.store.names("quarantine") == []
