"""A good client and the training while bad clients are let loose on the server: ours, and torch's own beside it.

What the bad clients cost the machine is no cost of the server, so the step time is held against the same training
while the same clients are busy with another process's server. One line a figure; asserts nothing.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.bench.bench_server import Client
from tests.bench.figures import timed
from tests.load import KINDS, load
from tests.processes import Process, running

SERVERS = ("torch", "ours")
TRAIN_S = 0.7
ROUNDS = 11
MOST_S = 60.0  # that a load may last
BACK_S = 20.0  # for threads and descriptors to be back
TITLES = {
    "idle": "512 connections held idle",
    "slow": "64 clients that send a byte a second and come again",
    "garbage": "10,000 garbage requests",
    "half-closed": "1,000 half-closed connections",
}


@contextlib.contextmanager
def serving(kind: str) -> Iterator[tuple[Process, str]]:
    """Run one server in a process that trains on demand; give the process and the socket's path."""
    with tempfile.TemporaryDirectory(prefix="tc-") as folder:
        path = f"{folder}/s"
        with running([sys.executable, "-m", "tests.bench.peer", kind, path]) as process:
            process.line()
            yield process, path


def pings_under(kind: str, address: str) -> tuple[list[float], bool]:
    """Return the milliseconds of a good client's pings while a load lasts, and whether the last had no answer."""
    times: list[float] = []
    good = Client(address, keep=False)
    with load(kind, address) as bad:
        done = threading.Event()

        def wait() -> None:
            with contextlib.suppress(AssertionError, ValueError, OSError):
                bad.wait_for("done")
            done.set()

        threading.Thread(target=wait, daemon=True).start()
        began = time.monotonic()
        while not (done.is_set() and len(times) >= 500) and time.monotonic() - began < MOST_S:
            try:
                times.append(timed(lambda: good.post("ping")))
            except OSError:
                return times, True
    return times, False


def counts(pid: int) -> tuple[int, int]:
    return len(os.listdir(f"/proc/{pid}/task")), len(os.listdir(f"/proc/{pid}/fd"))


def back(pid: int, before: tuple[int, int]) -> str:
    """Wait for threads and descriptors to be as they were; return them in words."""
    began = time.monotonic()
    while counts(pid) != before and time.monotonic() - began < BACK_S:
        time.sleep(0.05)
    now = counts(pid)
    took = f"back after {time.monotonic() - began:.1f} s" if now == before else f"not back after {BACK_S:g} s"
    return f"threads {before[0]} -> {now[0]}, descriptors {before[1]} -> {now[1]}, {took}"


def answers(kind: str) -> None:
    """Print the latency of a good client under a load, and what is left afterwards."""
    for server in SERVERS:
        with serving(server) as (process, address):
            Client(address, keep=False).post("ping")
            time.sleep(0.5)  # that ping's thread has ended
            before = counts(process.pid)
            times, lost = pings_under(kind, address)
            line = f"  {server:6} {len(times):6} pings"
            if len(times) > 1:
                cuts = statistics.quantiles(times, n=100)
                line += f"   p50 {cuts[49]:8.2f} ms   p99 {cuts[98]:8.2f} ms   slowest {max(times):8.1f} ms"
            print(line + ("   then no answer within 20 s" if lost else ""))
            print(f"         {back(process.pid, before)}", flush=True)


def steps(kind: str) -> None:
    """Print the training step with the load on the trainer's own server, against the load on another process."""
    for server in SERVERS:
        with serving(server) as (trainer, own), serving(server) as (_, other):
            times: dict[str, list[float]] = {"other": [], "own": []}
            try:
                for _ in range(ROUNDS):
                    for side, address in (("other", other), ("own", own)):
                        with load(kind, address):
                            trainer.tell(f"train {TRAIN_S}")
                            times[side].append(float(trainer.line()))
            except (AssertionError, OSError):  # torch's own has been seen to crash its trainer (SIGSEGV) under this
                print(f"  {server:6} a server's process ended under the load: {trainer.popen.poll()}", flush=True)
                continue
            ratio = statistics.median(mine / theirs for mine, theirs in zip(times["own"], times["other"], strict=True))
            medians = {side: statistics.median(values) for side, values in times.items()}
            print(
                f"  {server:6} step {medians['own']:.3f} ms, with the load elsewhere {medians['other']:.3f} ms, "
                f"ratio {ratio:.3f}",
                flush=True,
            )


def main() -> None:
    for kind in KINDS:
        print(f"a good client's ping, a new connection each, beside {TITLES[kind]}", flush=True)
        answers(kind)
    for kind in KINDS:
        print(f"a training step beside {TITLES[kind]} ({ROUNDS} rounds of {TRAIN_S:g} s)", flush=True)
        steps(kind)


if __name__ == "__main__":
    main()
