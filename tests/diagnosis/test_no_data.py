"""Ranks of which there is no data, as after a partial `collect`: they are neither idle nor innocent."""

from __future__ import annotations

from typing import Any

import pytest

from tests.diagnosis.rows import WORLD, Rows, elsewhere, gloo, inside, look, of, only, started

ROWS: dict[int, Rows] = {rank: [gloo("0", 1)] for rank in range(3)}
GONE: list[dict[str, Any]] = [
    {"world_size": 4},
    {"failed": {3: "did not answer within 3.0 s"}, "moved": frozenset(), "live": True},
]


@pytest.mark.parametrize("known", GONE)
def test_an_idle_rank_is_not_the_end_of_a_recv_that_may_be_one_without_data(known: dict[str, Any]) -> None:
    found = look(ROWS, WORLD, {0: inside("recv"), 1: inside("recv"), 2: elsewhere()}, **known)
    assert (found.healthy, found.findings, found.missing) == (None, [], [3])
    assert found.verdict == (
        "Cannot tell: ranks 0-1 are inside torch.distributed's send or recv, and nothing shows with which rank: it may"
        " be one of which there is no data (rank 3)."
    )


@pytest.mark.parametrize("known", GONE)
def test_who_is_late_is_said_beside_who_may_be_late_as_well(known: dict[str, Any]) -> None:
    stacks = {0: inside("monitored_barrier"), 1: inside("monitored_barrier"), 2: elsewhere()}
    one = only(look(ROWS, WORLD, stacks, **known))
    assert (one.culprit_ranks, one.confidence) == ((2,), "possible")
    assert one.evidence[-1] == "rank 3 may not have entered it either: there is no data from it"


@pytest.mark.parametrize("known", GONE)
def test_so_it_is_where_dumps_show_the_operation(known: dict[str, Any]) -> None:
    rows: dict[int, Rows] = {rank: [of("0", 1), *([started("0", 2)] if rank < 2 else [])] for rank in range(3)}
    one = only(look(rows, WORLD, {2: elsewhere()}, **known))
    assert (one.culprit_ranks, one.waiting_ranks) == ((2,), (0, 1))
    assert one.evidence[-1] == "rank 3 may not have entered it either: there is no data from it"
