"""Blobs over HTTP: by digest, in parts, and not again for who has them."""

from __future__ import annotations

import hashlib
import os

import httpx2
import pytest

from registry.registry import Registry
from tests.unit.service.conftest import House

DATA = os.urandom(3 * 2**20 + 5)


@pytest.fixture
def digest(registry: Registry) -> str:
    return registry.blobs.put(DATA)


def test_a_blob_whole(client: httpx2.Client, digest: str) -> None:
    answer = client.get(f"/blobs/{digest}")
    assert answer.status_code == 200
    assert answer.content == DATA
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-length"] == str(len(DATA))
    assert answer.headers["etag"] == f'"{hashlib.sha256(DATA).hexdigest()}"'
    assert answer.headers["accept-ranges"] == "bytes"
    assert "immutable" in answer.headers["cache-control"]


@pytest.mark.parametrize(
    ("asked", "part"),
    [
        ("bytes=0-99", slice(0, 100)),
        ("bytes=2097152-", slice(2097152, None)),
        ("bytes=-7", slice(-7, None)),
        ("bytes=10-99999999999", slice(10, None)),
        ("bytes=-99999999999", slice(0, None)),
    ],
)
def test_a_part(client: httpx2.Client, digest: str, asked: str, part: slice) -> None:
    answer = client.get(f"/blobs/{digest}", headers={"Range": asked})
    assert answer.status_code == 206
    assert answer.content == DATA[part]
    start, stop, _ = part.indices(len(DATA))
    assert answer.headers["content-range"] == f"bytes {start}-{stop - 1}/{len(DATA)}"
    assert answer.headers["content-length"] == str(stop - start)


def test_a_download_goes_on_where_it_broke_off(client: httpx2.Client, digest: str) -> None:
    first = client.get(f"/blobs/{digest}", headers={"Range": "bytes=0-999"})
    headers = {"Range": "bytes=1000-", "If-Range": first.headers["etag"]}
    rest = client.get(f"/blobs/{digest}", headers=headers)
    assert (rest.status_code, first.content + rest.content) == (206, DATA)
    other = client.get(f"/blobs/{digest}", headers=headers | {"If-Range": '"another"'})
    assert (other.status_code, other.content) == (200, DATA)


@pytest.mark.parametrize("asked", ["bytes=0-1,5-9", "lines=0-1", "bytes=9-3", "bytes=-", "0-1"])
def test_a_range_of_another_kind_is_ignored(client: httpx2.Client, digest: str, asked: str) -> None:
    answer = client.get(f"/blobs/{digest}", headers={"Range": asked})
    assert (answer.status_code, answer.content) == (200, DATA)


@pytest.mark.parametrize("asked", [f"bytes={len(DATA)}-", "bytes=-0"])
def test_a_range_behind_the_end(client: httpx2.Client, digest: str, asked: str) -> None:
    answer = client.get(f"/blobs/{digest}", headers={"Range": asked})
    assert answer.status_code == 416
    assert answer.headers["content-range"] == f"bytes */{len(DATA)}"
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("condition", ['"{}"', 'W/"{}"', '"another", "{}"', "*"])
def test_who_has_it_gets_nothing(client: httpx2.Client, digest: str, condition: str) -> None:
    headers = {"If-None-Match": condition.format(digest)}
    answer = client.get(f"/blobs/{digest}", headers=headers)
    assert (answer.status_code, answer.content) == (304, b"")
    assert answer.headers["etag"] == f'"{digest}"'
    other = client.get(f"/blobs/{digest}", headers={"If-None-Match": '"another"'})
    assert other.status_code == 200


@pytest.mark.parametrize("name", ["a" * 64, "A" * 64, "..%2fversions", "x", "%00"])
def test_an_unknown_blob_is_not_found(refusing: House, name: str) -> None:
    answer = refusing.client.get(f"/blobs/{name}")
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"


def test_a_damaged_blob_does_not_arrive(
    client: httpx2.Client, registry: Registry, digest: str
) -> None:
    (blob,) = registry.store.root.rglob(digest)
    blob.chmod(0o600)
    blob.write_bytes(DATA[:-1] + bytes([DATA[-1] ^ 1]))
    with pytest.raises(httpx2.TransportError):
        client.get(f"/blobs/{digest}")
