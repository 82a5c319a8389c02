"""Other faults than kills, each a function of a lane: what it breaks, mends, and sees hold."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import time
from typing import Any

from contracts.edits import EditState
from tests.chaos import fuse
from tests.chaos.kills import Wrong
from tests.chaos.lab import FAULTS, Fault, Lab, NotPossible, named, slowly
from tests.chaos.victim import CLOCK
from worker.status import TTL_SECONDS

MOST_ENGINES = 12
"""Killed at most until requests were taken over: one may have had only streams with text."""
MOST_WRITES = 60
"""More than one edit makes."""


# Redis


@named("redis-restarted")
def restarted(lab: Lab) -> None:
    """It stops in order in the middle of z and starts with its file."""
    with slowly(lab, "stage z"):
        edit_id = lab.post()
        lab.lane.stack.redis.stop()
        lab.lane.stack.redis.start()
    lab.commits(edit_id)


@named("redis-wiped")
def wiped(lab: Lab) -> None:
    """FLUSHALL in the middle of z."""
    with slowly(lab, "stage z"):
        edit_id = lab.post()
        with lab.redis() as redis:
            redis.flushall()
    lab.commits(edit_id)


def _out(lab: Lab, seconds: float) -> None:
    with slowly(lab, "stage z"):
        running = lab.post()
        lab.lane.stack.redis.kill()
        accepted = lab.post()
        time.sleep(seconds)
        lab.lane.stack.redis.start()
    lab.end(running)
    lab.commits(accepted)


@named("redis-out-5s")
def out_briefly(lab: Lab) -> None:
    """Away for 5 s with one edit running and one accepted meanwhile."""
    _out(lab, 1 if lab.short else 5)


@named("redis-out-60s")
def out_long(lab: Lab) -> None:
    """Away for a minute: longer than any key lives."""
    _out(lab, 8 if lab.short else 60)


def _configured(lab: Lab, seconds: float, **settings: Any) -> None:
    """An edit and the load while Redis is set so, and one after."""
    names = {name.replace("_", "-"): value for name, value in settings.items()}
    with lab.redis() as redis:
        before = {name: redis.config_get(name)[name] for name in names}
        for name, value in names.items():
            redis.config_set(name, value)
        edit_id = lab.post()
        time.sleep(seconds)
        for name, value in before.items():
            redis.config_set(name, value)
    lab.commits(edit_id)
    lab.commits()


@named("redis-read-only")
def read_only_redis(lab: Lab) -> None:
    """It refuses every write, as a primary without its replicas does."""
    _configured(lab, 3 if lab.short else 15, min_replicas_to_write=1)


@named("redis-full-noeviction")
def full_redis(lab: Lab) -> None:
    """No memory is left, and writes are refused."""
    _configured(lab, 3 if lab.short else 15, maxmemory_policy="noeviction", maxmemory=1)


@named("redis-full-allkeys-lru")
def evicting_redis(lab: Lab) -> None:
    """No memory is left, and it throws away what it holds."""
    _configured(lab, 3 if lab.short else 15, maxmemory_policy="allkeys-lru", maxmemory=1)


@named("redis-wrong-password")
def wrong_password(lab: Lab) -> None:
    """Its password changes, every connection is cut, and it changes back."""
    with lab.redis() as redis:
        right = lab.lane.stack.redis.password
        redis.config_set("requirepass", "another")
        redis.client_kill_filter(_type="normal", skipme=True)
        redis.client_kill_filter(_type="pubsub", skipme=True)
        edit_id = lab.post()
        time.sleep(2 if lab.short else 10)
        redis.config_set("requirepass", right)
    lab.commits(edit_id)


# the disk


def _each_write(lab: Lab, program: str, do: str) -> None:
    """The nth write of an edit fails, for every n; the edit ends, and the next one commits."""
    for nth in range(1, 4 if lab.short else MOST_WRITES):
        fuse.lay(lab.home, f"{program} write", do, nth=nth)
        edit_id = lab.post()
        end = lab.end(edit_id)
        burnt = fuse.is_burnt(lab.home)
        fuse.take_away(lab.home)
        if end.state is EditState.COMMITTED:
            lab.commits(edit_id)
        elif end.state is not EditState.FAILED:
            raise Wrong(f"write {nth}: {end}")
        if not burnt:
            return
    if not lab.short:
        raise Wrong(f"an edit makes more than {MOST_WRITES} writes")


@named("disk-full-worker")
def full_disk(lab: Lab) -> None:
    """ENOSPC at the worker's nth write, for every n of an edit."""
    _each_write(lab, "worker", "no space")


@named("disk-full-service")
def full_disk_of_the_service(lab: Lab) -> None:
    """ENOSPC at the service's nth write, for every n."""
    _each_write(lab, "service", "no space")


@named("disk-read-only")
def read_only_disk(lab: Lab) -> None:
    """EROFS at every write of the worker, for a while."""
    fuse.lay(lab.home, "worker write", "read-only", times=0)
    edit_id = lab.post()
    time.sleep(2 if lab.short else 10)
    fuse.take_away(lab.home)
    lab.end(edit_id)
    lab.commits()


@named("disk-slow")
def slow_disk(lab: Lab) -> None:
    """Every write of the worker takes 0.2 s more."""
    with slowly(lab, "worker write"):
        lab.commits()


@named("disk-full-tmpfs")
def full_tmpfs(lab: Lab) -> None:
    """A real file system without a byte left, under the folder of the blobs."""
    blobs, kept = lab.home / "registry" / "blobs", lab.home / "kept"
    shutil.copytree(blobs, kept)
    mount = [found("mount"), "-t", "tmpfs", "-o", "size=32m", "tmpfs", str(blobs)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        raise NotPossible("a tmpfs cannot be mounted here")
    try:
        shutil.copytree(kept, blobs, dirs_exist_ok=True)
        filler = blobs / "filler.tmp"
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while file.write(b"\0" * 4096):
                pass
        end = lab.end(lab.post())
        if end.state is not EditState.FAILED:
            raise Wrong(f"without space it ended as {end}")
        filler.unlink()
        lab.commits()
    finally:
        lab.lane.load.stop()
        lab.lane.stack.stop_worker()
        shutil.copytree(blobs, kept, dirs_exist_ok=True)
        subprocess.run([found("umount"), str(blobs)], check=True)
        shutil.copytree(kept, blobs, dirs_exist_ok=True)


# the clock


def _clock(lab: Lab, seconds: float) -> None:
    with slowly(lab, "stage z"):
        edit_id = lab.post()
        (lab.home / CLOCK).write_text(str(seconds))
        time.sleep(1)
    lab.commits(edit_id)
    lab.commits()
    (lab.home / CLOCK).unlink()
    lab.commits()


@named("clock-ahead")
def clock_ahead(lab: Lab) -> None:
    """It jumps an hour ahead in the middle of z, and back after an edit."""
    _clock(lab, 3_600)


@named("clock-behind")
def clock_behind(lab: Lab) -> None:
    """It jumps an hour back in the middle of z, and ahead after an edit."""
    _clock(lab, -3_600)


# memory, and numbers that are none


def _of_an_edit(point: str, do: str, words: str) -> Fault:
    def fault(lab: Lab) -> None:
        fuse.lay(lab.home, point, do, times=0)
        lab.fails(lab.post(), words)

    fault.__doc__ = f"{do} at `{point}` of an edit."
    return fault


FAULTS["z-memory"] = _of_an_edit("compute z", "memory", "memory")
FAULTS["z-device-memory"] = _of_an_edit("compute z", "device memory", "memory")
FAULTS["z-nan"] = _of_an_edit("compute z", "nan", "finite")
FAULTS["solve-memory"] = _of_an_edit("solve", "memory", "memory")
FAULTS["solve-device-memory"] = _of_an_edit("solve", "device memory", "memory")
FAULTS["solve-nan"] = _of_an_edit("solve", "nan", "finite")


def _of_generation(do: str) -> Fault:
    def fault(lab: Lab) -> None:
        before = lab.lane.load.counts["refused"] + lab.lane.load.counts["broken"]
        fuse.lay(lab.home, "forward", do, nth=20, times=25)
        lab.lane.until(lambda: fuse.is_burnt(lab.home), "the fault", 60)
        lab.commits()
        lab.lane.load.check()
        if lab.lane.load.counts["refused"] + lab.lane.load.counts["broken"] == before:
            raise Wrong("no request was told")

    fault.__doc__ = f"{do} in 25 forwards of generation, one after the other."
    return fault


FAULTS["generate-memory"] = _of_generation("memory")
FAULTS["generate-device-memory"] = _of_generation("device memory")
FAULTS["generate-nan"] = _of_generation("nan")


# two workers


@named("two-editors")
def two_editors(lab: Lab) -> None:
    """Two editors on one registry, three edits waiting; the one that edits is killed in z."""
    stack = lab.lane.stack
    stack.engine = stack._run("worker", log="second")
    stack.until(lambda: len(stack.statuses()) == 2, "both workers")
    with slowly(lab, "stage z"):
        edits = [lab.post() for _ in range(3)]
        lab.lane.until(lambda: [one for one in stack.statuses() if one.edit], "an edit", 60)
        fuse.lay(lab.home, "stage z", "kill", pid=0)
        lab.lane.until(lambda: fuse.is_burnt(lab.home), "the kill", 60)
    for edit_id in edits:
        lab.end(edit_id)
    lab.lane.check(edits[-1])


@named("engine-killed")
def engine_killed(lab: Lab) -> None:
    """Of two engines one is killed in the middle of answers: the other one gives them."""
    stack, load = lab.lane.stack, lab.lane.load
    stack.start_engine()
    stack.until(lambda: len(stack.statuses()) == 2, "both workers")
    load.check()
    before = load.counts["refused"]
    for _ in range(MOST_ENGINES):
        if _taken_over(lab) >= (1 if lab.short else 5):
            break
        fuse.lay(lab.home, "forward", "kill", nth=30)
        lab.lane.until(lambda: fuse.is_burnt(lab.home), "the kill", 60)
        time.sleep(TTL_SECONDS + 3)  # until its silence is noticed
        for name, start in (("worker", stack.start_worker), ("engine", stack.start_engine)):
            if getattr(stack, name).poll() is not None:
                start()
        stack.until(lambda: len(stack.statuses()) == 2, "both workers")
    else:
        raise Wrong("no request was answered by another worker")
    load.check()
    if load.counts["refused"] > before:
        raise Wrong("a request was refused although an engine lived")
    lab.commits()


def _taken_over(lab: Lab) -> int:
    """Requests that were given to another worker; a stream that had text was not."""
    log = (lab.home / "logs" / "service.log").read_text()
    return log.count("is answered by another worker")


def found(program: str) -> str:
    """Its path, or its name where there is none."""
    return shutil.which(program) or program
