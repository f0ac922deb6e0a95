"""Devices that are behind while all threads have launched the same, and those who wait behind what others hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from tests.diagnosis.rows import Rows, groups, look, look_at, of, only, ring, started, told
from tests.flightrec.synthetic import BASE_NS, active, entry

SECOND_NS = 1_000_000_000


def begun(name: str, seq: int) -> dict[str, Any]:
    return started(name, seq, time_discovered_started_ns=BASE_NS + seq * SECOND_NS + 9)


def timed(name: str, seq: int) -> dict[str, Any]:
    return of(name, seq, time_discovered_started_ns=BASE_NS + seq * SECOND_NS + 9)


@pytest.mark.parametrize("behind", [[2], [0], [1, 5]])
@pytest.mark.parametrize("world", [4, 8])
def test_with_timing_the_rank_whose_device_has_not_begun_is_named(behind: Sequence[int], world: int) -> None:
    late = [rank for rank in behind if rank < world]
    rows: dict[int, Rows] = {
        rank: [timed("0", 1), of("0", 2, active) if rank in late else begun("0", 2)] for rank in range(world)
    }
    found = only(look(rows, groups(w=range(world))))
    assert (found.kind, found.culprit_ranks) == ("stuck_running", tuple(late))
    assert found.waiting_ranks == tuple(rank for rank in range(world) if rank not in late)
    assert "network" not in found.summary


def test_a_device_that_waits_in_an_earlier_operation_is_not_the_one_that_hangs() -> None:
    """Rank 1's device is in an operation with rank 2, and has not come to the one of all: that is the group's fault."""
    config = groups(w=range(4), t=[1, 2])
    rows: dict[int, Rows] = {rank: [timed("0", 1), begun("0", 2)] for rank in (0, 3)}
    rows |= {rank: [timed("0", 1), begun("t", 1), of("0", 2, active)] for rank in (1, 2)}
    found = only(look(rows, config))
    assert (found.kind, found.culprit_ranks, found.waiting_ranks) == ("stuck_running", (), (0, 1, 2, 3))
    assert found.group is not None and found.group.name == "t"


def test_without_timing_who_has_not_begun_is_not_known() -> None:
    rows: dict[int, Rows] = {rank: [of("0", 1), of("0", 2, active)] for rank in range(4)}
    found = only(look(rows, groups(w=range(4)), moved=frozenset()))
    assert (found.kind, found.culprit_ranks) == ("stuck_running", ())


def behind_in(count: int, rank: int, world: int, op: str = "nccl:broadcast") -> dict[int, Rows]:
    """`count` broadcasts that all but one rank have finished, and an all_reduce that all have entered."""
    rows: dict[int, Rows] = {}
    for one in range(world):
        made = active if one == rank else entry
        mine = [of("0", 1), *(of("0", seq, made, profiling_name=op) for seq in range(2, 2 + count))]
        rows[one] = [*mine, of("0", 2 + count, active)]
    return rows


@pytest.mark.parametrize("count", [1, 15, 16, 17, 40])
@pytest.mark.parametrize("rank", [1, 3])
def test_the_rank_that_is_still_in_what_the_others_have_finished_is_named(count: int, rank: int) -> None:
    config = groups(w=range(4))
    dumps = {one: ring(rows, config) for one, rows in behind_in(count, rank, 4).items()}
    written = dict.fromkeys(range(4), BASE_NS + 700 * SECOND_NS)
    found = only(look_at(dumps, written_ns=written))
    assert (found.kind, found.culprit_ranks) == ("stuck_running", (rank,))
    assert found.waiting_ranks == tuple(one for one in range(4) if one != rank)
    assert found.collective is not None and found.collective.seq_id == 2
    if count < 30:  # which are launched a second apart
        soon = dict.fromkeys(range(4), BASE_NS + (3 + count) * SECOND_NS)
        assert look_at(dumps, written_ns=soon).findings == []


@pytest.mark.parametrize("inside", [[0, 1, 2], [1, 2, 3]])
def test_ranks_inside_what_one_has_finished_have_not_failed_to_enter_the_next(inside: Sequence[int]) -> None:
    rows: dict[int, Rows] = {
        rank: [timed("0", 1), begun("0", 2)] if rank in inside else [timed("0", 1), timed("0", 2), begun("0", 3)]
        for rank in range(4)
    }
    found = only(look(rows, groups(w=range(4))))
    assert (found.kind, found.culprit_ranks, found.waiting_ranks) == ("stuck_running", (), (0, 1, 2, 3))
    assert found.collective is not None and found.collective.seq_id == 2
    untimed = {
        rank: [of("0", 1), of("0", 2, active)] if rank in inside else [of("0", 1), of("0", 2), of("0", 3, active)]
        for rank in range(4)
    }
    one_look = look(untimed, groups(w=range(4)))
    assert (one_look.healthy, one_look.findings) == (None, [])
    assert "one look cannot determine whether it is about to end" in one_look.unknown[0]


@pytest.mark.parametrize("word", ["started", "scheduled"])
def test_who_waits_behind_a_held_operation_is_counted(word: str) -> None:
    """Data parallel over tensor pairs; rank 7 hangs, and 0, 2, 4 wait for what 6 has launched behind its pair's."""
    config = groups(w=range(8), t=[6, 7], d=[0, 2, 4, 6], e=[1, 3, 5, 7])
    rows: dict[int, Rows] = {7: [of("0", 1)], 6: [of("0", 1), of("t", 1, active), of("d", 1, active, state=word)]}
    rows |= {rank: [of("0", 1), of("d", 1, active, state=word)] for rank in (0, 2, 4)}
    rows |= {rank: [of("0", 1), of("e", 1, active)] for rank in (1, 3, 5)}
    assert told(look(rows, config)) == [("not_entered", (7,), (0, 1, 2, 3, 4, 5, 6))]


def test_a_rank_that_launched_it_by_its_own_counters_is_not_missing() -> None:
    """`pg_status` is read after the entries: rank 3 has come in between."""
    rows: dict[int, Rows] = {rank: [of("0", 1), of("0", 2, active)] for rank in range(3)} | {3: [of("0", 1)]}
    config = groups(w=range(4))

    def counted(last: int) -> dict[str, Any]:
        status = dict.fromkeys(("last_enqueued_collective", "last_completed_collective"), last)
        return {"0": status | {"last_started_collective": -1}}

    for last, names in ((2, []), (1, [("not_entered", (3,), (0, 1, 2))])):
        dumps = {rank: ring(made, config, pg_status=counted(last if rank == 3 else 2)) for rank, made in rows.items()}
        assert told(look_at(dumps)) == names
