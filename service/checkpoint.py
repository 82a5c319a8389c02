"""A version to take away: a zip of our own files, or a folder that others open, as a tar."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Annotated

from fastapi import Query
from fastapi.responses import StreamingResponse

from contracts.errors import FieldError
from contracts.exports import ERROR_HEADER, RANK_HEADER, Export, Format
from registry.card import model_card
from registry.registry import Registry
from service.adapter import CONFIG_FILE, WEIGHTS_FILE, prepare
from service.openapi import Responses
from service.problems import invalid
from service.release import release
from service.tar import TarFile, tar_size, tarred
from service.zip import zipped

AsFormat = Annotated[
    Format,
    Query(
        description="delta: a zip of what the version adds to the base; peft: a tar of a LoRA "
        "folder; merged: a whole model, which `memit export` makes where the base lies"
    ),
]
MaxRank = Annotated[int, Query(ge=1, le=65_536, description="largest rank of a LoRA folder")]
AllowLoss = Annotated[
    bool, Query(description="cut a change to `max_rank` even where that loses more than rounding")
]
CHECKPOINTS: Responses = {
    200: {
        "description": "delta: manifest.json, facts.json, weights/<sha256>.safetensors; peft: "
        "adapter_config.json, adapter_model.safetensors, README.md and these two",
        "headers": {
            RANK_HEADER: {
                "description": "of a LoRA folder",
                "schema": {"type": "integer"},
                "example": 16,
            },
            ERROR_HEADER: {
                "description": "of a LoRA folder: the largest of its matrices, Frobenius norms",
                "schema": {"type": "number"},
                "example": 0.0,
            },
        },
        "content": {
            media: {"schema": {"type": "string", "format": "binary"}}
            for media in ("application/zip", "application/x-tar")
        },
    }
}


def checkpoint(
    registry: Registry, version: str, form: Format, max_rank: int, allow_loss: bool
) -> StreamingResponse:
    """The answer that holds a version (full id).

    Raises:
        InvalidRequest: `merged`, for which a service without the base lacks the weights.
        Conflict: see `adapter.prepare`.
        BlobMissing, BlobDamaged: a file of the version cannot be sent.
    """
    if form == "merged":
        reason = (
            "merged needs the base model, which the service does not hold; where the base lies: "
            f"memit export {version} --format merged --to FOLDER"
        )
        raise invalid([FieldError(field="format", reason=reason)])
    if form == "peft":
        return _adapter(registry, version, max_rank, allow_loss)
    verify(registry, version)
    return _download(version, "delta.zip", "application/zip", zipped(members(registry, version)))


def _adapter(
    registry: Registry, version: str, max_rank: int, allow_loss: bool
) -> StreamingResponse:
    registry.ledger.mend(version)
    described = registry.versions.describe(version)
    adapter = prepare(registry.blobs, described, max_rank, allow_loss)
    export = Export(
        format="peft",
        version=version,
        base=described.base,
        model=described.model,
        dtype=described.dtype,
        made_by=release(),
        rank=adapter.rank,
        relative_error=adapter.error,
    )
    card = model_card(described, registry.ledger.live(version), export)
    files = [
        TarFile.of("README.md", card.encode()),
        TarFile.of("export.json", export.model_dump_json(indent=2).encode()),
        TarFile.of("manifest.json", described.model_dump_json(indent=2).encode()),
        TarFile.of("facts.json", registry.blobs.get(described.live)),
        TarFile.of(CONFIG_FILE, json.dumps(adapter.config(), indent=2).encode()),
        TarFile(WEIGHTS_FILE, adapter.size(), adapter.pieces(registry.blobs)),
    ]
    headers = {
        "Content-Length": str(tar_size(files)),
        RANK_HEADER: str(adapter.rank),
        ERROR_HEADER: f"{adapter.error:.3g}",
    }
    return _download(version, "peft.tar", "application/x-tar", tarred(files), headers)


def _download(
    version: str,
    ending: str,
    media_type: str,
    pieces: Iterator[bytes],
    headers: dict[str, str] | None = None,
) -> StreamingResponse:
    disposition = f'attachment; filename="memit-{version}-{ending}"'
    return StreamingResponse(
        pieces,
        media_type=media_type,
        headers={"Content-Disposition": disposition, **(headers or {})},
    )


def members(registry: Registry, version: str) -> Iterator[tuple[str, Iterable[bytes]]]:
    """Name and pieces of each file of a checkpoint; no weights are in memory as a whole.

    Raises:
        BlobMissing, BlobDamaged: as the file with that blob is reached.
    """
    manifest = registry.versions.get(version)
    described = registry.versions.describe(version)
    yield "manifest.json", [described.model_dump_json(indent=2).encode()]
    yield "facts.json", registry.blobs.stream(manifest.live)
    for blob in dict.fromkeys(weight.blob for weight in manifest.weights):
        yield f"weights/{blob}.safetensors", registry.blobs.stream(blob)


def verify(registry: Registry, version: str) -> None:
    """Read every file once, so that a damaged one is found before an answer begins.

    Raises:
        BlobMissing, BlobDamaged: a file of the version cannot be sent.
    """
    registry.ledger.mend(version)
    for _, pieces in members(registry, version):
        for _ in pieces:
            pass
