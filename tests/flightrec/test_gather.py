"""Many dumps through the pool of limited children."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from tests.flightrec.synthetic import dump, entry, pickled
from torchctl.errors import DumpError
from torchctl.flightrec import Dump
from torchctl.flightrec.decoding.raw import Failure, RawDump
from torchctl.flightrec.table.gather import decode_each

GOOD = pickled(dump([entry(1)]))
JOBS = pytest.mark.parametrize("jobs", [1, 3])


def raw(rank: int, data: bytes = GOOD) -> RawDump:
    return RawDump(f"trace_{rank}", rank, data)


@JOBS
def test_what_is_made_comes_in_the_order_given_and_the_failures_by_rank(jobs: int) -> None:
    def make(one: RawDump, made: Dump) -> tuple[str, int, bytes]:
        if one.rank == 5:
            raise DumpError("trace_5 is not wanted")
        return one.source, len(made.entries), one.data

    unread = Failure("trace_2", 2, DumpError("trace_2 cannot be read"))
    given: list[RawDump | Failure] = [raw(9), raw(8, b"junk"), unread, raw(5), raw(1)]
    made, failures = decode_each(given, make, jobs=jobs)
    assert made == [("trace_9", 1, b""), ("trace_1", 1, b"")]
    assert [failure.rank for failure in failures] == [2, 5, 8]
    assert str(failures[1].error) == "trace_5 is not wanted"


@JOBS
def test_no_more_dumps_are_taken_than_the_children_can_follow(jobs: int) -> None:
    taken = 0

    def give() -> Iterator[RawDump]:
        nonlocal taken
        for rank in range(12):
            taken += 1
            yield raw(rank)

    made: list[int] = []

    def make(one: RawDump, _: Dump) -> None:
        assert taken <= len(made) + 2 * jobs + 1  # in the queue, being decoded, and about to enter the queue
        made.append(one.rank or 0)

    decode_each(give(), make, jobs=jobs)
    assert sorted(made) == list(range(12))


@JOBS
@pytest.mark.parametrize("place", ["while dumps are taken", "in make"])
def test_anything_else_that_is_raised_ends_the_threads_and_is_raised(jobs: int, place: str) -> None:
    def give() -> Iterator[RawDump]:
        yield from map(raw, range(6))
        if place != "in make":
            raise KeyboardInterrupt
        yield from map(raw, range(6, 60))

    def make(one: RawDump, _: Dump) -> None:
        if place == "in make" and one.rank == 3:
            raise KeyboardInterrupt

    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        decode_each(give(), make, jobs=jobs)
    assert threading.active_count() == before


def test_of_no_dump_nothing_is_made() -> None:
    assert decode_each([], lambda one, made: None) == ([], [])
