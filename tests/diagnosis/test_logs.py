"""Logs alone: what watchdogs, monitored barriers and DETAIL mode say, in the words of several versions of torch."""

from __future__ import annotations

import time
from collections.abc import Mapping

import pytest

from tests.diagnosis.rows import WORLD, Rows, look, of, only
from torchctl.diagnosis.diagnose import diagnose
from torchctl.diagnosis.evidence import Evidence
from torchctl.diagnosis.model import Diagnosis
from torchctl.flightrec.table.loading import load_raw
from torchctl.logs.facts import LogFacts
from torchctl.logs.reader import LogReader
from torchctl.logs.said import Log, Speaker
from torchctl.logs.together import facts_of

Logs = Mapping[int, str] | Mapping[None, str] | Mapping[int | None, str]


def said(text: str, rank: int | None) -> Log:
    reader = LogReader(Speaker("train.log" if rank is None else f"rank{rank}.log", rank))
    reader.feed(text.encode())
    return reader.finish()


def facts(logs: Logs) -> LogFacts:
    return facts_of([said(text, rank) for rank, text in logs.items()])


def read(logs: Logs) -> Diagnosis:
    return diagnose(Evidence(load_raw([]), logs=facts(logs)))


def timeout(rank: int, seq: int, op: str = "ALLREDUCE", numel: int = 64, before: str = "") -> str:
    """Return torch's line; `before` is what newer versions put before the rank."""
    return (
        f"[rank{rank}]:[E1126 13:42:07.1 ProcessGroupNCCL.cpp:689] [{before}Rank {rank}] Watchdog caught collective"
        f" operation timeout: WorkNCCL(SeqNum={seq}, OpType={op}, NumelIn={numel}, NumelOut={numel},"
        " Timeout(ms)=600000) ran for 600021 milliseconds before timing out.\n"
    )


def status(rank: int, group: str, seq: int, enqueued: int) -> str:
    return (
        f"[rank{rank}]:[E1126 13:42:07.1 ProcessGroupNCCL.cpp:689] [PG ID 5 PG GUID 5({group}) Rank {rank}]  failure"
        f" detected by watchdog at work sequence id: {seq} PG status: last enqueued work: {enqueued}, last completed"
        f" work: {seq - 1}\n"
    )


DEFAULT = "PG ID 0 PG GUID 0(default_pg) "


def test_the_rank_whose_log_says_nothing_was_not_in_what_all_others_gave_up() -> None:
    logs: dict[int, str] = {rank: timeout(rank, 1580, before=DEFAULT) for rank in range(8) if rank != 6}
    found = only(read(logs | {6: "step 120\n"}))
    assert (found.kind, found.confidence, found.culprit_ranks) == ("not_entered", "likely", (6,))
    assert found.waiting_ranks == (0, 1, 2, 3, 4, 5, 7)
    assert "never entered allreduce (sequence id 1580 of group default_pg)" in found.summary
    together = only(read({None: "".join(logs.values()) + "[rank6]: step 120\n"}))
    assert together.culprit_ranks == (6,)


def test_older_lines_take_their_group_from_the_line_below() -> None:
    logs: dict[int, str] = {rank: timeout(rank, 88) + status(rank, "default_pg", 88, 90) for rank in range(3)} | {
        3: "up\n"
    }
    found = only(read(logs))
    assert (found.culprit_ranks, found.confidence) == ((3,), "likely")
    assert found.group is not None
    assert found.group.name == "default_pg"


def test_a_line_that_names_no_group_accuses_few_and_not_surely() -> None:
    many: dict[int, str] = {rank: timeout(rank, 88) for rank in range(8)}
    assert only(read(many | {8: "up\n"})).confidence == "possible"
    others: dict[int, str] = dict.fromkeys(range(8, 16), "up\n")
    assert (read(many | others).healthy, read(many | others).findings) == (None, [])


def test_of_a_subgroup_no_silent_rank_is_accused() -> None:
    logs: dict[int, str] = {
        0: "[rank0]:[E1126 13:42:08.1 ProcessGroupNCCL.cpp:1890] [PG ID 0 PG GUID 0(default_pg) Rank 0] Received a dump"
        " signal due to a collective timeout from  rank 13 and we will try our best to dump the debug info. Last"
        " enqueued NCCL work: 1261, last completed NCCL work: 1259.\n",
        13: timeout(13, 88, "ALLTOALL_BASE") + status(13, "ep", 88, 88),
    }
    found = read(logs)
    assert (found.healthy, found.findings, found.seen) == (None, [], [0, 13])
    assert found.verdict.startswith(
        "Cannot tell: the watchdog of rank 13 gave up on alltoall_base (sequence id 88 of group ep), and no log says"
    )
    assert read({0: logs[0]}).verdict.startswith(
        "Cannot tell: the log of rank 0 only reports that another rank timed out"
    )


def test_a_member_that_had_enqueued_less_never_entered() -> None:
    logs: dict[int, str] = {rank: timeout(rank, 88, before="PG ID 5 PG GUID 5(ep) ") for rank in range(3)}
    found = only(read(logs | {3: status(3, "ep", 80, 87).replace("failure detected", "Exception detected")}))
    assert (found.culprit_ranks, found.waiting_ranks) == ((3,), (0, 1, 2))


def test_who_timed_out_in_another_group_is_not_silent() -> None:
    logs: dict[int, str] = {rank: timeout(rank, 10, before=DEFAULT) for rank in range(3)}
    found = read(logs | {3: timeout(3, 5, before="PG ID 5 PG GUID 5(ep) ")})
    assert (found.healthy, found.findings) == (None, [])


def test_different_sizes_and_operations_at_one_sequence_id() -> None:
    logs: dict[int, str] = {rank: timeout(rank, 7, "BROADCAST", 64, DEFAULT) for rank in range(3)}
    found = only(read(logs | {3: timeout(3, 7, "BROADCAST", 128, DEFAULT)}))
    assert (found.kind, found.culprit_ranks, found.confidence) == ("shape_mismatch", (3,), "likely")
    found = only(read(logs | {3: timeout(3, 7, "ALLREDUCE", 64, DEFAULT)}))
    assert (found.kind, found.culprit_ranks) == ("op_mismatch", (3,))
    tie = only(read({0: timeout(0, 7, "BROADCAST", 64), 1: timeout(1, 7, "BROADCAST", 9), 2: timeout(2, 9)}))
    assert (tie.kind, tie.culprit_ranks, tie.waiting_ranks) == ("shape_mismatch", (), (0, 1, 2))
    uneven = {0: timeout(0, 7, "ALLTOALL_BASE", 64, DEFAULT), 1: timeout(1, 7, "ALLTOALL_BASE", 9, DEFAULT)}
    assert read(uneven).findings == []


FINGERPRINT = (
    "RuntimeError: Detected mismatch between collectives on ranks. Rank {} is running collective:"
    " CollectiveFingerPrint(SequenceNumber=4, OpType={}, TensorShape=[{}], TensorDtypes=BFloat16,"
    " TensorDeviceTypes=T(x)), but Rank {} is running collective: CollectiveFingerPrint(SequenceNumber=4, OpType={},"
    " TensorShape=[{}],"
    " TensorDtypes=BFloat16, TensorDeviceTypes=T(x)).\n"
)


@pytest.mark.parametrize(
    ("kind", "op", "shape"), [("op_mismatch", "BARRIER", "8"), ("shape_mismatch", "ALLREDUCE", "9, 2")]
)
def test_the_comparison_of_detail_mode(kind: str, op: str, shape: str) -> None:
    lines = [FINGERPRINT.format(rank, "ALLREDUCE", "8", 2, op, shape) for rank in (0, 1, 3)]
    found = only(read({None: "".join(lines)}))
    assert (found.kind, found.culprit_ranks, found.waiting_ranks) == (kind, (2,), (0, 1, 3))
    assert only(read({None: lines[0]})).culprit_ranks == ()


def test_a_monitored_barrier_names_who_did_not_pass() -> None:
    passes_on = (
        "Rank 1 successfully reached monitoredBarrier, but received errors while waiting for send/recv from rank 0."
        " Please check rank 0 logs for faulty rank.\n"
    )
    told = "[E ProcessGroupGloo.cpp:138] [Rank 0]: {} failed to pass monitoredBarrier in 30000 ms\n"
    for who, ranks in (("Rank 2", (2,)), ("Ranks 2, 3", (2, 3))):
        found = only(read({0: told.format(who), 1: passes_on, 2: "step 1700\n", 3: "x\n"}))
        assert (found.kind, found.culprit_ranks) == ("not_entered", ranks)


def test_a_watchdog_that_is_stuck_itself() -> None:
    line = (
        "[rank{0}]:[E1126 ProcessGroupNCCL.cpp:1743] [PG ID 0 PG GUID 0(default_pg) Rank {0}] ProcessGroupNCCL's"
        " watchdog got stuck for 480 seconds without making progress in monitoring enqueued collectives.\n"
    )
    found = read({None: line.format(1) + line.format(6)})
    assert (found.healthy, found.findings) == (None, [])
    assert found.verdict.startswith(
        "Cannot tell: the watchdogs of ranks 1,6 made no progress for 8m: a CUDA or NCCL call"
    )


def test_dumps_count_more_and_no_hang_in_a_log_is_called_healthy() -> None:
    rows: dict[int, Rows] = {rank: [of("0", 1)] for rank in range(4)}
    logs = facts({rank: timeout(rank, 7, before=DEFAULT) for rank in range(3)} | {3: "up\n"})
    found = look(rows, WORLD, logs=logs)
    assert (found.healthy, found.findings) == (None, [])
    assert "by the logs, rank 3 never entered allreduce" in found.verdict


def test_logs_that_say_nothing_change_nothing() -> None:
    assert not facts({0: "[rank0] step 1\nlast enqueued work: 1\nRank 3 failed\n", None: "x"}).says_anything


@pytest.mark.parametrize(
    "fragment", ["[Rank 1] ", "[PG ID 0 PG GUID ", "CollectiveFingerPrint(", "Watchdog caught\n", "[rank1"]
)
def test_long_logs_of_any_fragment_take_seconds_at_most(fragment: str) -> None:
    began = time.monotonic()
    said("Watchdog caught nqueued " + fragment * ((1 << 20) // len(fragment)), None)
    assert time.monotonic() - began < 60
