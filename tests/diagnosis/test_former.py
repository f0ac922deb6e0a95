"""Files of an earlier attempt, or an earlier moment, in the same folder: no evidence of the present."""

from __future__ import annotations

from typing import Any

import pytest

from tests.diagnosis.rows import WORLD, Rows, look_at, of, ring, told
from tests.flightrec.synthetic import BASE_NS, active, pickled
from torchctl.diagnosis.diagnose import diagnose
from torchctl.diagnosis.evidence import Evidence
from torchctl.flightrec.decoding.raw import RawDump
from torchctl.flightrec.table.loading import load_raw

SECOND_NS = 1_000_000_000
MINUTE_NS = 60 * SECOND_NS


def attempt(steps: int, start_ns: int, *, stuck: bool = False, lost: int = 0) -> Rows:
    """An attempt's operations, one each 10 ms; `lost` of them have left the ring."""
    rows = []
    for seq in range(1 + lost, steps + 1):
        at = BASE_NS + start_ns + seq * 10_000_000
        rows.append(of("0", seq, time_created_ns=at, time_discovered_completed_ns=at + 1_000_000))
    if stuck:
        at = BASE_NS + start_ns + (steps + 1) * 10_000_000
        rows.append(of("0", steps + 1, active, time_created_ns=at))
    return rows


def folder(old: set[int], gap_ns: int, old_steps: int, lost: int, times: bool) -> Any:
    """Attempt 2 hangs at step 20, and the ranks in `old` have left the files of attempt 1 alone."""
    dumps, written = {}, {}
    for rank in range(4):
        rows = attempt(old_steps, -gap_ns, lost=lost) if rank in old else attempt(20, 0, stuck=True)
        dumps[rank] = ring(rows, WORLD, lost=lost if rank in old else 0)
        written[rank] = BASE_NS + (-gap_ns + 2 * SECOND_NS if rank in old else 600 * SECOND_NS)
    return look_at(dumps, written_ns=written if times else None)


@pytest.mark.parametrize("old", [{2}, {0}, {0, 3}])
@pytest.mark.parametrize("gap_ns", [5 * MINUTE_NS, 120 * MINUTE_NS])
@pytest.mark.parametrize(("old_steps", "lost"), [(60, 0), (60, 30), (12, 0)])
def test_a_file_from_before_the_others_began_is_no_evidence(
    old: set[int], gap_ns: int, old_steps: int, lost: int
) -> None:
    found = folder(old, gap_ns, old_steps, lost, True)
    if len(old) == 1:
        assert [(one.kind, one.culprit_ranks) for one in found.findings] == [("rank_lost", tuple(old))]
        assert "its dump is from an earlier run, and there is none from this one" in found.verdict
    else:
        assert [one.culprit_ranks for one in found.findings] in ([], [tuple(sorted(old))])
        assert found.healthy is not True


@pytest.mark.parametrize(("old_steps", "lost"), [(60, 0), (60, 30), (21, 5)])
def test_without_files_times_an_end_before_the_others_entered_shows_the_earlier_attempt(
    old_steps: int, lost: int
) -> None:
    found = folder({2}, 10 * MINUTE_NS, old_steps, lost, False)
    assert [(one.kind, one.culprit_ranks) for one in found.findings] == [("rank_lost", (2,))]


def test_a_rank_that_dumped_and_died_minutes_before_the_others_is_of_the_same_run() -> None:
    """Rank 2 hit its own, shorter timeout and left; the others went on to wait for it."""
    dumps = {rank: ring(attempt(20, 0, stuck=True), WORLD) for rank in (0, 1, 3)}
    dumps[2] = ring(attempt(20, 0), WORLD)
    times = {rank: BASE_NS + (900 if rank != 2 else 10) * SECOND_NS for rank in range(4)}
    assert told(look_at(dumps, written_ns=times)) == [("not_entered", (2,), (0, 1, 3))]


def snapshot(rank: int, done: int, launched: int, source: str, written_ns: int | None = None) -> RawDump:
    """A dump of a rank whose thread has run ahead: operations are launched that its device has not come to."""
    rows = [of("0", seq, time_created_ns=BASE_NS + seq, time_discovered_completed_ns=BASE_NS + seq * 1000)
            for seq in range(1, done + 1)]  # fmt: skip
    rows += [of("0", seq, active, time_created_ns=BASE_NS + seq) for seq in range(done + 1, launched + 1)]
    return RawDump(source, rank, pickled(ring(rows, WORLD)), written_ns=written_ns)


@pytest.mark.parametrize("early", ["a_early", "z_early"])
@pytest.mark.parametrize("both", [{1}, {0, 3}])
def test_of_two_snapshots_the_one_with_more_done_counts(early: str, both: set[int]) -> None:
    """Rank 3 stopped at 25; all have launched up to 30, and the early snapshots show only 4 of them done."""
    late = [snapshot(rank, 25, 25 if rank == 3 else 30, f"b_late/{rank}") for rank in range(4)]
    first = [snapshot(rank, 4, 25 if rank == 3 else 30, f"{early}/{rank}") for rank in both]
    found = diagnose(Evidence(load_raw([*late, *first])))
    assert [(one.kind, one.culprit_ranks) for one in found.findings] == [("not_entered", (3,))]


@pytest.mark.parametrize("count", [16, 17, 40])
def test_a_rank_that_has_launched_far_ahead_has_entered_what_it_shows(count: int) -> None:
    """Rank 2 has all of them open, the others only the last one: it has not gone past any."""
    rows: dict[int, Rows] = {rank: attempt(count, 0, stuck=True) for rank in (0, 1, 3)}
    behind = [row | {"state": "scheduled", "retired": False, "time_discovered_completed_ns": None} for row in rows[0]]
    found = look_at({rank: ring(rows.get(rank, behind), WORLD) for rank in range(4)})
    assert not any(one.kind == "not_entered" for one in found.findings)
