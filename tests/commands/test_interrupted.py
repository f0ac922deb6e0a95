"""Ctrl-C at each moment of a command: what has come is printed, what is missing is said, the exit code is 130."""

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests import listeners
from tests.listeners import listening
from tests.processes import DEADLINE_S, Process
from tests.stacks.texts import WAITING, dump


class Workers:
    """Ranks of one job, on sockets in a folder; `calls` counts the requests."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.calls = 0
        self._stack = ExitStack()

    def add(self, rank: int, *, silent_after: int | None = None, where: Path | None = None) -> Path:
        """Start a worker that answers `silent_after` times and then no more."""
        headers = f"Torchctl-Rank: {rank}\r\nTorchctl-World-Size: 4\r\nTorchctl-Job: j\r\n".encode()
        answered = 0
        lock = threading.Lock()

        def serve(connection: socket.socket) -> None:
            nonlocal answered
            with lock:
                answered += 1
                self.calls += 1
                silent = silent_after is not None and answered > silent_after
            (listeners.silent if silent else listeners.reply(dump(rank, WAITING), headers=headers))(connection)

        path = (where or self.folder) / f"rank{rank}-{rank + 100}.sock"
        self._stack.enter_context(listening(str(path), serve))
        return path

    def wait_for_calls(self, count: int) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while self.calls < count:
            assert time.monotonic() < deadline, f"{self.calls} calls"
            time.sleep(0.01)

    def end(self) -> None:
        self._stack.close()


@pytest.fixture
def workers(folder: Path) -> Iterator[Workers]:
    (folder / "here").mkdir()
    found = Workers(folder / "here")
    yield found
    found.end()


@pytest.fixture
def started() -> Iterator[list[Process]]:
    processes: list[Process] = []
    yield processes
    for process in processes:
        process.end()


def start(started: list[Process], *arguments: str) -> Process:
    started.append(Process([sys.executable, "-m", "torchctl", *arguments, "--timeout", "100"]))
    return started[-1]


def interrupt(process: Process) -> tuple[int, str, str]:
    began = time.monotonic()
    os.kill(process.pid, signal.SIGINT)
    found = process.finish()
    assert time.monotonic() - began < 30  # of the 100 seconds that the command had
    return found


def stopped(path: Path) -> str:
    return f"{path} had not answered when the command was interrupted"


def test_one_worker_that_is_waited_for(workers: Workers, started: list[Process]) -> None:
    path = workers.add(1, silent_after=0)
    process = start(started, "ping", "--socket", str(path))
    workers.wait_for_calls(1)
    assert interrupt(process) == (130, "", f"torchctl: {stopped(path)}\n")


def test_while_ranks_are_looked_for_nobody_is_asked_any_more(workers: Workers, started: list[Process]) -> None:
    paths = [workers.add(0), workers.add(1, silent_after=0)]
    process = start(started, "traceback", "--socket", str(workers.folder), "--ranks", "0-1")
    workers.wait_for_calls(2)
    code, _, err = interrupt(process)
    assert (code, workers.calls) == (130, 2)
    assert f"rank 1: {stopped(paths[1])}\n" in err


def test_in_the_second_sample_the_first_stands(workers: Workers, started: list[Process]) -> None:
    workers.add(0)
    workers.add(1, silent_after=1)
    where = ["--socket", str(workers.folder), "--samples", "5", "--interval", "0.01"]
    process = start(started, "traceback", *where)
    workers.wait_for_calls(4)
    code, out, err = interrupt(process)
    assert code == 130
    assert out.startswith("2 ranks answered of 4, job j, 1 of 5 samples\n")
    assert "main thread: 2 ranks: 0-1  " in out
    assert err.splitlines()[-1] == "torchctl: interrupted after 1 of 5 samples"


def test_between_two_samples(workers: Workers, started: list[Process]) -> None:
    workers.add(0)
    workers.add(1)
    where = ["--socket", str(workers.folder), "--samples", "5", "--interval", "90"]
    process = start(started, "traceback", *where)
    workers.wait_for_calls(2)
    wait_for_sleep(process.pid)
    code, out, err = interrupt(process)
    assert code == 130
    assert "main thread: 2 ranks: 0-1  seen once\n" in out
    assert err.splitlines()[-1] == "torchctl: interrupted after 1 of 5 samples"


@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside a worker of this host"])
def test_relays_of_other_hosts(workers: Workers, folder: Path, started: list[Process], beside: bool) -> None:
    for rank, name in enumerate(("n1", "n2")):
        (folder / name).mkdir(mode=0o700)
        workers.add(rank, silent_after=0 if rank else None, where=folder / name)
    via = f"env PYTHONPATH={os.getcwd()} TORCHCTL_RUNTIME_DIR={folder}/{{host}}"
    where = ["--nodes", "n[1-2]", "--via", via, "--remote", f"{sys.executable} -m torchctl"]
    here = ["--socket", str(workers.add(2))] if beside else []
    process = start(started, "traceback", *where, *here)
    workers.wait_for_calls(3 if beside else 2)
    code, _, err = interrupt(process)
    assert code == 130
    assert "n2 had not answered when the command was interrupted\n" in err


def wait_for_sleep(pid: int) -> None:
    """Wait until a process has no socket open and sleeps, for several looks in a row."""
    deadline = time.monotonic() + DEADLINE_S
    quiet = 0
    while quiet < 5:
        assert time.monotonic() < deadline
        links = []
        for name in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(FileNotFoundError):  # closed since it was listed
                links += [os.readlink(f"/proc/{pid}/fd/{name}")] if int(name) > 2 else []
        asleep = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "S"
        quiet = quiet + 1 if asleep and not any(link.startswith("socket:") for link in links) else 0
        time.sleep(0.02)


# Where Python's HTTP client makes or closes an object whose finaliser complains of being half made (from 3.13 on).
HALF_MADE = ["socket.SocketIO.__init__", "http.client.HTTPResponse.__init__", "socket.SocketIO.close"]


@pytest.mark.parametrize("function", HALF_MADE)
def test_no_interrupt_lands_inside_the_http_client(folder: Path, started: list[Process], function: str) -> None:
    program = (
        "import http.client, os, signal, socket, sys, threading\n"
        f"code, left = {function}.__code__, [1]\n"
        "def profile(frame, event, argument):\n"
        "    if event == 'call' and frame.f_code is code and left:\n"
        "        left.pop()\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "threading.setprofile(profile)\n"
        "sys.setprofile(profile)\n"
        "from torchctl.cli import main\n"
        "main()\n"
    )
    path = folder / "s"
    answers = function.endswith("close")
    with listening(str(path), listeners.reply(b"pong") if answers else listeners.silent):
        arguments = ["ping", "--socket", str(path), "--timeout", "100"]
        started.append(Process([sys.executable, "-c", program, *arguments]))
        code, _, err = started[-1].finish()
    after = [(130, "\ntorchctl: interrupted\n")] if answers else []  # the reply was there before Ctrl-C was heard
    assert (code, err) in [(130, f"torchctl: {stopped(path)}\n"), *after]


def half_a_reply(reached: threading.Event, said: bytes) -> listeners.Serve:
    def serve(connection: socket.socket) -> None:
        connection.sendall(said)
        reached.set()
        listeners.silent(connection)

    return serve


def test_interrupts_at_many_moments_of_the_waiting(folder: Path, started: list[Process]) -> None:
    said = [b"", b"HTTP/1.1 200 OK\r\nContent-", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\npo"]
    for number in range(12):
        reached = threading.Event()
        path = folder / f"s{number}"
        with listening(str(path), half_a_reply(reached, said[number % 3])):
            process = start(started, "ping", "--socket", str(path))
            assert reached.wait(DEADLINE_S)
            time.sleep(number * 0.0002)  # only spreads them: the reply never comes to its end
            assert interrupt(process) == (130, "", f"torchctl: {stopped(path)}\n")
