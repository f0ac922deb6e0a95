"""From two samples to a reason: on recorded numbers, so that each case is exact."""

import pytest

from torchctl.process.memory import ControlGroup
from torchctl.process.reasons import lock_waiters, reasons
from torchctl.process.samples import Sample, Thread

PID, SERVER = 100, 101
NO_GROUP = (ControlGroup(), ControlGroup())
MS = 1_000_000


def thread(tid: int, state: str, wait: str, switches: int, run_ms: float) -> Thread:
    return Thread(tid, f"t{tid}", state, wait, switches, int(run_ms * MS))


def sample(
    time: float, *threads: Thread, state: str = "S", tracer: int = 0, faults: int = 0, swap_kib: int = 0
) -> Sample:
    return Sample(time, PID, state, 1, tracer, faults, swap_kib, {one.tid: one for one in threads})


def kinds(before: Sample, after: Sample, groups: tuple[ControlGroup, ControlGroup] = NO_GROUP) -> list[str]:
    return [one.kind for one in reasons(before, after, SERVER, groups)]


MAIN_ASLEEP = [thread(PID, "S", "hrtimer_nanosleep", 10, 100)] * 2


def waiting(at: int) -> Thread:
    return thread(SERVER, "S", "futex_do_wait", 200 * at, 2.0 * at)


def test_a_thread_that_looks_for_the_lock_all_the_time() -> None:
    before, after = sample(0, MAIN_ASLEEP[0], waiting(0)), sample(1, MAIN_ASLEEP[1], waiting(1))
    (reason,) = reasons(before, after, SERVER, NO_GROUP)
    assert reason.kind == "lock_held"
    assert reason.text == "interpreter lock held; its main thread is sleeping in hrtimer_nanosleep"
    assert lock_waiters(before, after) == {SERVER}


def test_the_servers_thread_waits_for_a_lock_of_a_thread_that_looks_for_the_interpreter_lock() -> None:
    """It came to a lock of the server that a connection's thread held as the interpreter lock was taken."""
    stands = thread(SERVER, "S", "futex_do_wait", 7, 1)
    before = sample(0, MAIN_ASLEEP[0], stands, thread(102, "S", "futex_do_wait", 0, 0))
    after = sample(1, MAIN_ASLEEP[1], stands, thread(102, "S", "futex_do_wait", 190, 2))
    (reason,) = reasons(before, after, SERVER, NO_GROUP)
    assert (reason.kind, reason.text) == (
        "lock_held",
        "interpreter lock held; its main thread is sleeping in hrtimer_nanosleep",
    )


def test_by_a_main_thread_that_computes() -> None:
    before = sample(0, thread(PID, "R", "", 10, 0), waiting(0))
    after = sample(1, thread(PID, "R", "", 10, 990), waiting(1))
    assert "by its main thread, which is computing" in reasons(before, after, SERVER, NO_GROUP)[0].text
    starved = sample(1, thread(PID, "R", "", 10, 20), waiting(1))
    assert "by its main thread, which is computing" in reasons(before, starved, SERVER, NO_GROUP)[0].text


@pytest.mark.parametrize(
    ("then", "now"),
    [
        (("S", "do_sys_poll", 0), ("S", "do_sys_poll", 0)),  # nobody has asked it
        (("S", "futex_do_wait", 0), ("S", "futex_do_wait", 0)),  # an ordinary lock
        (("S", "do_sys_poll", 0), ("S", "futex_do_wait", 10)),  # has just begun to wait
        (("S", "futex_do_wait", 0), ("S", "futex_do_wait", 1)),  # an ordinary lock, had once
        (("S", "futex_do_wait", 0), ("S", "futex_do_wait", 5000)),  # a busy queue
    ],
)
def test_what_is_no_held_lock(then: tuple[str, str, int], now: tuple[str, str, int]) -> None:
    before = sample(0, MAIN_ASLEEP[0], thread(SERVER, *then, 0))
    after = sample(1, MAIN_ASLEEP[1], thread(SERVER, *now, 1))
    assert kinds(before, after) == []


def test_threads_that_take_turns_are_healthy() -> None:
    """200 threads at full load: all look for the lock, and each has had it for 5 ms."""
    others = [
        (thread(tid, "S", "futex_do_wait", 0, 0), thread(tid, "S", "futex_do_wait", 195, 6.9))
        for tid in range(200, 400)
    ]
    before = sample(0, MAIN_ASLEEP[0], waiting(0), *(one for one, _ in others))
    after = sample(1, MAIN_ASLEEP[1], waiting(1), *(one for _, one in others))
    assert kinds(before, after) == []


def test_two_hundred_threads_that_all_wait_in_vain() -> None:
    others = [
        (thread(tid, "S", "futex_do_wait", 0, 0), thread(tid, "S", "futex_do_wait", 198, 2.3))
        for tid in range(200, 400)
    ]
    before = sample(0, MAIN_ASLEEP[0], waiting(0), *(one for one, _ in others))
    after = sample(1, MAIN_ASLEEP[1], waiting(1), *(one for _, one in others))
    assert kinds(before, after) == ["lock_held"]


def test_threads_of_other_libraries_that_compute_are_no_turns() -> None:
    """A pool of C++ threads at full load beside a held lock: they never go to sleep, so they compete for nothing."""
    pool = [(thread(tid, "R", "", 5, 0), thread(tid, "R", "", 5, 900)) for tid in range(200, 264)]
    before = sample(0, MAIN_ASLEEP[0], waiting(0), *(one for one, _ in pool))
    after = sample(1, MAIN_ASLEEP[1], waiting(1), *(one for _, one in pool))
    assert kinds(before, after) == ["lock_held"]


@pytest.mark.parametrize(("state", "kind"), [("T", "stopped"), ("Z", "zombie"), ("X", "gone"), ("", "gone")])
def test_the_state_of_the_process_comes_first(state: str, kind: str) -> None:
    assert kinds(sample(0, waiting(0)), sample(1, waiting(1), state=state)) == [kind]


def test_a_stopped_process_with_a_tracer_is_the_tracers() -> None:
    assert kinds(sample(0), sample(1, state="t", tracer=77)) == ["traced"]
    assert kinds(sample(0, waiting(0)), sample(1, waiting(1), tracer=77)) == ["lock_held", "traced"]


def test_uninterruptible_at_both_looks() -> None:
    before = sample(0, thread(PID, "D", "wait_for_vfork_done", 1, 0))
    after = sample(1, thread(PID, "D", "wait_for_vfork_done", 1, 0), state="D")
    (reason,) = reasons(before, after, SERVER, NO_GROUP)
    assert reason.text == "its main thread is in uninterruptible sleep (D) in wait_for_vfork_done"
    moved = sample(0, thread(PID, "S", "", 1, 0))
    assert kinds(moved, after) == []


def test_a_memory_group_at_its_limit() -> None:
    full = ControlGroup("/g", 99 << 20, 100 << 20, 5)
    assert kinds(sample(0), sample(1), (full, full)) == ["memory_limit"]
    before, after = ControlGroup("/g", 85 << 20, 100 << 20, 5), ControlGroup("/g", 85 << 20, 100 << 20, 9)
    assert kinds(sample(0), sample(1), (before, after)) == ["memory_limit"]
    # Full of cached files, as of a job that reads much, and met all the time: well.
    then, now = (ControlGroup("/g", 100 << 20, 100 << 20, count, 0, 70 << 20) for count in (5, 900))
    assert kinds(sample(0), sample(1), (then, now)) == []
    assert kinds(sample(0), sample(1), (before, before)) == []
    assert kinds(sample(0), sample(1), (ControlGroup(), ControlGroup(frozen=True))) == ["frozen"]


def test_swapping_is_pages_read_while_some_lie_in_swap() -> None:
    assert kinds(sample(0), sample(1, faults=500, swap_kib=2048)) == ["swapping"]
    assert kinds(sample(0), sample(1, faults=500)) == []  # a file is being read
    assert kinds(sample(0), sample(1, faults=3, swap_kib=2048)) == []  # lies there, and nobody wants it
