"""Library barrier, synchronize and missing-ranks report beside torch's own, in one run on one machine.

Clients are threads of this process, one TCPStore connection each; the two implementations take turns, and the
order alternates. Prints medians and the spread (smallest and largest); asserts nothing.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

# Without this every connection looks up its peer's name; a slow resolver would be measured instead.
os.environ["RES_OPTIONS"] = "attempts:0"
os.environ["TORCH_CPP_LOG_LEVEL"] = "FATAL"

Call = Callable[..., Any]


def together(clients: Sequence[Any], call: Callable[[int, Any], Any]) -> tuple[float, dict[int, tuple[float, Any]]]:
    """Run ``call(rank, client)`` in a thread per client, released at once.

    Returns:
        The start, and per rank the end and the result or exception.
    """
    gate = threading.Event()
    results: dict[int, tuple[float, Any]] = {}

    def work(rank: int, client: Any) -> None:
        gate.wait()
        try:
            result = call(rank, client)
        except Exception as error:
            result = error
        results[rank] = (time.perf_counter(), result)

    threads = [
        threading.Thread(target=work, args=pair, daemon=True) for pair in enumerate(clients) if pair[1] is not None
    ]
    for thread in threads:
        thread.start()
    time.sleep(0.02 + len(threads) * 1e-4)  # all threads stand at the gate
    start = time.perf_counter()
    gate.set()
    for thread in threads:
        thread.join(180)
    return start, results


def wall_ms(clients: Sequence[Any], call: Callable[[int, Any], Any]) -> float:
    start, results = together(clients, call)
    errors = [result for _, result in results.values() if isinstance(result, Exception)]
    if errors or len(results) != len(clients):
        raise RuntimeError(f"a rank failed: {errors[:1]}")
    return (max(end for end, _ in results.values()) - start) * 1e3


def entering(name: str, function: Call, count: int, key: str) -> Callable[[int, Any], Any]:
    """Return what each rank calls."""
    if name == "barrier":
        return lambda rank, client: function(client, count, key, 60)
    return lambda rank, client: function(client, b"x" * 100, rank, count, key, 60)


def missing_some(function: Call, count: int, timeout_s: float, trace_s: float) -> Callable[[int, Any], Any]:
    """Return what each rank calls in a barrier that some never enter."""
    return lambda rank, client: function(client, count, "m", timeout_s, rank=rank, trace_timeout=trace_s)


def line(name: str, count: int, ours: list[float], theirs: list[float]) -> None:
    ratio = statistics.median(ours) / statistics.median(theirs)
    print(
        f"{name:12} {count:5}  ours {_spread(ours)}  torch {_spread(theirs)}  ratio of medians {ratio:5.2f}",
        flush=True,
    )


def _spread(times: list[float]) -> str:
    return f"{statistics.median(times):8.1f} ms [{min(times):7.1f} .. {max(times):7.1f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, nargs="*", default=[2, 16, 128, 512, 1024])
    parser.add_argument("--report-clients", type=int, nargs="*", default=[128, 512, 1024])
    parser.add_argument("--reps", type=int, default=7)
    parser.add_argument("--missing", type=int, default=24)
    parser.add_argument("--barrier-timeout", type=float, default=3.0)
    parser.add_argument("--trace-timeout", type=float, default=2.0)
    args = parser.parse_args()
    from torch.distributed import TCPStore
    from torch.distributed.elastic.utils import store as torchs

    from torchctl import storeutil

    threading.stack_size(512 * 1024)
    print(f"$ python {' '.join(sys.argv)}")
    print(f"cpus {os.cpu_count()}, load {os.getloadavg()[0]:.2f}")

    def connect(count: int) -> tuple[Any, list[Any]]:
        limit = timedelta(seconds=120)
        server = TCPStore("127.0.0.1", 0, None, True, limit, wait_for_workers=False)
        return server, [
            TCPStore("127.0.0.1", server.port, None, False, limit, wait_for_workers=False) for _ in range(count)
        ]

    for count in args.clients:
        server, clients = connect(count)
        sides: dict[str, Any] = {"ours": storeutil, "torch": torchs}
        # Few clients end within a millisecond, where a handful of repetitions shows the scheduler and not the code.
        reps = max(args.reps, 1000 // count) if count < 512 else min(args.reps, 7)
        for name in ("barrier", "synchronize"):
            times: dict[str, list[float]] = {"ours": [], "torch": []}
            for rep in range(-1, reps):  # the first pair warms up
                for side in sorted(sides, reverse=rep % 2 == 0):
                    call = entering(name, getattr(sides[side], name), count, f"{name}/{side}/{rep}/")
                    taken = wall_ms(clients, call)
                    if rep >= 0:
                        times[side].append(taken)
            line(name, count, times["ours"], times["torch"])
        del server, clients

    for count in args.report_clients:
        for side, function in (("ours", storeutil.barrier), ("torch", torchs.barrier)):
            server, clients = connect(count)
            first = count // 4
            waiting = [None if first <= rank < first + args.missing else c for rank, c in enumerate(clients)]
            start, results = together(
                waiting,
                missing_some(function, count, args.barrier_timeout, args.trace_timeout),
            )
            after = [end - start - args.barrier_timeout for end, _ in results.values()]
            lists = sum("missing_ranks=[" in str(r) and "missing_ranks=[[<" not in str(r) for _, r in results.values())
            print(
                f"report       {count:5}  {side:5} last rank {max(after) - args.trace_timeout:+.2f} s after "
                f"trace_timeout; {lists} of {len(results)} ranks got a list; "
                f"rank 0: {str(results[0][1])[62:180]}",
                flush=True,
            )
            del server, clients


if __name__ == "__main__":
    main()
