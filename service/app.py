"""The application: routers, error shape, limits, and what a process holds open while it runs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import redis as blocking
from anyio import create_task_group
from anyio.to_thread import run_sync
from fastapi import APIRouter, Depends, FastAPI
from redis import asyncio as aioredis
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import ConstantBackoff
from redis.maint_notifications import MaintNotificationsConfig
from redis.retry import Retry

from contracts import tracing
from contracts.settings import Settings
from registry.folder_store import FolderStore
from registry.registry import Registry
from service import (
    aliases,
    audit,
    blobs,
    cors,
    door,
    edits,
    facts,
    generate,
    keys,
    openapi,
    probes,
    problems,
    rebase,
    telemetry,
    versions,
)
from service.access import AccessLog
from service.census import EditCensus
from service.changes import Changes
from service.deps import Context, State
from service.engines import Engines
from service.error_shapes import ErrorShape, problem_json
from service.jobs import Jobs
from service.keyring import Keyring
from service.limits import RequestLimits
from service.metrics import Metrics, RequestTimer
from service.open_answers import OpenAnswers
from service.openai_api.errors import openai_error
from service.openai_api.router import router as openai_router
from service.rates import Rates
from service.redis_policy import check_policy
from service.request_id import RequestId
from service.security import SecurityHeaders
from service.tokens import TokenChecks
from service.unexpected import Unexpected
from service.webhooks import courier
from service.webhooks.router import router as webhooks_router
from service.webhooks.sender import Sender

ROUTERS: tuple[tuple[APIRouter, ErrorShape], ...] = (
    (edits.router, problem_json),
    (rebase.router, problem_json),
    (facts.router, problem_json),
    (generate.router, problem_json),
    (versions.router, problem_json),
    (aliases.router, problem_json),
    (blobs.router, problem_json),
    (keys.router, problem_json),
    (audit.router, problem_json),
    (webhooks_router, problem_json),
    (probes.router, problem_json),
    (openai_router, openai_error),
)
"""Each with the shape of its errors, which holds for all paths under its prefix."""
CONNECT_SECONDS = 2.0
ANSWER_SECONDS = 10.0
REDIS_TRIES = 2
REDIS_PAUSE_SECONDS = 0.05
CONNECTIONS = 4096


def create_app(
    settings: Settings, routers: Sequence[tuple[APIRouter, ErrorShape]] = ROUTERS
) -> FastAPI:
    """The service for one registry and one Redis; stateless but for its open connections.

    Raises:
        ValueError: `settings` name no Redis or wrong origins; traces that cannot be made.
    """
    url = settings.redis()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[State]:
        registry = Registry(await run_sync(FolderStore, settings.registry_path))
        redis = _async_redis(url)
        jobs = Jobs(_blocking_redis(url))
        changes = Changes(redis, settings.poll_seconds)
        sender, metrics = Sender(settings.webhook_allow_private), Metrics()
        async with create_task_group() as tasks:
            tasks.start_soon(check_policy, redis)
            tasks.start_soon(changes.listen)
            tasks.start_soon(audit.keep, registry.audit, changes)
            tasks.start_soon(courier.keep, registry, redis, sender, metrics, changes)
            yield State(
                context=Context(
                    settings=settings,
                    registry=registry,
                    redis=redis,
                    jobs=jobs,
                    changes=changes,
                    engines=Engines(redis, settings.max_queue, settings.max_queue_per_key),
                    tokens=TokenChecks(registry, settings.max_fact_tokens),
                    metrics=metrics,
                    census=EditCensus(registry.edits),
                    keyring=Keyring(registry.keys, settings),
                    rates=Rates(redis),
                    webhooks=sender,
                    open_answers=OpenAnswers(settings.max_streams_per_key),
                )
            )
            tasks.cancel_scope.cancel()
        await sender.close()
        await redis.aclose()
        jobs.close()
        await run_sync(tracing.shut_down)

    app = FastAPI(
        lifespan=lifespan,
        title=openapi.TITLE,
        version=openapi.VERSION,
        redirect_slashes=False,  # `/versions/../` is no id, and no hint to go up either
        telemetry=telemetry.config(),
    )
    # On the router, not on the app: there the 413 would be plain text that no handler sees.
    api = APIRouter(
        dependencies=[Depends(door.authorized)],
        responses=openapi.PROBLEMS,
        max_body_size=settings.max_body_bytes,
    )
    for router, _ in routers:
        api.include_router(router)
    app.include_router(api)
    # What is added later is around what was added before.
    door.install(app)
    app.add_middleware(
        RequestLimits,
        max_body_bytes=settings.max_body_bytes,
        body_seconds=settings.body_timeout,
    )
    app.add_middleware(Unexpected)
    app.add_middleware(RequestTimer)
    cors.install(app, settings.cors_origins)
    app.add_middleware(SecurityHeaders)
    app.add_middleware(AccessLog)
    app.add_middleware(RequestId)
    shapes = {router.prefix: shape for router, shape in routers if router.prefix}
    problems.install(app, settings.max_body_bytes, shapes)
    openapi.install(app)
    return app


def _async_redis(url: str) -> aioredis.Redis:
    return aioredis.Redis.from_url(
        url,
        decode_responses=True,
        encoding_errors="replace",  # what is no text is refused where it is read
        max_connections=CONNECTIONS,
        maint_notifications_config=MaintNotificationsConfig(enabled=False),
        socket_connect_timeout=CONNECT_SECONDS,
        socket_timeout=ANSWER_SECONDS,
        retry=AsyncRetry(ConstantBackoff(REDIS_PAUSE_SECONDS), REDIS_TRIES),
    )


def _blocking_redis(url: str) -> blocking.Redis:
    return blocking.Redis.from_url(
        url,
        socket_connect_timeout=CONNECT_SECONDS,
        socket_timeout=ANSWER_SECONDS,
        retry=Retry(ConstantBackoff(REDIS_PAUSE_SECONDS), REDIS_TRIES),
    )
