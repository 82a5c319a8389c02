"""`/blobs`: the files of versions by their content, whole or in parts."""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import APIRouter, Header, Path, Response
from fastapi.responses import StreamingResponse
from starlette.exceptions import HTTPException

from contracts.errors import NotFound
from contracts.ids import DIGEST
from service.deps import Ctx
from service.openapi import Responses

router = APIRouter(prefix="/blobs", tags=["versions"])

BINARY = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
BLOBS: Responses = {
    200: {"description": "The whole blob; its SHA-256 is its name.", "content": BINARY},
    206: {"description": "The part that `Range` asks for, not verified.", "content": BINARY},
    304: {"description": "The client has it, as `If-None-Match` says."},
}
_RANGE = re.compile(r"bytes=(?:(\d{1,18})-(\d{0,18})|-(\d{1,18}))")


@router.get("/{digest}", response_class=StreamingResponse, responses=BLOBS)
def get_blob(
    digest: Annotated[str, Path(description="sha256 in hex", examples=["5f" * 32])],
    context: Ctx,
    range_: Annotated[
        str | None, Header(alias="Range", description="one range of bytes", examples=["bytes=0-99"])
    ] = None,
    if_range: Annotated[str | None, Header(description="the ETag that `Range` is for")] = None,
    if_none_match: Annotated[str | None, Header(description="ETags that the client has")] = None,
) -> Response:
    """Download a blob by its digest; it never changes, so caches may keep it for good."""
    blobs = context.registry.blobs
    size = blobs.size(digest) if DIGEST.fullmatch(digest) else None
    if size is None:
        raise NotFound(f"no blob {digest[:100]!r}")
    etag = f'"{digest}"'
    headers = {
        "ETag": etag,
        "Accept-Ranges": "bytes",
        "Cache-Control": "public, max-age=31536000, immutable",
    }
    if if_none_match is not None and _names(if_none_match, etag):
        return Response(status_code=304, headers=headers)
    part = None if range_ is None or if_range not in (None, etag) else _part(range_, size)
    if part is None:
        headers["Content-Length"] = str(size)
        pieces, status = blobs.stream(digest), 200
    else:
        start, stop = part
        headers["Content-Length"] = str(stop - start)
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        pieces, status = blobs.part(digest, start, stop), 206
    return StreamingResponse(pieces, status, headers, media_type="application/octet-stream")


def _names(condition: str, etag: str) -> bool:
    """Whether an `If-None-Match` is for this ETag; weak ones compare as strong ones do."""
    tags = [tag.strip().removeprefix("W/") for tag in condition.split(",")]
    return etag in tags or tags == ["*"]


def _part(asked: str, size: int) -> tuple[int, int] | None:
    """Start and stop of a single range; None for any other, which RFC 9110 lets be ignored.

    Raises:
        HTTPException: 416, it begins after the last byte.
    """
    found = _RANGE.fullmatch(asked.strip())
    if found is None:
        return None
    first, last, suffix = found.groups()
    if suffix is not None:
        start, stop = max(size - int(suffix), 0), size
    else:
        start, stop = int(first), min(int(last) + 1, size) if last else size
        if last and int(last) < start:
            return None
    if start >= stop:
        raise HTTPException(
            416, f"the blob has {size} bytes", headers={"Content-Range": f"bytes */{size}"}
        )
    return start, stop
