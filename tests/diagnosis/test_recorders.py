"""Dumps of several recorders in one job: gloo's beside another's, and prefixes of vendors' own."""

from typing import Any

import pytest

from tests.diagnosis.rows import WORLD, look, of, only, started, told

STUCK = [of("0", 1), started("0", 2)]


def gloo(seq: int, **changes: Any) -> dict[str, Any]:
    return of("0", seq, profiling_name="gloo:all_reduce", state="scheduled", retired=True, **changes)


@pytest.mark.parametrize("prefix", ["hccl:", "rccl:", "xccl:", ""])
def test_a_rank_whose_recorder_has_another_prefix_is_matched_with_the_others(prefix: str) -> None:
    alone = of("0", 1, profiling_name=f"{prefix}all_reduce")
    found = only(look({0: STUCK, 1: STUCK, 2: [alone], 3: STUCK}, WORLD))
    assert (found.kind, found.culprit_ranks, found.waiting_ranks) == ("not_entered", (2,), (0, 1, 3))


def test_two_recorders_that_one_rank_uses_count_apart() -> None:
    both = [of("0", 1), of("0", 2), of("0", 1, profiling_name="ucc:barrier")]
    assert told(look(dict.fromkeys(range(4), both), WORLD)) == []
    waits = [*both[:2], started("0", 1, profiling_name="ucc:barrier")]
    assert told(look({0: waits, 1: waits, 2: both[:2], 3: waits}, WORLD)) == [("not_entered", (2,), (0, 1, 3))]


def test_who_shows_only_gloos_operations_is_lost_for_the_others_and_not_moving() -> None:
    found = only(look({0: STUCK, 1: STUCK, 2: [gloo(1)], 3: STUCK}, WORLD))
    assert (found.kind, found.culprit_ranks, found.waiting_ranks) == ("rank_lost", (2,), (0, 1, 3))
    assert "its only dump comes from a different recorder than the others'" in found.summary


def test_an_operation_that_only_one_rank_has_retired_on_gloo_proves_nothing_about_the_others() -> None:
    found = only(look({0: STUCK, 1: STUCK, 2: [of("0", 1), gloo(1)], 3: STUCK}, WORLD))
    assert (found.kind, found.culprit_ranks) == ("not_entered", (2,))
