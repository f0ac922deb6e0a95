"""`torchctl diagnose DIR` beside torch's own analyser and plain unpickling, on the same files in one run.

Run with `python tests/bench/bench_diagnose.py [--ranks 8 64 256] [--entries 2000] [--rounds 3]`. Printed are, per
size, the least and the largest of each side's seconds, its CPU seconds, the peak memory of all its processes together,
and the ratios of the least; then matching and diagnosis alone, in CPU seconds. `--peer-limit` is the largest number of
ranks that torch's analyser is run on: it takes minutes at 1024.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import os
import pickle
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

TP = 8
FRAMES = 8
BASE_NS = 1_700_000_000_000_000_000
TORCH = "/opt/app/lib/python3.11/site-packages/torch/distributed/distributed_c10d.py"
PROGRAM: tuple[tuple[str, str, list[list[int]], list[list[int]]], ...] = (
    ("tp", "all_reduce", [[8, 1024]], [[8, 1024]]),
    ("tp", "all_reduce", [[8, 1024]], [[8, 1024]]),
    ("dp", "_reduce_scatter_base", [], [[32]]),
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
    parser.add_argument("--alone", nargs="*", default=["1024x2000", "16384x200"], metavar="RANKSxENTRIES")
    options = parser.parse_args()
    for ranks in options.ranks:
        compare(ranks, options.entries, options.rounds, ranks <= options.peer_limit)
    for size in options.alone:
        ranks, entries = map(int, size.split("x"))
        alone(ranks, entries, options.rounds)


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
        cpu: dict[str, list[float]] = {name: [] for name in sides}
        peaks: dict[str, int] = dict.fromkeys(sides, 0)
        for _ in range(rounds):
            for name, (command, allowed) in sides.items():
                seconds, cpu_s, peak_mb = run(command, allowed)
                times[name].append(seconds)
                cpu[name].append(cpu_s)
                peaks[name] = max(peaks[name], peak_mb)
    print(f"{ranks} ranks x {entries} entries, {FRAMES} frames each ({rounds} rounds, in turns)")
    for name, values in times.items():
        used = f"CPU {min(cpu[name]):.2f} s, peak {peaks[name]} MB"
        print(f"  {name}: {min(values):.2f} to {max(values):.2f} s, {used}")
    ratio = min(cpu["ours, one core"]) / min(cpu["unpickling, one core"])
    print(f"  ours on one core / unpickling, CPU: {ratio:.1f}")
    if with_peer:
        mine, theirs = "ours, two cores", "torch's analyser, two cores"
        print(f"  torch's analyser / ours: {min(times[theirs]) / min(times[mine]):.1f}", end="")
        print(f", CPU {min(cpu[theirs]) / min(cpu[mine]):.1f}, memory {peaks[theirs] / peaks[mine]:.1f}")


def run(command: list[str], cores: list[int]) -> tuple[float, float, int]:
    """Return the seconds a command takes on some cores, its CPU seconds, and the peak MB of all its processes."""
    begun = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    os.sched_setaffinity(process.pid, cores)
    ended = threading.Event()
    peaks = [0]
    sampler = threading.Thread(target=sample_memory, args=(process.pid, ended, peaks))
    sampler.start()
    _, _, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - begun
    ended.set()
    sampler.join()
    process.returncode = 0
    return seconds, usage.ru_utime + usage.ru_stime, max(max(peaks), usage.ru_maxrss) >> 10


def sample_memory(pid: int, ended: threading.Event, peaks: list[int]) -> None:
    """Add the resident memory of a process and its children, in kB, to `peaks` ten times a second."""
    while not ended.wait(0.1):
        pids = [pid]
        total = 0
        with contextlib.suppress(OSError, ValueError):
            for task in os.listdir(f"/proc/{pid}/task"):
                pids += map(int, Path(f"/proc/{pid}/task/{task}/children").read_text().split())
        for one in pids:
            with contextlib.suppress(OSError, ValueError):
                total += int(Path(f"/proc/{one}/statm").read_text().split()[1]) * 4
        peaks.append(total)


def alone(ranks: int, entries: int, rounds: int) -> None:
    """Time matching and diagnosis on a table that is already there, with the table's making beside it."""
    from torchctl.diagnosis.diagnose import diagnose
    from torchctl.diagnosis.evidence import Evidence
    from torchctl.flightrec.decoding.decode import decode_dump
    from torchctl.flightrec.decoding.entries import Members
    from torchctl.flightrec.decoding.guard import Guard
    from torchctl.flightrec.decoding.raw import RawDump
    from torchctl.flightrec.table.aborts import spread_aborts
    from torchctl.flightrec.table.assemble import assemble
    from torchctl.flightrec.table.pieces import Shared, piece_of
    from torchctl.flightrec.table.sizes import tell_sizes

    gc.disable()
    pieces = []
    shared: Shared = {}
    members: Members = {}
    with Guard() as guard:
        for rank in range(ranks):
            data = pickle.dumps(dump_of(rank, ranks, entries, ranks // 2 + 1), 2)
            dump = decode_dump(data, str(rank), guard=guard, whole=False, members=members)
            pieces.append(piece_of(RawDump(str(rank), rank, b""), dump, shared))
    tables, verdicts = [], []
    for _ in range(rounds):
        fresh = [replace(piece, columns=dict(piece.columns)) for piece in pieces]
        begun = time.process_time()
        trace = assemble(fresh, [])
        tell_sizes(trace)
        spread_aborts(trace)
        made = time.process_time()
        found = diagnose(Evidence(trace))
        tables.append(made - begun)
        verdicts.append(time.process_time() - made)
    print(f"{ranks} ranks x {entries} entries, decoded, on one core ({rounds} rounds): table {spread(tables)}", end="")
    print(f", matching and diagnosis {spread(verdicts)}")
    print(f"  {found.verdict[:150]}")


def spread(seconds: list[float]) -> str:
    return f"{min(seconds):.2f} to {max(seconds):.2f} s"


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
    scattered = [[dp * 32]]  # torch's analyser gives up where the sizes do not fit the group
    for number in range(entries):
        at = number % len(PROGRAM) if number < entries - 1 else 0
        kind, op, ins, outs = PROGRAM[at]
        ins = ins or scattered
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
