"""Groups without a name, as gloo records them under TORCH_DISTRIBUTED_DEBUG=DETAIL: nothing joins two ranks' rows."""

from __future__ import annotations

from typing import Any

import pytest

from tests.diagnosis.rows import Rows, elsewhere, gloo, inside, look, told

CONFIG = {"": {"name": "", "desc": "", "ranks": "[]"}}


def nameless(seq: int, pg_id: int, op: str, done: bool = True) -> dict[str, Any]:
    return gloo("0", seq, done) | {"process_group": ("", ""), "pg_id": pg_id, "profiling_name": f"gloo:{op}"}


@pytest.mark.parametrize("moved", [None, frozenset(), frozenset(range(4))])
@pytest.mark.parametrize("apart", [2, 3])
def test_groups_without_a_name_disagree_about_nothing(apart: int, moved: frozenset[int] | None) -> None:
    """Each rank is in the default group, and in one of two: their operations have the same sequence ids."""
    rows: dict[int, Rows] = {}
    for rank in range(4):
        op = "all_reduce" if rank < apart else "broadcast"
        rows[rank] = [nameless(1, 1, "all_reduce"), *(nameless(seq, 2, op) for seq in range(1, 6))]
    found = look(rows, CONFIG, dict.fromkeys(range(4), elsewhere()), moved=moved)
    assert (found.findings, found.healthy) == ([], True if moved else None)


def test_a_rank_is_late_for_no_operation_of_a_group_that_need_not_be_its_own() -> None:
    """Ranks 0 and 1 move in theirs; rank 3 has done less in its own, and waits with rank 2 for nobody."""
    rows: dict[int, Rows] = {rank: [nameless(seq, 2, "all_reduce") for seq in range(1, 5)] for rank in (0, 1)}
    rows[0] = [*rows[0], nameless(5, 2, "all_reduce", done=False)]
    rows |= {rank: [nameless(1, 2, "all_reduce")] for rank in (2, 3)}
    stacks = {0: inside("all_reduce"), 1: elsewhere(), 2: elsewhere(), 3: elsewhere()}
    found = look(rows, CONFIG, stacks, moved=frozenset({0, 1}), live=True)
    assert told(found) == []
