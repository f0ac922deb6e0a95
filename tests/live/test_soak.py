"""The long run, short: that it works, and what it would fail on."""

from tests.soak import soak


def test_a_short_soak_is_flat() -> None:
    assert soak(2.0, stops=0)["requests"] >= 4
