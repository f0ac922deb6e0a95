"""What torch's own analyser is tested on, through our engine: the same situations, our verdicts.

Torch's tests build entries with numbers as text, one type as plain text, no frames and no times, so these do too. Where
torch tells matched from mismatched pairs, a verdict says healthy or names the kind; with two ranks it is always a tie.

Source: the situations of torch/distributed/flight_recorder's tests (matching of two events, building of its database).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import pytest

from tests.diagnosis.rows import look_at, told
from torchctl.diagnosis.model import Diagnosis

Rows = Sequence[dict[str, Any]]


def event(op: str, sizes: Any = ((4, 4),), out: Any = None, **changes: Any) -> dict[str, Any]:
    made: dict[str, Any] = {
        "profiling_name": f"nccl:{op}",
        "state": "completed",
        "process_group": ("0", "default"),
        "input_sizes": [list(one) for one in sizes],
        "output_sizes": [list(one) for one in (sizes if out is None else out)],
        "input_dtypes": "float32",
        "output_dtypes": "float32",
        "collective_seq_id": "1",
        "p2p_seq_id": "0",
        "time_created_ns": 0,
        "frames": [],
        "is_p2p": False,
    }
    return made | changes


def verdict(*rows: Rows, config: Sequence[Mapping[str, Any]] = ()) -> Diagnosis:
    """Diagnose one list of entries per rank; every rank is in group 0, and in a group 1 of its own."""
    dumps = {}
    for rank, entries in enumerate(rows):
        groups = {
            "0": {"name": "0", "desc": "default_pg", "ranks": str(list(range(len(rows))))},
            "1": {"name": "1", "desc": "sub_pg", "ranks": f"[{rank}]"},
        }
        numbered = [made | {"record_id": at} for at, made in enumerate(entries)]
        dumps[rank] = {"version": "2.8", "pg_config": groups, "entries": numbered, "rank": rank}
    return look_at(dumps)


def kinds(found: Diagnosis) -> list[str]:
    return [kind for kind, _, _ in told(found)]


def test_two_equal_events_match() -> None:
    assert verdict([event("all_reduce")], [event("all_reduce")]).healthy is True


@pytest.mark.parametrize(
    ("first", "second", "kind"),
    [
        (event("all_reduce"), event("all_gather"), "op_mismatch"),
        (event("all_reduce"), event("all_reduce", [[5, 4]], [[4, 4]]), "shape_mismatch"),
        (event("all_reduce"), event("all_reduce", [[4, 4]], [[5, 4]]), "shape_mismatch"),
        (event("all_reduce"), event("all_reduce", output_dtypes="float16"), "dtype_mismatch"),
    ],
)
@pytest.mark.parametrize("state", ["scheduled", "completed"])
def test_events_that_differ_are_a_disagreement_and_with_two_ranks_a_tie(
    state: str, first: dict[str, Any], second: dict[str, Any], kind: str
) -> None:
    found = verdict([first | {"state": state}], [second | {"state": state}])
    assert [(one.kind, one.culprit_ranks) for one in found.findings] == [(kind, ())]
    assert "a tie" in found.findings[0].summary


def test_with_a_third_rank_the_one_that_differs_is_named() -> None:
    rows = [[event("all_reduce")], [event("all_reduce")], [event("all_reduce", output_dtypes="float16")]]
    assert [(one.kind, one.culprit_ranks) for one in verdict(*rows).findings] == [("dtype_mismatch", (2,))]


def test_sizes_that_contradict_each_other_on_every_rank_are_a_mismatch_of_nobody() -> None:
    """An all_reduce gives back as many elements as it takes, whatever the others do."""
    wrong = event("all_reduce", [[4, 4]], [[5, 4]])
    found = verdict([wrong], [wrong])
    assert [(one.kind, one.culprit_ranks) for one in found.findings] == [("shape_mismatch", ())]
    assert "contradict" in found.findings[0].summary


def test_all_to_all_cannot_be_judged_by_sizes() -> None:
    assert verdict([event("all_to_all")], [event("all_to_all", [[7, 4]])]).healthy is True


def test_completed_here_and_scheduled_there_is_lag_and_no_finding() -> None:
    assert verdict([event("all_reduce", state="scheduled")], [event("all_reduce")]).findings == []


@pytest.mark.parametrize("leaf", [{"output_sizes": [[]], "output_dtypes": ""}, {"output_dtypes": ""}])
def test_only_the_root_of_a_gather_has_outputs(leaf: dict[str, Any]) -> None:
    root = event("gather", [[4, 4]], [[4, 4], [4, 4]])
    assert verdict([root], [event("gather") | leaf]).healthy is True


@pytest.mark.parametrize("leaf", [{"output_sizes": [[]], "output_dtypes": ""}, {"output_sizes": []}])
def test_nccl_records_what_a_scatter_gives_as_its_input(leaf: dict[str, Any]) -> None:
    """Only the root has a list to scatter, which stands as its output."""
    root, other = event("scatter", [[4, 4]], [[4, 4]]), event("scatter", [[4, 4]]) | leaf
    assert verdict([root], [other], [other]).healthy is True
    wrong = event("scatter", [[5, 4]]) | leaf
    assert told(verdict([root], [other], [wrong])) == [("shape_mismatch", (2,), ())]


@pytest.mark.parametrize(
    "op",
    [
        *("broadcast", "_broadcast_oop", "reduce", "_reduce_oop", "all_gather", "all_reduce", "_all_gather_base"),
        *("all_gather_into_tensor_coalesced", "reduce_scatter", "reduce_scatter_tensor_coalesced"),
        *("_reduce_scatter_base", "gather", "scatter", "all_to_all", "all_reduce_barrier", "barrier"),
        *("allreduce_coalesced", "ALLGATHER_coalesced", "REDUCE_SCATTER_coalesced"),
        *("all_gather_single", "all_gather_v", "reduce_scatter_single", "reduce_scatter_v"),
        *("all_to_all_single", "all_to_all_v_single", "split", "new_window"),
    ],
)
def test_every_collective_matches_itself(op: str) -> None:
    out = [[4, 4]]
    if op.startswith(("reduce_scatter", "_reduce_scatter")):
        out = [[2, 4]]
    elif op.startswith(("all_gather", "_all_gather")):
        out = [[prod((4, 4)) * 2]]
    assert verdict([event(op, [[4, 4]], out)], [event(op, [[4, 4]], out)]).healthy is True


@pytest.mark.parametrize("backend", ["nccl", "ncclx", "gloo", "xccl", "hccl", "unknown_backend"])
def test_every_backend_is_read(backend: str) -> None:
    made = event("all_reduce", profiling_name=f"{backend}:all_reduce")
    assert verdict([made], [made]).healthy is True
    other = made | {"input_sizes": [[9]], "output_sizes": [[9]]}
    assert kinds(verdict([made], [made], [other])) == ["shape_mismatch"]


def test_a_group_of_one_beside_the_default_group_matches_itself() -> None:
    own = event("all_reduce", [[5, 5]], process_group=("1", "sub_pg"))
    other = event("all_reduce", [[6, 6]], process_group=("1", "sub_pg"))
    assert verdict([event("all_reduce"), own], [event("all_reduce"), other]).healthy is True


def batch(*members: dict[str, Any], end: str = "coalesced") -> Rows:
    """Members and the entry that closes them; the sequence id does not move."""
    return [*members, event(end, [[]])]


def test_two_equal_batches_match() -> None:
    rows = batch(event("broadcast"), event("broadcast"))
    assert verdict(rows, rows).healthy is True
    rows = batch(event("_reduce_oop"), event("_reduce_oop"), end="REDUCE_SCATTER_coalesced")
    assert verdict(rows, rows).healthy is True


def test_batches_whose_members_differ_in_size_are_a_mismatch() -> None:
    one = batch(event("_broadcast_oop"), event("_broadcast_oop", [[5, 5]]), end="ALLGATHER_coalesced")
    other = batch(event("_broadcast_oop"), event("_broadcast_oop"), end="ALLGATHER_coalesced")
    found = verdict(one, other)
    assert [(one.kind, one.culprit_ranks) for one in found.findings] == [("shape_mismatch", ())]
    assert [one.culprit_ranks for one in verdict(one, other, other).findings] == [(0,)]


@pytest.mark.parametrize("seq", ["1", "2"])
def test_a_batch_that_one_rank_had_nothing_for_is_no_finding_once_it_is_done(seq: str) -> None:
    """Rank 0's list was empty: no entry. With rank 1's batch done, and nobody waiting, nothing is wrong."""
    made = [one | {"collective_seq_id": seq} for one in batch(event("_reduce_oop"), end="REDUCE_SCATTER_coalesced")]
    assert verdict([event("all_reduce")], [event("all_reduce"), *made]).findings == []


def test_a_dump_without_entries_and_groups_is_read() -> None:
    found = look_at({0: {"entries": [], "version": "2.8", "pg_config": {}}})
    assert (found.healthy, found.seen) == (None, [0])


@pytest.mark.parametrize("was_on", [True, False])
def test_the_garbage_collector_is_left_as_it_was(was_on: bool) -> None:
    import gc

    before = gc.isenabled()
    (gc.enable if was_on else gc.disable)()
    try:
        verdict([event("all_reduce")], [event("all_reduce")])
        assert gc.isenabled() is was_on
    finally:
        (gc.enable if before else gc.disable)()
