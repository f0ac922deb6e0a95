"""Single cases in NCCL's format, each a few operations long: what each kind is found by, and what is no finding."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from tests.diagnosis.rows import (
    WORLD,
    Rows,
    groups,
    look,
    of,
    only,
    p2p,
    started,
    told,
)
from tests.diagnosis.simulated import STEP_NS, Job, Step, changed
from tests.flightrec.synthetic import BASE_NS, active, dump, entry, pickled
from torchctl.diagnosis.diagnose import diagnose
from torchctl.diagnosis.evidence import Evidence
from torchctl.diagnosis.model import Diagnosis
from torchctl.errors import DumpError
from torchctl.flightrec.decoding.raw import Failure, RawDump
from torchctl.flightrec.table.loading import load_raw


def test_the_first_rank_can_be_the_guilty_one() -> None:
    rows = {rank: [of("0", 1), started("0", 2)] for rank in (1, 2, 3)} | {0: [of("0", 1)]}
    assert told(look(rows, WORLD)) == [("not_entered", (0,), (1, 2, 3))]


def test_two_missing_ranks_are_one_finding() -> None:
    rows = {rank: [of("0", 1), started("0", 2)] for rank in (0, 3)} | {rank: [of("0", 1)] for rank in (1, 2)}
    assert told(look(rows, WORLD)) == [("not_entered", (1, 2), (0, 3))]


def test_two_independent_faults_are_two_findings() -> None:
    config = groups(a=[0, 1], b=[2, 3, 4])
    rows: dict[int, Rows] = {0: [of("a", 1)], 1: [of("a", 1), started("a", 2)], 2: [of("b", 1)]}
    rows |= {rank: [of("b", 1), started("b", 2)] for rank in (3, 4)}
    assert told(look(rows, config)) == [("not_entered", (2,), (3, 4)), ("not_entered", (0,), (1,))]


def test_a_minority_is_named_and_a_tie_is_said_to_be_one() -> None:
    rows = {
        rank: [started("0", 1, input_sizes=[[5]], output_sizes=[[5]]) if rank == 2 else started("0", 1)]
        for rank in range(4)
    }
    assert told(look(rows, WORLD)) == [("shape_mismatch", (2,), (0, 1, 3))]
    rows = {
        rank: [started("0", 1, input_dtypes=["Half"], output_dtypes=["Half"]) if rank > 1 else started("0", 1)]
        for rank in range(4)
    }
    found = only(look(rows, WORLD))
    assert (found.kind, found.culprit_ranks, found.waiting_ranks) == ("dtype_mismatch", (), (0, 1, 2, 3))
    assert "a tie, ranks 0-1 against ranks 2-3" in found.summary


def test_a_mismatch_that_has_completed_is_found_too() -> None:
    rows = {rank: [of("0", 1, input_sizes=[[7]]) if rank == 3 else of("0", 1), of("0", 2)] for rank in range(4)}
    assert told(look(rows, WORLD)) == [("shape_mismatch", (3,), ())]


def test_a_skipped_step_is_the_cause_of_the_wait_at_the_end() -> None:
    kinds = ["all_reduce", "broadcast", "all_reduce", "broadcast"]
    whole = [of("0", at + 1, profiling_name=f"nccl:{kind}") for at, kind in enumerate(kinds)]
    last = {rank: [*whole, started("0", 5)] for rank in (0, 1, 2)}
    skipped = [of("0", at + 1, profiling_name=f"nccl:{kind}") for at, kind in enumerate([kinds[0], *kinds[2:]])]
    found = look(last | {3: skipped}, WORLD)
    assert [(one.kind, one.culprit_ranks, one.caused_by) for one in found.findings] == [
        ("op_mismatch", (3,), None),
        ("not_entered", (3,), 0),
    ]
    assert found.findings[0].waiting_ranks == (0, 1, 2)


def test_a_cascade_over_groups_accuses_the_root_alone() -> None:
    config = groups(w=range(4), t=[0, 1], u=[2, 3], d=[0, 2], e=[1, 3])
    rows: dict[int, Rows] = {
        0: [of("t", 1), started("t", 2)],
        1: [of("t", 1)],
        2: [of("u", 1), of("u", 2), started("d", 1)],
        3: [of("u", 1), of("u", 2), started("e", 1)],
    }
    assert told(look(rows, config)) == [("not_entered", (1,), (0, 2, 3))]


def test_two_groups_in_opposite_order_are_a_circle() -> None:
    config = groups(w=range(4), a=[0, 1], b=[0, 1])
    rows: dict[int, Rows] = {0: [started("a", 1)], 1: [started("b", 1)], 2: [started("0", 1)], 3: [started("0", 1)]}
    found = only(look(rows, config))
    assert (found.kind, found.culprit_ranks, found.waiting_ranks) == ("order_cycle", (0, 1), (2, 3))


@pytest.mark.parametrize("word", ["started", "scheduled"])
def test_launches_in_opposite_order_are_a_circle_although_all_have_entered(word: str) -> None:
    config = groups(a=[0, 1], b=[0, 1])
    first, second = started("a", 1, state=word), started("b", 1, state=word)
    found = only(look({0: [first, second], 1: [second, first]}, config))
    assert (found.kind, found.culprit_ranks) == ("order_cycle", (0, 1))


def test_three_groups_in_a_circle() -> None:
    config = groups(a=[0, 1], b=[1, 2], c=[0, 2])
    rows: dict[int, Rows] = {0: [started("a", 1)], 1: [started("b", 1)], 2: [started("c", 1)]}
    found = only(look(rows, config))
    assert (found.kind, found.culprit_ranks, found.waiting_ranks) == ("order_cycle", (), (0, 1, 2))


def test_rings_that_begin_at_different_places_are_intersected() -> None:
    config = groups(w=[0, 1, 2])
    rows = {rank: [of("0", seq) for seq in range(900 + 40 * rank, 1001)] + [started("0", 1001)] for rank in range(2)}
    rows[2] = [of("0", seq) for seq in range(990, 1001)]
    assert told(look(rows, config)) == [("not_entered", (2,), (0, 1))]


def test_all_in_and_nobody_out_is_nobodys_fault() -> None:
    found = only(look({rank: [of("0", 1), started("0", 2)] for rank in range(4)}, WORLD))
    assert (found.kind, found.culprit_ranks, found.waiting_ranks) == ("stuck_running", (), (0, 1, 2, 3))


def test_one_look_at_what_may_be_running_cannot_tell() -> None:
    found = look({rank: [of("0", 1), of("0", 2, active)] for rank in range(4)}, WORLD)
    assert (found.healthy, found.findings) == (None, [])
    assert found.verdict.startswith("Cannot tell: ")


def test_an_abort_does_not_hide_the_rank_that_never_came() -> None:
    late = {"timeout_ms": 1000, "time_discovered_completed_ns": BASE_NS + 9_000_000_000}
    rows: dict[int, Rows] = {rank: [of("0", 1), of("0", 2, **late)] for rank in (0, 1, 3)} | {2: [of("0", 1)]}
    found = look(rows, WORLD)
    assert [(one.kind, one.culprit_ranks, one.caused_by) for one in found.findings] == [
        ("not_entered", (2,), None),
        ("timed_out", (), 0),
    ]


def test_an_abort_ends_the_same_operation_elsewhere_before_its_timeout() -> None:
    """Rank 0 came first and timed out; 1 and 3 came half a second later, and look complete within their timeout."""
    ended = {"timeout_ms": 1000, "time_discovered_completed_ns": BASE_NS + 3_200_000_000}
    rows: dict[int, Rows] = {
        0: [of("0", 1), of("0", 2, time_created_ns=BASE_NS + 2_000_000_000, **ended)],
        1: [of("0", 1), of("0", 2, time_created_ns=BASE_NS + 2_500_000_000, **ended)],
        2: [of("0", 1)],
        3: [of("0", 1), of("0", 2, time_created_ns=BASE_NS + 2_600_000_000, **ended)],
    }
    found = look(rows, WORLD)
    assert [(one.kind, one.culprit_ranks) for one in found.findings] == [("not_entered", (2,)), ("timed_out", ())]
    assert found.findings[0].waiting_ranks == (0, 1, 3)


def test_an_operation_without_a_sequence_id_that_timed_out_has_none_in_its_finding() -> None:
    late = {"timeout_ms": 1000, "time_discovered_completed_ns": BASE_NS + 9_000_000_000}
    found = only(look({rank: [of("0", 1), of("0", 2, collective_seq_id=None, **late)] for rank in range(4)}, WORLD))
    assert (found.kind, found.collective and found.collective.seq_id) == ("timed_out", None)
    assert found.evidence == ["all_reduce of group 0, timeout 1s"]


def test_what_the_watchdog_gave_up_is_open() -> None:
    gone = {"state": "started", "retired": True}
    rows: dict[int, Rows] = {rank: [of("0", 1), of("0", 2, active, **gone)] for rank in (0, 1, 2)} | {3: [of("0", 1)]}
    assert told(look(rows, WORLD)) == [("not_entered", (3,), (0, 1, 2))]


def test_a_rank_without_a_usable_dump_is_lost_only_when_others_wait_for_it() -> None:
    waiting = {rank: [of("0", 1), started("0", 2)] for rank in range(3)}
    assert told(look(waiting, WORLD)) == [("rank_lost", (3,), (0, 1, 2))]
    done = look({rank: [of("0", 1)] for rank in range(3)}, WORLD)
    assert (done.healthy, done.missing) == (None, [3])
    assert done.verdict == "Cannot tell: there is no data from rank 3: include its dump."


def test_a_rank_that_gives_nothing_while_its_process_runs_may_be_slow_alone() -> None:
    waiting = {rank: [of("0", 1), started("0", 2)] for rank in range(3)}
    reason = "did not answer within 4.0 s; its process 7 runs"
    dead = only(look(waiting, WORLD, failed={3: reason}))
    runs = only(look(waiting, WORLD, failed={3: reason}, silent=frozenset({3})))
    said = f"{reason}; ranks 0-2 wait in all_reduce (sequence id 2 of group 0)"
    assert (dead.confidence, dead.summary) == ("likely", f"rank 3 is lost: {said}")
    assert (runs.confidence, runs.summary) == ("possible", f"rank 3 does not answer: {said}")


def test_an_empty_dump_is_lost_when_it_has_worked_with_the_others_and_late_when_not() -> None:
    rows: dict[int, Rows] = {rank: [of("0", 1), started("0", 2)] for rank in range(3)}
    assert told(look(rows | {3: []}, WORLD)) == [("rank_lost", (3,), (0, 1, 2))]
    rows = {rank: [started("0", 1)] for rank in range(3)}
    assert told(look(rows | {3: []}, WORLD)) == [("not_entered", (3,), (0, 1, 2))]


def test_a_dump_taken_while_the_job_moved_is_no_finding() -> None:
    rows = {
        0: [of("0", seq) for seq in (1, 2, 3)] + [started("0", 4)],
        1: [of("0", seq) for seq in (1, 2)] + [started("0", 3)],
        2: [of("0", 1)],
        3: [of("0", seq) for seq in (1, 2, 3)],
    }
    found = look(rows, WORLD)
    assert (found.healthy, found.findings) == (None, [])
    assert found.verdict.startswith("Cannot tell: the dump of rank 2 was taken before the others', ")


@pytest.mark.parametrize(
    ("op", "of_rank"),
    [
        ("gather", lambda rank: ([[4]], [[4]] * 4 if rank == 0 else [])),
        ("scatter", lambda rank: ([[4]] * 4 if rank == 0 else [], [[4]])),
        ("all_to_all", lambda rank: ([[rank + 1]] * 4, [[1], [2], [3], [4]])),
        ("all_gather", lambda rank: ([[rank + 1]], [[1], [2], [3], [4]])),
        ("reduce_scatter", lambda rank: ([[1], [2], [3], [4]], [[rank + 1]])),
        ("_reduce_oop", lambda rank: ([[4]], [[4]] if rank == 1 else [])),
    ],
)
def test_legal_asymmetry_is_no_finding(op: str, of_rank: Callable[[int], tuple[Any, Any]]) -> None:
    rows: dict[int, Rows] = {}
    for rank in range(4):
        ins, outs = of_rank(rank)
        dtypes = {"input_dtypes": ["Float"] * len(ins), "output_dtypes": ["Float"] * len(outs)}
        rows[rank] = [of("0", 1, profiling_name=f"nccl:{op}", input_sizes=ins, output_sizes=outs, **dtypes)]
    found = look(rows, WORLD)
    assert (found.healthy, found.findings) == (True, [])


def batch(*sizes: int, make: Callable[..., dict[str, Any]] = entry) -> Rows:
    rows = [of("0", 1, make, profiling_name="nccl:_broadcast_oop", output_sizes=[[size]]) for size in sizes]
    return [*rows, of("0", 1, make, profiling_name="nccl:ALLGATHER_coalesced", input_sizes=[], output_sizes=[])]


def test_batches_are_compared_member_by_member_and_may_differ_in_length() -> None:
    config = groups(w=[0, 1, 2])
    assert look({rank: batch(4, 5, 6) for rank in range(3)}, config).healthy is True
    assert look({0: batch(4), 1: batch(4, 5), 2: batch(4, 5)}, config).healthy is True
    assert told(look({0: batch(4, 5), 1: batch(4, 5), 2: batch(4, 9)}, config)) == [("shape_mismatch", (2,), ())]
    unclosed = look({0: batch(4, 5), 1: batch(4, 5), 2: batch(4, 5)[:1]}, config)
    assert [one.kind for one in unclosed.findings] == []


def test_a_recv_without_its_send_names_the_sender() -> None:
    config = groups(w=[0, 1, 2])
    rows: dict[int, Rows] = {0: [p2p("send", 1, 0, 1)], 1: [p2p("recv", 7, 1, 0), p2p("recv", 8, 1, 0, active)], 2: []}
    assert told(look(rows, config)) == [("p2p_mismatch", (0,), (1,))]


def test_local_ranks_of_a_subgroup_are_translated() -> None:
    config = groups(s=[3, 7])
    rows: dict[int, Rows] = {
        3: [of("s", 1), of("s", 0, active, profiling_name="nccl:send 0->1", is_p2p=True, p2p_seq_id=1)],
        7: [of("s", 1)],
    }
    found = only(look(rows, config))
    assert (found.kind, found.culprit_ranks, found.waiting_ranks) == ("p2p_mismatch", (7,), (3,))


def test_two_ranks_that_both_send_first_wait_in_a_circle() -> None:
    rows: dict[int, Rows] = {0: [p2p("send", 1, 0, 1, active)], 1: [p2p("send", 1, 1, 0, active)]}
    found = only(look(rows, groups(w=[0, 1])))
    assert (found.kind, found.culprit_ranks) == ("p2p_mismatch", (0, 1))


def test_a_pipeline_of_waits_leads_to_its_stage() -> None:
    config = groups(w=range(4))
    rows: dict[int, Rows] = {
        0: [p2p("send", 1, 0, 1), p2p("send", 2, 0, 1, active)],
        1: [p2p("recv", 1, 1, 0), p2p("send", 2, 1, 2)],
        2: [p2p("recv", 1, 2, 1), p2p("send", 2, 2, 3), p2p("recv", 3, 2, 1, active)],
        3: [p2p("recv", 1, 3, 2), p2p("recv", 2, 3, 2, active)],
    }
    assert told(look(rows, config)) == [("p2p_mismatch", (1,), (0, 2, 3))]


def test_a_straggler_is_found_through_clocks_that_differ() -> None:
    steps = 30
    programs = [[Step("0", "all_reduce", at=at) for at in range(steps)] for _ in range(4)]
    shifts = (0, 150_000_000, -80_000_000, 40_000_000)
    even = Job({"0": (0, 1, 2, 3)}, programs, clock_ns=shifts).run()
    assert diagnose(Evidence(load_raw(iter(even.dumps())))).findings == []
    slow = Job({"0": (0, 1, 2, 3)}, programs, clock_ns=shifts)
    for at in range(steps):
        changed(slow, 2, at, late_ns=300 * STEP_NS)
    found = only(diagnose(Evidence(load_raw(iter(slow.run().dumps())))))
    assert (found.kind, found.culprit_ranks) == ("straggler", (2,))
    assert found.lateness_ms == pytest.approx((300, 300), abs=0.5)


def test_a_rank_that_is_held_up_in_another_group_is_no_straggler() -> None:
    """Rank 3 is slow in group b; rank 2, which shares it, comes late to group a for that reason alone."""
    order = {0: "a", 1: "a", 2: "ba", 3: "b"}
    programs = [[Step(name, "all_reduce", at=at) for at in range(30) for name in order[rank]] for rank in range(4)]
    job = Job({"a": (0, 1, 2), "b": (2, 3)}, programs)
    for at in range(30):
        changed(job, 3, at, late_ns=300 * STEP_NS)
    found = only(diagnose(Evidence(load_raw(iter(job.run().dumps())))))
    assert (found.kind, found.culprit_ranks) == ("straggler", (3,))


def test_a_bad_file_leads_only_when_nothing_else_is_found() -> None:
    bad = Failure("trace_9", None, DumpError("trace_9 is cut short"))

    def with_bad(rows: Mapping[int, Rows]) -> Diagnosis:
        dumps: list[RawDump | Failure] = [bad]
        for rank, made in rows.items():
            dumps.append(RawDump(str(rank), rank, pickled(dump(list(made), pg_config=WORLD))))
        return diagnose(Evidence(load_raw(iter(dumps))))

    healthy = with_bad({rank: [of("0", 1)] for rank in range(4)})
    assert [one.kind for one in healthy.findings] == ["bad_file"]
    hung = with_bad({0: [of("0", 1)]} | {rank: [of("0", 1), started("0", 2)] for rank in (1, 2, 3)})
    assert [one.kind for one in hung.findings] == ["not_entered", "bad_file"]


def test_nothing_at_all_cannot_tell() -> None:
    found = look({}, {})
    assert found.healthy is None
    assert found.verdict == "Cannot tell: there is no dump and no stack from any rank."
    assert look({0: [], 1: []}, {}).healthy is None


def test_a_second_look_that_moved_is_healthy() -> None:
    rows: dict[int, Rows] = {rank: [of("0", 1), started("0", 2)] for rank in (0, 1, 2)} | {3: [of("0", 1)]}
    assert look(rows, WORLD, moved=frozenset(range(3)), live=True).healthy is True
    still = look(rows, WORLD, moved=frozenset(), live=True)
    assert told(still) == [("not_entered", (3,), (0, 1, 2))]
