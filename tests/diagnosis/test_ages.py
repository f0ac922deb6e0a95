"""How old what is open may be, and what a healthy job takes for proof: by each rank's own clock, and no other."""

from __future__ import annotations

from typing import Any

import pytest

from tests.diagnosis.rows import WORLD, Rows, elsewhere, groups, look_at, of, only, p2p, ring, started, told
from tests.diagnosis.simulated import STEP_NS, Job, Step, changed
from tests.flightrec.synthetic import BASE_NS, active
from torchctl.diagnosis.diagnose import diagnose
from torchctl.diagnosis.evidence import Evidence, Place
from torchctl.flightrec.table.loading import load_raw

SECOND_NS = 1_000_000_000
SEQ_NS = SECOND_NS  # from one operation of `entry` to the next
CLOCKS = [[0, 0, 0, 0], [0, 0, 120 * SECOND_NS, 120 * SECOND_NS], [0, -7 * SECOND_NS, 3_000_000, 90 * SECOND_NS]]


def moved(rows: Rows, clock_ns: int) -> Rows:
    """Rows as a host records them whose clock is ahead."""
    times = ("time_created_ns", "time_discovered_started_ns", "time_discovered_completed_ns")
    return [row | {name: row[name] + clock_ns for name in times if row.get(name) is not None} for row in rows]


def job(rows: dict[int, Rows], clocks: list[int], config: dict[str, Any] = WORLD) -> dict[int, dict[str, Any]]:
    return {rank: ring(moved(made, clocks[rank]), config) for rank, made in rows.items()}


def written(clocks: list[int], seq: int, after_ns: int) -> dict[int, int]:
    """When files are written, so long after operation `seq` was launched."""
    return {rank: BASE_NS + seq * SEQ_NS + after_ns + clock for rank, clock in enumerate(clocks)}


@pytest.mark.parametrize("clocks", CLOCKS)
@pytest.mark.parametrize("late", [0, 3])
def test_who_is_late_for_a_moment_is_not_named_whatever_other_hosts_clocks_say(clocks: list[int], late: int) -> None:
    rows: dict[int, Rows] = {rank: [of("0", 1), of("0", 2, active)] for rank in range(4) if rank != late}
    rows[late] = [of("0", 1)]
    found = look_at(job(rows, clocks), written_ns=written(clocks, 2, 2_000_000))
    assert found.verdict == "Nothing is wrong: every rank was moving when it was dumped."
    found = look_at(job(rows, clocks), written_ns=written(clocks, 2, 5 * SECOND_NS))
    assert (found.healthy, found.findings) == (None, [])
    assert found.unknown == [
        f"rank {late} has not entered all_reduce (sequence id 2 of group 0), and others had been in it for 5s when they"
        " were dumped: a second set of dumps a few seconds later would show whether the job moves"
    ]


@pytest.mark.parametrize("clocks", CLOCKS)
@pytest.mark.parametrize("after_s", [45, 600, 700])
def test_who_is_late_for_long_is_named(clocks: list[int], after_s: int) -> None:
    rows: dict[int, Rows] = {rank: [of("0", 1), of("0", 2, active)] for rank in range(3)} | {3: [of("0", 1)]}
    found = look_at(job(rows, clocks), written_ns=written(clocks, 2, after_s * SECOND_NS))
    assert told(found) == [("not_entered", (3,), (0, 1, 2))]
    assert found.findings[0].confidence == "likely"


@pytest.mark.parametrize("clocks", CLOCKS)
@pytest.mark.parametrize("word", ["started", "scheduled"])
def test_what_all_have_just_entered_is_not_said_to_end_never(clocks: list[int], word: str) -> None:
    rows: dict[int, Rows] = {rank: [of("0", 1), of("0", 2, active, state=word)] for rank in range(4)}
    found = look_at(job(rows, clocks), written_ns=written(clocks, 2, 40_000_000))
    assert (found.healthy is not False, found.findings) == (True, [])


@pytest.mark.parametrize(("after_s", "sure"), [(601, "likely"), (100, "possible"), (590, "possible")])
@pytest.mark.parametrize("clocks", CLOCKS)
def test_what_all_entered_before_their_timeout_does_not_end(clocks: list[int], after_s: int, sure: str) -> None:
    rows: dict[int, Rows] = {rank: [of("0", 1), of("0", 2, active)] for rank in range(4)}
    found = only(look_at(job(rows, clocks), written_ns=written(clocks, 2, after_s * SECOND_NS)))
    assert (found.kind, found.culprit_ranks, found.confidence) == ("stuck_running", (), sure)


def test_a_copy_of_last_year_and_a_file_from_before_its_own_events_tell_no_age() -> None:
    rows: dict[int, Rows] = {rank: [of("0", 1), of("0", 2, active)] for rank in range(4)}
    for after_s in (-3600, 400 * 24 * 3600):
        found = look_at(job(rows, CLOCKS[0]), written_ns=written(CLOCKS[0], 2, after_s * SECOND_NS))
        assert (found.healthy, found.findings) == (None, [])


def copied(clocks: list[int], after_ns: int) -> dict[int, int]:
    """The times of files that one command has copied, one after the other, so long after operation 2 was launched."""
    return {rank: BASE_NS + 2 * SEQ_NS + after_ns + rank * 2_000_000 + 1 for rank in range(len(clocks))}


# A minute later, copied in a row; an hour later, when a watchdog would have given up; before there was anything.
@pytest.mark.parametrize(
    "times",
    [
        copied(CLOCKS[0], 60 * SECOND_NS),
        written([0, 0, 900_000_000, 0], 2, 3600 * SECOND_NS),
        written(CLOCKS[0], 2, -3600 * SECOND_NS),
    ],
)
def test_times_of_copies_make_a_rank_that_is_not_there_yet_possible_and_say_why(times: dict[int, int]) -> None:
    late: dict[int, Rows] = {rank: [of("0", 1), of("0", 2, active)] for rank in range(3)} | {3: [of("0", 1)]}
    found = look_at(job(late, CLOCKS[0]), written_ns=times)
    assert told(found) == [("not_entered", (3,), (0, 1, 2))]
    assert found.findings[0].confidence == "possible"
    assert found.findings[0].evidence[-1].startswith("the files' times are those of a copy, and do not show how long")
    started_: dict[int, Rows] = {rank: [of("0", 1), started("0", 2)] for rank in range(4)}
    found = look_at(job(started_, CLOCKS[0]), written_ns=times)
    assert (found.healthy, found.findings) == (None, [])


def test_times_of_copies_do_not_weaken_what_needs_no_time() -> None:
    """A watchdog that gave up, later events of a rank inside, an operation left out, the stack of the late rank."""
    times = copied(CLOCKS[0], 60 * SECOND_NS)
    inside: Rows = [of("0", 1), of("0", 2, active)]
    gone: Rows = [of("0", 1), of("0", 2, active, retired=True)]
    went_on: Rows = [*inside, of("t", 1, time_created_ns=BASE_NS + 40 * SECOND_NS)]
    config = WORLD | groups(t=[2])
    for special in (gone, went_on):
        rows: dict[int, Rows] = {0: inside, 1: inside, 2: special, 3: [of("0", 1)]}
        found = look_at(job(rows, CLOCKS[0], config), written_ns=times)
        assert [(one.culprit_ranks, one.confidence != "possible") for one in found.findings] == [((3,), True)]
    rows = {0: inside, 1: inside, 2: inside, 3: [of("0", 1)]}
    found = look_at(job(rows, CLOCKS[0]), {3: elsewhere()}, written_ns=times)
    assert [(one.culprit_ranks, one.confidence != "possible") for one in found.findings] == [((3,), True)]


def test_dumps_that_were_kept_for_days_are_of_a_hang() -> None:
    """The times of a checkout or an attachment say nothing, and no one keeps the dumps of a job that was moving."""
    rows: dict[int, Rows] = {rank: [of("0", 1), of("0", 2, active)] for rank in range(3)} | {3: [of("0", 1)]}
    found = look_at(job(rows, CLOCKS[0]), written_ns=copied(CLOCKS[0], 60 * 24 * 3600 * SECOND_NS))
    assert told(found) == [("not_entered", (3,), (0, 1, 2))]


def test_ranks_that_dumped_at_the_same_moment_keep_their_times() -> None:
    """A copy writes in order; ranks that answer one signal finish in any."""
    rows: dict[int, Rows] = {rank: [of("0", 1), of("0", 2, active)] for rank in range(3)} | {3: [of("0", 1)]}
    moment_ns = BASE_NS + 2 * SEQ_NS + 60 * SECOND_NS + 1
    times = {0: moment_ns + 2_000_000, 1: moment_ns, 2: moment_ns + 3_000_000, 3: moment_ns + 1_000_000}
    found = look_at(job(rows, CLOCKS[0]), written_ns=times)
    assert [one.culprit_ranks for one in found.findings] == [(3,)]
    found = look_at(job(rows, CLOCKS[0]), written_ns=dict.fromkeys(times, moment_ns))
    assert [one.culprit_ranks for one in found.findings] == [(3,)]


def test_files_that_torchctl_itself_wrote_in_a_row_keep_their_times() -> None:
    rows: dict[int, Rows] = {rank: [of("0", 1), of("0", 2, active)] for rank in range(3)} | {3: [of("0", 1)]}
    found = look_at(job(rows, CLOCKS[0]), written_ns=copied(CLOCKS[0], 60 * SECOND_NS), live=True)
    assert [one.culprit_ranks for one in found.findings] == [(3,)]


def test_a_dump_tells_its_own_moment_where_it_completes_what_no_watchdog_saw() -> None:
    """The files were copied an hour later; rank 0's dump has itself found operation 2 completed, 3 is as young."""
    seen = {"retired": False, "time_discovered_completed_ns": BASE_NS + 3 * SEQ_NS + 9}
    rows: dict[int, Rows] = {rank: [of("0", 1), of("0", 2, **seen), started("0", 3)] for rank in range(3)}
    rows[3] = [of("0", 1), of("0", 2, **seen)]
    found = look_at(job(rows, CLOCKS[0]), written_ns=written(CLOCKS[0], 3, 3600 * SECOND_NS))
    assert (found.healthy, found.findings) == (True, [])
    assert found.verdict == "Nothing is wrong: every rank was moving when it was dumped."


def test_another_hosts_clock_makes_nothing_certain() -> None:
    """Pairs {0,1} and {2,3} on two hosts, the second one's clock two minutes ahead; rank 1 is late."""
    config = groups(t=[0, 1], u=[2, 3])
    rows: dict[int, Rows] = {0: [of("t", 1), of("t", 2, active)], 1: [of("t", 1)], 2: [of("u", 1)], 3: [of("u", 1)]}
    found = only(look_at(job(rows, CLOCKS[1], config)))
    assert (found.kind, found.culprit_ranks, found.confidence) == ("not_entered", (1,), "likely")


def test_an_open_send_that_is_young_accuses_nobody() -> None:
    rows: dict[int, Rows] = {0: [of("0", 1), p2p("send", 1, 0, 1, active)], 1: [of("0", 1)]}
    config = groups(w=[0, 1])
    times = {rank: int(rows[0][1]["time_created_ns"]) + 9 * SECOND_NS for rank in rows}
    assert (look_at(job(rows, [0, 0], config), written_ns=times).healthy) is None
    later = {rank: at + 100 * SECOND_NS for rank, at in times.items()}
    assert told(look_at(job(rows, [0, 0], config), written_ns=later)) == [("p2p_mismatch", (1,), (0,))]


def quantised(ends: list[int], phase_ns: int) -> list[int]:
    """When a watchdog that looks every 100 ms sees these ends."""
    look_ns = 100_000_000
    return [-(-(at - phase_ns) // look_ns) * look_ns + phase_ns for at in ends]


@pytest.mark.parametrize("phases", [(0, 30, 55, 95), (99, 1, 2, 3), (10, 10, 60, 60)])
@pytest.mark.parametrize("apart_ms", [7, 40, 170])
def test_watchdogs_that_look_at_different_moments_make_no_straggler(phases: tuple[int, ...], apart_ms: int) -> None:
    """All enter and leave together; only when their watchdogs see it differs."""
    ends = [BASE_NS + at * apart_ms * 1_000_000 for at in range(1, 40)]
    dumps = {}
    for rank, phase in enumerate(phases):
        seen = quantised(ends, phase * 1_000_000)
        rows = [
            of("0", at + 1, time_created_ns=end - 1_000_000, time_discovered_completed_ns=seen[at])
            for at, end in enumerate(ends)
        ]
        dumps[rank] = ring(rows, WORLD)
    found = look_at(dumps)
    assert (found.healthy, found.findings) == (True, [])


def test_a_straggler_among_unknown_clocks_is_possible_alone_and_on_one_host_likely() -> None:
    slow = Job({"0": (0, 1, 2, 3)}, [[Step("0", "all_reduce", at=at) for at in range(30)] for _ in range(4)])
    for at in range(30):
        changed(slow, 2, at, late_ns=300 * STEP_NS)
    trace = load_raw(iter(slow.run().dumps()))
    files = only(diagnose(Evidence(trace)))
    one_host = only(diagnose(Evidence(trace, places={rank: Place("gpu7", rank + 1) for rank in range(4)})))
    assert (files.culprit_ranks, files.confidence, one_host.confidence) == ((2,), "possible", "likely")
    assert files.summary.endswith("; a clock ahead by as much would look the same")
    assert "clock" not in one_host.summary


def test_a_straggler_is_not_told_of_while_something_may_hang() -> None:
    slow = Job({"0": (0, 1, 2, 3)}, [[Step("0", "all_reduce", at=at) for at in range(30)] for _ in range(4)])
    for at in range(30):
        changed(slow, 2, at, late_ns=300 * STEP_NS)
    slow.run()
    for made in slow.entries:
        made.append(made[-1] | active(31, record_id=30, time_created_ns=made[-1]["time_created_ns"] + SEQ_NS))
    found = diagnose(Evidence(load_raw(iter(slow.dumps()))))
    assert (found.healthy, found.findings) == (None, [])
    del slow.entries[1][-1]
    assert told(diagnose(Evidence(load_raw(iter(slow.dumps()))))) == [("not_entered", (1,), (0, 2, 3))]


def test_a_start_that_the_dump_itself_discovered_is_no_sign_of_life() -> None:
    """Ten minutes in one operation, with timing on: the recorder dates the start when it is asked for the dump."""
    written_ns = written([0] * 4, 2, 600 * SECOND_NS)
    rows: dict[int, Rows] = {
        rank: [of("0", 1), started("0", 2, time_discovered_started_ns=written_ns[rank])] for rank in range(3)
    }
    found = look_at(job(rows | {3: [of("0", 1)]}, [0] * 4), written_ns=written_ns)
    assert told(found) == [("not_entered", (3,), (0, 1, 2))]
    stands = look_at(job(rows | {3: rows[0]}, [0] * 4), written_ns=written_ns)
    assert told(stands) == [("stuck_running", (), (0, 1, 2, 3))]


def test_files_that_were_copied_do_not_make_a_moving_job_stand() -> None:
    """Rank 0's dump completed what no watchdog had looked at yet, so its file's time is of a copy, and so are all."""
    seen = of("0", 1, retired=False)
    rows: dict[int, Rows] = {0: [seen, of("0", 2, active)], 1: [of("0", 1), of("0", 2, active)], 2: [of("0", 1)]}
    found = look_at(job(rows, [0] * 3, groups(w=[0, 1, 2])), written_ns=written([0] * 3, 2, 3600 * SECOND_NS))
    assert (found.healthy, found.findings) == (None, [])
