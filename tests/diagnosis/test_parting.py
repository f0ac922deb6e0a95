"""Which side is wrong where a group alone does not tell: whose path has left that of its sisters, and at which line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from tests.diagnosis.rows import Rows, groups, look, of, only, started, told
from tests.flightrec.synthetic import TORCH

WORLD = groups(w=[0, 1, 2, 3])
PAIRS = groups(w=[0, 1, 2, 3], a=[0, 1], b=[2, 3])
Call = tuple[str, int]


def at(line: int) -> dict[str, Any]:
    return {
        "frames": [
            {"name": "all_reduce", "filename": f"{TORCH}/distributed_c10d.py", "line": 2806},
            {"name": f"f{line}", "filename": "/home/ada/train.py", "line": line},
        ]
    }


def program(calls: Sequence[Call], hangs: int = 1) -> Rows:
    """Return the rows of calls, each a group and a line, of which the last `hangs` are open."""
    counts: dict[str, int] = {}
    rows = []
    for place, (group, line) in enumerate(calls):
        counts[group] = counts.get(group, 0) + 1
        make = started if place >= len(calls) - hangs else of
        where = {"process_group": (group, "mesh_tp" if group in "ab" else "default_pg")}
        rows.append(make(group, counts[group], **(at(line) | where)))
    return rows


def steps(pair: str, lines: Sequence[int]) -> list[Call]:
    return [(pair, line) for line in lines]


def test_a_call_that_one_rank_alone_makes_is_its_fault_and_not_the_others() -> None:
    """`save()` holds a barrier and stands under `if rank == 0`: its second barrier has no partner."""
    loop = [("0", 10)] * 6
    rows = {0: program([*loop, ("0", 310), ("0", 344)])}
    rows |= {rank: program([*loop, ("0", 344)], hangs=0) for rank in (1, 2, 3)}
    finding = only(look(rows, WORLD))
    assert (finding.kind, finding.culprit_ranks, finding.waiting_ranks) == ("op_mismatch", (0,), (1, 2, 3))
    assert finding.location is not None
    assert (finding.location.file, finding.location.line) == ("/home/ada/train.py", 310)
    assert finding.summary.startswith("rank 0 makes a call that ranks 1-3 do not make: all_reduce (sequence id 7 of ")
    call = "all_reduce (sequence id 7 of group 0 (default_pg)) at /home/ada/train.py"
    assert finding.evidence[:2] == [
        f"the paths diverge here: rank 0: {call}:310 (f310)",
        f"ranks 1-3: {call}:344 (f344)",
    ]


def test_a_line_that_differs_where_paths_meet_again_is_no_fault() -> None:
    """`if rank == 0: log() else: receive()` in each step; rank 3 stops."""
    rows = {
        rank: program([("0", 10), ("0", 20 if rank == 0 else 30), ("0", 10), ("0", 20 if rank == 0 else 30), ("0", 10)])
        for rank in (0, 1, 2)
    }
    rows[3] = program([("0", 10), ("0", 30), ("0", 10), ("0", 30)], hangs=0)
    assert told(look(rows, WORLD)) == [("not_entered", (3,), (0, 1, 2))]


@pytest.mark.parametrize(
    ("calls", "how"),
    [
        ([50, 60, 50, 60, 60], "(sequence id 5 of group a (mesh_tp)) where ranks 1-3 call all_reduce"),
        ([50, 60, 50], "leaves out a call that ranks 1-3 make"),
    ],
    ids=["extra", "skipped"],
)
def test_of_a_pair_the_sister_pair_shows_who_is_odd(calls: list[int], how: str) -> None:
    """Rank 0 makes one call more, or less, with rank 1 alone: neither is the majority of the two."""
    right = [50, 60, 50, 60]
    if len(calls) > len(right):  # rank 1 comes to the world's operation, and rank 0 waits in the pair
        rows = {0: program(steps("a", calls))}
        rows[1] = program([*steps("a", right), ("0", 90)])
    else:
        rows = {0: program([*steps("a", calls), ("0", 90)])}
        rows[1] = program(steps("a", right))
    rows |= {rank: program([*steps("b", right), ("0", 90)]) for rank in (2, 3)}
    finding = only(look(rows, PAIRS))
    assert finding.culprit_ranks == (0,)
    assert finding.confidence == "likely"
    assert how in finding.summary


def test_of_two_orders_the_sisters_show_the_wrong_one() -> None:
    rows = {0: program([("a", 10), ("0", 20), ("0", 20)])}
    rows[1] = program([("a", 10), ("0", 20), ("a", 10)])
    rows |= {rank: program([("b", 10), ("0", 20), ("b", 10), ("0", 20)]) for rank in (2, 3)}
    finding = only(look(rows, PAIRS))
    assert (finding.kind, finding.culprit_ranks) == ("order_cycle", (0,))


def test_two_ranks_without_sisters_are_a_tie_still() -> None:
    rows = {0: program([("a", 10), ("0", 20), ("0", 20)]), 1: program([("a", 10), ("0", 20), ("a", 10)])}
    finding = only(look(rows, groups(w=[0, 1], a=[0, 1])))
    assert (finding.kind, finding.culprit_ranks) == ("order_cycle", (0, 1))
