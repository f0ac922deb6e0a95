"""`torchctl diagnose DIR` beside torch's own analyser and plain unpickling, on the same files in one run.

Run with `python tests/bench/bench_diagnose.py [--ranks 8 64 256] [--entries 2000] [--rounds 3]`. Printed are, per
size, the median and spread of each side in seconds, its peak memory, and the ratios of the medians; then matching
and diagnosis alone. `--peer-limit` is the largest number of ranks that torch's analyser is run on: it takes
minutes at 1024.
"""

from __future__ import annotations

import argparse
import gc
import os
import pickle
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

TP = 8
FRAMES = 8
BASE_NS = 1_700_000_000_000_000_000
TORCH = "/opt/app/lib/python3.11/site-packages/torch/distributed/distributed_c10d.py"
PROGRAM = (
    ("tp", "all_reduce", [[8, 1024]], [[8, 1024]]),
    ("tp", "all_reduce", [[8, 1024]], [[8, 1024]]),
    ("dp", "_reduce_scatter_base", [[1024]], [[32]]),
    ("tp", "_all_gather_base", [[8, 64]], [[64, 64]]),
    ("tp", "all_reduce", [[8, 512]], [[8, 512]]),
    ("world", "all_reduce", [[2]], [[2]]),
)
UNPICKLE = (
    "import pickle,sys,os\n"
    "for name in sorted(os.listdir(sys.argv[1])):\n"
    "    with open(os.path.join(sys.argv[1], name), 'rb') as file: pickle.load(file)\n"
)


def main() -> None:
    """Print the figures of every size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ranks", type=int, nargs="+", default=[8, 64, 256])
    parser.add_argument("--entries", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peer-limit", type=int, default=64)
    parser.add_argument("--alone", type=int, nargs="*", default=[1024, 2000], metavar="RANKS ENTRIES")
    options = parser.parse_args()
    for ranks in options.ranks:
        compare(ranks, options.entries, options.rounds, ranks <= options.peer_limit)
    if options.alone:
        alone(options.alone[0], options.alone[1])


def compare(ranks: int, entries: int, rounds: int, with_peer: bool) -> None:
    """Run all sides in turns on one set of dumps."""
    with tempfile.TemporaryDirectory() as folder:
        guilty = ranks // 2 + 1
        for rank in range(ranks):
            Path(folder, f"nccl_trace_rank_{rank}").write_bytes(pickle.dumps(dump_of(rank, ranks, entries, guilty), 2))
        ours = [sys.executable, "-m", "torchctl", "diagnose", "--json", folder]
        cores = sorted(os.sched_getaffinity(0))
        sides = {
            "unpickling, one core": ([sys.executable, "-c", UNPICKLE, folder], cores[:1]),
            "ours, one core": (ours, cores[:1]),
            "ours, two cores": (ours, cores[:2]),
        }
        if with_peer:
            peer = [sys.executable, "-m", "torch.distributed.flight_recorder.fr_trace", folder]
            sides["torch's analyser, two cores"] = (peer, cores[:2])
        times: dict[str, list[float]] = {name: [] for name in sides}
        peaks: dict[str, int] = dict.fromkeys(sides, 0)
        for _ in range(rounds):
            for name, (command, allowed) in sides.items():
                seconds, peak_mb = run(command, allowed)
                times[name].append(seconds)
                peaks[name] = max(peaks[name], peak_mb)
    print(f"{ranks} ranks x {entries} entries, {FRAMES} frames each ({rounds} rounds, in turns)")
    medians = {name: statistics.median(values) for name, values in times.items()}
    for name, values in times.items():
        print(f"  {name}: {medians[name]:.2f} s ({min(values):.2f} to {max(values):.2f}), peak {peaks[name]} MB")
    print(f"  ours on one core / unpickling: {medians['ours, one core'] / medians['unpickling, one core']:.1f}")
    if with_peer:
        ratio = medians["torch's analyser, two cores"] / medians["ours, two cores"]
        print(f"  torch's analyser / ours: {ratio:.1f}")


def run(command: list[str], cores: list[int]) -> tuple[float, int]:
    """Return the seconds a command takes on some cores, and the peak memory in MB of its largest process."""
    begun = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    os.sched_setaffinity(process.pid, cores)
    _, _, usage = os.wait4(process.pid, 0)
    process.returncode = 0
    return time.perf_counter() - begun, usage.ru_maxrss >> 10


def alone(ranks: int, entries: int) -> None:
    """Time matching and diagnosis on a table that is already there, with the table's making beside it."""
    from torchctl.diagnosis.diagnose import diagnose
    from torchctl.diagnosis.evidence import Evidence
    from torchctl.flightrec.assemble import assemble
    from torchctl.flightrec.decode import decode_dump
    from torchctl.flightrec.gather import RawDump
    from torchctl.flightrec.guard import Guard
    from torchctl.flightrec.pieces import piece_of
    from torchctl.flightrec.sizes import tell_sizes

    gc.disable()
    pieces = []
    shared: dict[tuple[int, ...], tuple[int, ...]] = {}
    with Guard() as guard:
        for rank in range(ranks):
            data = pickle.dumps(dump_of(rank, ranks, entries, ranks // 2 + 1), 2)
            pieces.append(piece_of(RawDump(str(rank), rank, b""), decode_dump(data, str(rank), guard=guard), shared))
    begun = time.perf_counter()
    trace = assemble(pieces, [])
    tell_sizes(trace)
    made = time.perf_counter()
    found = diagnose(Evidence(trace))
    done = time.perf_counter()
    print(f"{ranks} ranks x {entries} entries, decoded: table {made - begun:.2f} s, diagnosis {done - made:.2f} s")
    print(f"  {found.verdict[:150]}")


def dump_of(rank: int, ranks: int, entries: int, guilty: int) -> dict[str, Any]:
    """Return one rank's dump; rank `guilty` never enters the last operation of its tp group."""
    tp, dp = min(TP, ranks), max(1, ranks // TP)
    groups = {
        "world": ("0", "default_pg", list(range(ranks))),
        "tp": (str(1 + rank // tp), "tp", list(range(rank - rank % tp, rank - rank % tp + tp))),
        "dp": (str(1 + dp + rank % tp), "dp", [rank % tp + tp * at for at in range(dp)]),
    }
    sites = [
        [{"name": op, "filename": TORCH, "line": 3000 + at}]
        + [{"name": f"step_{n}", "filename": f"/srv/train/part_{n}.py", "line": 10 * n + at} for n in range(1, FRAMES)]
        for at, (_, op, _, _) in enumerate(PROGRAM)
    ]
    seen = dict.fromkeys(groups, 0)
    rows = []
    for number in range(entries):
        at = number % len(PROGRAM) if number < entries - 1 else 0
        kind, op, ins, outs = PROGRAM[at]
        seen[kind] += 1
        last = number == entries - 1 and rank // tp == guilty // tp
        if last and rank == guilty:
            break
        rows.append(row_of(number, at, op, ins, outs, groups[kind], seen[kind], sites, rank, not last))
    config = {name: {"name": name, "desc": desc, "ranks": str(members)} for name, desc, members in groups.values()}
    return {"version": "2.10", "pg_config": config, "pg_status": {}, "comm_lib_version": "2.27.3", "entries": rows}


def row_of(
    number: int,
    at: int,
    op: str,
    ins: list[list[int]],
    outs: list[list[int]],
    group: tuple[str, str, list[int]],
    seq: int,
    sites: list[list[dict[str, Any]]],
    rank: int,
    done: bool,
) -> dict[str, Any]:
    """Return one entry."""
    created = BASE_NS + number * 2_000_000 + rank * 7919 % 50_000
    return {
        "frames": list(sites[at]),
        "record_id": number,
        "pg_id": ("default_pg", "tp", "dp").index(group[1]),
        "process_group": (group[0], group[1]),
        "collective_seq_id": seq,
        "p2p_seq_id": 0,
        "op_id": seq,
        "profiling_name": f"nccl:{op}",
        "time_created_ns": created,
        "input_sizes": [list(sizes) for sizes in ins],
        "input_dtypes": ["BFloat16"],
        "output_sizes": [list(sizes) for sizes in outs],
        "output_dtypes": ["BFloat16"],
        "state": "completed" if done else "started",
        "time_discovered_started_ns": created + 400_000,
        "time_discovered_completed_ns": BASE_NS + number * 2_000_000 + 900_000 if done else None,
        "retired": done,
        "timeout_ms": 600_000,
        "is_p2p": False,
        "thread_id": str(140566970870656 + rank),
        "thread_name": "python3",
    }


if __name__ == "__main__":
    main()
