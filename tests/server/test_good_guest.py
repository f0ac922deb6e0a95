"""The trainer is sacred: seen from outside, it is the same with and without us."""

import os
import signal
import time
from pathlib import Path

import pytest

from tests.eventually import wait_until
from tests.http_client import connect, post
from tests.processes import python
from tests.server.programs import SETTLED, start

pytestmark = pytest.mark.usefixtures("with_sentinel")


@pytest.fixture
def path(folder: Path) -> Path:
    return folder / "s"


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def threads(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/task"))


def switches(pid: int) -> int:
    """Return how often the threads of a process have gone to sleep and woken, all in all."""
    total = 0
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/status", encoding="ascii") as file:
            total += sum(int(line.split()[1]) for line in file if "ctxt_switches" in line)
    return total


def test_threads_and_descriptors_are_back_after_shutdown(path: Path) -> None:
    code = SETTLED + (
        "print(threading.active_count(), len(os.listdir('/proc/self/fd')), flush=True)\nsys.stdin.readline()\n"
        "server.shutdown()\nprint(threading.active_count(), len(os.listdir('/proc/self/fd')), flush=True)\n"
        "sys.stdin.readline()\n"
    )
    process = start(code, path)
    try:
        running_threads, running_descriptors = map(int, process.line().split())
        for _ in range(10):
            assert post(str(path), "info").status == 200
            assert post(str(path), "dump_traceback").status == 200
        with connect(str(path)):
            process.tell("shut down")
            after_threads, after_descriptors = map(int, process.line().split())
        assert (running_threads, after_threads) == (2, 1)
        # The listening socket and a pair to wake it; the link to the sentinel, the shared page, the file for stacks.
        assert running_descriptors - after_descriptors == 6
        process.tell("end")
        assert process.finish()[::2] == (0, "")
    finally:
        process.end()


def test_idle_it_does_not_wake_up(path: Path) -> None:
    process = start(SETTLED + "print('ready', flush=True)\nsys.stdin.readline()\n", path)
    try:
        process.wait_for("ready")
        assert post(str(path), "ping").status == 200
        time.sleep(0.5)  # let the connection's thread end
        before = switches(process.pid)
        time.sleep(5.5)
        assert switches(process.pid) - before <= 1
    finally:
        process.end()


@pytest.mark.parametrize(
    ("code", "exit_code"),
    [
        ("", 0),
        ("sys.exit(3)", 3),
        ("os._exit(4)", 4),
        ("os.kill(os.getpid(), signal.SIGTERM)", -signal.SIGTERM),
        ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL),
        ("os.abort()", -signal.SIGABRT),
    ],
)
def test_exit_codes_and_stderr_are_the_programs_own(path: Path, code: str, exit_code: int) -> None:
    process = start("print('ready', flush=True)\nsys.stdin.readline()\n" + code, path)
    try:
        process.wait_for("ready")
        with connect(str(path)) as idle, connect(str(path)) as half:
            half.sendall(b"POST /handler/ping HTT")
            assert post(str(path), "ping").body == b"pong"
            process.tell("end")
            assert process.finish(10) == (exit_code, "", "")
            assert idle.fileno() >= 0
    finally:
        process.end()


def test_a_program_that_ends_without_shutdown_leaves_no_socket_file(path: Path) -> None:
    process = start("", path)
    try:
        assert process.finish() == (0, "", "")
        assert not path.exists()
    finally:
        process.end()


def test_bad_clients_leave_no_word_on_stderr(path: Path) -> None:
    process = start("print('ready', flush=True)\nsys.stdin.readline()\n", path)
    try:
        process.wait_for("ready")
        for data in (b"\xff\x00\r\n\r\n", b"POST /handler/dump_traceback HTTP/1.1\r\n\r\n", b"X" * 100_000):
            for _ in range(10):
                with connect(str(path)) as sock:
                    try:
                        sock.sendall(data)
                    except OSError:
                        pass
        assert post(str(path), "ping").status == 200
        process.tell("end")
        assert process.finish() == (0, "", "")
    finally:
        process.end()


def test_a_hang_up_does_not_kill_a_program_that_restored_sigpipe(path: Path) -> None:
    code = (
        "signal.signal(signal.SIGPIPE, signal.SIG_DFL)\n"
        "@s.handler('large')\ndef large(request, response):\n    response.set_content(b'x' * (8 << 20), 'a/b')\n"
        "print('ready', flush=True)\nsys.stdin.readline()\n"
    )
    process = start(code, path)
    try:
        process.wait_for("ready")
        for _ in range(10):
            with connect(str(path)) as sock:
                sock.sendall(b"POST /handler/large HTTP/1.1\r\n\r\n")
                sock.recv(10)
        assert post(str(path), "ping").status == 200
        process.tell("end")
        assert process.finish() == (0, "", "")
    finally:
        process.end()


def test_os_wait_sees_the_programs_own_children_only(path: Path) -> None:
    code = (
        "print('ready', flush=True)\n"
        "try:\n    os.wait()\nexcept ChildProcessError:\n    print('no child', flush=True)\n"
        "sys.stdin.readline()\n"
        "child = os.fork()\n"
        "if child == 0:\n    os._exit(9)\n"
        "print(os.wait() == (child, 9 << 8), flush=True)\n"
    )
    process = start(code, path)
    try:
        process.wait_for("no child")
        for handler in ("ping", "info", "dump_traceback", "nothing"):
            post(str(path), handler)
        # A thread that has just answered may not have ended for the kernel yet, and a fork beside it warns.
        wait_until(lambda: len(os.listdir(f"/proc/{process.pid}/task")) == 2)
        process.tell("go on")
        assert process.finish() == (0, "True\n", "")
    finally:
        process.end()


def test_an_unfinished_c_call_runs_its_full_time(path: Path) -> None:
    """Requests neither cut a sleep in C short nor lengthen it; no signal of ours reaches the main thread."""
    code = (
        "import ctypes\n"
        "libc = ctypes.CDLL(None)\n"
        "print('ready', flush=True)\n"
        "began = time.monotonic()\n"
        "left = libc.sleep(2)\n"
        "print(left, 1.9 < time.monotonic() - began < 60, flush=True)\n"
    )
    process = start(code, path)
    try:
        process.wait_for("ready")
        for _ in range(50):
            assert post(str(path), "dump_traceback").status == 200
        assert process.finish() == (0, "0 True\n", "")
    finally:
        process.end()


def test_signals_reach_the_programs_own_threads(path: Path) -> None:
    """With a signal blocked in every thread of the program, ours must not take it and die of it."""
    code = (
        "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})\n"
        "print('ready', flush=True)\n"
        "print(signal.sigtimedwait({signal.SIGUSR1}, 20).si_signo == signal.SIGUSR1, flush=True)\n"
    )
    process = start(code, path)
    try:
        process.wait_for("ready")
        with connect(str(path)):
            assert post(str(path), "ping").status == 200
            os.kill(process.pid, signal.SIGUSR1)
            assert process.finish() == (0, "True\n", "")
    finally:
        process.end()


def test_exec_closes_the_socket(path: Path) -> None:
    code = "print('ready', flush=True)\nsys.stdin.readline()\nos.execv('/bin/cat', ['cat'])\n"
    process = start(code, path)
    try:
        process.wait_for("ready")
        process.tell("exec")
        deadline = time.monotonic() + 10
        while True:
            try:
                connect(str(path)).close()
            except ConnectionRefusedError:
                break
            assert time.monotonic() < deadline
        process.tell("alive")
        assert process.line() == "alive"
    finally:
        process.end()


def test_running_out_of_descriptors_does_not_spin_or_kill(path: Path) -> None:
    code = (
        "import resource\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (20, 64))\n"
        "held = []\n"
        "try:\n"
        "    while True: held.append(os.dup(0))\n"
        "except OSError: pass\n"
        "print('ready', flush=True)\nsys.stdin.readline()\n"
        "for one in held: os.close(one)\n"
        "print('freed', flush=True)\nsys.stdin.readline()\n"
    )
    process = start(code, path)
    try:
        process.wait_for("ready")
        with connect(str(path)) as waiting:
            before = time.process_time(), _cpu_ticks(process.pid)
            time.sleep(2)
            assert _cpu_ticks(process.pid) - before[1] < 20  # of about 200
            process.tell("free them")
            process.wait_for("freed")
            waiting.sendall(b"POST /handler/ping HTTP/1.1\r\n\r\n")
            assert waiting.recv(1000).endswith(b"pong")
        process.tell("end")
        assert process.finish() == (0, "", "")
    finally:
        process.end()


def _cpu_ticks(pid: int) -> int:
    with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
        fields = file.read().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def test_a_program_that_changes_its_folder_leaves_no_socket_file(folder: Path) -> None:
    code = (
        f"import os, torchctl.server as s\nos.chdir({str(folder)!r})\n"
        "w = s.WorkerServer('s')\nos.chdir('/')\nw.shutdown()\n"
    )
    with python(code) as process:
        assert process.finish() == (0, "", "")
    assert not (folder / "s").exists()
