"""Workers with a sentinel, and what tests ask of both."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from tests.http_client import Reply, request
from tests.processes import DEADLINE_S, Process, python
from torchctl.process.samples import sample

T = TypeVar("T")

# Starts a server at the path and prints the sentinel's pid.
SERVE = """
import ctypes, os, signal, sys, threading, time
import torchctl.server as s
from torchctl.server.guest.sharing import sentinel_pid
server = s.WorkerServer({path!r}{options})
end = time.monotonic() + 20
while sentinel_pid() is None and time.monotonic() < end:
    time.sleep(0.01)
print(sentinel_pid(), flush=True)
"""
# C code that keeps the interpreter lock.
HOLD_UNTIL_TOLD = "ctypes.PyDLL(None).read(0, ctypes.create_string_buffer(2), 2)\n"  # Process.tell("g") ends it
IDLE = "sys.stdin.readline()\n"


@contextlib.contextmanager
def worker(
    path: Path, code: str = IDLE, options: str = "", environment: Mapping[str, str] | None = None
) -> Iterator[tuple[Process, int]]:
    """Run a worker with a sentinel; yield the process and the sentinel's pid."""
    settings = {"TORCHCTL_SENTINEL": "1", **(environment or {})}
    with python(SERVE.format(path=str(path), options=options) + code, settings) as process:
        yield process, int(process.line())


def eventually(probe: Callable[[], T | None], timeout_s: float = DEADLINE_S) -> T:
    """Return what `probe` gives as soon as that is true."""
    deadline = time.monotonic() + timeout_s
    while True:
        found = probe()
        if found:
            return found
        assert time.monotonic() < deadline, "it did not come to be in time"
        time.sleep(0.02)


def at_once(*calls: Callable[[], T]) -> list[T]:
    """Make calls that wait, all at the same time; return what each gives."""
    with ThreadPoolExecutor(len(calls)) as pool:
        return [future.result() for future in [pool.submit(call) for call in calls]]


def alive(pid: int) -> bool:
    """Whether a process runs; the dead who were not collected do not."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except (OSError, IndexError):
        return False


def stop(pid: int) -> None:
    """Stop a process, and wait until each of its threads stands still: one may still take a connection on the way."""
    os.kill(pid, signal.SIGSTOP)

    eventually(lambda: {one.state for one in sample(pid).threads.values()} == {"T"})


def held(process: Process) -> None:
    """Wait until a process has said "holding" and its main thread is sleeping in C: no connection is taken any more."""
    process.wait_for("holding")

    def sleeps() -> bool:
        main = sample(process.pid, [process.pid]).threads[process.pid]
        # Where the kernel does not tell in what it sleeps, that it does must do.
        return any(word in main.wait for word in ("nanosleep", "pipe")) or (not main.wait and main.state == "S")

    eventually(sleeps)


def degraded(path: Path) -> Reply:
    """Ping until the sentinel answers in the worker's place.

    A connection that the worker took just before it fell silent is lost: nobody else can answer it.
    """

    def ask() -> Reply | None:
        try:
            reply = request(str(path), "POST", "/handler/ping", timeout_s=6)
        except TimeoutError:
            return None
        return reply if "Torchctl-Degraded" in reply.headers else None

    return eventually(ask)


def words(folder: str) -> list[dict[str, object]]:
    """Return the last words that lie in a runtime folder."""
    names = os.listdir(folder) if os.path.isdir(folder) else []
    return [json.loads(Path(folder, name).read_text()) for name in names if name.endswith(".died")]
