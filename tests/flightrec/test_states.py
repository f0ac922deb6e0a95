"""When an entry has ended is one rule, in three forms: of a worker's digest, of one entry, of columns."""

from __future__ import annotations

from itertools import product
from typing import Any

from tests.flightrec.synthetic import BASE_NS, dump, entry, pickled
from torchctl.flightrec import State, decode_dump
from torchctl.flightrec.decoding.raw import RawDump
from torchctl.flightrec.table.judge import Stage, judge_alone
from torchctl.flightrec.table.loading import load_raw
from torchctl.server.handlers.digest import digest_of

SAME = {
    Stage.SCHEDULED: State.SCHEDULED,
    Stage.STARTED: State.STARTED,
    Stage.TIMED_OUT: State.TIMED_OUT,
    Stage.COMPLETED_LATE: State.LATE,
    Stage.COMPLETED: State.DONE,
    Stage.RETIRED: State.DONE,
    Stage.UNKNOWN: State.UNKNOWN,
}
WORDS = ("scheduled", "started", "completed", "paused")
STARTS, ENDS = (None, BASE_NS + 5), (None, BASE_NS + 10, BASE_NS + 3_000_000_000)


def combined(backend: str) -> list[dict[str, Any]]:
    """Return an entry for every combination of the fields that say how far it has come."""
    found: list[dict[str, Any]] = []
    for word, start, end, retired, timeout in product(WORDS, STARTS, ENDS, (None, False, True), (None, 0, 1000)):
        fields = {"time_discovered_started_ns": start, "time_discovered_completed_ns": end, "retired": retired}
        name = {"profiling_name": f"{backend}:broadcast"}
        found.append(entry(len(found) + 1, state=word, timeout_ms=timeout, time_created_ns=BASE_NS, **fields, **name))
    return found


def test_the_reader_of_one_dump_and_the_table_of_all_judge_every_entry_alike() -> None:
    for backend in ("nccl", "gloo", "glooey"):
        data = pickled(dump(combined(backend)))
        stages = [judge_alone(one) for one in decode_dump(data, "trace_0").entries]
        trace = load_raw([RawDump("trace_0", 0, data)])
        assert [SAME[stage] for stage in stages] == [State(number) for number in trace.state.tolist()], backend


def test_a_digest_leaves_out_just_what_the_reader_takes_for_ended() -> None:
    """An entry before those that a digest keeps anyway is in it only if it is open."""
    after = [entry(at) for at in range(900, 910)]
    for backend in ("nccl", "gloo", "glooey"):
        entries = combined(backend)
        stages = [judge_alone(one) for one in decode_dump(pickled(dump(entries)), "trace_0").entries]
        kept = [len(digest_of(dump([one, *after]), last=2, of_each=2)["entries"]) == 11 for one in entries]
        assert kept == [stage.active for stage in stages], backend
