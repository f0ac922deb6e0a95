"""Ranks that are held in one operation while others wait for them in another: who holds whom, and who is the cause."""

from __future__ import annotations

import pytest

from tests.diagnosis.rows import Rows, groups, look, of, only, p2p, told
from tests.flightrec.synthetic import active


def test_a_rank_held_by_its_group_is_not_accused_of_what_it_cannot_come_to() -> None:
    """Rank 2 waits for a send of rank 0, and holds rank 3, which has launched no further; 0 and 1 are in the next."""
    pair = {"process_group": ("p", ""), "pg_id": 9}
    group = groups(w=range(4), t=[2, 3], p=[0, 2])
    rows: dict[int, Rows] = {
        0: [of("0", 1), of("0", 2, active)],
        1: [of("0", 1), of("0", 2, active)],
        2: [of("0", 1), p2p("recv", 1, 1, 0, active) | pair, of("t", 1, active)],
        3: [of("0", 1), of("t", 1, active)],
    }
    found = only(look(rows, group))
    assert (found.kind, found.culprit_ranks, found.waiting_ranks) == ("order_cycle", (0, 2), (1, 3))


def test_an_operation_that_may_be_running_and_holds_the_awaited_accuses_nobody() -> None:
    group = groups(w=range(4), t=[0, 1], d=[0, 2], e=[1, 3])
    rows: dict[int, Rows] = {
        0: [of("0", 1), of("t", 1, active)],
        1: [of("0", 1), of("t", 1, active)],
        2: [of("0", 1), of("d", 1, active)],
        3: [of("0", 1), of("e", 1, active)],
    }
    found = look(rows, group)
    assert (found.healthy, found.findings) == (None, [])
    assert any("one look cannot determine" in words for words in found.unknown)


def test_who_is_in_every_circle_is_named_and_the_others_are_not() -> None:
    """Rank 0 has left out an operation of all, and waits in two groups for ranks that wait for it there."""
    group = groups(w=range(4), t=[0, 1], d=[0, 2])
    rows: dict[int, Rows] = {
        0: [of("0", 1), of("t", 1, active), of("d", 1, active)],
        **{rank: [of("0", 1), of("0", 2, active)] for rank in (1, 2, 3)},
    }
    found = only(look(rows, group))
    assert (found.kind, found.culprit_ranks, found.waiting_ranks) == ("order_cycle", (0,), (1, 2, 3))
    assert found.summary.startswith("rank 0 and others that it waits for wait for each other in ")


def test_a_rank_that_waits_behind_what_it_left_out_itself_never_entered_that() -> None:
    """All are in the last operation of all, and rank 0 alone has left out one of its group before it."""
    group = groups(w=range(3), d=[0, 1, 2])
    rows: dict[int, Rows] = {
        0: [of("d", 1), of("0", 1, active)],
        **{rank: [of("d", 1), of("d", 2, active), of("0", 1, active)] for rank in (1, 2)},
    }
    assert told(look(rows, group)) == [("not_entered", (0,), (1, 2))]


def test_a_recv_waits_for_what_holds_up_its_sender() -> None:
    """Rank 2's send to rank 3 is launched and behind its own recv, for which rank 1 has no send."""
    pair, next_pair = {"process_group": ("p", ""), "pg_id": 9}, {"process_group": ("q", ""), "pg_id": 8}
    group = groups(w=range(4), p=[1, 2], q=[2, 3])
    rows: dict[int, Rows] = {
        0: [of("0", 1)],
        1: [of("0", 1)],
        2: [of("0", 1), p2p("recv", 1, 1, 0, active) | pair, p2p("send", 1, 0, 1, active) | next_pair],
        3: [of("0", 1), p2p("recv", 1, 1, 0, active) | next_pair],
    }
    found = only(look(rows, group))
    assert (found.kind, found.culprit_ranks, found.waiting_ranks) == ("p2p_mismatch", (1,), (2, 3))


@pytest.mark.parametrize("sends", [0, 4])
def test_two_roots_of_gloo_are_named_only_where_no_unrecorded_send_may_join_them(sends: int) -> None:
    """Rank 1 holds rank 0 in one group and rank 3 holds rank 2 in another; with sends about, 1 may wait for 3."""
    group = groups(w=range(4), t=[0, 1], u=[2, 3])
    done = of("0", 1, profiling_name="gloo:all_reduce", op_id=1 + sends, state="scheduled", retired=True)
    rows: dict[int, Rows] = {
        rank: [done] if rank % 2 else [done, of("t" if rank == 0 else "u", 1, active, profiling_name="gloo:all_reduce")]
        for rank in range(4)
    }
    found = look(rows, group)
    if sends:
        assert (found.healthy, found.findings) == (None, [])
        assert any("stacks would show it" in words for words in found.unknown)
    else:
        assert told(found) == [("not_entered", (1,), (0,)), ("not_entered", (3,), (2,))]
