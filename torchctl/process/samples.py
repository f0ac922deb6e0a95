"""Samples a process through /proc: its state, and for each thread where it waits and how often it woke up.

How this works: nothing here stops, signals or attaches to the process. Every file is read once; if it cannot be read
(permissions, an older kernel, a thread that has ended), its fields stay unknown. Two samples some time apart
distinguish waiting from moving; `reasons` judges what they mean.

Source: proc(5); Documentation/scheduler/sched-stats.rst for schedstat.
"""

from __future__ import annotations

import os
import time
from typing import NamedTuple

PROC = "/proc"
_START = 19  # index of field 22 of stat among those from the third on
MAX_THREADS = 2000  # sampled at most; a process with more is judged by these


class Thread(NamedTuple):
    """One thread.

    Attributes:
        state: the kernel's letter: R running, S asleep, D uninterruptible, T stopped, t traced, Z dead.
        wait: the kernel function it sleeps in; "" if it is running or wchan is unreadable.
        switches: voluntary context switches so far; None if unknown.
        run_ns: CPU time so far; None if the kernel does not count it.
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
        state: the main thread's state; "" if the process is gone.
        start_ticks: start time in clock ticks since boot; identifies the process together with the pid.
        tracer_pid: the tracer's pid; 0 if it is not traced.
        major_faults: pages that had to be read from disk so far.
        swap_kib: swapped-out memory.
        threads: by thread id; the main thread's id is the pid.
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
    """Sample a process and those of its threads in `tids`; by default all."""
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
    """Return the ids of a process's threads; empty if it is gone."""
    try:
        return sorted(int(name) for name in os.listdir(f"{proc}/{pid}/task") if name.isdigit())
    except OSError:
        return []


def thread(pid: int, tid: int, *, proc: str = PROC) -> Thread | None:
    """Sample one thread; return None if it is gone."""
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
    """Return when a process was started, in clock ticks since boot, or None if it is gone or a zombie.

    Args:
        pid: a process id, or "self" for the calling process.
    """
    fields = stat_fields(f"{proc}/{pid}/stat")
    return _start_of(fields) if fields and fields[0] not in ("Z", "X") else None


def stat_fields(path: str) -> list[str]:
    """Return the fields of a stat file from the third (the state) on; empty if it cannot be read.

    The second field, the name, may contain spaces and parentheses; the fields after it cannot.
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
    """Return a small file's text, or "" if it cannot be read."""
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
