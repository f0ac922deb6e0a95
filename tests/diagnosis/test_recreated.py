"""Groups that are made again under the name that they had: which of them is which on each rank."""

from __future__ import annotations

from typing import Any

import pytest

from tests.diagnosis.rows import WORLD, Rows, look, look_at, of, ring, started, told

NOT_ENTERED = [("not_entered", (1,), (0, 2, 3))]


def first(count: int) -> list[dict[str, Any]]:
    return [of("0", seq, pg_id=1) for seq in range(1, count + 1)]


def second(count: int) -> list[dict[str, Any]]:
    """The group of the same name made again: its sequence begins anew."""
    return [of("0", seq, pg_id=2) for seq in range(1, count + 1)]


@pytest.mark.parametrize("before", [1, 5])
def test_a_rank_that_has_not_made_the_group_again_is_not_in_it(before: int) -> None:
    """Its last operation in the old one may have a larger number than what the others wait in."""
    rows: dict[int, Rows] = {rank: [*first(before), started("0", 1, pg_id=2)] for rank in (0, 2, 3)}
    assert told(look(rows | {1: first(before)}, WORLD)) == NOT_ENTERED


def test_a_rank_that_is_behind_in_the_new_group_is_named() -> None:
    rows: dict[int, Rows] = {rank: [*first(5), *second(2), started("0", 3, pg_id=2)] for rank in (0, 2, 3)}
    assert told(look(rows | {1: [*first(5), *second(2)]}, WORLD)) == NOT_ENTERED


def test_where_rings_have_lost_the_old_group_the_newest_is_matched_with_the_newest() -> None:
    dumps = {rank: ring([*second(2), started("0", 3, pg_id=2)], WORLD, lost=90) for rank in (0, 2, 3)}
    dumps[1] = ring([*first(1), *second(2)], WORLD, lost=4)
    assert told(look_at(dumps)) == NOT_ENTERED


def test_all_having_made_it_again_and_finished_is_healthy() -> None:
    rows: dict[int, Rows] = {rank: [*first(5), *second(3)] for rank in range(4)}
    found = look(rows, WORLD)
    assert (found.healthy, found.findings) == (True, [])
