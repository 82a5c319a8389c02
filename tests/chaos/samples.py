"""What a soak measures: memory, files, threads, keys, over the lives of its processes."""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

PROCESSES = ("worker", "service", "redis")
WARM_SECONDS = 120.0
"""Of each life, in which caches are filled: not fitted."""
LEAST_SECONDS = 180.0
"""Of a life after that, or it says nothing of a leak."""
ALLOWED: dict[str, tuple[float, float]] = {
    "rss_mb": (0.10, 24.0),
    "files": (0.0, 8.0),
    "threads": (0.0, 8.0),
    "keys": (0.0, 16.0),
    "redis_mb": (0.25, 4.0),
}
"""Growth in a life that is none: as a share of its mean, or absolute, the greater of both."""


@dataclass(frozen=True)
class Sample:
    """Of one process at one time."""

    process: str
    pid: int
    at: float
    """Seconds since the soak began."""
    rss_mb: float
    files: int
    threads: int
    keys: int | None = None
    """Of Redis: those that never expire."""
    all_keys: int | None = None
    redis_mb: float | None = None
    temporary: int | None = None
    """Of the registry: temporary files."""

    @property
    def record(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Growth:
    """Of one measure over one life, by least squares."""

    process: str
    pid: int
    measure: str
    seconds: float
    mean: float
    an_hour: float
    """Slope."""
    certain: float
    """The least slope an hour that two standard errors leave."""
    leak: bool

    @property
    def record(self) -> dict[str, Any]:
        return asdict(self)


def of_process(process: str, pid: int, at: float, **more: Any) -> Sample | None:
    """How it stands; None if it is not there any more."""
    folder = Path(f"/proc/{pid}")
    try:
        pages = int((folder / "statm").read_text().split()[1])
        files = len(list((folder / "fd").iterdir()))
        threads = len(list((folder / "task").iterdir()))
    except (FileNotFoundError, ProcessLookupError):
        return None
    rss = pages * os.sysconf("SC_PAGE_SIZE") / 2**20
    return Sample(process, pid, at, round(rss, 2), files, threads, **more)


def of_redis(redis: Any) -> dict[str, Any]:
    """Keys and memory."""
    found = list(redis.scan_iter(count=1_000))
    with redis.pipeline(transaction=False) as pipe:
        for key in found:
            pipe.ttl(key)
        lasting = sum(ttl == -1 for ttl in pipe.execute())
    memory = redis.info("memory")["used_memory"] / 2**20
    return {"keys": lasting, "all_keys": len(found), "redis_mb": round(memory, 3)}


def growths(samples: Sequence[Sample]) -> list[Growth]:
    """Of every measure over every life that is long enough."""
    found = []
    for pid in dict.fromkeys(sample.pid for sample in samples):
        life = [sample for sample in samples if sample.pid == pid]
        steady = [sample for sample in life if sample.at - life[0].at >= WARM_SECONDS]
        if len(steady) < 4 or steady[-1].at - steady[0].at < LEAST_SECONDS:
            continue
        for measure in ALLOWED:
            points = [(s.at, value) for s in steady if (value := getattr(s, measure)) is not None]
            if points:
                found.append(_growth(steady[0], measure, points))
    return found


def _growth(first: Sample, measure: str, points: Sequence[tuple[float, float]]) -> Growth:
    times, values = zip(*points, strict=True)
    slope, base = statistics.linear_regression(times, values)
    rest = sum((value - base - slope * at) ** 2 for at, value in points)
    middle = statistics.fmean(times)
    spread = sum((at - middle) ** 2 for at in times)
    error = math.sqrt(rest / max(1, len(points) - 2) / spread)
    seconds, mean = times[-1] - times[0], statistics.fmean(values)
    share, absolute = ALLOWED[measure]
    certain = slope - 2 * error
    return Growth(
        first.process,
        first.pid,
        measure,
        round(seconds, 1),
        round(mean, 3),
        round(slope * 3_600, 3),
        round(certain * 3_600, 3),
        leak=certain > 0 and slope * seconds > max(share * mean, absolute),
    )


def ask_redis(url: str) -> dict[str, Any]:
    """See `of_redis`; nothing where it does not answer."""
    try:
        with Redis.from_url(url, socket_timeout=5) as redis:
            return of_redis(redis)
    except RedisError:
        return {}
