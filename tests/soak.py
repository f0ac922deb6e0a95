"""The long run: a request every 50 ms for 20 minutes, and neither worker nor sentinel grows.

``make soak``; ``python -m tests.soak SECONDS`` for another length. Prints resident memory as it goes, and fails where
that of either is not flat within 2 MB after a tenth of the time, where a request fails, or where threads or
descriptors are left. Once in a while the worker is stopped for five seconds, so that the sentinel serves too.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from pathlib import Path

from tests.http_client import post
from tests.sentinels import IDLE, degraded, eventually, stop, worker

LENGTH_S = 20 * 60.0
PERIOD_S = 0.05
LIMIT_KIB = 2048
ASKED = ("ping", "info", "ping", "dump_traceback?format=json", "ping", "wait_counter_values", "ping", "fr_trace_json")
STOPS = 4  # of the worker, over the whole length


def resident_kib(pid: int) -> int:
    """Return a process's resident memory."""
    with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmRSS:"))


def counts(pid: int) -> tuple[int, int]:
    """Return how many threads and descriptors a process has."""
    return len(os.listdir(f"/proc/{pid}/task")), len(os.listdir(f"/proc/{pid}/fd"))


def soak(length_s: float, stops: int = STOPS) -> dict[str, int]:
    """Run, and return what grew and how many requests there were.

    Raises:
        AssertionError: something failed, grew or was left.
    """
    with tempfile.TemporaryDirectory(prefix="tc-") as folder, worker(Path(folder, "s"), IDLE) as (process, sentinel):
        path = Path(folder, "s")
        began = time.monotonic()
        settled = began + length_s / 10
        next_stop = began + length_s / (stops + 1)
        before = after = {"worker": 0, "sentinel": 0}
        requests, at_first = 0, (0, 0)
        while (now := time.monotonic()) < began + length_s or not before["worker"]:
            if stops and now >= next_stop:
                next_stop += length_s / (stops + 1)
                stop(process.pid)
                degraded(path)
                os.kill(process.pid, signal.SIGCONT)
                eventually(lambda: post(str(path), "ping").body == b"pong")
            reply = post(str(path), ASKED[requests % len(ASKED)])
            assert reply.status == 200, reply
            requests += 1
            after = {"worker": resident_kib(process.pid), "sentinel": resident_kib(sentinel)}
            if not before["worker"] and now >= settled and requests >= 2 * len(ASKED):
                before, at_first = after, counts(sentinel)
                print(f"{now - began:6.0f} s  {requests} requests  resident KiB: {before}", flush=True)
            time.sleep(max(0.0, PERIOD_S - (time.monotonic() - now)))
        eventually(lambda: counts(process.pid)[0] == 2)
        grown = {name: after[name] - before[name] for name in after}
        print(
            f"{time.monotonic() - began:6.0f} s  {requests} requests  resident KiB: {after}  grown: {grown}", flush=True
        )
        assert max(grown.values()) <= LIMIT_KIB, grown
        eventually(lambda: counts(sentinel) == at_first)
        process.tell("end")
        assert process.finish()[0] == 0
        return {**grown, "requests": requests}


if __name__ == "__main__":
    soak(float(sys.argv[1]) if len(sys.argv) > 1 else LENGTH_S)
