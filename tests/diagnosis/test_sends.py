"""Sends and receives made to mislead: each case says first what is true and what the dumps can prove of it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.diagnosis.rows import (
    Rows,
    elsewhere,
    groups,
    inside,
    look,
    look_at,
    of,
    only,
    p2p,
    ring,
    started,
    told,
)
from tests.flightrec.synthetic import BASE_NS, active, entry


def test_ranks_of_a_subgroups_sends_are_its_own_numbers() -> None:
    """In a group of ranks 4 to 7, "recv 3<-1" is rank 7 waiting for rank 5, and not for rank 1."""
    config = groups(w=range(8), s=[4, 5, 6, 7])
    rows: dict[int, Rows] = {rank: [of("0", 1)] for rank in range(8)}
    waits = of("s", 0, active, profiling_name="nccl:recv 3<-1", is_p2p=True, p2p_seq_id=1)
    rows[7] = [of("0", 1), waits]
    found = only(look(rows, config))
    assert (found.kind, found.culprit_ranks, found.waiting_ranks) == ("p2p_mismatch", (5,), (7,))


def batched(me: int, peers: list[tuple[str, int]], make: Any = entry) -> Rows:
    """A batch_isend_irecv: members that stay scheduled for ever, and the entry that closes it."""
    rows = [p2p(kind, 1, me, peer, active) for kind, peer in peers]
    return [*rows, make(0, process_group=("0", ""), profiling_name="nccl:coalesced", p2p_seq_id=1, input_sizes=[[]])]


def test_a_finished_batch_of_sends_is_no_finding_although_its_members_stay_scheduled() -> None:
    rows: dict[int, Rows] = {0: batched(0, [("send", 1), ("recv", 1)]), 1: batched(1, [("send", 0), ("recv", 0)])}
    assert look(rows, groups(w=[0, 1])).findings == []


def test_in_an_open_batch_the_peer_that_never_posted_its_end_is_named() -> None:
    """Rank 1 exchanges with 0 and 2; rank 0 has posted its side, rank 2 has posted nothing."""
    rows: dict[int, Rows] = {
        0: batched(0, [("send", 1), ("recv", 1)], active),
        1: batched(1, [("send", 0), ("recv", 0), ("send", 2), ("recv", 2)], active),
        2: [],
    }
    found = look(rows, groups(w=[0, 1, 2]))
    assert [one.culprit_ranks for one in found.findings] == [(2,)]


def wrapped_rings(**changes: Any) -> dict[int, dict[str, Any]]:
    """Both rings have lost their beginnings, and rank 1's last recv is open: its send may be the last one shown."""
    last = p2p("recv", 59, 1, 0, active) | changes
    return {
        0: ring([p2p("send", seq, 0, 1) for seq in range(50, 60)], groups(w=[0, 1]), lost=49),
        1: ring([*(p2p("recv", seq, 1, 0) for seq in range(50, 59)), last], groups(w=[0, 1]), lost=49),
    }


def test_one_look_at_wrapped_rings_does_not_tell_a_lagging_recv_from_a_missing_send() -> None:
    found = look_at(wrapped_rings())
    assert (found.healthy, found.findings) == (None, [])
    assert found.verdict.startswith("Cannot tell: rank 1 has a recv open for which rank 0 has no send open")
    assert "would show which" in found.verdict


def test_a_collective_behind_such_a_recv_names_neither_of_its_ends() -> None:
    dumps = wrapped_rings()
    rows = [*dumps[0]["entries"], started("0", 8)]
    found = look_at(dumps | {0: ring(rows, groups(w=[0, 1]), lost=49)})
    assert (found.healthy, found.findings) == (None, [])


def test_ends_that_lag_on_both_sides_of_wrapped_rings_are_no_circle() -> None:
    config = groups(w=[0, 1])
    dumps = {
        me: ring([*(p2p("recv", seq, me, 1 - me) for seq in range(5)), p2p("send", 6, me, 1 - me, active)], config, 9)
        for me in (0, 1)
    }
    found = look_at(dumps)
    assert (found.healthy, found.findings) == (None, [])


@pytest.mark.parametrize("decider", ["second look", "watchdog", "stacks"])
def test_what_tells_a_missing_send_from_a_lag_names_the_sender(decider: str) -> None:
    gave_up: dict[str, Any] = {"retired": True} if decider == "watchdog" else {}
    known: dict[str, Any] = {"moved": frozenset()} if decider == "second look" else {}
    stacks = {0: elsewhere(), 1: inside("recv")} if decider == "stacks" else None
    assert told(look_at(wrapped_rings(**gave_up), stacks, **known)) == [("p2p_mismatch", (0,), (1,))]


def test_in_wrapped_rings_ends_are_counted_from_a_collective_that_both_ranks_show() -> None:
    """Rank 0 has sent two after it and rank 1 waits for the third: the sends before it are lost, and do not matter."""
    config = groups(w=[0, 1])
    rows: dict[int, Rows] = {
        0: [p2p("send", 7, 0, 1), of("0", 4), p2p("send", 8, 0, 1), p2p("send", 9, 0, 1)],
        1: [of("0", 4), p2p("recv", 3, 1, 0), p2p("recv", 4, 1, 0), p2p("recv", 5, 1, 0, active, retired=True)],
    }
    found = look_at({rank: ring(made, config, lost=90) for rank, made in rows.items()})
    assert told(found) == [("p2p_mismatch", (0,), (1,))]
    rows[0] = [of("0", 4), *(p2p("send", seq, 0, 1) for seq in (8, 9, 10))]
    found = look_at({rank: ring(made, config, lost=90) for rank, made in rows.items()})
    assert found.findings == []


def test_a_recv_behind_an_open_operation_accuses_no_sender_whose_small_send_is_done() -> None:
    """Rank 0 reduces another size than rank 1, and its recv is launched behind that; rank 2 has sent, and ended."""
    pair, config = {"process_group": ("p", ""), "pg_id": 9}, groups(w=range(3), t=[0, 1], p=[0, 2])
    gone = {"retired": True}
    rows: dict[int, Rows] = {
        0: [
            p2p("recv", 6, 0, 1) | pair,
            of("t", 5, active, input_sizes=[[9]], output_sizes=[[9]], **gone),
            p2p("recv", 7, 0, 1, active, **gone) | pair,
        ],
        1: [of("t", 5, active, **gone)],
        2: [p2p("send", 8, 1, 0) | pair, p2p("send", 9, 1, 0) | pair],
    }
    found = look_at({rank: ring(made, config, lost=50) for rank, made in rows.items()})
    assert {rank for one in found.findings for rank in one.culprit_ranks} == set()
    assert found.findings[0].kind == "shape_mismatch"


@pytest.mark.parametrize("sent", ["done", "open"])
def test_a_recv_of_another_size_than_its_send_is_a_tie_of_the_two(sent: str) -> None:
    """A small send is done at once, whatever the other end expects."""
    config = groups(w=[0, 1])
    send = p2p("send", 1, 0, 1, entry if sent == "done" else active, input_sizes=[[3]], output_sizes=[[3]])
    rows: dict[int, Rows] = {0: [send], 1: [p2p("recv", 1, 1, 0, active, input_sizes=[[5]], output_sizes=[[5]])]}
    written_ns = dict.fromkeys(rows, BASE_NS + 600_000_000_000)
    found = only(look_at({rank: ring(made, config) for rank, made in rows.items()}, written_ns=written_ns))
    assert (found.kind, found.culprit_ranks, found.waiting_ranks) == ("shape_mismatch", (), (0, 1))
    assert "3" in found.summary
    assert "5 elements" in found.summary or "rank 1 expects 5" in found.summary


def test_a_send_and_its_recv_that_stand_for_minutes_are_stuck_and_not_in_flight() -> None:
    config = groups(w=[0, 1])
    rows: dict[int, Rows] = {0: [p2p("send", 1, 0, 1, active)], 1: [p2p("recv", 1, 1, 0, active)]}
    dumps = {rank: ring(made, config) for rank, made in rows.items()}
    found = only(look_at(dumps, written_ns=dict.fromkeys(rows, BASE_NS + 600_000_000_000)))
    assert (found.kind, found.culprit_ranks, found.waiting_ranks) == ("stuck_running", (), (0, 1))
    moving = look_at(dumps, written_ns=dict.fromkeys(rows, BASE_NS + 1_000_000))
    assert moving.findings == []
