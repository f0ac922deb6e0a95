"""Stacks of a worker that cannot answer: by py-spy, else by a signal to the server's own thread that hurts nobody."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from tests.http_client import Reply, post
from tests.processes import Process
from tests.sentinels import HOLD_UNTIL_TOLD, IDLE, SERVE, alive, degraded, eventually, held, stop, worker
from torchctl.server.handlers.pyspy import find_pyspy

ROOT = Path(__file__).parents[2]
WITHOUT_PYSPY = {"PATH": "/nonexistent", "PYTHONPATH": str(ROOT)}
STUCK = "def stuck_in_c(seconds):\n    return ctypes.PyDLL(None).sleep(seconds)\n"
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


def run_bare(path: Path, code: str) -> Process:
    """Start a worker that finds no py-spy: the interpreter by its real path, beside which there is none."""
    program = os.path.realpath(sys.executable)
    if os.access(os.path.join(os.path.dirname(program), "py-spy"), os.X_OK):
        pytest.skip("py-spy lies beside the interpreter itself")
    return Process([program, "-c", SERVE.format(path=str(path), options="") + STUCK + code], WITHOUT_PYSPY)


@pytest.mark.skipif(find_pyspy() is None, reason="py-spy is not installed")
def test_pyspy_reads_a_stopped_worker(path: Path) -> None:
    code = "def here():\n    sys.stdin.readline()\nhere()\n"
    with worker(path, code) as (process, _):
        stop(process.pid)
        degraded(path)
        for _ in range(3):
            reply = post(str(path), "dump_traceback?format=json")
            assert reply.status == 200
            assert b"    here (<string>:" in reply.body
        os.kill(process.pid, signal.SIGCONT)
        eventually(lambda: post(str(path), "ping").body == b"pong")
        process.tell("end")
        assert process.finish() == (0, "", "")


def test_a_signal_to_the_servers_thread_shows_the_stuck_call_and_cuts_no_sleep_short(path: Path) -> None:
    code = HOLD + "began = time.monotonic()\nleft = stuck_in_c(8)\nprint(left, time.monotonic() - began, flush=True)\n"
    process = run_bare(path, code + IDLE)
    try:
        process.line()
        held(process)
        degraded(path)
        for _ in range(5):
            assert b"in stuck_in_c" in stacks_by_signal(path).body
        left, slept = process.line().split()
        assert left == "0" and 7.9 < float(slept) < 20
        eventually(lambda: post(str(path), "ping").body == b"pong")
        process.tell("end")
        assert process.finish() == (0, "", "")
    finally:
        process.end()


def test_dumps_while_threads_come_and_go(path: Path) -> None:
    code = (
        "def churn():\n"
        "    for _ in range(200):\n"
        "        threads = [threading.Thread(target=time.sleep, args=(0.0005,)) for _ in range(4)]\n"
        "        [one.start() for one in threads]\n"
        "        [one.join() for one in threads]\n"
        "for _ in range(2):\n"
        "    churn()\n"
        "    print('holding', flush=True)\n"
        "    print(stuck_in_c(5), flush=True)\n"
    )
    process = run_bare(path, code + IDLE)
    try:
        process.line()
        for _ in range(2):
            held(process)
            assert b"in stuck_in_c" in stacks_by_signal(path).body
            assert process.line() == "0"
        eventually(lambda: post(str(path), "ping").body == b"pong")
        process.tell("end")
        assert process.finish() == (0, "", "")
    finally:
        process.end()


def test_more_than_a_hundred_threads_hide_the_main_one_and_the_answer_says_so(path: Path) -> None:
    code = (
        "threads = [threading.Thread(target=threading.Event().wait, daemon=True) for _ in range(120)]\n"
        "[one.start() for one in threads]\n" + HOLD + "stuck_in_c(60)\n"
    )
    process = run_bare(path, code)
    try:
        process.line()
        held(process)
        body = stacks_by_signal(path).body
        assert b"in stuck_in_c" not in body
        assert b"the main thread is older than those" in body
    finally:
        process.end()


def test_after_unregister_nothing_is_sent_and_the_signal_would_do_nothing(path: Path) -> None:
    code = (
        "from torchctl.server import dumps\n"
        "(number,) = dumps._taken\n"
        "import faulthandler\n"
        "faulthandler.unregister(number)\n"
        "os.kill(os.getpid(), number)\n" + HOLD + HOLD_UNTIL_TOLD
    )
    process = run_bare(path, code + IDLE)
    try:
        process.line()
        held(process)
        degraded(path)
        reply = post(str(path), "dump_traceback")
        assert reply.status == 503
        assert b"the process does not catch it any more" in reply.body
        process.tell("g")
        eventually(lambda: post(str(path), "ping").body == b"pong")
        process.tell("end")
        assert process.finish() == (0, "", "")
    finally:
        process.end()


def test_a_stopped_worker_gets_no_signal(path: Path) -> None:
    process = run_bare(path, IDLE)
    try:
        process.line()
        stop(process.pid)
        degraded(path)
        reply = post(str(path), "dump_traceback")
        assert reply.status == 503
        assert b"no signal is sent, since it does not wait for the interpreter lock" in reply.body
        assert b"py-spy is not installed" in reply.body
        os.kill(process.pid, signal.SIGCONT)
        process.tell("end")
        assert process.finish() == (0, "", "")
    finally:
        process.end()


def test_after_exec_the_new_program_lives_and_its_sentinel_is_gone(path: Path) -> None:
    code = HOLD + IDLE + "os.execv('/bin/sh', ['sh', '-c', 'echo new; read line; echo $line'])\n"
    with worker(path, code) as (process, sentinel):
        process.wait_for("holding")
        process.tell("exec")
        assert process.line() == "new"
        eventually(lambda: not alive(sentinel))
        time.sleep(0.2)
        process.tell("alive")
        assert process.finish() == (0, "alive\n", "")
