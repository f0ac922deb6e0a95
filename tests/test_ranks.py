"""Rank lists: what they mean, and what they refuse."""

import pytest

from torchctl.ranks import fold_ranks, parse_ranks


def test_parts_may_overlap_and_come_in_any_order() -> None:
    assert parse_ranks("7, 0,3-5,4") == [0, 3, 4, 5, 7]


@pytest.mark.parametrize("text", ["", "a", "-1", "3-", "5-3", "0,,1", "1-2-3", "²", "0-999999999", "9" * 30])
def test_what_is_no_rank_list_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_ranks(text)


def test_folding_is_the_reverse_of_parsing() -> None:
    assert fold_ranks([900, 3, 17, 18, 19, 3]) == "3,17-19,900"
    assert parse_ranks(fold_ranks(range(5, 50))) == list(range(5, 50))
    assert fold_ranks([]) == ""
