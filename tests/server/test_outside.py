"""Stacks of a worker that cannot answer: by py-spy, else by a signal to the server's own thread that hurts nobody."""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.folders import short_folder
from tests.http_client import Reply, post
from tests.processes import Process
from tests.sentinels import IDLE, SERVE, alive, at_once, degraded, eventually, held, stop, words, worker

pytestmark = pytest.mark.usefixtures("with_sentinel")

ROOT = Path(__file__).parents[2]
WITHOUT_PYSPY = {"PATH": "/nonexistent", "PYTHONPATH": str(ROOT)}
STUCK = "def stuck_in_c():\n    return ctypes.PyDLL(None).read(0, ctypes.create_string_buffer(2), 2)\n"
HOLD = "print('holding', flush=True)\n"


@pytest.fixture
def path(folder: Path) -> Path:
    return folder / "s"


def stacks_by_signal(path: Path) -> Reply:
    """Ask for stacks until they are there: the evidence of a held lock needs two looks."""

    def ask() -> Reply | None:
        reply = post(str(path), "dump_traceback")
        return reply if reply.status == 200 and b"most recent call first" in reply.body else None

    return eventually(ask)


def can_run_bare() -> bool:
    """Whether the interpreter by its real path has no py-spy beside it."""
    return not os.access(os.path.join(os.path.dirname(os.path.realpath(sys.executable)), "py-spy"), os.X_OK)


def bare(path: Path, code: str) -> Process:
    """Start a worker that finds no py-spy."""
    program = os.path.realpath(sys.executable)
    return Process([program, "-c", SERVE.format(path=str(path), options="") + STUCK + code], WITHOUT_PYSPY)


CHURN = """
def churn():
    for _ in range(200):
        threads = [threading.Thread(target=time.sleep, args=(0.0005,)) for _ in range(4)]
        [one.start() for one in threads]
        [one.join() for one in threads]
churn()
"""
# A thread sleeps in C all the while, without the lock; both calls tell whether a signal has cut them short.
SLEEPER = """
def sleep_in_c():
    began = time.monotonic()
    left = ctypes.CDLL(None).sleep(4)
    slept.append((left, time.monotonic() - began))
slept = []
sleeper = threading.Thread(target=sleep_in_c)
sleeper.start()
"""
HUNDRED = """
for _ in range(120): threading.Thread(target=threading.Event().wait, daemon=True).start()
"""
UNREGISTERED = """
import faulthandler
from torchctl.server.guest import stackdump
(number,) = stackdump._taken
faulthandler.unregister(number)
os.kill(os.getpid(), number)
"""
STUCK_ONCE = "print('holding', flush=True)\nprint(stuck_in_c(), flush=True)\n"
BARE = {
    "stuck": CHURN + SLEEPER + STUCK_ONCE + "sleeper.join()\nprint(*slept[0], flush=True)\n" + CHURN + IDLE,
    "hundred": HUNDRED + STUCK_ONCE,
    "unregistered": UNREGISTERED + STUCK_ONCE + IDLE,
    "stopped": IDLE,
}
Workers = dict[str, tuple[Process, Path]]


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    """Workers without py-spy that have all fallen silent, and whose sentinels answer."""
    if not can_run_bare():
        pytest.skip("py-spy lies beside the interpreter itself")
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(short_folder())
        stack.enter_context(pytest.MonkeyPatch.context()).setenv("TORCHCTL_RUNTIME_DIR", str(folder / "run"))
        found = {}
        for name, code in BARE.items():
            process = bare(folder / name, code)
            stack.callback(process.end)
            found[name] = process, folder / name
        for name, (process, _) in found.items():
            process.line()
            if name == "stopped":
                stop(process.pid)
            else:
                held(process)
        at_once(*(partial(degraded, path) for _, path in found.values()))
        yield found


def test_a_signal_to_the_servers_thread_shows_the_stuck_call_and_cuts_no_sleep_short(workers: Workers) -> None:
    """Before and after threads have come and gone."""
    process, path = workers["stuck"]
    for _ in range(5):
        assert b"in stuck_in_c" in stacks_by_signal(path).body
    process.tell("g")
    assert process.line() == "2"  # bytes read; -1 where a signal has come
    left, slept = process.line().split()
    assert left == "0" and float(slept) > 3.9
    eventually(lambda: post(str(path), "ping").body == b"pong")
    process.tell("end")
    assert process.finish() == (0, "", "")


def test_more_than_a_hundred_threads_hide_the_main_one_and_the_answer_says_so(workers: Workers) -> None:
    body = stacks_by_signal(workers["hundred"][1]).body
    assert b"in stuck_in_c" not in body
    assert b"the main thread is older than those" in body


def test_after_unregister_nothing_is_sent_and_the_signal_would_do_nothing(workers: Workers) -> None:
    process, path = workers["unregistered"]

    def refused() -> Reply | None:
        """Ask again while the evidence of the held lock is not complete."""
        reply = post(str(path), "dump_traceback")
        return None if b"is not waiting" in reply.body else reply

    reply = eventually(refused)
    assert reply.status == 503
    assert b"the process no longer catches it" in reply.body
    process.tell("g")
    assert process.line() == "2"
    eventually(lambda: post(str(path), "ping").body == b"pong")
    process.tell("end")
    assert process.finish() == (0, "", "")


def test_a_stopped_worker_gets_no_signal(workers: Workers) -> None:
    process, path = workers["stopped"]
    reply = post(str(path), "dump_traceback")
    assert reply.status == 503
    assert b"no signal was sent: the process is not waiting for the interpreter lock" in reply.body
    assert b"py-spy is not installed" in reply.body
    os.kill(process.pid, signal.SIGCONT)
    process.tell("end")
    assert process.finish() == (0, "", "")


def test_after_exec_the_new_program_lives_and_its_sentinel_is_gone(path: Path, own_environment: Path) -> None:
    code = HOLD + IDLE + "os.execv('/bin/sh', ['sh', '-c', 'echo new; read line; echo $line'])\n"
    with worker(path, code) as (process, sentinel):
        process.wait_for("holding")
        process.tell("exec")
        assert process.line() == "new"
        eventually(lambda: not alive(sentinel))
        time.sleep(0.2)
        process.tell("alive")
        assert process.finish() == (0, "alive\n", "")
    assert not words(str(own_environment))
