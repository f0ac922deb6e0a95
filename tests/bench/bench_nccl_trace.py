"""`torchctl nccl-trace` as a whole process: one dump of 2000 entries, and a folder of 256 such dumps.

Run with `python tests/bench/bench_nccl_trace.py [--rounds N] [--ranks N]`. One dump stands beside the imports that the
command cannot do without, in turns; printed are the commands, the median and spread of each side, and the difference of
the medians. The folder stands beside `diagnose` of it; printed are seconds, CPU seconds and the peak memory of all
processes together.
"""

from __future__ import annotations

import argparse
import os
import pickle
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.bench.bench_diagnose import dump_of
from tests.bench.bench_diagnose import run as measured

ENTRIES = 2000
FRAMES = 8
OPERATIONS = ("all_reduce", "_all_gather_base", "_reduce_scatter_base", "broadcast")
TORCH = "/opt/app/lib/python3.11/site-packages/torch/distributed/distributed_c10d.py"


def main() -> None:
    """Print the figures of both sides."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--ranks", type=int, default=256)
    options = parser.parse_args()
    one_dump(options.rounds)
    whole_folder(options.ranks)


def one_dump(rounds: int) -> None:
    """Time the command on one dump."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "nccl_trace_rank_0")
        path.write_bytes(pickle.dumps(make_dump(), protocol=2))
        base = [sys.executable, "-c", "import click, rich.console, rich.table"]
        ours = [sys.executable, "-m", "torchctl", "nccl-trace", "--file", str(path)]
        sides: dict[str, Callable[[], float]] = {
            "base": lambda: run(base),
            "ours": lambda: run(ours),
            "ours, on a terminal": lambda: run_on_terminal(ours),
        }
        times: dict[str, list[float]] = {name: [] for name in sides}
        for side in sides.values():
            side()  # fills caches
        for _ in range(rounds):
            for name, side in sides.items():
                times[name].append(side())
        unpickling = unpickle_ms(path.read_bytes())
    print(f"a dump of {ENTRIES} entries with {FRAMES} frames each; unpickling it takes {unpickling:.1f} ms")
    medians = {name: statistics.median(values) for name, values in times.items()}
    for name, values in times.items():
        low, *_, high = statistics.quantiles(values, n=20)
        print(f"{name}: {shlex.join(['python', *(base if name == 'base' else ours)[1:]])}")
        print(f"      median {medians[name]:.1f} ms, 5 % to 95 %: {low:.1f} to {high:.1f} ms")
    for name in list(sides)[1:]:
        print(f"{name}, minus base: {medians[name] - medians['base']:.1f} ms ({rounds} runs each, in turns)")


def whole_folder(ranks: int, rounds: int = 3) -> None:
    """Measure the command on the dumps of a whole job."""
    with tempfile.TemporaryDirectory() as folder:
        for rank in range(ranks):
            Path(folder, f"nccl_trace_rank_{rank}").write_bytes(pickle.dumps(dump_of(rank, ranks, ENTRIES, 1), 2))
        sides = {"nccl-trace": ["nccl-trace"], "diagnose": ["diagnose", "--json"]}
        print(f"{ranks} dumps of {ENTRIES} entries ({rounds} rounds, in turns)")
        cores = sorted(os.sched_getaffinity(0))[:2]
        seen: dict[str, list[tuple[float, float, int]]] = {name: [] for name in sides}
        for _ in range(rounds):
            for name, words in sides.items():
                seen[name].append(measured([sys.executable, "-m", "torchctl", *words, folder], cores))
    for name, runs in seen.items():
        seconds, cpu, peaks = zip(*runs, strict=True)
        print(f"  {name}: {min(seconds):.2f} to {max(seconds):.2f} s, CPU {min(cpu):.2f} s, peak {max(peaks)} MB")


def run(command: list[str]) -> float:
    """Return the milliseconds that a command takes from start to end."""
    begun = time.perf_counter()
    # No timeout here: subprocess would then look for the end only every 50 ms.
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return (time.perf_counter() - begun) * 1000


def run_on_terminal(command: list[str]) -> float:
    """Return the milliseconds that a command takes that writes to a terminal of 120 columns."""
    ours, theirs = os.openpty()
    begun = time.perf_counter()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "120"}
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, env=environment) as process:
        os.close(theirs)
        try:
            while os.read(ours, 65536):
                pass
        except OSError:
            pass  # the other end is closed
    os.close(ours)
    assert process.returncode == 0
    return (time.perf_counter() - begun) * 1000


def unpickle_ms(data: bytes) -> float:
    """Return the median milliseconds of plain unpickling."""
    times = []
    for _ in range(15):
        begun = time.perf_counter()
        pickle.loads(data)  # our own bytes, made above
        times.append((time.perf_counter() - begun) * 1000)
    return statistics.median(times)


def make_dump() -> dict[str, Any]:
    """Return a full ring in NCCL's format: three groups, four operations, one call site each."""
    sites = [
        [{"name": operation, "filename": TORCH, "line": 3000 + at}]
        + [{"name": f"step_{n}", "filename": f"/srv/train/part_{n}.py", "line": 10 * n} for n in range(1, FRAMES)]
        for at, operation in enumerate(OPERATIONS)
    ]
    groups = [("0", "default_pg"), ("1", "tp"), ("2", "dp")]
    begun_ns = 1_700_000_000_000_000_000
    return {
        "version": "2.10",
        "pg_config": {name: {"name": name, "desc": desc, "ranks": "[0, 1]"} for name, desc in groups},
        "pg_status": {},
        "comm_lib_version": "2.27.3",
        "entries": [make_entry(number, begun_ns, sites, groups) for number in range(ENTRIES)],
    }


def make_entry(
    number: int, begun_ns: int, sites: list[list[dict[str, Any]]], groups: list[tuple[str, str]]
) -> dict[str, Any]:
    """Return one entry; the last one has not come to its end."""
    created_ns = begun_ns + number * 1_000_000
    done = number < ENTRIES - 1
    return {
        "frames": list(sites[number % len(sites)]),
        "record_id": number,
        "pg_id": number % 3,
        "process_group": tuple(groups[number % 3]),
        "collective_seq_id": number // 3 + 1,
        "p2p_seq_id": 0,
        "op_id": number // 3 + 1,
        "profiling_name": f"nccl:{OPERATIONS[number % 4]}",
        "time_created_ns": created_ns,
        "duration_ms": None,
        "input_sizes": [[number % 5 + 1, 1024]],
        "input_dtypes": ["BFloat16"],
        "output_sizes": [[number % 5 + 1, 1024]],
        "output_dtypes": ["BFloat16"],
        "state": "completed" if done else "started",
        "time_discovered_started_ns": created_ns + 1000,
        "time_discovered_completed_ns": created_ns + 500_000 if done else None,
        "retired": done,
        "timeout_ms": 600_000,
        "is_p2p": False,
        "thread_id": "140254",
        "thread_name": "python",
    }


if __name__ == "__main__":
    main()
