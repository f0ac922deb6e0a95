"""A server under bad clients: a good one is answered, the training goes on, and nothing is left afterwards.

The bounds are guards: a good client is answered and steps go on at all, on a machine that is busy with other tests.
`make bench` measures what is promised.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.eventually import wait_until
from tests.http_client import post
from tests.load import KINDS, load
from tests.processes import Process, running

pytestmark = pytest.mark.once

COUNTS = {**KINDS, "garbage": 1000}  # garbage is refused at a pace: more of it only takes longer
P99_S = 20.0
PINGS = 150
STEP_FACTOR = 50.0
RESIDENT_GROWTH_BYTES = 24 << 20

# Obeys lines on stdin: trains that many seconds and tells the median milliseconds of a step.
WORKER = """
import hashlib, statistics, sys, time, torchctl.server as s
server = s.WorkerServer(sys.argv[1])
batch = bytes(1 << 20)
print("ready", flush=True)
for line in sys.stdin:
    steps, end = [], time.perf_counter() + float(line)
    while (began := time.perf_counter()) < end:
        for _ in range(4):
            hashlib.sha256(batch).digest()
        steps.append((time.perf_counter() - began) * 1000)
    print(statistics.median(steps), flush=True)
"""


@pytest.fixture
def worker(folder: Path) -> Iterator[tuple[Process, str]]:
    path = str(folder / "s")
    with running([sys.executable, "-c", WORKER, path]) as process:
        process.wait_for("ready")
        yield process, path


def train(worker: Process, seconds: float) -> float:
    worker.tell(str(seconds))
    return float(worker.line())


def counts(pid: int) -> tuple[int, int]:
    """Return how many threads and descriptors a process has."""
    return len(os.listdir(f"/proc/{pid}/task")), len(os.listdir(f"/proc/{pid}/fd"))


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("kind", KINDS)
def test_a_good_client_is_answered_the_training_goes_on_and_nothing_is_left(
    worker: tuple[Process, str], kind: str
) -> None:
    process, address = worker
    assert post(address, "ping").body == b"pong"
    wait_until(lambda: counts(process.pid)[0] == 2)  # the first ping's thread has ended
    before, alone, resident = counts(process.pid), train(process, 0.5), resident_bytes(process.pid)
    times: list[float] = []
    with load(kind, address, COUNTS[kind]) as bad:
        process.tell("1.0")
        for _ in range(PINGS):
            began = time.monotonic()
            assert post(address, "ping").body == b"pong"
            times.append(time.monotonic() - began)
        under_load = float(process.line())
        bad.wait_for("done")
        bad.tell("end")
        assert bad.finish()[::2] == (0, "")
    assert statistics.quantiles(times, n=100)[98] < P99_S
    assert under_load < alone * STEP_FACTOR
    wait_until(lambda: counts(process.pid) == before)
    assert post(address, "ping").body == b"pong"
    assert resident_bytes(process.pid) - resident < RESIDENT_GROWTH_BYTES
