"""One server process for the benches: torch's own or ours, its main thread idle or training.

`python -m tests.bench.peer torch|ours|none ADDRESS`, where ADDRESS is a path or `tcp`. Prints `ready PORT`, then
obeys lines on stdin: `train SECONDS` and `serve-and-train SECONDS` (with a server of ours at ADDRESS meanwhile) answer
with milliseconds per step, anything else ends it.
"""

from __future__ import annotations

import statistics
import sys
import time
from typing import Any

import torch

MATRIX = 512  # a step of a few milliseconds, most of it in torch's C++ without the interpreter lock
MATMULS = 8


def start(kind: str, address: str) -> tuple[Any, int]:
    """Start a server; return it and its TCP port."""
    host, port = ("127.0.0.1", 0) if address == "tcp" else (address, -1)
    if kind == "torch":
        from torch._C._distributed_c10d import _WorkerServer

        server = _WorkerServer(host, port) if address == "tcp" else _WorkerServer(host)
        return server, server.port if address == "tcp" else -1
    if kind == "ours":
        from torchctl.server import WorkerServer

        mine = WorkerServer(host, port)
        return mine, mine.port
    return None, -1


def train(seconds: float) -> float:
    """Run steps for that long; return the median milliseconds of one."""
    weights, batch = torch.randn(MATRIX, MATRIX), torch.randn(MATRIX, MATRIX)
    steps: list[float] = []
    end = time.perf_counter() + seconds
    while (began := time.perf_counter()) < end:
        for _ in range(MATMULS):
            batch = torch.tanh(batch @ weights)
        steps.append((time.perf_counter() - began) * 1000)
    return statistics.median(steps)


def main() -> None:
    torch.set_num_threads(1)
    server, port = start(sys.argv[1], sys.argv[2])
    print(f"ready {port}", flush=True)
    for line in sys.stdin:
        word, _, argument = line.strip().partition(" ")
        if word not in ("train", "serve-and-train"):
            break
        meanwhile, _ = start("ours" if word == "serve-and-train" else "none", sys.argv[2])
        print(f"{train(float(argument)):.6f}", flush=True)
        if meanwhile is not None:
            meanwhile.shutdown()
    if server is not None:
        server.shutdown()


if __name__ == "__main__":
    main()
