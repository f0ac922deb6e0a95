"""`torchctl diagnose` on many simulated workers: digests of all of them, and the verdict.

Run with `python tests/bench/bench_digest.py [--workers 1024] [--rounds 5]`. One process serves all sockets and
answers at once, each worker with the end of a ring, in which one rank is missing; printed are median
and spread of asking them all for their digests, and of the whole of two looks and a verdict without the pause between.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import selectors
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

from tests.bench.bench_diagnose import TP, dump_of
from torchctl.diagnosis.diagnose import diagnose
from torchctl.reports.diagnosis import look
from torchctl.server.handlers.digest import digest_of
from torchctl.workers.ask.fanout import ask_all
from torchctl.workers.questions.look import sight_question
from torchctl.workers.roll import find_workers
from torchctl.workers.targets import Targets

ENTRIES = 400  # in each ring; the digest of a longer one is as long
STACK = """\
Thread 0x0000000000000001 [MainThread] (most recent call first):
  File "{}", line 171 in get
  File "/srv/train/part.py", line 12 in step
"""
TORCH_FILE = "/opt/lib/python3.11/site-packages/torch/distributed/distributed_c10d.py"


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
            try:
                server.stdout.readline()
                times: dict[str, list[float]] = {"digests": [], "two looks and the verdict": []}
                for _ in range(options.rounds):
                    targets = Targets(sockets=(folder,), timeout_s=60)
                    begun = time.perf_counter()
                    outcomes = ask_all(find_workers(targets).endpoints, sight_question("digest"), time.monotonic() + 30)
                    times["digests"].append(time.perf_counter() - begun)
                    assert all(outcome.value is not None for outcome in outcomes)
                    begun = time.perf_counter()
                    found = diagnose(look(targets, 0.0, diagnose))
                    times["two looks and the verdict"].append(time.perf_counter() - begun)
                    assert [one.culprit_ranks for one in found.findings] == [(options.workers // 2 + 1,)], found
            finally:
                server.kill()
    print(f"{options.workers} simulated workers, rings of {ENTRIES} entries ({options.rounds} rounds)")
    for name, values in times.items():
        print(f"  {name}: median {statistics.median(values):.2f} s ({min(values):.2f} to {max(values):.2f})")


def serve(folder: str, workers: int) -> None:
    """Answer every request on every socket at once, until killed."""
    selector = selectors.DefaultSelector()
    guilty = workers // 2 + 1
    for rank in range(workers):
        dump = dump_of(rank, workers, ENTRIES, guilty)
        bodies = {"fr_digest": pickle.dumps(_without_frames(digest_of(dump)), 2)}
        if rank // TP == guilty // TP:  # the others are never asked for it
            bodies["dump_nccl_trace_pickle"] = pickle.dumps(dump, 2)
        waits = rank // TP == guilty // TP and rank != guilty
        file = TORCH_FILE if waits else "/opt/lib/python3.11/queue.py"
        bodies["dump_traceback"] = STACK.format(file).encode()
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(os.path.join(folder, f"{rank}.sock"))
        listener.listen(16)
        selector.register(listener, selectors.EVENT_READ, (rank, bodies))
    print("ready", flush=True)
    while True:
        for key, _ in selector.select():
            sock = key.fileobj
            assert isinstance(sock, socket.socket)
            connection, _ = sock.accept()
            connection.sendall(answer(connection.recv(65536), workers, *key.data))
            connection.close()


def answer(request: bytes, workers: int, rank: int, bodies: dict[str, bytes]) -> bytes:
    """Return a worker's reply to one request."""
    handler = request.split(b" ", 2)[1].decode().removeprefix("/handler/").partition("?")[0]
    info = {"schema": "torchctl.info/1", "rank": rank, "world_size": workers, "host": "node", "pid": 1}
    counters = {"last_enqueued_collective": "9", "last_started_collective": "9", "last_completed_collective": "8"}
    status = {"version": "2.10", "pg_config": {}, "pg_status": {"0": counters, "1": counters}}
    known = {"info": json.dumps(info).encode(), "dump_nccl_trace_json": json.dumps(status).encode()} | bodies
    body = known[handler]
    head = (
        f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nTorchctl-Rank: {rank}\r\nTorchctl-Recorder: generic\r\n\r\n"
    )
    return head.encode() + body


def _without_frames(dump: dict[str, Any]) -> dict[str, Any]:
    return dump | {"entries": [{k: v for k, v in row.items() if k != "frames"} for row in dump["entries"]]}


if __name__ == "__main__":
    main()
