"""The digest of many simulated workers, as `torchctl diagnose` takes it first.

Run with `python tests/bench/bench_digest.py [--workers 1024] [--rounds 5]`. One process serves all sockets and
answers at once; printed are median and spread of asking them all.
"""

from __future__ import annotations

import argparse
import json
import os
import selectors
import socket
import statistics
import subprocess
import sys
import tempfile
import time

from torchctl.diagnose_live import _first_look
from torchctl.endpoint import Endpoint
from torchctl.fanout import ask_all


def main() -> None:
    """Print the figures, or serve when called as the workers' process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--serve", metavar="FOLDER")
    options = parser.parse_args()
    if options.serve:
        serve(options.serve, options.workers)
        return
    with tempfile.TemporaryDirectory(prefix="tc-") as folder:
        command = [sys.executable, __file__, "--serve", folder, "--workers", str(options.workers)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as server:
            assert server.stdout is not None
            server.stdout.readline()
            endpoints = [Endpoint(path=f"{folder}/{rank}") for rank in range(options.workers)]
            times = []
            for _ in range(options.rounds):
                begun = time.perf_counter()
                outcomes = ask_all(endpoints, _first_look, time.monotonic() + 30)
                times.append(time.perf_counter() - begun)
                assert all(outcome.value is not None for outcome in outcomes)
            server.kill()
    median = statistics.median(times)
    print(f"digest of {options.workers} workers: median {median:.2f} s ({min(times):.2f} to {max(times):.2f})")


def serve(folder: str, workers: int) -> None:
    """Answer every request on every socket at once, until killed."""
    selector = selectors.DefaultSelector()
    for rank in range(workers):
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(os.path.join(folder, str(rank)))
        listener.listen(16)
        selector.register(listener, selectors.EVENT_READ, rank)
    print("ready", flush=True)
    while True:
        for key, _ in selector.select():
            sock = key.fileobj
            assert isinstance(sock, socket.socket)
            if key.data is not None:
                connection, _ = sock.accept()
                connection.sendall(answer(connection.recv(65536), key.data))
                connection.close()


def answer(request: bytes, rank: int) -> bytes:
    """Return a worker's reply to `info`, or to a trace without entries."""
    if b"/handler/info" in request:
        document = {"schema": "torchctl.info/1", "rank": rank, "world_size": 1024, "host": "node", "pid": 1}
    else:
        counters = {"last_enqueued_collective": "9", "last_started_collective": "9", "last_completed_collective": "8"}
        document = {"version": "2.10", "pg_config": {}, "pg_status": {"0": counters, "1": counters}}
    body = json.dumps(document).encode()
    head = (
        f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nTorchctl-Rank: {rank}\r\nTorchctl-Recorder: generic\r\n\r\n"
    )
    return head.encode() + body


if __name__ == "__main__":
    main()
