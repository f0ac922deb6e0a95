"""When the worker cannot answer its sentinel does, and says why: each reason with a process that has it."""

import ctypes
import json
import os
import signal
import time
from pathlib import Path

import pytest

from tests.http_client import connect, post, raw, request
from tests.sentinels import (
    HOLD_ASLEEP,
    HOLD_COMPUTING,
    HOLD_UNTIL_TOLD,
    IDLE,
    alive,
    degraded,
    eventually,
    held,
    stop,
    worker,
)

HOLD = "print('holding', flush=True)\n"


@pytest.fixture
def path(folder: Path) -> Path:
    return folder / "s"


@pytest.mark.parametrize(
    ("hold", "reason"),
    [
        (HOLD_ASLEEP.format(seconds=60), "interpreter lock held; its main thread sleeps"),
        (HOLD_COMPUTING, "interpreter lock held, by its main thread, which computes"),
    ],
)
def test_a_held_lock_is_told(path: Path, hold: str, reason: str) -> None:
    with worker(path, "s.report_step(5)\n" + HOLD + hold, environment={"RANK": "2"}) as (process, _):
        process.wait_for("holding")
        began = time.time()
        reply = degraded(path)
        assert reply.status == 200
        assert reply.body.startswith(b"degraded since 20") and reason in reply.body.decode()
        assert reply.headers["Torchctl-Rank"] == "2"
        assert reply.headers["Torchctl-Pid"] == str(process.pid)
        assert reply.headers["Torchctl-Step"] == "5"
        since, _, words = reply.headers["Torchctl-Degraded"].partition(" ")
        assert began - 2 < float(since) < time.time() and reason in words
        document = json.loads(post(str(path), "info").body)
        assert document["degraded"]["evidence"][0]["kind"] == "lock_held"
        assert (document["rank"], document["pid"], document["step"]) == (2, process.pid, 5)
        other = post(str(path), "torch_profile?duration=1")
        assert other.status == 503 and reason in other.body.decode()


def test_the_worker_takes_over_again(path: Path) -> None:
    code = HOLD + HOLD_UNTIL_TOLD + "print('freed', flush=True)\n" + IDLE
    with worker(path, code) as (process, sentinel):
        held(process)
        degraded(path)
        process.tell("g")
        process.wait_for("freed")
        eventually(lambda: all(post(str(path), "ping").body == b"pong" for _ in range(20)))
        assert alive(sentinel)
        process.tell("end")
        assert process.finish() == (0, "", "")


def test_stopped_and_going_on(path: Path) -> None:
    with worker(path) as (process, _):
        for _ in range(2):
            stop(process.pid)
            assert b"stopped by a signal" in degraded(path).body
            os.kill(process.pid, signal.SIGCONT)
            eventually(lambda: post(str(path), "ping").body == b"pong")
        process.tell("end")
        assert process.finish() == (0, "", "")


def test_uninterruptible_sleep(path: Path) -> None:
    """The parent of a vfork is in D until the child goes on; here with the interpreter lock."""
    code = (
        "libc = ctypes.PyDLL(None)\n"
        "import mmap\n"
        "size = 1 << 16\n"
        "stack = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)\n"
        "top = (ctypes.addressof((ctypes.c_char * size).from_buffer(stack)) + size) & ~63\n"
        "libc.clone.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p]\n"
        + HOLD
        + "libc.clone(ctypes.cast(libc.sleep, ctypes.c_void_p), top, 0x4100 | signal.SIGCHLD, 30)\n"
    )
    with worker(path, code) as (process, _):
        process.wait_for("holding")
        body = degraded(path).body.decode()
        assert "its main thread is in uninterruptible sleep (D)" in body
        _end_children(process.pid)


def _end_children(pid: int) -> None:
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
        for child in file.read().split():
            os.kill(int(child), signal.SIGKILL)


def test_a_main_thread_that_has_ended(path: Path) -> None:
    """With the lock: the others can never go on, and the process is a zombie with threads."""
    code = HOLD + "ctypes.PyDLL(None).syscall(60 if os.uname().machine == 'x86_64' else 93, 0)\n"
    with worker(path, code) as (process, _):
        process.wait_for("holding")
        assert b"main thread has ended" in degraded(path).body


def test_traced(path: Path) -> None:
    with worker(path, HOLD + HOLD_UNTIL_TOLD + IDLE) as (process, _):
        held(process)
        tracer = os.fork()
        if tracer == 0:
            libc = ctypes.CDLL(None, use_errno=True)
            # PTRACE_SEIZE and PTRACE_INTERRUPT: a stop without a SIGSTOP, which ends with the tracer.
            done = libc.ptrace(0x4206, process.pid, 0, 0) == 0 and libc.ptrace(0x4207, process.pid, 0, 0) == 0
            time.sleep(60 if done else 0)
            os._exit(1)
        try:
            reply = degraded(path)
            assert f"stopped by {Path(f'/proc/{tracer}/comm').read_text().strip()}, pid {tracer}" in reply.body.decode()
        finally:
            os.kill(tracer, signal.SIGKILL)
            os.waitpid(tracer, 0)
        process.tell("g")
        eventually(lambda: post(str(path), "ping").body == b"pong")


def test_two_hundred_busy_threads_are_never_called_degraded(path: Path) -> None:
    code = (
        "def work():\n"
        "    total = 0\n"
        "    begin.wait()\n"
        "    while not end_now.is_set():\n"
        "        for number in range(1000): total += number * number\n"
        "end_now = threading.Event()\n"
        "threads = [threading.Thread(target=work, daemon=True) for _ in range(200)]\n"
        "begin = threading.Event()\n"
        "[one.start() for one in threads]\n"
        "print('busy', flush=True)\n"
        "begin.set()\n"
        "time.sleep(3600)\n"
    )
    with worker(path, code) as (process, _):
        process.wait_for("busy")
        until = time.monotonic() + 10
        answers = 0
        while time.monotonic() < until or not answers:
            with connect(str(path), timeout_s=60) as sock:
                sock.sendall(b"POST /handler/ping HTTP/1.1\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
                reply = b""
                while chunk := sock.recv(4096):
                    reply += chunk
            assert b"Torchctl-Degraded" not in reply, reply
            assert reply.endswith(b"pong")
            answers += 1


def test_both_survive_that_the_other_took_the_connection(path: Path) -> None:
    """Stopped and let go on many times while clients come: everybody gets an answer, of one or the other."""
    with worker(path) as (process, sentinel):
        stop(process.pid)
        degraded(path)
        for round_ in range(8):
            socks = [connect(str(path), timeout_s=30) for _ in range(5)]
            if round_ % 2 == 0:
                os.kill(process.pid, signal.SIGCONT)
            for sock in socks:
                sock.sendall(b"POST /handler/ping HTTP/1.1\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
            for sock in socks:
                data = b""
                while chunk := sock.recv(4096):
                    data += chunk
                sock.close()
                assert data.startswith(b"HTTP/1.1 200 OK"), data
            if round_ % 2 == 0:
                stop(process.pid)
        os.kill(process.pid, signal.SIGCONT)
        eventually(lambda: post(str(path), "ping").body == b"pong")
        assert alive(sentinel)
        process.tell("end")
        assert process.finish() == (0, "", "")


def test_what_its_small_server_refuses(path: Path) -> None:
    with worker(path) as (process, sentinel):
        stop(process.pid)
        degraded(path)
        assert request(str(path), "GET", "/handler/").body == b'["dump_traceback","info","ping"]'
        assert request(str(path), "GET", "/handler/ping").status == 405
        assert request(str(path), "GET", "/").status == 404
        assert raw(str(path), b"nonsense\r\n\r\n").startswith(b"HTTP/1.1 400 ")
        assert raw(str(path), b"X" * 20000).startswith(b"HTTP/1.1 400 ")
        assert raw(str(path), b"POST /handler/ping HTTP/1.1\r\n", half_close=True) == b""
        held = [connect(str(path)) for _ in range(20)]  # more than it takes at a time, and all silent
        for _ in range(3):
            assert b"stopped" in post(str(path), "ping").body
        for sock in held:
            sock.close()
        assert alive(sentinel)
        os.kill(process.pid, signal.SIGCONT)


def test_tcp_wants_the_token_of_the_sentinel_too(folder: Path) -> None:
    token = "t" * 20
    code = (
        "import sys, time, torchctl.server as s\n"
        "from torchctl.server.companion import sentinel_pid\n"
        "server = s.WorkerServer('127.0.0.1', 0)\n"
        "end = time.monotonic() + 20\n"
        "while sentinel_pid() is None and time.monotonic() < end: time.sleep(0.01)\n"
        "print(server.port, flush=True)\nsys.stdin.readline()\n"
    )
    from tests.processes import python

    with python(code, {"TORCHCTL_TOKEN": token}) as process:
        address = f"127.0.0.1:{process.line()}"
        stop(process.pid)
        eventually(lambda: request(address, "POST", "/handler/ping").status == 401)
        right = {"Authorization": f"Bearer {token}"}
        assert b"stopped" in request(address, "POST", "/handler/ping", headers=right).body
        for web in ({"Host": "evil.example"}, {"Origin": "http://evil.example"}):
            assert request(address, "POST", "/handler/ping", headers={**right, **web}).status == 403
        wrong = {"Authorization": f"Bearer {token[:-1]}x"}
        assert request(address, "POST", "/handler/info", headers=wrong).status == 401
        os.kill(process.pid, signal.SIGCONT)


def test_a_healthy_worker_is_probed_by_nobody(path: Path) -> None:
    """A sentinel beside a worker that is asked all the time: the worker alone answers."""
    with worker(path) as (process, _):
        until = time.monotonic() + 4
        while time.monotonic() < until:
            assert post(str(path), "ping").body == b"pong"
        process.tell("end")
        assert process.finish() == (0, "", "")
