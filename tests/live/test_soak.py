"""The long run, short: that it works, and what it would fail on."""

from tests.soak import soak


def test_a_short_soak_is_flat() -> None:
    grown = soak(8.0)
    assert grown["requests"] >= 10
