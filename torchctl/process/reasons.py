"""Determines from two samples of a silent process why it does not answer.

How this works: a thread that waits for CPython's interpreter lock waits on a futex with a timeout, the switch
interval of 5 ms, over and over. So both samples find it asleep on a futex, yet it goes to sleep 200 times a second;
a thread that waits for an ordinary lock never wakes up. If the server's thread waits like this for the whole second
between two samples, another thread holds the lock.

That thread is stuck only if no other thread gets the lock in that time. With 200 Python threads at full load, each
turn is 5 ms and the server waits a second or longer for its turn. But then the waiting threads do get turns, and it
shows in their CPU time: far more per wake-up than the server's thread, which merely checked the lock. Such a process
is slow but healthy, so no reason is returned for it.

Source: CPython's Python/ceval_gil.c, take_gil (3.10 to 3.13).
"""

from __future__ import annotations

from typing import NamedTuple

from torchctl.process.memory import ControlGroup
from torchctl.process.samples import PROC, Sample, Thread, read

_LEAST_WAKES_PER_S = 40.0  # a lock waiter wakes 200 times a second, less often on a busy machine
# The server's thread waits on nothing else that has a timeout, so few wake-ups, as on an overloaded machine, suffice.
_LEAST_WAKES_OF_SERVER_PER_S = 3.0
_MOST_WAKES_PER_S = 260.0
_TURN_NS = 1_500_000  # of CPU time beyond the cost of checking; a turn with the lock is 5 ms
_LEAST_TURNS = 20  # threads; with fewer, the server gets its turn within half a second
_SWAPPING_FAULTS_PER_S = 50.0


class Reason(NamedTuple):
    """Why a process does not answer: a stable word and a sentence without a subject.

    Kinds: stopped, traced, zombie, gone, uninterruptible, lock_held, memory_limit, swapping, frozen.
    """

    kind: str
    text: str


def reasons(
    before: Sample, after: Sample, server_tid: int, groups: tuple[ControlGroup, ControlGroup], *, proc: str = PROC
) -> list[Reason]:
    """Return the reasons that the evidence supports, strongest first; empty if the process may just be slow.

    Args:
        before, after: two samples, about a second apart.
        server_tid: the thread that should answer; 0 for a process without a server, where any thread may show that
            the lock is held.
        groups: its memory group at both samples.
    """
    found = _of_the_process(after, proc)
    if not found:
        found = _of_threads(before, after, server_tid)
        if after.tracer_pid:
            found.append(Reason("traced", f"traced by {_name(after.tracer_pid, proc)}"))
    return found + _of_memory(before, after, groups)


def _name(pid: int, proc: str) -> str:
    return f"{read(f'{proc}/{pid}/comm').strip() or '?'}, pid {pid}"


def _of_the_process(after: Sample, proc: str) -> list[Reason]:
    if after.state in ("", "X"):
        return [Reason("gone", "has ended")]
    if after.state == "Z":
        alive = [one for one in after.threads.values() if one.state not in ("Z", "X")]
        if alive:
            return [Reason("zombie", f"main thread has ended, {len(alive)} other threads are still running (zombie)")]
        return [Reason("zombie", "dead, and its parent has not reaped it (zombie)")]
    if after.tracer_pid and after.state in ("t", "T"):
        return [Reason("traced", f"stopped by {_name(after.tracer_pid, proc)}, which is tracing it")]
    if after.state in ("T", "t"):
        return [Reason("stopped", "stopped by a signal (SIGSTOP or SIGTSTP); SIGCONT resumes it")]
    return []


def _of_threads(before: Sample, after: Sample, server_tid: int) -> list[Reason]:
    uninterruptible = [
        one for tid, one in sorted(after.threads.items()) if one.state == "D" and _state(before, tid) == "D"
    ]
    if uninterruptible:
        first = uninterruptible[0]
        where = f" in {first.wait}" if first.wait else ""
        which = "its main thread" if first.tid == after.pid else f"its thread {first.tid} ({first.name})"
        return [Reason("uninterruptible", f"{which} is in uninterruptible sleep (D){where}")]
    waiting = lock_waiters(before, after, server_tid)
    behind = not server_tid or _waits_for_a_holder(before, after, server_tid)
    if (server_tid in waiting or (behind and waiting)) and not _turns_are_taken(before, after, server_tid):
        return [Reason("lock_held", f"interpreter lock held{_by(before, after, waiting)}")]
    return []


def _state(one: Sample, tid: int) -> str:
    return one.threads[tid].state if tid in one.threads else ""


def lock_waiters(before: Sample, after: Sample, server_tid: int = 0) -> set[int]:
    """Return the threads that waited for the interpreter lock from the first sample to the second."""
    elapsed = max(after.time - before.time, 0.001)
    found = set()
    for tid, now in after.threads.items():
        then = before.threads.get(tid)
        if then is None or not (_in_futex(now) and _in_futex(then)):
            continue
        if now.switches is None or then.switches is None:
            continue
        rate = (now.switches - then.switches) / elapsed
        least = _LEAST_WAKES_OF_SERVER_PER_S if tid == server_tid else _LEAST_WAKES_PER_S
        if least <= rate <= _MOST_WAKES_PER_S:
            found.add(tid)
    return found


def _in_futex(one: Thread) -> bool:
    # Running: it just woke up to check. If wchan is unreadable, the wake-up rate alone decides.
    return one.state == "R" or (one.state == "S" and ("futex" in one.wait or not one.wait))


def _waits_for_a_holder(before: Sample, after: Sample, tid: int) -> bool:
    """Whether a thread waits for an ordinary lock, whose holder may be waiting for the interpreter lock."""
    return all(tid in one.threads and _in_futex(one.threads[tid]) for one in (before, after))


def _turns_are_taken(before: Sample, after: Sample, server_tid: int) -> bool:
    """Whether many of the threads that compete for the lock each held it for a while."""
    looking = _run_per_switch(before, after, server_tid)
    if looking is None:
        looking = min(
            (cost for tid in lock_waiters(before, after) if (cost := _run_per_switch(before, after, tid)) is not None),
            default=0.0,
        )
    turns = 0
    for tid, now in after.threads.items():
        then = before.threads.get(tid)
        if tid == server_tid or then is None or now.run_ns is None or then.run_ns is None:
            continue
        if not now.switches or now.switches == then.switches:
            continue  # it did not compete: it computes without the lock, or holds it all the time
        extra = (now.run_ns - then.run_ns) - looking * (now.switches - (then.switches or 0))
        turns += extra > _TURN_NS
    return turns >= _LEAST_TURNS


def _run_per_switch(before: Sample, after: Sample, tid: int) -> float | None:
    then, now = before.threads.get(tid), after.threads.get(tid)
    if then is None or now is None or None in (then.run_ns, now.run_ns, then.switches, now.switches):
        return None
    wakes = (now.switches or 0) - (then.switches or 0)
    return ((now.run_ns or 0) - (then.run_ns or 0)) / wakes if wakes > 0 else None


def _by(before: Sample, after: Sample, waiting: set[int]) -> str:
    """Return who holds the lock, if only one thread computed the whole time, else what the main thread does."""
    elapsed_ns = (after.time - before.time) * 1e9
    busy = []
    for tid, now in after.threads.items():
        then = before.threads.get(tid)
        if tid in waiting or then is None or now.run_ns is None or then.run_ns is None:
            continue
        # On an overloaded machine a thread may be runnable the whole time but compute little.
        if now.run_ns - then.run_ns > elapsed_ns / 4 or (then.state, now.state) == ("R", "R"):
            busy.append(now)
    if len(busy) == 1:
        return f", by its {'main thread' if busy[0].tid == after.pid else f'thread {busy[0].tid}'}, which is computing"
    main = after.threads.get(after.pid)
    if not busy and main is not None and main.tid not in waiting and main.state == "S":
        where = f" in {main.wait}" if main.wait else ""
        return f"; its main thread is sleeping{where}"
    return ""


def _of_memory(before: Sample, after: Sample, groups: tuple[ControlGroup, ControlGroup]) -> list[Reason]:
    found = []
    then, now = groups
    elapsed = max(after.time - before.time, 0.001)
    if now.frozen:
        found.append(Reason("frozen", "its control group is frozen"))
    if now.full or (now.tight and now.struggles > then.struggles):
        limit = "" if now.limit is None else f" of {now.limit / (1 << 20):.0f} MiB"
        found.append(Reason("memory_limit", f"its control group is at its memory limit{limit}"))
    faults = (after.major_faults - before.major_faults) / elapsed
    if faults >= _SWAPPING_FAULTS_PER_S and after.swap_kib:
        swapped = after.swap_kib / 1024
        found.append(Reason("swapping", f"swapping: {swapped:.0f} MiB swapped out, {faults:.0f} pages read per second"))
    return found
