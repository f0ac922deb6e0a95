"""Two sets of dumps of one job: what has stood still from one to the other, what moved, and when they are one look."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from tests.diagnosis.rows import WORLD, Rows, of, ring, started, told
from tests.flightrec.synthetic import BASE_NS, active, pickled
from torchctl.diagnosis.diagnose import diagnose
from torchctl.diagnosis.evidence import Evidence
from torchctl.diagnosis.model import Diagnosis
from torchctl.flightrec.decoding.raw import RawDump
from torchctl.flightrec.table.loading import load_raw

SECOND_NS = 1_000_000_000
Set = Mapping[int, tuple[Rows, int]]  # a rank's rows, and when its file was written, since BASE_NS


def dumps(folder: str, made: Set) -> list[RawDump]:
    return [
        RawDump(f"{folder}/{rank}", rank, pickled(ring(rows, WORLD)), written_ns=BASE_NS + at)
        for rank, (rows, at) in made.items()
    ]


def look(first: Set, second: Set) -> Diagnosis:
    return diagnose(Evidence(load_raw([*dumps("a", second), *dumps("b", first)])))


def at(seconds: float, rows: Sequence[Rows], apart_ns: int = 70_000_001) -> Set:
    return {rank: (made, int(seconds * SECOND_NS) + rank * apart_ns) for rank, made in enumerate(rows)}


STARTED: Sequence[Rows] = [[of("0", 1), started("0", 2)]] * 4
LATE: Sequence[Rows] = [[of("0", 1), of("0", 2, active)]] * 3 + [[of("0", 1)]]


def test_what_all_have_started_and_not_finished_seconds_later_is_stuck() -> None:
    """One look cannot tell it from running: three seconds old, then eight."""
    one = diagnose(Evidence(load_raw(dumps("a", at(10, STARTED)))))
    assert (one.healthy, one.findings) == (None, [])
    assert told(look(at(5, STARTED), at(10, STARTED))) == [("stuck_running", (), (0, 1, 2, 3))]


def test_who_has_not_come_seconds_later_is_named() -> None:
    one = diagnose(Evidence(load_raw(dumps("a", at(10, LATE)))))
    assert (one.healthy, one.findings) == (None, [])
    assert told(look(at(5, LATE), at(10, LATE))) == [("not_entered", (3,), (0, 1, 2))]


def test_a_job_that_went_on_is_healthy() -> None:
    later: Sequence[Rows] = [[of("0", 1), of("0", 2), of("0", 3), of("0", 4, active)]] * 3
    found = look(at(2.2, LATE, 1_000), at(4.2, [*later, [of("0", 1), of("0", 2), of("0", 3)]], 70_000_001))
    assert found.healthy is not False
    assert found.findings == []


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (at(5, LATE, 2_000_000), at(10, LATE)),  # a copy of the set, made in between
        (at(5, LATE), at(10, LATE, 2_000_000)),
        (at(5, LATE), at(5.5, LATE)),
        ({rank: one for rank, one in at(5, LATE).items() if rank != 1}, at(10, LATE)),  # no complete set
    ],
)
def test_copies_and_parts_of_a_set_are_no_second_look(first: Set, second: Set) -> None:
    found = look(first, second)
    assert (found.healthy, found.findings) == (None, [])


def test_who_went_on_and_stands_by_the_second_set_counts_by_that_set_alone() -> None:
    """Rank 0 was two operations behind in the first set; an hour may lie between the two."""
    behind: Rows = [of("0", 1, active)]
    first = at(2, [behind, *LATE[1:]])
    found = look(first, at(20, LATE))
    assert (found.healthy, found.findings) == (None, [])
    assert [one.culprit_ranks for one in look(first, at(50, LATE)).findings] == [(3,)]


def test_what_a_moving_rank_has_finished_since_is_not_stuck_on_the_others() -> None:
    """All are in operation 2 when ranks 1 to 3 are dumped again; rank 0 is dumped half a second later."""
    moved: Rows = [of("0", 1), of("0", 2, time_discovered_completed_ns=BASE_NS + 10 * SECOND_NS)]
    second = {**at(9.6, STARTED), 0: (moved, 10 * SECOND_NS + 9)}
    assert look(at(5, STARTED), second).findings == []


def test_of_two_equal_dumps_the_earlier_file_gives_the_age() -> None:
    """A copy is later: by its time the operation would be a minute old."""
    copy = {3: at(60, LATE)[3], 0: at(60, LATE)[0]}
    found = look(at(10, LATE), copy)
    assert (found.healthy, found.findings) == (None, [])


def notes(first: Set, second: Set) -> list[Any]:
    return load_raw([*dumps("a", second), *dumps("b", first)]).notes


def test_a_note_says_which_set_counts() -> None:
    assert notes(at(5, LATE), at(10, LATE)) == [
        "each rank has two dumps: the later one counts, and the earlier one shows whether the rank moved"
    ]
    assert "rank 0: a/0 is ignored in favor of b/0" in notes(at(5, LATE), at(5.5, LATE))
