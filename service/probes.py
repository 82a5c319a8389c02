"""`/healthz`, `/readyz`, `/workers`, `/metrics`: how the process and what it needs are doing."""

from __future__ import annotations

import logging
from typing import Literal

from anyio.to_thread import run_sync
from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel, Field
from redis.exceptions import RedisError

from contracts import retry_after as after
from contracts.errors import FieldError, NotFound, Unavailable
from contracts.versions import ACTIVE
from contracts.workers import Workers
from registry.errors import RecordDamaged, RegistryError
from registry.kinds import explained, file_of
from service.deps import Context, Ctx
from service.problems import invalid
from service.workers import starting, statuses

log = logging.getLogger(__name__)
router = APIRouter(tags=["probes"])


class Health(BaseModel):
    """The process answers."""

    status: Literal["ok"] = Field(default="ok", examples=["ok"])


class Readiness(BaseModel):
    """Redis, the registry and a worker that holds what `active` names are all there."""

    status: Literal["ready"] = Field(default="ready", examples=["ready"])
    version: str = Field(description="what active names", examples=["v1-9f3c2a71b0de"])
    workers: int = Field(description="ready workers that hold it", examples=[1])


@router.get("/healthz")
async def healthz() -> Health:
    """Whether this process answers."""
    return Health()


@router.get("/readyz")
async def readyz(context: Ctx) -> Readiness:
    """Whether edits and generations can be served now; 503 lists each check that failed."""
    failed = []
    version, workers, beginning = None, [], []
    try:
        record = await run_sync(context.registry.aliases.get, ACTIVE)
        version = record.version if record else None
    except RegistryError as error:
        log.warning("the registry is not ready: %s", error)
        reason = "cannot be read" if file_of(error) is None else explained(error)
        failed.append(FieldError(field="registry", reason=reason))
    else:
        if version is None:
            failed.append(FieldError(field="registry", reason="has no version yet"))
    try:
        workers = await statuses(context.redis)
        beginning = await starting(context.redis)
    except RedisError as error:
        log.warning("Redis is not ready: %s", error)
        failed.append(FieldError(field="redis", reason="does not answer"))
    holding = [status for status in workers if status.ready and version in status.versions]
    if not holding:
        ready = sum(status.ready for status in workers)
        reason = f"none holds {version or 'a version'} ({len(workers)} alive, {ready} ready)"
        reason += "".join(f"; {one.host} is starting: {one.doing}" for one in beginning)
        failed.append(FieldError(field="worker", reason=reason))
    if failed or version is None:
        raise invalid(failed, Unavailable, retry_after=after.NO_ENGINE)
    return Readiness(version=version, workers=len(holding))


@router.get("/workers")
async def workers(context: Ctx) -> Workers:
    """Who edits and generates now, with what in memory, and what waits for them."""
    return Workers(
        workers=await statuses(context.redis),
        starting=await starting(context.redis),
        waiting=await context.engines.depth(),
        edits_waiting=await run_sync(context.jobs.depth),
    )


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
async def metrics(context: Ctx) -> Response:
    """Prometheus' text format."""
    await run_sync(_set_registry, context)
    try:
        context.metrics.set_workers(
            await statuses(context.redis),
            await context.engines.depth(),
            await run_sync(context.jobs.depth),
        )
    except RedisError as error:
        log.warning("metrics without Redis: %s", error)
        context.metrics.set_redis_down()
    return Response(context.metrics.text(), media_type=CONTENT_TYPE_LATEST)


def _set_registry(context: Context) -> None:
    active = None
    try:
        active = context.registry.aliases.get(ACTIVE)
    except RecordDamaged as error:
        log.warning("metrics without the active version: %s", error)
    context.metrics.set_registry(context.census.count(), active)
    described = []
    for version in active.versions if active else ():
        try:
            described.append(context.registry.versions.describe(version))
        except (NotFound, RegistryError) as error:
            log.warning("metrics without the report of %s: %s", version, error)
    context.metrics.set_versions(described)
