"""Children start in order, come back when they die, stop in order, and never outlive us."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cli.child import Child
from cli.embedded_redis import EmbeddedRedis
from cli.errors import CommandFailed
from cli.supervisor import CANNOT_START, Patience, Supervisor, in_background
from tests.unit.cli.waiting import SOON, alive, wait_until

HURRIED = Patience(first_delay=0.01)
OBEDIENT = "import time\nwhile True: time.sleep(60)"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up')\n{OBEDIENT}"


def times(said: list[str], beginning: str) -> int:
    """How many lines begin so."""
    return sum(line.startswith(beginning) for line in said)


def silent(line: str) -> None:
    """A report that nobody reads."""


@pytest.fixture
def child(tmp_path: Path) -> Callable[..., Child]:
    def make(code: str = OBEDIENT, name: str = "child", grace: float = 5.0) -> Child:
        return Child(name, [sys.executable, "-c", code], tmp_path / f"{name}.log", grace=grace)

    return make


def pid_of(child: Child) -> int:
    wait_until(lambda: child.process is not None)
    assert child.process is not None
    return child.process.pid


def test_a_killed_child_is_started_again_and_the_others_are_left_alone(
    child: Callable[..., Child],
) -> None:
    victim, bystander = child(name="victim"), child(name="bystander")
    said: list[str] = []
    with in_background(Supervisor([victim, bystander], said.append, HURRIED)):
        first, other = pid_of(victim), pid_of(bystander)
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: times(said, "victim started again") == 1)
        assert pid_of(victim) != first
        assert alive(pid_of(victim))
        assert pid_of(bystander) == other
    assert "victim ended (killed by SIGKILL); starting it again in 0.01 s" in said
    assert said[-2:] == ["bystander stopped", "victim stopped"], "the reverse of the starting order"
    assert not alive(other)


def test_a_child_that_keeps_dying_is_given_up_with_its_last_words(
    child: Callable[..., Child],
) -> None:
    healthy = child(name="healthy")
    broken = child("raise SystemExit('no space left')", name="broken")
    said: list[str] = []
    with pytest.raises(CommandFailed) as failed:
        Supervisor([healthy, broken], said.append, Patience(deaths=3, first_delay=0.01)).run()
    assert str(failed.value) == (
        "broken ended 3 times in a row soon after its start (exit code 1): no space left"
    )
    assert f"broken is given up; its log is {broken.log}" in said
    assert not alive(pid_of(healthy)), "giving up stops the others too"
    delays = [line.rpartition(" in ")[2] for line in said if "starting it again" in line]
    assert delays == ["0.01 s", "0.02 s"], "each quick death doubles the delay"


TRACED = """
import logging
logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level="INFO")
logging.getLogger("w").info("loading")
{}
"""


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("print('no such model', flush=True)", "no such model"),
        ("logging.critical('cannot start: no such model')", "no such model"),
        ("logging.critical('cannot start: no hub\\nGive a folder')", "no hub\nGive a folder"),
        ("try: {}['x']\nexcept KeyError: logging.exception('odd')", "KeyError: 'x'"),
        ("print('Traceback (most\\n  File\\nOSError: no space')", "OSError: no space"),
        ("print('loading: 3%\\rloading: 9%')", "loading: 9%"),
        ("", "loading"),
    ],
)
def test_a_child_that_refuses_its_very_first_start_is_given_up_at_once(
    child: Callable[..., Child], code: str, reason: str
) -> None:
    refusing = child(TRACED.format(code) + f"\nraise SystemExit({CANNOT_START})")
    refusing.log.write_text("2026-11-25 09:00:00,000 CRITICAL w: said in an earlier life\n")
    said: list[str] = []
    with pytest.raises(CommandFailed) as failed:
        Supervisor([refusing], said.append).run()
    assert str(failed.value) == f"child cannot start: {reason}"
    assert said[1:] == [f"child ended (exit code 2); its log is {refusing.log}"]


def test_a_child_that_dies_without_a_word_says_nothing_of_an_earlier_life(
    child: Callable[..., Child],
) -> None:
    mute = child("raise SystemExit(2)")
    mute.log.write_text("said in an earlier life\n")
    with pytest.raises(CommandFailed, match=r"^child cannot start: exit code 2$"):
        Supervisor([mute], silent).run()


def test_a_child_that_did_start_once_is_tried_again_whatever_it_says(
    child: Callable[..., Child],
) -> None:
    code = (
        f"import sys, pathlib; p = pathlib.Path(sys.argv[1]); "
        f"p.exists() and sys.exit({CANNOT_START}); p.touch(); sys.exit(1)"
    )
    fickle = child(code)
    fickle.command.append(str(fickle.log.with_suffix(".seen")))
    with pytest.raises(CommandFailed, match="3 times in a row"):
        Supervisor([fickle], silent, Patience(deaths=3, first_delay=0.01)).run()


def test_a_long_life_is_forgiven(child: Callable[..., Child]) -> None:
    patience = Patience(quick=0.0, deaths=1, first_delay=0.01)
    said: list[str] = []
    with in_background(Supervisor([child("")], said.append, patience)):
        wait_until(lambda: times(said, "child started again") >= 3)


def test_a_child_that_ignores_the_request_to_end_is_killed(child: Callable[..., Child]) -> None:
    stubborn = child(STUBBORN, grace=0.2)
    said: list[str] = []
    with in_background(Supervisor([stubborn], said.append)):
        wait_until(lambda: "up" in stubborn.written())
    assert said[-1] == "child stopped (killed)"


def test_asking_twice_does_not_wait_for_a_stubborn_child(child: Callable[..., Child]) -> None:
    stubborn = child(STUBBORN, grace=600.0)
    supervisor = Supervisor([stubborn], silent)
    with in_background(supervisor):
        wait_until(lambda: "up" in stubborn.written())
        supervisor.stop()
        # leaving `in_background` asks for the second time, and fails if the grace is waited for


def test_nobody_to_report_to_is_no_reason_to_leave_a_child_running(
    child: Callable[..., Child],
) -> None:
    children = [child(name=name) for name in ("first", "second")]

    def broken(line: str) -> None:
        if "second" in line or "stopped" in line:
            raise BrokenPipeError(line)

    with pytest.raises(BrokenPipeError):
        Supervisor(children, broken).run()
    assert not any(alive(pid_of(one)) for one in children)


def test_a_child_that_does_not_come_up_is_a_clear_failure(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        redis = EmbeddedRedis(tmp_path, port=taken.getsockname()[1])
        with pytest.raises(CommandFailed) as failed:
            Supervisor([redis], silent).run()
    assert str(failed.value).startswith("redis: the embedded Redis did not start, exit code 1 (log")
    assert str(failed.value).endswith("Address already in use")


def test_redis_comes_back_under_the_same_url_with_its_data(tmp_path: Path) -> None:
    import redis

    server = EmbeddedRedis(tmp_path)
    said: list[str] = []
    with in_background(Supervisor([server], said.append, HURRIED)):
        wait_until(lambda: times(said, "redis started (pid") == 1)
        with redis.Redis.from_url(server.url) as client:
            client.set("kept", "yes")
            time.sleep(1.1)  # appendfsync everysec
            os.kill(pid_of(server), signal.SIGKILL)
            wait_until(lambda: times(said, "redis started again") == 1)
            assert client.get("kept") == b"yes"


SUPERVISED = """
import signal
import sys
from pathlib import Path
from cli.child import Child
from cli.embedded_redis import EmbeddedRedis
from cli.serve import stop_on_signals
from cli.supervisor import Supervisor

folder = Path(sys.argv[1])
redis = EmbeddedRedis(folder / "redis")
sleeper = Child("sleeper", [sys.executable, "-c", "import time; time.sleep(600)"], folder / "log")
supervisor = Supervisor([redis, sleeper], lambda line: sys.stdout.write(line + "\\n"))
sys.stdout.reconfigure(line_buffering=True)
for number in (signal.SIGHUP, signal.SIGINT):  # ignored where the tests run in the background
    signal.signal(number, signal.SIG_DFL)
stop_on_signals(supervisor)
supervisor.run()
"""


@contextmanager
def supervised(folder: Path) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """A supervisor process, as a shell would start it, and the pids of its two children."""
    with subprocess.Popen(
        [sys.executable, "-c", SUPERVISED, str(folder)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(2)]
        pids = [int(line.partition("pid ")[2].partition(",")[0]) for line in lines]
        assert all(alive(pid) for pid in pids), lines
        yield process, pids


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_stops_all_in_order_and_ends_well(tmp_path: Path, number: signal.Signals) -> None:
    with supervised(tmp_path) as (process, pids):
        process.send_signal(number)
        said, _ = process.communicate(timeout=SOON)
    assert said.splitlines() == ["stopping", "sleeper stopped", "redis stopped"]
    assert process.returncode == 0
    assert not any(alive(pid) for pid in pids)


@pytest.mark.skipif(sys.platform != "linux", reason="needs PR_SET_PDEATHSIG")
def test_sigkill_of_the_supervisor_leaves_nothing_running(tmp_path: Path) -> None:
    with supervised(tmp_path) as (process, pids):
        process.kill()
    wait_until(lambda: not any(alive(pid) for pid in pids))
