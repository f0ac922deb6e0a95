"""One look at a process through /proc: its state, and of each thread what it waits in and how often it woke up.

How this works: nothing here stops, signals or attaches to the process; every file is read once, and one that cannot
be read (rights, an older kernel, a thread that has ended) leaves its fields unknown. Two samples some time apart
tell waiting from moving; what they mean is judged in `reasons`.

Source: proc(5); Documentation/scheduler/sched-stats.rst for schedstat.
"""

from __future__ import annotations

import os
import time
from typing import NamedTuple

PROC = "/proc"
_START = 19  # index of field 22 of stat among those from the third on
MAX_THREADS = 2000  # looked at; a process with more is judged by these


class Thread(NamedTuple):
    """One thread.

    Attributes:
        state: the kernel's letter: R running, S asleep, D uninterruptible, T stopped, t traced, Z dead.
        wait: the kernel function it sleeps in, "" if it runs or that may not be read.
        switches: how often it went to sleep of its own accord, so far.
        run_ns: time on a processor so far, None if the kernel does not count it.
    """

    tid: int
    name: str
    state: str
    wait: str
    switches: int | None
    run_ns: int | None


class Sample(NamedTuple):
    """One process at one moment.

    Attributes:
        time: `time.monotonic` seconds.
        state: of the main thread; "" when the process is gone.
        start_ticks: when it was started, in clock ticks since boot: with the pid, its identity.
        tracer_pid: who traces it, 0 for no one.
        major_faults: pages that had to be read from disk, so far.
        swap_kib: of its memory, what lies in swap.
        threads: by thread id; the main one has the process's id.
    """

    time: float
    pid: int
    state: str
    start_ticks: int | None
    tracer_pid: int
    major_faults: int
    swap_kib: int
    threads: dict[int, Thread]


def sample(pid: int, tids: list[int] | None = None, *, proc: str = PROC) -> Sample:
    """Look at a process, and at `tids` of its threads; at all when left out."""
    fields = stat_fields(f"{proc}/{pid}/stat")
    status = status_fields(f"{proc}/{pid}/status")
    if tids is None:
        tids = thread_ids(pid, proc=proc)[:MAX_THREADS]
    threads = {tid: one for tid in tids if (one := thread(pid, tid, proc=proc)) is not None}
    return Sample(
        time.monotonic(),
        pid,
        fields[0] if fields else "",
        _start_of(fields),
        _whole(status.get("TracerPid", "")) or 0,
        (_whole(fields[9]) or 0) if len(fields) > 9 else 0,
        _kib(status.get("VmSwap", "")),
        threads,
    )


def thread_ids(pid: int, *, proc: str = PROC) -> list[int]:
    """Return the ids of a process's threads; none when it is gone."""
    try:
        return sorted(int(name) for name in os.listdir(f"{proc}/{pid}/task") if name.isdigit())
    except OSError:
        return []


def thread(pid: int, tid: int, *, proc: str = PROC) -> Thread | None:
    """Look at one thread; None when it is gone."""
    folder = f"{proc}/{pid}/task/{tid}"
    fields = stat_fields(f"{folder}/stat")
    if not fields:
        return None
    status = status_fields(f"{folder}/status")
    waits = read(f"{folder}/wchan").strip()
    run = read(f"{folder}/schedstat").split()
    return Thread(
        tid,
        status.get("Name", ""),
        fields[0],
        "" if waits in ("0", "-") else waits,
        _whole(status.get("voluntary_ctxt_switches", "")),
        _whole(run[0]) if len(run) == 3 else None,
    )


def start_ticks(pid: int | str, *, proc: str = PROC) -> int | None:
    """Return when a process was started, in clock ticks since boot; None if it is gone, or dead and not collected.

    Args:
        pid: or "self" for the calling process, which has that name under any /proc.
    """
    fields = stat_fields(f"{proc}/{pid}/stat")
    return _start_of(fields) if fields and fields[0] not in ("Z", "X") else None


def stat_fields(path: str) -> list[str]:
    """Return the fields of a stat file from the third (the state) on; empty when it cannot be read.

    The second, the name, may hold spaces and brackets; what follows its last bracket cannot.
    """
    return read(path).rpartition(")")[2].split()


def status_fields(path: str) -> dict[str, str]:
    """Return the fields of a status file by name."""
    fields = {}
    for line in read(path).splitlines():
        name, colon, value = line.partition(":")
        if colon:
            fields[name] = value.strip()
    return fields


def read(path: str) -> str:
    """Return a small file's text, "" when it cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read(1 << 20).decode("utf-8", "replace")
    except OSError:
        return ""


def _start_of(fields: list[str]) -> int | None:
    return _whole(fields[_START]) if len(fields) > _START else None


def _whole(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None


def _kib(text: str) -> int:
    return _whole(text.partition(" ")[0]) or 0
