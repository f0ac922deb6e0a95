"""What it costs to see what threads are calling: one look at 50 threads, and a training step with ten looks a second.

The trainer is a process of its own: half of its 50 threads wait in Python's queues, half in torch.distributed for a
store, each 25 frames deep. A step's time is the mean, since a look falls on few of them; all sides take turns.
"""

from __future__ import annotations

import contextlib
import queue
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.bench.bench_server import Client
from tests.bench.figures import in_turns, report, timed
from tests.processes import running

THREADS, FRAMES = 50, 25
ROUNDS, SECONDS = 21, 1.0
LOOKS = 200
SENDS = 2000
ASKED = {
    "": "not asked",
    "calls": "calls",
    "dump_traceback": "stacks",
    "dump_traceback?calls=true": "stacks with calls",
}


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="tc-") as folder:
        address = f"{folder}/s"
        with running([sys.executable, __file__, address]) as process:
            process.wait_for("ready")
            process.tell("looks")
            look, encoded = map(float, process.line().split())
            print(f"calls, {THREADS} threads of {FRAMES} frames (median of {LOOKS})")
            print(f"  one pass with the lock held      {look:.3f} ms, as JSON {encoded:.3f} ms more", flush=True)

            def steps(polled: str) -> float:
                stop = threading.Event()
                poller = threading.Thread(target=poll, args=(address, polled, stop))
                process.tell("train")
                if polled:
                    poller.start()
                took, used = map(float, process.line().split())
                cpu[polled].append(used)
                stop.set()
                if polled:
                    poller.join()
                return took

            cpu: dict[str, list[float]] = {name: [] for name in ASKED}
            times = in_turns({ASKED[name]: partial(steps, name) for name in ASKED}, ROUNDS)
            title = f"a training step, asked 10 times a second ({ROUNDS} rounds of {SECONDS:g} s)"
            report(title, times)
            report(f"{title}, CPU time", {ASKED[name]: cpu[name][1:] for name in ASKED})  # the first filled caches
    sends()


def sends() -> None:
    """Print what recording costs a send and its wait: with torch's fake process group, which does nothing else."""
    import torch
    import torch.distributed as dist
    from torch.testing._internal.distributed.fake_pg import FakeStore

    from torchctl.server.guest import recording

    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    tensor = torch.ones(4)

    def exchange() -> None:
        for _ in range(SENDS):
            work = dist.isend(tensor, 1, tag=3)
            assert work is not None
            dist.Work.wait(work)

    def recorded() -> float:
        recording.begin()
        try:
            return timed(exchange) * 1000 / SENDS
        finally:
            recording.end()

    sides = {"not recorded": lambda: timed(exchange) * 1000 / SENDS, "recorded": recorded}
    report(f"isend and wait, {SENDS} times ({ROUNDS} rounds)", in_turns(sides, ROUNDS), "us")


def poll(address: str, handler: str, stop: threading.Event) -> None:
    while not stop.wait(0.1):
        with contextlib.suppress(OSError):
            Client(address, keep=False).post(handler)


def trainer(address: str) -> None:
    """Serve at an address, and obey lines on stdin: `looks` and `train` answer with milliseconds."""
    import torch
    import torch.distributed as dist
    from torch.distributed.elastic.utils import store as elastic_store

    from torchctl.server import WorkerServer

    torch.set_num_threads(1)
    server = WorkerServer(address, -1)
    items: queue.Queue[Any] = queue.Queue()
    waits = (items.get, lambda: elastic_store.barrier(dist.HashStore(), 2, "prefix", 3600))
    for number in range(THREADS):
        threading.Thread(target=below, args=(FRAMES, waits[number % 2]), daemon=True).start()
    time.sleep(1)
    print("ready", flush=True)
    for line in sys.stdin:
        print(" ".join(f"{one:.4f}" for one in (looks() if line.strip() == "looks" else train())), flush=True)
    server.shutdown()


def below(frames: int, call: Callable[[], object]) -> None:
    """Make a call that many frames deep."""
    if frames > 1:
        below(frames - 1, call)
    else:
        call()


def looks() -> list[float]:
    """Return the medians of a pass and of its encoding."""
    import statistics

    from torchctl.protocol import compact_json
    from torchctl.server.handlers.calls import document

    passes, encodings = [], []
    for _ in range(LOOKS):
        began = time.thread_time()  # a pass takes no more than its CPU time where no one else takes the core
        found = document()
        between = time.thread_time()
        compact_json(found)
        passes.append((between - began) * 1000)
        encodings.append((time.thread_time() - between) * 1000)
    assert len(found["threads"]) >= THREADS
    return [statistics.median(passes), statistics.median(encodings)]


def train() -> list[float]:
    """Run steps for a while; return the mean milliseconds of one, and those of the process's CPU time."""
    import torch

    from tests.bench.peer import MATMULS, MATRIX

    weights, batch = torch.randn(MATRIX, MATRIX), torch.randn(MATRIX, MATRIX)
    steps, began, used = 0, time.perf_counter(), time.process_time()
    while (now := time.perf_counter()) < began + SECONDS:
        for _ in range(MATMULS):
            batch = torch.tanh(batch @ weights)
        steps += 1
    return [(now - began) * 1000 / steps, (time.process_time() - used) * 1000 / steps]


if __name__ == "__main__":
    trainer(sys.argv[1]) if len(sys.argv) > 1 else main()
