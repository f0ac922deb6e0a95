"""What recorders mean by their states, how far each group has come, and which rows are shown."""

from __future__ import annotations

from typing import Any

import pytest

from tests.flightrec.synthetic import BASE_NS, FRAMES, active, as_json, dump, entry, pickled
from torchctl.flightrec import Dump, Frame, decode_dump
from torchctl.flightrec.table.judge import Stage, judge
from torchctl.flightrec.view.choice import MAX_ACTIVE, Choice
from torchctl.flightrec.view.summary import GroupSummary, group_names, summarise_groups
from torchctl.flightrec.view.userframe import user_frame
from torchctl.flightrec.view.view import TraceView, view_of
from torchctl.stacks.codepaths import origin


def decoded(*entries: dict[str, Any], **changes: Any) -> Dump:
    return decode_dump(pickled(dump(list(entries), **changes)), "x")


def judged(*entries: dict[str, Any]) -> list[Stage]:
    return judge(decoded(*entries).entries)


def groups_of(read: Dump) -> list[GroupSummary]:
    return list(summarise_groups(read, judge(read.entries)))


def gloo(seq: int, **changes: Any) -> dict[str, Any]:
    return active(seq, **({"profiling_name": "gloo:all_reduce"} | changes))


@pytest.mark.parametrize(
    ("made", "progress"),
    [
        (active(1), Stage.SCHEDULED),
        (active(1, state="started"), Stage.STARTED),
        (entry(1), Stage.COMPLETED),
        (entry(1, retired=False), Stage.COMPLETED),  # the watchdog lags
        (active(1, retired=True), Stage.TIMED_OUT),
        (active(1, state="started", retired=True), Stage.TIMED_OUT),
        (gloo(1), Stage.SCHEDULED),
        (gloo(1, retired=True), Stage.RETIRED),
        (entry(1, timeout_ms=4), Stage.COMPLETED_LATE),
        (entry(1, timeout_ms=5), Stage.COMPLETED),
        (entry(1, timeout_ms=0), Stage.COMPLETED),
        (active(1, state="paused"), Stage.UNKNOWN),
        (active(1, profiling_name="xccl:all_reduce", retired=True), Stage.TIMED_OUT),
    ],
)
def test_one_entry_is_judged_by_its_recorder(made: dict[str, Any], progress: Stage) -> None:
    assert judged(made) == [progress]


def test_active_is_what_has_not_come_to_its_end() -> None:
    assert {reached for reached in Stage if reached.active} == {
        Stage.SCHEDULED,
        Stage.STARTED,
        Stage.TIMED_OUT,
        Stage.UNKNOWN,
    }


@pytest.mark.parametrize("is_p2p", [True, False])
def test_members_of_a_batch_follow_the_entry_that_closes_it(is_p2p: bool) -> None:
    def batch(seq: int, closed: bool) -> list[dict[str, Any]]:
        same: dict[str, Any] = {"is_p2p": is_p2p, "p2p_seq_id": seq, "collective_seq_id": seq}
        closing = entry if closed else active
        return [
            active(seq, **same, profiling_name="nccl:send 0->1"),
            active(seq, **same, profiling_name="nccl:recv 0<-1"),
            closing(seq, **same, profiling_name="nccl:coalesced"),
        ]

    assert judged(*batch(1, True), *batch(2, False)) == [Stage.COMPLETED] * 3 + [Stage.SCHEDULED] * 3


def test_a_batch_in_one_group_says_nothing_about_another() -> None:
    closing = entry(1, profiling_name="nccl:allreduce_coalesced", process_group=("1", "dp"), pg_id=1)
    assert judged(active(1), closing) == [Stage.SCHEDULED, Stage.COMPLETED]


def test_a_group_tells_its_last_enqueued_started_and_completed() -> None:
    (group,) = groups_of(decoded(entry(7), entry(8), active(9, state="started"), active(10), active(3, is_p2p=True)))
    assert (group.enqueued, group.started, group.completed) == (10, 9, 8)
    assert (group.entries, group.active, group.backend) == (5, 3, "nccl")
    assert (group.name, group.desc, group.ranks) == ("0", "default_pg", (0, 1, 2, 3))


def test_what_completed_after_its_timeout_is_not_counted_as_completed() -> None:
    (group,) = groups_of(decoded(entry(1), entry(2, timeout_ms=1)))
    assert (group.enqueued, group.completed, group.active) == (2, 1, 0)


def test_started_is_unknown_where_the_recorder_never_tells_it() -> None:
    (nccl,) = groups_of(decoded(entry(1), active(2)))
    assert (nccl.enqueued, nccl.started, nccl.completed) == (2, None, 1)


def counters(enqueued: int, started: int, completed: int) -> dict[str, dict[str, int]]:
    keys = ("last_enqueued_collective", "last_started_collective", "last_completed_collective")
    return {"0": dict(zip(keys, (enqueued, started, completed), strict=True))}


def test_the_process_counters_fill_in_what_the_ring_has_lost() -> None:
    status = {"0": {"last_enqueued_collective": 9, "last_started_collective": 9, "last_completed_collective": 8}}
    (group,) = groups_of(decoded(active(9), pg_status=status))
    assert (group.enqueued, group.started, group.completed) == (9, 9, 8)


def test_gloo_counters_are_never_taken_for_sequence_ids() -> None:
    status = {"0": {"last_enqueued_collective": 40, "last_started_collective": -1, "last_completed_collective": 39}}
    (group,) = groups_of(decoded(gloo(9), pg_status=status, comm_lib_version=""))
    assert (group.enqueued, group.started, group.completed) == (9, None, None)
    assert group.reported is not None and group.reported.last_enqueued == 40
    (bare,) = groups_of(decoded(pg_status=status, comm_lib_version="", pg_config={}))
    assert (bare.counted_by, bare.enqueued, bare.started, bare.completed) == ("op_id", 40, None, 39)


def test_groups_of_one_name_are_told_apart_by_their_number() -> None:
    again = entry(1, pg_id=1)
    groups = groups_of(decoded(entry(5), again))
    assert [(group.pg_id, group.name, group.enqueued) for group in groups] == [(0, "0", 5), (1, "0", 1)]


def test_a_configured_group_that_was_never_used_is_listed() -> None:
    config = {"tp": {"name": "tp", "desc": "mesh_tp", "ranks": "[0, 2]"}, "": {"name": "", "ranks": "[]"}}
    read = decoded(entry(1), pg_config=config, pg_status={})
    assert [(g.name, g.pg_id, g.ranks) for g in groups_of(read)] == [("0", 0, None), ("tp", None, (0, 2))]
    assert group_names(read) == ("0", "default_pg", "mesh_tp", "tp")


def shown(read: Dump, **choice: Any) -> tuple[list[int | None], int]:
    view = view_of(read, 0, Choice(**choice))
    return [row.entry.record_id for row in view.rows], view.left_out


def test_by_default_the_active_and_the_last_twenty_are_shown() -> None:
    read = decoded(active(1), *[entry(seq) for seq in range(2, 101)])
    assert shown(read) == ([0, *range(80, 100)], 79)
    assert shown(read, last=1) == ([0, 99], 98)
    assert shown(read, last=0) == (list(range(100)), 0)
    assert shown(read, only_active=True) == ([0], 0)


def test_of_very_many_active_entries_the_oldest_are_shown() -> None:
    read = decoded(*[active(seq) for seq in range(1, 201)])
    rows, left_out = shown(read)
    assert rows == [*range(MAX_ACTIVE), *range(180, 200)]
    assert left_out == 130
    assert shown(read, only_active=True, last=0) == (list(range(200)), 0)


def test_a_group_is_chosen_by_name_or_description() -> None:
    read = decoded(entry(1), entry(2, process_group=("1", "tp"), pg_id=1))
    for name in ("1", "tp"):
        view = view_of(read, 0, Choice(group=name))
        assert [row.entry.record_id for row in view.rows] == [1]
        assert [group.name for group in view.groups] == ["1"]


def test_ages_count_from_the_newest_event_or_the_answer() -> None:
    read = decoded(entry(1), active(3))
    view = view_of(read, 0, Choice())
    assert [row.age_s for row in view.rows] == [2.0, 0.0]
    assert (view.reference, view.reference_ns) == ("newest_event", BASE_NS + 3_000_000_000)
    live = view_of(read, 0, Choice(), answered_ns=BASE_NS + 2_000_000_000)
    assert [row.age_s for row in live.rows] == [1.0, None]  # an entry from the future has no age
    assert live.reference == "answer"


def test_json_and_pickle_give_the_same_view() -> None:
    made = dump([entry(1, frames=[]), active(2, frames=[])])
    views: list[TraceView] = [view_of(decode_dump(data, "x"), 0, Choice()) for data in (pickled(made), as_json(made))]
    assert views[0].rows == views[1].rows
    assert views[0].groups == views[1].groups


@pytest.mark.parametrize(
    ("filename", "users"),
    [
        ("/home/ada/train.py", True),
        ("train.py", True),
        ("<stdin>", True),
        ("/opt/venv/lib/python3.11/site-packages/deepspeed/engine.py", True),
        ("/usr/lib/python3/dist-packages/mine.py", True),
        ("/home/torch/train.py", True),
        ("/opt/venv/lib/python3.11/site-packages/torch/nn/modules/module.py", False),
        ("/opt/venv/lib/python3.11/site-packages/torch/distributed/../nn/modules/module.py", False),
        ("/src/pytorch/torch/nn/modules/module.py", False),
        ("/usr/lib/python3.12/threading.py", False),
        ("/usr/local/lib/python3.13t/runpy.py", False),
        ("/usr/lib64/python3.9/runpy.py", False),
        ("<frozen runpy>", False),
        ("/x/site-packages/torchctl/server/__main__.py", False),
        ("../csrc/Work.cpp", False),
        ("libtorch.so.2", False),
        ("??", False),
        ("", False),
    ],
)
def test_user_code_is_told_by_its_path(filename: str, users: bool) -> None:
    assert (origin(filename) in ("user", "library")) is users


def test_the_innermost_frame_of_the_user_is_chosen() -> None:
    frames = [Frame(frame["filename"], frame["line"], frame["name"]) for frame in FRAMES]  # type: ignore[arg-type]
    chosen = user_frame(frames)
    assert chosen is not None and chosen.name == "reduce_gradients"
    assert user_frame(frames[:2]) is None
